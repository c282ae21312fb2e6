//! Settings within settings: a host carries a library's keys and hands it its part.

use std::fs;

use ron_config::{Loader, Reload, Schema, SchemaError, Settings};
use tempfile::TempDir;

#[derive(Clone, Debug, PartialEq)]
struct Library {
    capacity: u32,
    expose: bool,
    port: u16,
}

impl Default for Library {
    fn default() -> Self {
        Self {
            capacity: 8,
            expose: false,
            port: 1,
        }
    }
}

impl Settings for Library {
    fn schema(s: &mut Schema<Self>) {
        s.key("bus.capacity", |c| &mut c.capacity)
            .deprecated("bus.size")
            .range(1..=64)
            .check(|n| {
                if n % 2 == 0 {
                    Ok(())
                } else {
                    Err("odd".into())
                }
            })
            .reload(Reload::Live);
        s.key("admin.expose", |c| &mut c.expose)
            .reload(Reload::Live);
        s.key("admin.port", |c| &mut c.port)
            .env("LIBRARY_PORT")
            .implies("admin.expose", "on")
            .reload(Reload::Live);
        s.check(&["admin.port", "admin.expose"], |c| {
            if c.port != 13 {
                Ok(())
            } else {
                Err("thirteen".into())
            }
        });
    }
}

#[derive(Clone, Default)]
struct Host {
    library: Library,
    name: String,
}

impl Settings for Host {
    fn schema(s: &mut Schema<Self>) {
        s.include(|c: &mut Host| &mut c.library);
        s.key("name", |c| &mut c.name).reload(Reload::Live);
    }
}

#[derive(Clone, Default)]
struct Outer {
    inner: Library,
}

impl Settings for Outer {
    fn schema(s: &mut Schema<Self>) {
        s.section("east.one", |c: &mut Outer| &mut c.inner);
    }
}

#[derive(Clone, Default)]
struct Twice(Library, Library);

impl Settings for Twice {
    fn schema(s: &mut Schema<Self>) {
        s.section("a", |c: &mut Twice| &mut c.0);
        s.section("b", |c: &mut Twice| &mut c.1);
    }
}

#[test]
fn included_keys_keep_their_names_rules_and_variables() {
    let loaded = Loader::<Host>::new("host")
        .env([
            ("RON_BUS_CAPACITY", "16"),
            ("LIBRARY_PORT", "7"),
            ("RON_NAME", "x"),
        ])
        .load()
        .unwrap();
    let expected = Library {
        capacity: 16,
        expose: true,
        port: 7,
    };
    assert_eq!(loaded.snapshot().library, expected);
    for (value, part) in [("65", "out of range"), ("7", "odd")] {
        let errors = Loader::<Host>::new("host")
            .env([("RON_BUS_CAPACITY", value)])
            .load()
            .unwrap_err();
        assert!(errors.to_string().contains(part), "{errors}");
    }
    let errors = Loader::<Host>::new("host")
        .env([("LIBRARY_PORT", "13")])
        .load()
        .unwrap_err();
    assert!(
        errors
            .to_string()
            .contains("LIBRARY_PORT: admin.port: thirteen"),
        "{errors}"
    );
}

#[test]
fn a_section_moves_keys_former_names_checks_and_implications() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    fs::write(&path, "[east.one]\nbus.size = 4\n").unwrap();
    let loaded = Loader::<Outer>::new("svc")
        .file(&path)
        .env([("LIBRARY_PORT", "7"), ("RON_EAST_ONE_ADMIN_PORT", "7")])
        .load()
        .unwrap();
    assert_eq!(
        loaded.snapshot().inner,
        Library {
            capacity: 4,
            expose: true,
            port: 7
        }
    );
    assert_eq!(loaded.warnings()[0].key(), "east.one.bus.capacity");
    let told = loaded.explain("east.one.admin.expose").unwrap();
    assert_eq!(told.origin().place(), "LIBRARY_PORT");
    fs::write(&path, "[east.one.admin]\nport = 13\n").unwrap();
    let errors = Loader::<Outer>::new("svc").file(&path).load().unwrap_err();
    assert!(
        errors
            .to_string()
            .contains(":2:8: east.one.admin.port: thirteen"),
        "{errors}"
    );
}

#[test]
fn a_type_with_fixed_variables_cannot_be_embedded_twice() {
    let errors = Schema::<Twice>::of().unwrap_err();
    let collision = |e: &SchemaError| matches!(e, SchemaError::EnvCollision { env, .. } if env == "LIBRARY_PORT");
    assert!(errors.iter().any(collision), "{errors}");
}

#[test]
fn a_watch_on_the_part_follows_the_whole() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    fs::write(&path, "name = \"a\"\n[bus]\ncapacity = 2\n").unwrap();
    let loaded = Loader::<Host>::new("host").file(&path).load().unwrap();
    let mut part = loaded.watch().map(|host: &Host| host.library.clone());
    let mut part_of_part = part.map(|library: &Library| library.capacity);
    assert_eq!((part.get().capacity, **part_of_part.get()), (2, 2));
    fs::write(&path, "name = \"b\"\n[bus]\ncapacity = 4\n").unwrap();
    loaded.reload().unwrap();
    assert_eq!((part.get().capacity, **part_of_part.get()), (4, 4));
    assert_eq!((part.version(), part_of_part.version()), (2, 2));
}
