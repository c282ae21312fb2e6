//! Events, a line each.

use serde_json::Value;

use super::{Look, Style};
use crate::ctl::wire::{Line, Text};

/// One event, or what was missed. Lines are never cut: what is followed is also searched.
pub(crate) fn line(line: &Line, look: Look) -> String {
    if let Some(missed) = line.lagged {
        let span = match (line.first_missed, line.last_missed) {
            (Some(first), Some(last)) => format!(" ({first}..{last})"),
            _ => String::new(),
        };
        let why = line
            .reason
            .as_deref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        let topic = &line.topic;
        let text = format!("-- {missed} events missed on {topic}{span}{why} --");
        return look.paint(Style::Bad, &text) + "\n";
    }
    let clock = line
        .ts
        .map_or_else(|| "--:--:--.---".to_owned(), |ts| ts.clock());
    let (event, style) = told(&line.event);
    format!(
        "{} {} {}\n",
        look.paint(Style::Dim, &clock),
        line.topic,
        look.paint(style, &event)
    )
}

/// `ServiceCrashed heartbeat: why`, then whatever else the event carries.
fn told(event: &Value) -> (String, Style) {
    let Value::Object(members) = event else {
        return (Text::of(event).to_string(), Style::Plain);
    };
    let mut rest: Vec<(&String, &Value)> = members.iter().collect();
    let mut take = |names: &[&str]| {
        let at = rest
            .iter()
            .position(|(name, value)| names.contains(&name.as_str()) && value.is_string())?;
        Some(Text::of(rest.remove(at).1))
    };
    let kind = take(&["type"]);
    let subject = take(&["service", "child"]);
    let reason = take(&["reason"]);
    let style = match kind.as_deref() {
        Some("ServiceCrashed" | "Failed" | "Quarantined" | "Stuck" | "Leaked" | "Escalated") => {
            Style::Bad
        }
        Some("Backoff" | "Aborted" | "Stalled" | "Fault" | "Shutdown") => Style::Warn,
        Some("Health") if members.get("ok") == Some(&Value::Bool(false)) => Style::Warn,
        _ => Style::Plain,
    };
    let mut words: Vec<String> = [kind, subject]
        .into_iter()
        .flatten()
        .map(|word| word.to_string())
        .collect();
    if let (Some(reason), Some(last)) = (reason, words.last_mut()) {
        last.push_str(&format!(": {reason}"));
    }
    let rest = rest.iter().filter(|(_, value)| !value.is_null());
    words.extend(rest.map(|(name, value)| format!("{}={}", Text::escaped(name), Text::of(value))));
    (words.join(" "), style)
}
