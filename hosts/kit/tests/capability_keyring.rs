//! Keys: their file, rotation, revocation, and a service that follows them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{chown, symlink, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ron_host::capability::{
    inspect, mint, verify, CapId, ChangeError, Denied, KeyProvider, Keyring, KeyringError,
    MintError, ParseError, Request, Token, KEYS_MAX, REVOKED_MAX,
};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);
const MILLI: Duration = Duration::from_millis(1);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

/// Bytes that nobody else gets: each source begins elsewhere.
fn random(seed: u8) -> impl FnMut(&mut [u8]) -> io::Result<()> {
    let mut next = u64::from(seed) << 32;
    move |bytes| {
        for byte in bytes {
            next = next
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = next.to_be_bytes()[0];
        }
        Ok(())
    }
}

fn keyring() -> Keyring {
    Keyring::generate(&mut random(0), now()).unwrap()
}

fn token(keyring: &Keyring, seed: u8) -> Token {
    mint(keyring, &[], &mut random(seed), now()).unwrap()
}

fn request(now: SystemTime) -> Request<'static> {
    Request {
        method: "GET",
        path: "/",
        length: None,
        tenant: None,
        scope: None,
        audience: "a",
        now,
    }
}

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("keys.toml")
    }

    fn holding(keyring: &Keyring) -> Place {
        let place = Place::new();
        keyring.create(&place.path()).unwrap();
        place
    }

    fn write(&self, text: &str, mode: u32) {
        fs::write(self.path(), text).unwrap();
        fs::set_permissions(self.path(), Permissions::from_mode(mode)).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// With its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[test]
fn what_is_rendered_is_parsed_back() {
    let mut keyring = keyring();
    assert_eq!(Keyring::parse(&keyring.render()), Ok(keyring.clone()));
    keyring.rotate(&mut random(1), now(), HOUR).unwrap();
    let cap_id = CapId::random(&mut random(2)).unwrap();
    keyring.revoke(cap_id, now() + HOUR, now()).unwrap();
    assert_eq!(Keyring::parse(&keyring.render()), Ok(keyring.clone()));
    assert_eq!(
        keyring.revoked().collect::<Vec<_>>(),
        [(cap_id, now() + HOUR)]
    );
}

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

#[test]
fn a_text_that_is_no_keyring_is_refused_with_its_place_and_without_its_secrets() {
    let key = |kid: &str, secret: &str, more: &str| {
        format!("[[key]]\nkid = \"{kid}\"\nsecret = \"{secret}\"\n{more}\n")
    };
    let good = key("a", SECRET, "");
    assert!(Keyring::parse(&good).is_ok());
    assert!(Keyring::parse(&key("a", &format!("{SECRET}="), "")).is_ok());
    let short = &SECRET[..42];
    let long = "A".repeat(344);
    for (text, place) in [
        (String::new(), "[[key]]: expected at least one"),
        ("x".to_owned(), "line 1: "),
        (format!("{good}secret = {SECRET}"), "line 5: "),
        (format!("{good}[[key]\n"), "line 5: "),
        (format!("{good}\nsecret = \"{SECRET}"), "line 6: "),
        (
            format!("key = \"{SECRET}\""),
            "[[key]]: expected tables in double brackets",
        ),
        (
            format!("key = [\"{SECRET}\"]"),
            "[[key]]: expected tables in double brackets",
        ),
        (
            format!("secret = \"{SECRET}\""),
            "`secret`: expected only [[key]] and [[revoked]]",
        ),
        (
            format!("{SECRET} = 1\n"),
            "`(a name that is not shown)`: expected only",
        ),
        (key("", SECRET, ""), "[[key]] 1: kid: expected a name"),
        (key("a.b", SECRET, ""), "[[key]] 1: kid: expected a name"),
        (
            format!("{good}{good}"),
            "[[key]] 2: kid: expected a name that no key before it has",
        ),
        (
            key("a", short, ""),
            "[[key]] 1: secret: expected base64url of 32 to 256",
        ),
        (key("a", "not base64!", ""), "[[key]] 1: secret: expected"),
        (key("a", &long, ""), "[[key]] 1: secret: expected"),
        (
            "[[key]]\nkid = \"a\"\n".to_owned(),
            "[[key]] 1: secret: expected",
        ),
        (
            "[[key]]\nkid = \"a\"\nsecret = 7\n".to_owned(),
            "[[key]] 1: secret: expected",
        ),
        (
            key("a", SECRET, "not_after = \"soon\""),
            "[[key]] 1: not_after: expected an instant in quotes",
        ),
        (
            key("a", SECRET, "not_after = 2026-01-01T00:00:00Z"),
            "[[key]] 1: not_after: expected an instant in quotes",
        ),
        (
            key("a", SECRET, "nota_fter = \"2026-01-01T00:00:00Z\""),
            "[[key]] 1: nota_fter: expected only",
        ),
        (
            format!("{good}{}", key("b", SECRET, "")),
            "[[key]] 2: not_after: expected an instant in quotes",
        ),
        (
            format!("{good}[[revoked]]\ncap_id = \"1\"\nuntil = \"2026-01-01T00:00:00Z\""),
            "[[revoked]] 1: cap_id: expected 32 digits",
        ),
        (
            format!("{good}[[revoked]]\ncap_id = \"00112233445566778899aabbccddeeff\""),
            "[[revoked]] 1: until: expected",
        ),
        (
            (0..=KEYS_MAX)
                .map(|n| key(&n.to_string(), SECRET, ""))
                .collect(),
            "[[key]]: expected at most 16",
        ),
    ] {
        let error = Keyring::parse(&text).unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(place), "{place}: {shown}");
        assert!(!shown.contains('\n'), "{shown}");
        let debug = format!("{error:?}");
        assert!(
            !shown.contains(&SECRET[..8]) && !debug.contains(&SECRET[..8]),
            "{shown} {debug}"
        );
    }
}

