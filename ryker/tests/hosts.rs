//! What a host answers for each way in which a message was not taken or not answered.

use std::time::Duration;

use ryker::{AskError, ErrorKind, SendError};

#[test]
fn every_kind_has_a_status_of_http_and_of_grpc_and_a_word_for_the_log() {
    let table = [
        (ErrorKind::Busy, 429, 8, "busy", true),
        (ErrorKind::TooLarge, 413, 3, "too_large", false),
        (ErrorKind::Timeout, 504, 4, "timeout", false),
        (ErrorKind::Draining, 503, 14, "draining", true),
        (ErrorKind::Closed, 503, 14, "closed", false),
        (ErrorKind::NoReply, 500, 13, "no_reply", false),
    ];
    for (kind, http, grpc, word, retry) in table {
        assert_eq!((kind.http_status(), kind.grpc_code()), (http, grpc));
        assert_eq!(kind.as_str(), word);
        assert_eq!(kind.to_string(), word);
        assert_eq!(
            kind.retry_after(),
            retry.then_some(Duration::from_secs(1)),
            "{word}"
        );
    }
}

#[test]
fn every_error_has_its_kind_and_keeps_its_message() {
    let sends = [
        (SendError::Busy(1), ErrorKind::Busy),
        (SendError::Closed(2), ErrorKind::Closed),
        (SendError::TooLarge(3), ErrorKind::TooLarge),
        (SendError::Deadline(4), ErrorKind::Timeout),
        (SendError::Draining(5), ErrorKind::Draining),
    ];
    for (n, (error, kind)) in sends.into_iter().enumerate() {
        assert_eq!(error.kind(), kind);
        assert_eq!(error.into_inner(), n as i32 + 1);
        let ask = AskError::NotSent(error);
        assert_eq!(ask.kind(), kind);
        assert_eq!(ask.into_inner(), Some(n as i32 + 1));
    }
    let asks = [
        (AskError::<u8>::Timeout, ErrorKind::Timeout),
        (AskError::Draining, ErrorKind::Draining),
        (AskError::Closed, ErrorKind::Closed),
        (AskError::NoReply, ErrorKind::NoReply),
    ];
    for (error, kind) in asks {
        assert_eq!(error.kind(), kind);
        assert_eq!(error.into_inner(), None);
    }
}

/// Lower case, no full stop, no message: they end up in logs.
#[test]
fn errors_are_sentences_for_a_log() {
    let texts = [
        SendError::Busy("secret").to_string(),
        SendError::Closed("secret").to_string(),
        SendError::TooLarge("secret").to_string(),
        SendError::Deadline("secret").to_string(),
        SendError::Draining("secret").to_string(),
        AskError::<&str>::Timeout.to_string(),
        AskError::NotSent(SendError::Busy("secret")).to_string(),
        AskError::<&str>::Draining.to_string(),
        AskError::<&str>::Closed.to_string(),
        AskError::<&str>::NoReply.to_string(),
        format!("{:?}", AskError::NotSent(SendError::Busy("secret"))),
    ];
    for text in &texts {
        assert!(!text.contains("secret") && !text.is_empty(), "{text}");
        assert!(!text.ends_with('.'), "{text}");
    }
    for text in &texts[..10] {
        assert!(text.starts_with(char::is_lowercase), "{text}");
    }
    let distinct: std::collections::BTreeSet<_> = texts[..5].iter().collect();
    assert_eq!(distinct.len(), 5);
}
