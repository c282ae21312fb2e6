//! Business HTTP/1.1 of hosts: a listener as a supervised child, limits in front of every handler, one shape of error.
//!
//! A request passes, in this order: a place among the connections, the time its head may take, its correlation id, the
//! request rate, the state of the node (writes are refused first), its capability, a place among the requests under way, the
//! coding and the declared length of its body, and then its handler, which reads the body under a cap and a deadline. What
//! a layer refuses costs nothing behind it, and has the envelope of [`Refusal`]. A head that is no HTTP never gets so far:
//! hyper answers it, with a bare 400, 414 or 431, and it is counted as a
//! request of route `unmatched`.
//!
//! The admin routes (`/metrics`, `/healthz`, `/livez`, `/readyz`, `/version`) are answered before the limits.

mod addr;
mod answer;
mod call;
mod conditional;
mod correlation;
mod fair;
mod front;
mod inflate;
mod instruments;
mod listener;
mod node;
#[cfg(feature = "otel")]
mod otel;
#[cfg(not(feature = "otel"))]
mod otel_absent;
mod places;
mod range;
mod refusal;
mod routes;
mod server;
mod settings;
mod timed;
mod tls;
mod trace_context;

#[cfg(not(feature = "otel"))]
use otel_absent as otel;

pub use addr::HttpAddr;
pub use answer::{Answer, AnswerBody};
pub use call::Call;
pub use conditional::{EntityTag, Precondition};
pub use correlation::CorrelationId;
pub use front::{Front, FrontError};
pub use listener::ListenError;
pub use node::Node;
pub use range::{ByteRange, RangeRequest};
pub use refusal::Refusal;
pub use routes::{Access, BodyAllowance, Routes};
pub use server::child;
pub use settings::{AuthSettings, HttpSettings, OtelEndpoint, OtelSettings, TlsSettings};
pub use tls::TlsError;
pub use trace_context::TraceContext;
