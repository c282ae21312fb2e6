//! Which values are in force and where they come from, and what a reload does.

use super::{Cell, Look, Style, Table};
use crate::ctl::wire::{Config, Diagnostic, Origin, Plan, Source};

/// Every value with its origin.
pub(crate) fn config(config: &Config, look: Look) -> String {
    let version = config
        .version
        .map(|version| format!("version {version}, "))
        .unwrap_or_default();
    let mut text = look.paint(Style::Dim, &format!("# {version}sha256 {}", config.sha256)) + "\n";
    let mut table = Table::new();
    for value in &*config.values {
        let default = &*value.origin.layer == "default";
        let mut from = source(&value.origin);
        if let Some(pending) = &value.pending {
            from.push_str(&format!(
                "; {} after a restart",
                said(pending.value.as_deref())
            ));
        }
        table.row([
            Cell::new(format!("{} = {}", value.key, said(value.value.as_deref())))
                .style(if default { Style::Plain } else { Style::Strong }),
            Cell::new(format!("# {from}")).style(Style::Dim),
        ]);
    }
    text.push_str(&table.render(look));
    text
}

/// One value: what is in force, from where, over what.
pub(crate) fn origin(origin: &Origin, look: Look) -> String {
    let mut text = format!(
        "{} = {}\n",
        look.paint(Style::Strong, &origin.key),
        said(origin.value.as_deref())
    );
    let mut line = |label: &str, said: &str| {
        if !said.is_empty() {
            text.push_str(&format!("  {label:9}{said}\n"));
        }
    };
    line("from", &source(&origin.origin));
    for shadowed in &*origin.shadowed {
        line(
            "over",
            &format!(
                "{} from {}",
                said(shadowed.value.as_deref()),
                source(&shadowed.origin)
            ),
        );
    }
    if let Some(pending) = &origin.pending {
        let waiting = format!(
            "{} from {}, after a restart",
            said(pending.value.as_deref()),
            source(&pending.origin)
        );
        line("pending", &look.paint(Style::Warn, &waiting));
    }
    let reload = match &*origin.reload {
        "live" => "live: a reload puts a new value in force",
        "restart" => "restart: a new value needs a restart of the child",
        "process" => "process: a new value needs a restart of the process",
        other => other,
    };
    line("reload", reload);
    let env: Vec<&str> = origin.env.iter().map(|name| &**name).collect();
    line("set by", &env.join(", "));
    line("expects", &origin.expected);
    line("is", &origin.doc);
    text
}

/// What the plan was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Check,
    Reload,
}

/// What a reload would do, or did.
pub(crate) fn plan(plan: &Plan, asked: Asked, look: Look) -> String {
    let version = plan
        .version
        .map(|version| format!(" version {version}"))
        .unwrap_or_default();
    let rejected = !plan.rejected.is_empty();
    let unchanged =
        plan.applied.is_empty() && plan.needs_restart.is_empty() && plan.diff.is_empty();
    let (style, verdict) = match (asked, rejected) {
        (Asked::Check, true) => (Style::Bad, "would be rejected".to_owned()),
        (Asked::Reload, true) => (Style::Bad, format!("rejected;{version} stays in force")),
        (Asked::Check, false) if unchanged => (
            Style::Good,
            "valid; a reload would change nothing".to_owned(),
        ),
        (Asked::Check, false) => (Style::Good, "valid; a reload would do this".to_owned()),
        (Asked::Reload, false) if unchanged => (
            Style::Good,
            format!("reloaded; nothing changed,{version} is in force"),
        ),
        (Asked::Reload, false) => (Style::Good, format!("reloaded;{version} is in force")),
    };
    let mut text = look.paint(style, &verdict) + "\n";
    for diagnostic in &*plan.rejected {
        text.push_str(&format!("  {}\n", defect(diagnostic)));
    }
    let word = match asked {
        Asked::Check => [
            "would apply",
            "would wait for a restart",
            "pinned by the environment or a flag",
        ],
        Asked::Reload => [
            "applied",
            "waits for a restart",
            "pinned by the environment or a flag",
        ],
    };
    for (word, keys) in word
        .iter()
        .zip([&plan.applied, &plan.needs_restart, &plan.pinned])
    {
        for key in keys.iter() {
            let changed = plan.diff.iter().find(|difference| difference.key == *key);
            let values = changed.map(|difference| {
                format!(
                    ": {} -> {}",
                    said(difference.old.as_deref()),
                    said(difference.new.as_deref())
                )
            });
            text.push_str(&format!("  {word}: {key}{}\n", values.unwrap_or_default()));
        }
    }
    let told = |key| {
        [&plan.applied, &plan.needs_restart, &plan.pinned]
            .iter()
            .any(|keys| keys.contains(key))
    };
    for difference in plan.diff.iter().filter(|difference| !told(&difference.key)) {
        let (old, new) = (
            said(difference.old.as_deref()),
            said(difference.new.as_deref()),
        );
        text.push_str(&format!("  differs: {}: {old} -> {new}\n", difference.key));
    }
    text
}

fn defect(diagnostic: &Diagnostic) -> String {
    let Diagnostic { key, problem, .. } = diagnostic;
    let mut text = String::new();
    for part in [&diagnostic.r#where, key] {
        if !part.is_empty() && !(text.contains(&**part)) {
            text.push_str(&format!("{part}: "));
        }
    }
    text.push_str(problem);
    if let Some(expected) = diagnostic
        .expected
        .as_deref()
        .filter(|text| !text.is_empty())
    {
        text.push_str(&format!("; expected {expected}"));
    }
    if let Some(meant) = diagnostic
        .suggestion
        .as_deref()
        .filter(|text| !text.is_empty())
    {
        text.push_str(&format!("; did you mean `{meant}`?"));
    }
    text
}

fn said(value: Option<&str>) -> &str {
    value.unwrap_or("unset")
}

fn source(source: &Source) -> String {
    let Source { layer, r#where } = source;
    match (layer.is_empty(), r#where.is_empty() || r#where == layer) {
        (false, false) => format!("{layer} {where}"),
        (false, true) => layer.to_string(),
        (true, _) => r#where.to_string(),
    }
}
