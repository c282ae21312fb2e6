//! Why a command did not do what it was asked to do, as one line or one JSON envelope, and its exit code.

use std::fmt;

use serde_json::json;

use super::wire::{Refusal, Text};

/// Whose fault it is, as the exit code tells scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The service did not do it, or what it did went wrong.
    Failed,
    /// The command line does not say what to do, or to whom.
    Usage,
    /// No service answered.
    Unreachable,
    /// Somebody may not: the service refused, or what is found is not trustworthy.
    Refused,
}

impl Fault {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Fault::Failed => 1,
            Fault::Usage => 2,
            Fault::Unreachable => 3,
            Fault::Refused => 4,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Fault::Failed => "failed",
            Fault::Usage => "usage",
            Fault::Unreachable => "unreachable",
            Fault::Refused => "refused",
        }
    }

    /// What an answer with this status and code in its envelope means.
    pub(crate) fn of_answer(status: u16) -> Fault {
        match status {
            401 | 403 => Fault::Refused,
            _ => Fault::Failed,
        }
    }
}

/// A command that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    fault: Fault,
    message: String,
    /// The envelope of the service, byte for byte.
    envelope: Option<String>,
}

impl Failure {
    pub(crate) fn new(fault: Fault, message: impl Into<String>) -> Failure {
        Failure {
            fault,
            message: message.into(),
            envelope: None,
        }
    }

    /// What a service said instead of an answer.
    pub(crate) fn answered(status: u16, refusal: &Refusal, envelope: String) -> Failure {
        let mut message = match (refusal.message.is_empty(), refusal.code.is_empty()) {
            (false, _) => refusal.message.to_string(),
            (true, false) => refusal.code.to_string(),
            (true, true) => format!("the service answered {status} and did not say why"),
        };
        // A service may have put it into the message.
        if let Some(suggestion) = refusal.details.suggestion.as_deref() {
            if !suggestion.is_empty() && !message.contains(&format!("`{suggestion}`")) {
                message.push_str(&format!("; did you mean `{suggestion}`?"));
            }
        }
        Failure {
            fault: Fault::of_answer(status),
            message,
            envelope: Some(envelope),
        }
    }

    pub(crate) fn fault(&self) -> Fault {
        self.fault
    }

    /// The envelope of the service, or one of the same shape.
    pub(crate) fn json(&self) -> String {
        match &self.envelope {
            Some(envelope) => envelope.clone(),
            None => json!({"error": {
                "code": self.fault.word(),
                "message": self.message,
                "retryable": self.fault == Fault::Unreachable,
                "details": {},
            }})
            .to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A path, safe to print.
pub(crate) fn shown(path: &std::path::Path) -> Text {
    Text::escaped(&path.to_string_lossy())
}
