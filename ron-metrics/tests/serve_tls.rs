//! The admin server over TLS: rotation, and files that must not be used. The pairs in `tests/tls` are self-signed, for
//! these tests only: `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj
//! /CN=one -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE`.
#![cfg(all(feature = "tls", unix))]

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ron_metrics::{Metrics, ServeOptions, ServerHandle, Tls, TlsError, TlsFiles};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{crypto, ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

fn fixture(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn cert(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(fixture(&format!("{name}.cert.pem"))).unwrap()
}

/// Puts a certificate and a key where the server reads them.
fn install(dir: &Path, cert: &str, key: &str) -> TlsFiles {
    let files = TlsFiles {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    };
    fs::copy(fixture(&format!("{cert}.cert.pem")), &files.cert).unwrap();
    let _ = fs::remove_file(&files.key);
    fs::copy(fixture(&format!("{key}.key.pem")), &files.key).unwrap();
    fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    files
}

fn start() -> (TempDir, ServerHandle) {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::load(install(dir.path(), "one", "one")).unwrap();
    let metrics = Metrics::new("test").unwrap();
    let server = metrics
        .serve_with("127.0.0.1:0", ServeOptions::default().tls(tls))
        .unwrap();
    (dir, server)
}

async fn connect(addr: SocketAddr) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(cert("one")).unwrap();
    roots.add(cert("two")).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

fn presented(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    certificates[0].clone().into_owned()
}

async fn healthz(stream: &mut TlsStream<TcpStream>) -> String {
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"status\":\"ok\"}") {
        answer.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

#[test]
fn a_reload_changes_new_connections_and_leaves_established_ones() {
    let (dir, server) = start();
    block_on(async {
        let mut before = connect(server.addr()).await;
        assert_eq!(presented(&before), cert("one"));
        assert!(healthz(&mut before).await.starts_with("HTTP/1.1 200 OK"));

        install(dir.path(), "two", "two");
        assert_eq!(
            presented(&connect(server.addr()).await),
            cert("one"),
            "not before the reload"
        );
        server.reload_tls().unwrap();
        let mut after = connect(server.addr()).await;
        assert_eq!(presented(&after), cert("two"));
        assert!(healthz(&mut after).await.starts_with("HTTP/1.1 200 OK"));
        assert!(healthz(&mut before).await.starts_with("HTTP/1.1 200 OK"));
    });
}

#[test]
fn a_failed_reload_keeps_what_worked() {
    let (dir, server) = start();
    install(dir.path(), "two", "one");
    let error = server.reload_tls().unwrap_err();
    assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
    fs::remove_file(dir.path().join("cert.pem")).unwrap();
    let error = server.reload_tls().unwrap_err();
    assert!(matches!(error, TlsError::Read { .. }), "{error}");
    block_on(async {
        assert_eq!(presented(&connect(server.addr()).await), cert("one"));
    });
}

#[test]
fn a_key_that_others_may_read_is_refused_through_links_too() {
    let dir = tempfile::tempdir().unwrap();
    let files = install(dir.path(), "one", "one");
    for mode in [0o640, 0o604, 0o644, 0o610, 0o606] {
        fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
        let error = Tls::load(files.clone()).unwrap_err();
        assert!(
            matches!(error, TlsError::KeyExposed { mode: seen, .. } if seen == mode),
            "{error}"
        );
        let text = format!("tls: key {} has mode {mode:04o}; ", files.key.display());
        assert!(error.to_string().starts_with(&text), "{error}");
    }
    let link = TlsFiles {
        key: dir.path().join("link.pem"),
        ..files.clone()
    };
    std::os::unix::fs::symlink(&files.key, &link.key).unwrap();
    assert!(matches!(
        Tls::load(link.clone()),
        Err(TlsError::KeyExposed { .. })
    ));
    fs::set_permissions(&files.key, Permissions::from_mode(0o400)).unwrap();
    assert!(Tls::load(files).is_ok() && Tls::load(link).is_ok());
}

#[test]
fn files_without_what_they_should_hold_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = install(dir.path(), "one", "one");
    fs::write(&files.cert, "not pem").unwrap();
    let error = Tls::load(files.clone()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "tls: {}: expected certificates in PEM",
            files.cert.display()
        )
    );
    let files = install(dir.path(), "one", "one");
    fs::write(&files.key, fs::read(&files.cert).unwrap()).unwrap();
    let error = Tls::load(files.clone()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "tls: {}: expected a private key in PEM",
            files.key.display()
        )
    );
}

#[test]
fn plain_http_is_not_answered_on_a_tls_port_and_tls_not_on_a_socket_file() {
    let (dir, server) = start();
    block_on(async {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"));
    });
    let tls = Tls::load(install(dir.path(), "one", "one")).unwrap();
    let metrics = Metrics::new("test").unwrap();
    let path = dir.path().join("admin.sock");
    let error = metrics
        .serve_unix_with(&path, ServeOptions::default().tls(tls))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("option tls must be unset on a Unix socket"),
        "{error}"
    );
    assert!(!path.exists());

    let plain = metrics.serve("127.0.0.1:0").unwrap();
    assert!(matches!(plain.reload_tls(), Err(TlsError::Off)));
}

#[test]
fn a_handshake_that_hangs_is_cut_off_and_does_not_hold_up_others() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::load(install(dir.path(), "one", "one")).unwrap();
    let options = ServeOptions::default()
        .tls(tls)
        .read_timeout(std::time::Duration::from_millis(200));
    let server = Metrics::new("test")
        .unwrap()
        .serve_with("127.0.0.1:0", options)
        .unwrap();
    block_on(async {
        let mut silent = TcpStream::connect(server.addr()).await.unwrap();
        let mut stream = connect(server.addr()).await;
        assert!(healthz(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
        assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
    });
}
