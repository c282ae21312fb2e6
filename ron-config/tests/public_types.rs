//! What callers rely on without calling it: the auto traits of public types and futures.

use ron_config::{
    ByteSize, ConfigErrors, Diagnostic, Explanation, FileWatcher, Loaded, Loader, Printed,
    ReloadReport, Secret, Source, UnknownKey, Watch,
};

#[derive(Clone, Default)]
struct Empty;

impl ron_config::Settings for Empty {
    fn schema(_: &mut ron_config::Schema<Self>) {}
}

fn shared<T: Send + Sync + Unpin + 'static>() {}
fn error<T: std::error::Error + Send + Sync + 'static>() {}
fn sendable<T: Send>(_: &T) {}

#[test]
fn public_types_cross_threads() {
    shared::<Loader<Empty>>();
    shared::<Loaded<Empty>>();
    shared::<Watch<Empty>>();
    shared::<FileWatcher>();
    shared::<Box<dyn Source>>();
    shared::<Secret<String>>();
    shared::<ByteSize>();
    shared::<(Diagnostic, Explanation, Printed, ReloadReport)>();
    error::<ConfigErrors>();
    error::<UnknownKey>();
    error::<ron_config::SchemaErrors>();
    error::<ron_config::UnitError>();
    error::<ron_config::Closed>();
}

#[test]
fn waiting_futures_cross_threads() {
    let mut watch = Watch::fixed(Empty);
    sendable(&watch.changed());
    let dir = tempfile::tempdir().unwrap();
    let mut watcher = FileWatcher::new(dir.path().join("x.toml"), Default::default()).unwrap();
    sendable(&watcher.changed());
}

#[test]
fn settings_without_keys_load() {
    assert_eq!(Loader::<Empty>::new("svc").load().unwrap().version(), 1);
}
