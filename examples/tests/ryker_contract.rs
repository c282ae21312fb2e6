//! `ryker/metrics.contract`, which documents are checked against, is what ryker exposes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What one family of an exposition says of itself: type, unit, labels, upper bounds.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    labels: Vec<String>,
    bounds: Vec<f64>,
}

/// Reads an exposition in which every family has a sample.
fn families(exposition: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut last = String::new();
    for line in exposition.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => {
                last = match kind {
                    "counter" => format!("{name}_total"),
                    _ => name.to_owned(),
                };
                families.entry(last.clone()).or_default().kind = kind.to_owned();
            }
            ["#", "UNIT", _, unit] => {
                families.entry(last.clone()).or_default().unit = Some(unit.to_owned())
            }
            ["#", ..] => {}
            _ => {
                let family = families.get_mut(&last).unwrap();
                let (_, labels) = line.split_once('{').unwrap();
                let (labels, _) = labels.split_once('}').unwrap();
                for (label, value) in labels.split(',').filter_map(|pair| pair.split_once('=')) {
                    let bound = value.trim_matches('"').parse();
                    match (label, bound) {
                        ("le", Ok(bound))
                            if !family.bounds.contains(&bound) && bound.is_finite() =>
                        {
                            family.bounds.push(bound);
                        }
                        ("le", _) => {}
                        _ if !family.labels.iter().any(|known| known == label) => {
                            family.labels.push(label.to_owned());
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    families
}

fn or_dash(words: Vec<String>) -> String {
    match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(","),
    }
}

#[test]
fn the_contract_of_ryker_is_what_its_golden_exposition_declares() {
    let ryker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ryker");
    let exposition = fs::read_to_string(ryker.join("tests/golden/metrics.om")).unwrap();
    let declared: String = families(&exposition)
        .into_iter()
        .map(|(name, family)| {
            let unit = family.unit.unwrap_or("-".to_owned());
            let bounds = or_dash(family.bounds.iter().map(f64::to_string).collect());
            let (kind, labels) = (family.kind, or_dash(family.labels));
            format!("{name}\t{kind}\tunit={unit}\tlabels={labels}\tbuckets={bounds}\n")
        })
        .collect();
    let contract = fs::read_to_string(ryker.join("metrics.contract")).unwrap();
    assert_eq!(contract, declared);
}
