//! Files that cannot be read, and what is said of them.

#[path = "fixture/service.rs"]
mod service;

use std::fs;
use std::path::Path;

use ron_config::{ConfigErrors, Loader, MAX_FILE_BYTES};
use service::Service;
use tempfile::TempDir;

fn refused(path: &Path) -> ConfigErrors {
    Loader::<Service>::new("svc").file(path).load().unwrap_err()
}

fn only(errors: ConfigErrors) -> String {
    assert_eq!(errors.len(), 1, "{errors}");
    errors.iter().next().unwrap().to_string()
}

#[test]
fn a_named_file_must_exist_and_a_default_file_need_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("none.toml");
    let text = only(refused(&path));
    assert_eq!(
        text,
        format!(
            "{}: no such file; expected an existing file",
            path.display()
        )
    );
    let loaded = Loader::<Service>::new("svc")
        .default_file(&path)
        .load()
        .unwrap();
    assert_eq!(*loaded.snapshot(), Service::default());
    assert_eq!(loaded.files(), [path]);
}

#[test]
fn a_named_file_replaces_the_default_file() {
    let dir = TempDir::new().unwrap();
    let (named, default) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
    fs::write(&named, "max_conns = 1\n").unwrap();
    fs::write(&default, "max_conns = 2\nmax_lag = broken").unwrap();
    let loaded = Loader::<Service>::new("svc")
        .default_file(&default)
        .file(&named)
        .load()
        .unwrap();
    assert_eq!(loaded.snapshot().max_conns, 1);
}

#[test]
fn a_directory_is_no_file() {
    let dir = TempDir::new().unwrap();
    let text = only(refused(dir.path()));
    assert!(text.contains("cannot be read: it is a directory"), "{text}");
}

#[test]
fn a_file_above_the_limit_is_refused_and_one_at_the_limit_is_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    let mut text = "max_conns = 3\n#".to_string();
    text.push_str(&"x".repeat(MAX_FILE_BYTES as usize - text.len()));
    fs::write(&path, &text).unwrap();
    let loaded = Loader::<Service>::new("svc").file(&path).load().unwrap();
    assert_eq!(loaded.snapshot().max_conns, 3);
    text.push('x');
    fs::write(&path, &text).unwrap();
    let text = only(refused(&path));
    assert!(text.contains("it is larger than 1024 KiB"), "{text}");
}

#[test]
fn a_byte_that_is_not_utf_8_is_located() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    fs::write(&path, b"max_conns = 3\ntags = [\"\xc3\xa9\xff\"]\n").unwrap();
    let text = only(refused(&path));
    assert!(text.contains("svc.toml:2:11: is not UTF-8 text"), "{text}");
}

#[test]
fn an_unreadable_file_hides_no_defect_of_the_environment() {
    let dir = TempDir::new().unwrap();
    let errors = Loader::<Service>::new("svc")
        .file(dir.path().join("none.toml"))
        .env([("RON_MAX_CONNS", "many")])
        .load()
        .unwrap_err();
    assert_eq!(errors.len(), 2, "{errors}");
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read_says_so() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    const AS_NOBODY: &str = "TEST_UNREADABLE_FILE";
    let judge = |path: &std::path::Path| {
        let text = only(refused(path));
        assert!(
            text.contains("may not be read (permission denied)"),
            "{text}"
        );
    };
    if let Some(path) = std::env::var_os(AS_NOBODY) {
        return judge(path.as_ref());
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::metadata(&path).unwrap().uid() != 0 {
        return judge(&path);
    }
    // Root may read anything: this test runs itself as nobody, from a copy that nobody may execute.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = std::process::Command::new(&copy)
        .args(["--exact", "a_file_that_may_not_be_read_says_so"])
        .env(AS_NOBODY, &path)
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
}

#[test]
fn the_hash_is_what_sha256sum_prints() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    fs::write(&path, "max_conns = 3\n").unwrap();
    let loaded = Loader::<Service>::new("svc").file(&path).load().unwrap();
    let output = std::process::Command::new("sha256sum")
        .arg(&path)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.split(' ').next(), Some(loaded.sha256().as_str()));
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(
        Loader::<Service>::new("svc").load().unwrap().sha256(),
        empty
    );
}

#[test]
fn a_large_hostile_file_is_judged_in_bounded_time() {
    let dir = TempDir::new().unwrap();
    let began = std::time::Instant::now();
    let line: String = (0..60_000).map(|n| format!("\"k{n}\":1,")).collect();
    fs::write(dir.path().join("a.json"), format!("{{{line}\"x\":1}}")).unwrap();
    let errors = refused(&dir.path().join("a.json"));
    assert_eq!(errors.len() + errors.omitted(), 60_001);
    let lines: String = (0..50_000).map(|n| format!("capacitz{n} = 1\n")).collect();
    fs::write(dir.path().join("a.toml"), lines).unwrap();
    let errors = refused(&dir.path().join("a.toml"));
    assert_eq!(errors.len() + errors.omitted(), 50_000);
    // Linear work takes a second or so unoptimised; work that grows with the square takes minutes.
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
}
