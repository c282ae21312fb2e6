//! docs/config.md says what the schema says. `RON_BLESS=1 cargo test -p ron-kernel --all-features
//! --test config_page` rewrites it.

use ron_kernel::configuration::{Loader, Printed};
use ron_kernel::Config;
use std::fmt::Write;
use std::path::Path;

const INTRO: &str = "\
# Configuration of the kernel

Flags win over environment, environment over file, file over defaults. Durations need a unit (`ms`, `s`, `m`, `h`).
`live` keys take effect on reload; `process` keys are listed by the reload as needing a restart. Hosts show all keys
with their origins by `config print` and check a file by `config validate PATH`.

The table is made from the schema and compared with it by a test.

";

fn page(printed: &Printed) -> String {
    let mut page = INTRO.to_owned();
    page.push_str("| key | default | expected | reload | environment | what it does |\n|---|---|---|---|---|---|\n");
    for key in printed.values() {
        let value = match key.value() {
            serde_json::Value::Null => "unset".to_owned(),
            value => value.to_string().replace('"', ""),
        };
        let names: Vec<String> = key.env().iter().map(|name| format!("`{name}`")).collect();
        let expected = key.expected().replace('|', "\\|");
        writeln!(
            page,
            "| `{}` | `{value}` | {expected} | {} | {} | {} |",
            key.key(),
            key.reload(),
            names.join(" "),
            key.doc()
        )
        .unwrap();
    }
    page
}

/// Keys that a build without their feature leaves out.
const FEATURES: [(&str, bool); 1] = [("| `control.", cfg!(feature = "control"))];

#[test]
fn the_page_lists_every_key_with_default_range_class_and_environment() {
    let loaded = Loader::<Config>::new("ron-kernel").load().unwrap();
    let wanted = page(&loaded.print());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    if std::env::var_os("RON_BLESS").is_some() && FEATURES.iter().all(|(_, on)| *on) {
        std::fs::write(&path, &wanted).unwrap();
    }
    let mut found = std::fs::read_to_string(&path).unwrap_or_default();
    for (row, _) in FEATURES.iter().filter(|(_, on)| !on) {
        let kept = found.lines().filter(|line| !line.starts_with(row));
        found = kept.map(|line| format!("{line}\n")).collect();
    }
    assert!(
        found == wanted,
        "docs/config.md differs from the schema; bless it"
    );
}