#[test]
fn a_rotated_key_verifies_until_its_not_after_and_not_at_it() {
    let mut keyring = keyring();
    let before = token(&keyring, 1);
    let old = keyring.newest().kid().clone();
    let new = keyring.rotate(&mut random(2), now(), HOUR).unwrap();
    assert_eq!((keyring.newest().kid(), keyring.keys().count()), (&new, 2));
    assert_eq!(keyring.find(&old).unwrap().not_after(), Some(now() + HOUR));
    let after = token(&keyring, 3);
    assert_eq!(inspect(after.as_str()).unwrap().kid, new);
    for (at, expected) in [
        (now() + HOUR - MILLI, None),
        (now() + HOUR, Some(Denied::KeyExpired)),
        (now() + HOUR * 9, Some(Denied::KeyExpired)),
    ] {
        assert_eq!(
            verify(before.as_str(), &keyring, &request(at)).err(),
            expected
        );
        assert!(verify(after.as_str(), &keyring, &request(at)).is_ok());
    }
    // A second rotation does not give the first key more time, and forgets it once it is over.
    let half = now() + HOUR / 2;
    keyring.rotate(&mut random(4), half, HOUR).unwrap();
    assert_eq!(keyring.find(&old).unwrap().not_after(), Some(now() + HOUR));
    keyring.rotate(&mut random(5), now() + HOUR, HOUR).unwrap();
    assert_eq!(keyring.find(&old), None);
    assert_eq!(
        verify(before.as_str(), &keyring, &request(now())).err(),
        Some(Denied::UnknownKey)
    );
    keyring
        .rotate(&mut random(6), now() + HOUR * 9, Duration::ZERO)
        .unwrap();
    assert_eq!(keyring.keys().count(), 1);
}

#[test]
fn the_key_that_mints_may_end_too() {
    let text = format!(
        "[[key]]\nkid = \"a\"\nsecret = \"{SECRET}\"\nnot_after = \"2026-11-18T11:06:41Z\"\n"
    );
    let mut keyring = Keyring::parse(&text).unwrap();
    let end = keyring.newest().not_after().unwrap();
    assert!(mint(&keyring, &[], &mut random(1), end - MILLI).is_ok());
    let late = mint(&keyring, &[], &mut random(1), end);
    assert!(matches!(late, Err(MintError::KeyExpired)));
    // Rotated with a longer grace it ends when it would have.
    keyring.rotate(&mut random(2), end - MILLI, HOUR).unwrap();
    assert_eq!(keyring.keys().last().unwrap().not_after(), Some(end));
}

