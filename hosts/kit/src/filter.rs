//! Which log lines are written: filter directives, and what of them must stay on whatever they say.

use tracing::level_filters::LevelFilter;
use tracing::metadata::Metadata;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Context, Layer};

use ron_config::nearest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
const EXPECTED: &str =
    "expected off, error, warn, info, debug or trace, or directives such as info,ron_kernel=debug";

/// Whether `text` can be used as `log.level`.
///
/// The grammar is tracing's (`info,ron_kernel=debug`). One thing it allows is refused: a lone word that looks
/// like a misspelt level. `inof` would be taken for a target of that name and silence everything else.
///
/// # Errors
///
/// One line that says what is wrong and what would be right.
pub fn check_directives(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}

pub(crate) fn parse(text: &str) -> Result<EnvFilter, String> {
    if text.trim().is_empty() {
        return Err(format!("no filter; {EXPECTED}"));
    }
    for word in text.split(',').map(str::trim) {
        if word.is_empty() {
            return Err(format!("`{text}` has an empty directive; {EXPECTED}"));
        }
        let lower = word.to_ascii_lowercase();
        let plain = lower.chars().all(|c| c.is_ascii_alphanumeric());
        if plain && !LEVELS.contains(&lower.as_str()) && lower.parse::<u8>().is_err() {
            let longer = LEVELS.into_iter().find(|level| lower.starts_with(level));
            if let Some(level) = longer.or_else(|| nearest(&lower, LEVELS)) {
                return Err(format!("`{word}` is no level; did you mean `{level}`? (a target is written {word}=trace)"));
            }
        }
    }
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| format!("`{text}`: {error}; {EXPECTED}"))
}

/// The filter in front of the log. Spans of children are always on: a `warn` that keeps them out would take
/// child and generation from the lines inside.
#[derive(Debug)]
pub(crate) struct Gate(pub(crate) EnvFilter);

/// Less would keep out the spans of children, or what a console is told.
const ALWAYS_UP_TO: LevelFilter = if cfg!(all(feature = "console", tokio_unstable)) {
    LevelFilter::TRACE
} else {
    LevelFilter::INFO
};

/// The name of the kernel's span around each incarnation.
pub(crate) const CHILD: &str = "child";

fn is_child(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.name() == CHILD
}

/// What the runtime tells of its tasks, in builds that a console can ask.
#[cfg(all(feature = "console", tokio_unstable))]
pub(crate) use crate::console::watches as is_for_console;

#[cfg(not(all(feature = "console", tokio_unstable)))]
pub(crate) fn is_for_console(_: &Metadata<'_>) -> bool {
    false
}

fn always(metadata: &Metadata<'_>) -> bool {
    is_child(metadata) || is_for_console(metadata)
}

impl<S: Subscriber> Layer<S> for Gate
where
    EnvFilter: Layer<S>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // The filter must see every callsite, also for what it remembers of spans.
        let interest = Layer::<S>::register_callsite(&self.0, metadata);
        if always(metadata) {
            Interest::always()
        } else {
            interest
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, cx: Context<'_, S>) -> bool {
        always(metadata) || Layer::<S>::enabled(&self.0, metadata, cx)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.0).map(|level| level.max(ALWAYS_UP_TO))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        self.0.on_new_span(attributes, id, cx);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        Layer::<S>::on_record(&self.0, id, values, cx);
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        Layer::<S>::on_event(&self.0, event, cx);
    }

    fn on_enter(&self, id: &Id, cx: Context<'_, S>) {
        Layer::<S>::on_enter(&self.0, id, cx);
    }

    fn on_exit(&self, id: &Id, cx: Context<'_, S>) {
        Layer::<S>::on_exit(&self.0, id, cx);
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        Layer::<S>::on_close(&self.0, id, cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_targets_and_spans_are_directives() {
        for text in [
            "info",
            "WARN",
            "off",
            "3",
            "info,ron_kernel=debug",
            "ron_kernel=trace",
            "info,[child{id=\"a\"}]=debug",
            "mycrate",
        ] {
            assert_eq!(check_directives(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_target() {
        for (text, level) in [
            ("inof", "info"),
            ("debgu", "debug"),
            ("warning", "warn"),
            ("info,errors", "error"),
        ] {
            let error = check_directives(text).unwrap_err();
            assert!(
                error.contains(&format!("did you mean `{level}`?")),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn what_does_not_parse_is_refused_with_what_would() {
        for text in ["", "  ", "info,", "ron_kernel=loud", "a=b=c"] {
            let error = check_directives(text).unwrap_err();
            assert!(error.contains("expected"), "{text}: {error}");
        }
    }
}
