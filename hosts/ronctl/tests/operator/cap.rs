//! Capabilities, for which no service is asked.

use std::os::unix::fs::PermissionsExt as _;

use crate::fake::Run;

fn keyring(run: &Run) -> String {
    let path = run.base().join("keys.toml").display().to_string();
    run.ronctl(&format!("cap rotate --create --keyring {path}"))
        .good();
    path
}

#[test]
fn a_shell_can_keep_what_is_minted_in_a_variable() {
    let run = Run::new();
    let path = keyring(&run);
    let out = run
        .ronctl(&format!("cap mint --keyring {path} --path /o --ttl 5m"))
        .good();
    assert_eq!(out.matches('\n').count(), 1, "{out}");
    let token = out.trim_end();
    let narrow = run
        .ronctl(&format!("cap attenuate {token} --method GET"))
        .good();
    let shown = run
        .ronctl(&format!("cap inspect {}", narrow.trim_end()))
        .good();
    assert!(
        shown.contains("caveat      path = /o\ncaveat      method = GET\n"),
        "{shown}"
    );
    let json = run.ronctl(&format!("cap inspect {token} --json")).good();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["caveats"][1]["caveat"], "path = /o");
    let cap_id = json["cap_id"].as_str().unwrap();
    let revoked = run
        .ronctl(&format!("cap revoke --keyring {path} {token}"))
        .good();
    assert!(
        revoked.starts_with(&format!("revoked {cap_id} until ")),
        "{revoked}"
    );
    let rotated = run
        .ronctl(&format!("cap rotate --keyring {path} --grace 1h"))
        .good();
    assert!(
        rotated.contains(" mints\n") && rotated.contains(" verifies until "),
        "{rotated}"
    );
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(kept.contains(cap_id) && !kept.contains(token));
}

#[test]
fn what_is_wrong_is_one_line_and_an_exit_code() {
    let run = Run::new();
    let path = keyring(&run);
    for (line, code, text) in [
        (
            "cap mint --keyring nowhere.toml".to_owned(),
            1,
            "nowhere.toml: cannot open it",
        ),
        (format!("cap rotate --create --keyring {path}"), 1, "exists"),
        ("cap inspect AgED".to_owned(), 2, "not a macaroon"),
        ("cap inspect -".to_owned(), 2, "not a macaroon"),
        (
            "cap --sock /a inspect AgED".to_owned(),
            2,
            "takes no --sock or --target",
        ),
        (
            "cap --target svc-a inspect AgED".to_owned(),
            2,
            "takes no --sock or --target",
        ),
    ] {
        let err = run.ronctl(&line).failed(code);
        assert!(err.contains(text), "{line}: {err}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let err = run.ronctl(&format!("cap mint --keyring {path}")).failed(4);
    assert!(err.contains(&format!("run `chmod 0600 {path}`")), "{err}");
}

#[test]
fn none_of_many_revocations_at_once_is_lost() {
    let run = Run::new();
    let path = keyring(&run);
    let ids: Vec<String> = (0..4).map(|n| format!("{n:032x}")).collect();
    std::thread::scope(|scope| {
        for id in &ids {
            let (run, path) = (&run, &path);
            scope.spawn(move || {
                run.ronctl(&format!("cap revoke --keyring {path} {id}"))
                    .good()
            });
        }
    });
    let text = std::fs::read_to_string(&path).unwrap();
    for id in &ids {
        assert!(text.contains(&format!("cap_id = \"{id}\"")), "{id}: {text}");
    }
}
