//! Where each value came from, against an oracle that knows only the order of the layers.

use std::collections::BTreeMap;

use ron_config::{Layer, Loader, Schema, Settings};
use tempfile::TempDir;

const LEAVES: usize = 200;

#[derive(Clone)]
struct Wide {
    leaves: Vec<u64>,
}

impl Default for Wide {
    fn default() -> Self {
        Self {
            leaves: (0..LEAVES as u64).collect(),
        }
    }
}

/// Keys at the top, in sections, and in sections of sections.
fn path(leaf: usize) -> String {
    match leaf % 3 {
        0 => format!("leaf_{leaf}"),
        1 => format!("section_{}.leaf_{leaf}", leaf % 7),
        _ => format!("section_{}.inner_{}.leaf_{leaf}", leaf % 7, leaf % 5),
    }
}

impl Settings for Wide {
    fn schema(schema: &mut Schema<Self>) {
        for leaf in 0..LEAVES {
            schema.key(&path(leaf), move |c: &mut Wide| &mut c.leaves[leaf]);
        }
    }
}

/// A file that sets the given leaves, and the place of each value in it.
fn file(leaves: &[usize], value: impl Fn(usize) -> u64) -> (String, BTreeMap<usize, String>) {
    let mut text = String::new();
    let mut places = BTreeMap::new();
    for (line, leaf) in leaves.iter().enumerate() {
        let key = path(*leaf);
        text.push_str(&format!("{key} = {}\n", value(*leaf)));
        places.insert(*leaf, format!("{}:{}", line + 1, key.len() + 4));
    }
    (text, places)
}

#[test]
fn provenance_equals_the_oracle_for_every_leaf_and_layer_subset() {
    let dir = TempDir::new().unwrap();
    // Bit 0: replaced defaults, 1: file, 2: environment, 3: flags. Every leaf meets every subset once per rotation; the
    // rotations together put every subset on every leaf.
    for rotation in 0..16 {
        let subset = |leaf: usize| (leaf + rotation) % 16;
        let with = |bit: usize| -> Vec<usize> {
            (0..LEAVES)
                .filter(|leaf| subset(*leaf) & (1 << bit) != 0)
                .collect()
        };
        let value = |layer: u64, leaf: usize| layer * 1000 + leaf as u64;
        let mut defaults = Wide::default();
        for leaf in with(0) {
            defaults.leaves[leaf] = value(1, leaf);
        }
        let (text, places) = file(&with(1), |leaf| value(2, leaf));
        let file = dir.path().join(format!("{rotation}.toml"));
        std::fs::write(&file, text).unwrap();
        let env_name = |leaf| format!("RON_{}", path(leaf).replace('.', "_").to_uppercase());
        let env = with(2)
            .into_iter()
            .map(|leaf| (env_name(leaf), value(3, leaf).to_string()));
        let flags = with(3)
            .into_iter()
            .map(|leaf| (format!("--{}", path(leaf)), value(4, leaf).to_string()));
        let loaded = Loader::new("wide")
            .defaults(defaults)
            .file(&file)
            .env(env)
            .flags(flags)
            .load()
            .unwrap();
        let snapshot = loaded.snapshot();
        for leaf in 0..LEAVES {
            let has = |bit: usize| subset(leaf) & (1 << bit) != 0;
            let default = if has(0) { value(1, leaf) } else { leaf as u64 };
            let mut oracle = vec![(Layer::Default, default, "default".to_string())];
            if has(1) {
                let place = format!("{}:{}", file.display(), places[&leaf]);
                oracle.push((Layer::File, value(2, leaf), place));
            }
            if has(2) {
                oracle.push((Layer::Env, value(3, leaf), env_name(leaf)));
            }
            if has(3) {
                oracle.push((Layer::Flag, value(4, leaf), format!("--{}", path(leaf))));
            }
            oracle.reverse();
            let told = loaded.explain(&path(leaf)).unwrap();
            let mut found = vec![(told.origin().clone(), told.value().clone())];
            let shadowed = told.shadowed().iter();
            found.extend(shadowed.map(|s| (s.origin().clone(), s.value().clone())));
            let found: Vec<(Layer, u64, String)> = found
                .iter()
                .map(|(o, v)| (o.layer(), v.as_u64().unwrap(), o.place().to_string()))
                .collect();
            assert_eq!(found, oracle, "leaf {leaf}, subset {:04b}", subset(leaf));
            assert_eq!(snapshot.leaves[leaf], oracle[0].1);
        }
    }
}

#[test]
fn print_and_explain_agree_on_every_key() {
    let loaded = Loader::<Wide>::new("wide")
        .env([("RON_LEAF_3", "7")])
        .load()
        .unwrap();
    let printed = loaded.print();
    assert_eq!(printed.values().len(), LEAVES);
    for value in printed.values() {
        assert_eq!(&loaded.explain(value.key()).unwrap(), value);
    }
    let json = printed.to_json();
    let keys = json["values"].as_array().unwrap().iter();
    assert_eq!(keys.filter(|v| v["origin"]["layer"] == "env").count(), 1);
}