#[test]
fn there_are_no_more_keys_and_revocations_than_fit() {
    let mut keyring = keyring();
    for seed in 1..KEYS_MAX {
        keyring
            .rotate(&mut random(seed as u8), now(), HOUR)
            .unwrap();
    }
    let before = keyring.clone();
    let full = keyring.rotate(&mut random(99), now(), HOUR);
    assert!(matches!(full, Err(ChangeError::TooManyKeys)));
    assert_eq!(keyring, before);
    let repeated = keyring.rotate(&mut random(1), now(), HOUR);
    assert!(matches!(repeated, Err(ChangeError::Random(_))));

    let mut source = random(100);
    let first = CapId::random(&mut source).unwrap();
    keyring.revoke(first, now() + HOUR, now()).unwrap();
    for _ in 1..REVOKED_MAX {
        let cap_id = CapId::random(&mut source).unwrap();
        keyring.revoke(cap_id, now() + HOUR, now()).unwrap();
    }
    let next = CapId::random(&mut source).unwrap();
    let full = keyring.revoke(next, now() + HOUR, now());
    assert!(matches!(full, Err(ChangeError::TooManyRevoked)));
    keyring.revoke(first, now() + HOUR * 2, now()).unwrap();
    let place = Place::holding(&keyring);
    assert_eq!(Keyring::load(&place.path()).unwrap(), keyring);
    keyring
        .revoke(next, now() + HOUR * 3, now() + HOUR)
        .unwrap();
    assert_eq!(keyring.revoked().count(), 2);
}

#[test]
fn a_revoked_capability_is_refused_and_all_that_was_made_from_it() {
    let mut keyring = keyring();
    let (bad, good) = (token(&keyring, 1), token(&keyring, 2));
    let made =
        ron_host::capability::attenuate(bad.as_str(), &["rps = 1".parse().unwrap()]).unwrap();
    let cap_id = inspect(bad.as_str()).unwrap().cap_id;
    let past = keyring.revoke(cap_id, now(), now());
    assert!(matches!(past, Err(ChangeError::Past)));
    keyring.revoke(cap_id, now() + HOUR, now()).unwrap();
    keyring.revoke(cap_id, now() + MILLI, now()).unwrap();
    for token in [&bad, &made] {
        let at = |at| verify(token.as_str(), &keyring, &request(at)).err();
        assert_eq!(at(now()), Some(Denied::Revoked));
        assert_eq!(at(now() + HOUR - MILLI), Some(Denied::Revoked));
        assert_eq!(at(now() + HOUR), None);
    }
    assert!(verify(good.as_str(), &keyring, &request(now())).is_ok());
}

#[test]
fn a_revocation_ends_with_the_last_key_that_can_have_minted_what_is_revoked() {
    let mut keyring = keyring();
    let old = token(&keyring, 1);
    let cap_id = inspect(old.as_str()).unwrap().cap_id;
    keyring.revoke(cap_id, now() + HOUR * 99, now()).unwrap();
    keyring.rotate(&mut random(2), now(), HOUR * 2).unwrap();
    keyring.rotate(&mut random(3), now(), HOUR).unwrap();
    let ends: Vec<_> = keyring.revoked().collect();
    assert_eq!(ends, [(cap_id, now() + HOUR * 2)]);
    let at = |at| verify(old.as_str(), &keyring, &request(at)).err();
    assert_eq!(at(now() + HOUR * 2 - MILLI), Some(Denied::Revoked));
    assert_eq!(at(now() + HOUR * 2), Some(Denied::KeyExpired));
    let mut at_once = keyring.clone();
    at_once
        .rotate(&mut random(4), now() + HOUR * 2, Duration::ZERO)
        .unwrap();
    assert_eq!((at_once.revoked().count(), at_once.keys().count()), (0, 1));
}

