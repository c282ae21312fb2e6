//! [`otel`](super::otel) in builds without the feature, whose configuration names no collector.

use std::time::Duration;

use ron_kernel::metrics::CounterFamily;
use ron_kernel::supervisor::Child;

use super::node::OutcomeLabel;
use super::settings::OtelSettings;
use super::trace_context::TraceContext;

/// Nowhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Otel;

/// None there is.
#[derive(Debug)]
pub(crate) enum Span {}

impl Otel {
    pub(crate) fn new(_: &OtelSettings) -> Self {
        Self
    }

    pub(crate) fn is_on(&self) -> bool {
        false
    }

    pub(crate) fn count_in(&self, _: CounterFamily<OutcomeLabel>) {}

    pub(crate) fn begin(
        &self,
        _: &mut Option<TraceContext>,
        _: f64,
        _: fn() -> u128,
        _: (&str, &'static str, &str),
    ) -> Option<Span> {
        None
    }

    pub(crate) fn end(&self, span: Span, _: u16, _: Duration) {
        match span {}
    }

    pub(crate) fn child(&self, _: &'static str, _: &'static str) -> Option<Child> {
        None
    }
}