#[test]
fn a_file_that_others_may_read_is_refused_with_what_to_do() {
    let place = Place::holding(&keyring());
    let path = place.path();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    for mode in [0o640, 0o604, 0o620, 0o602, 0o644, 0o601] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = Keyring::load(&path).unwrap_err();
        assert!(matches!(error, KeyringError::Exposed { .. }), "{error:?}");
        let expected = format!(
            "mode {mode:04o} opens it to others; run `chmod 0600 {}`",
            path.display()
        );
        assert!(error.to_string().contains(&expected), "{error}");
        let update = Keyring::update(&path, |_| Ok::<_, KeyringError>(()));
        assert!(matches!(update, Err(KeyringError::Exposed { .. })));
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert!(Keyring::load(&path).is_ok());
    }
}

#[test]
fn a_keyring_of_somebody_else_is_refused_to_root_too() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::holding(&keyring());
    let provider = KeyProvider::open(place.path()).unwrap();
    chown(place.path(), Some(65534), None).unwrap();
    let error = Keyring::load(&place.path()).unwrap_err();
    assert!(
        told(&error)
            .ends_with("belongs to uid 65534, and this is uid 0; run as its owner, or chown it"),
        "{}",
        told(&error)
    );
    assert!(provider.changed() && provider.reload().is_err());
    assert_eq!(provider.keyring(), Err(Denied::KeysUnavailable));
}

#[test]
fn what_is_no_keyring_file_is_refused() {
    let place = Place::new();
    let path = place.path();
    let error = Keyring::load(&path).unwrap_err();
    assert!(matches!(&error, KeyringError::Io { .. }), "{error:?}");
    assert!(
        told(&error).contains("keys.toml: cannot open it: No such file"),
        "{}",
        told(&error)
    );
    let error = Keyring::load(place.0.path()).unwrap_err();
    assert!(matches!(error, KeyringError::NotAFile { .. }), "{error:?}");
    place.write(
        &format!("[[key]]\nkid = \"a\"\nsecret = \"{SECRET}\"\nmore = 1\n"),
        0o600,
    );
    let error = Keyring::load(&path).unwrap_err();
    assert!(
        told(&error)
            .ends_with("not a keyring: [[key]] 1: more: expected only kid, secret and not_after"),
        "{}",
        told(&error)
    );
    place.write(&"#".repeat(2 * 1024 * 1024 + 1), 0o600);
    assert!(matches!(
        Keyring::load(&path),
        Err(KeyringError::TooLarge { .. })
    ));
    fs::write(&path, b"# \n# \xff\n").unwrap();
    let error = Keyring::load(&path).unwrap_err();
    assert!(
        told(&error).ends_with("line 2: not UTF-8"),
        "{}",
        told(&error)
    );
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from(0o600),
        0,
    )
    .unwrap();
    assert!(matches!(
        Keyring::load(&path),
        Err(KeyringError::NotAFile { .. })
    ));
}

#[test]
fn a_keyring_is_replaced_as_a_whole_or_not_at_all() {
    let place = Place::holding(&keyring());
    let path = place.path();
    let exists = keyring().create(&path);
    assert!(matches!(exists, Err(KeyringError::Exists { .. })));
    // What a process that was killed left behind.
    fs::write(place.0.path().join(".keys.toml.new"), "half").unwrap();
    let before = fs::metadata(&path).unwrap();
    let failed = Keyring::update(&path, |keyring| {
        keyring.rotate(&mut random(1), now(), HOUR).unwrap();
        Err::<(), _>(KeyringError::Busy {
            path: PathBuf::new(),
        })
    });
    assert!(failed.is_err());
    assert_eq!(Keyring::load(&path).unwrap(), keyring());
    let rotated = Keyring::update(&path, |keyring| {
        keyring.rotate(&mut random(1), now(), HOUR).unwrap();
        Ok::<_, KeyringError>(keyring.clone())
    });
    assert_eq!(Keyring::load(&path).unwrap(), rotated.unwrap());
    let after = fs::metadata(&path).unwrap();
    assert_ne!(before.ino(), after.ino());
    assert_eq!(after.mode() & 0o7777, 0o600);
    assert_eq!(place.names(), ["keys.toml"]);
}

#[test]
fn two_processes_do_not_undo_each_others_change() {
    let place = Place::holding(&keyring());
    let path = place.path();
    let outcome = Keyring::update(&path, |_| {
        let other = Keyring::update(&path, |_| Ok::<_, KeyringError>(()));
        assert!(matches!(other, Err(KeyringError::Busy { .. })), "{other:?}");
        Ok::<_, KeyringError>(())
    });
    outcome.unwrap();
    Keyring::update(&path, |_| Ok::<_, KeyringError>(())).unwrap();
}

#[test]
fn a_link_to_a_keyring_stays_a_link() {
    let place = Place::holding(&keyring());
    let link = place.0.path().join("link");
    symlink(place.path(), &link).unwrap();
    Keyring::update(&link, |keyring| {
        keyring.rotate(&mut random(1), now(), HOUR).unwrap();
        Ok::<_, KeyringError>(())
    })
    .unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(Keyring::load(&place.path()).unwrap().keys().count(), 2);
}

fn change(path: &Path, change: impl FnOnce(&mut Keyring)) {
    Keyring::update(path, |keyring| {
        change(keyring);
        Ok::<_, KeyringError>(())
    })
    .unwrap();
}

#[test]
fn a_running_service_follows_revocation_and_rotation() {
    let place = Place::holding(&keyring());
    let provider = KeyProvider::open(place.path()).unwrap();
    assert_eq!(provider.path(), place.path());
    let token = token(&keyring(), 1);
    let cap_id = inspect(token.as_str()).unwrap().cap_id;
    let verify = |token: &Token| provider.verify(token.as_str(), &request(now()));
    assert!(verify(&token).is_ok());
    assert!(!provider.changed());
    assert!(!provider.reload().unwrap());

    change(&place.path(), |keyring| {
        keyring.revoke(cap_id, now() + HOUR, now()).unwrap()
    });
    assert!(provider.changed());
    assert!(verify(&token).is_ok());
    assert!(provider.reload().unwrap());
    assert!(!provider.changed());
    assert_eq!(verify(&token), Err(Denied::Revoked));

    change(&place.path(), |keyring| {
        keyring.rotate(&mut random(2), now(), HOUR).unwrap();
    });
    let new = mint(
        &Keyring::load(&place.path()).unwrap(),
        &[],
        &mut random(3),
        now(),
    )
    .unwrap();
    assert_eq!(verify(&new), Err(Denied::UnknownKey));
    assert!(provider.changed() && provider.reload().unwrap());
    assert!(verify(&new).is_ok());

    // Another file with the same content is looked at, and changes nothing.
    change(&place.path(), |_| ());
    assert!(provider.changed());
    assert!(!provider.reload().unwrap());
}

#[test]
fn a_service_whose_keyring_is_lost_refuses_everything_until_it_is_back() {
    let place = Place::holding(&keyring());
    let path = place.path();
    let provider = KeyProvider::open(&path).unwrap();
    let token = token(&keyring(), 1);
    let verify = || provider.verify(token.as_str(), &request(now())).err();
    let aside = place.0.path().join("aside");

    fs::rename(&path, &aside).unwrap();
    assert!(provider.changed());
    assert!(provider.reload().is_err());
    assert_eq!(verify(), Some(Denied::KeysUnavailable));
    // Nothing to look at as long as there is nothing.
    assert!(!provider.changed());
    fs::rename(&aside, &path).unwrap();
    assert!(provider.changed());
    assert!(provider.reload().unwrap());
    assert_eq!(verify(), None);

    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert!(provider.changed());
    assert!(matches!(
        provider.reload(),
        Err(KeyringError::Exposed { .. })
    ));
    assert_eq!(verify(), Some(Denied::KeysUnavailable));
    assert!(provider.changed(), "there is a file that may become usable");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert!(provider.reload().unwrap());
    assert_eq!(verify(), None);

    place.write("half a keyr", 0o600);
    assert!(provider.changed());
    let error = provider.reload().unwrap_err();
    assert!(
        matches!(
            error,
            KeyringError::Content {
                source: ParseError::Syntax { .. },
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(verify(), Some(Denied::KeysUnavailable));
}
