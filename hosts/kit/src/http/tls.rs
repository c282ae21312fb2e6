//! TLS 1.3 from files that are read again on reload, and which key exchange it is made with.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ron_kernel::metrics::{labels, Counter, CounterFamily, Metrics, MetricsError, Pq, ReasonLabel};
use rustix::fs::OFlags;
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use tokio_rustls::rustls::crypto::{CryptoProvider, SupportedKxGroup};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{self, version, NamedGroup, PeerIncompatible, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::LazyConfigAcceptor;
use zeroize::Zeroizing;

use super::timed::Eager;

/// Largest file. A chain of certificates has a few KiB.
const FILE_MAX: u64 = 1 << 20;

const CLASSICAL: [&dyn SupportedKxGroup; 3] =
    [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
const HYBRID: [&dyn SupportedKxGroup; 1] = [kx_group::X25519MLKEM768];

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Certificate and key in use; clones share them.
#[derive(Clone)]
pub(crate) struct Tls(Arc<Inner>);

struct Inner {
    files: TlsFiles,
    pq: Pq,
    configs: RwLock<Configs>,
    /// The reload that the files were last read after.
    reload: AtomicU64,
}

/// A server takes the first group of its client's list that it knows. To prefer one, it must know no other.
#[derive(Clone)]
struct Configs {
    classical: Arc<ServerConfig>,
    hybrid: Arc<ServerConfig>,
}

/// Certificate or key cannot be used. What was in use stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Read {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may read the private key.
    #[error("tls.key: {path} has mode {mode:04o}, which opens it to others; run `chmod 0600 {path}`, and replace the key if anybody may have read it", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{key}: {} has no {expected} in PEM", path.display())]
    Pem {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// They do not belong together, or are of a kind that cannot be used.
    #[error("tls.cert {} and tls.key {} cannot be used together: {reason}", cert.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl TlsError {
    /// What anybody may read of it: without the names of files.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Read { key, source, .. } => format!("{key} cannot be read: {}", source.kind()),
            Self::Exposed { mode, .. } => {
                format!("tls.key has mode {mode:04o}, which opens it to others")
            }
            Self::Pem { key, expected, .. } => format!("{key} has no {expected} in PEM"),
            Self::Unusable { reason, .. } => {
                format!("tls.cert and tls.key cannot be used together: {reason}")
            }
        }
    }
}

impl Tls {
    pub(crate) fn load(files: TlsFiles, pq: Pq) -> Result<Self, TlsError> {
        let configs = read_configs(&files)?;
        Ok(Self(Arc::new(Inner {
            files,
            pq,
            configs: RwLock::new(configs),
            reload: AtomicU64::new(0),
        })))
    }

    /// Reads the files again if there was another reload than the last one told here. Connections from now on use what
    /// they hold; established ones stay as they are.
    pub(crate) fn follow(&self, reload: u64) -> Option<Result<(), TlsError>> {
        if self.0.reload.swap(reload, Ordering::Relaxed) == reload {
            return None;
        }
        Some(read_configs(&self.0.files).map(|configs| {
            let mut current = self
                .0
                .configs
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *current = configs;
        }))
    }

    /// Makes a connection of `stream`. `None` if the peer went away without a word, as a probe does.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<Option<(TlsStream<Eager<TcpStream>>, Exchanged)>, HandshakeFailure> {
        if stream
            .peek(&mut [0])
            .await
            .map_err(|error| failure(&error))?
            == 0
        {
            return Ok(None);
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), Eager::new(stream)).await;
        let start = start.map_err(|error| failure(&error))?;
        let hello = start.client_hello();
        let is_offered = hello
            .named_groups()
            .is_some_and(|groups| groups.contains(&NamedGroup::X25519MLKEM768));
        let config = {
            let configs = self
                .0
                .configs
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            match is_hybrid(self.0.pq, is_offered) {
                true => Arc::clone(&configs.hybrid),
                false => Arc::clone(&configs.classical),
            }
        };
        let stream = start.into_stream(config).await;
        let stream = stream.map_err(|error| failure(&error))?;
        let group = stream.get_ref().1.negotiated_key_exchange_group();
        let group = group.map_or(NamedGroup::Unknown(0), |group| group.name());
        let exchanged = Exchanged {
            group: name(group),
            is_downgrade: is_offered && group != NamedGroup::X25519MLKEM768,
        };
        Ok(Some((stream, exchanged)))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.0.files)
            .field("pq", &self.0.pq)
            .finish_non_exhaustive()
    }
}

/// Whether a client is served with the hybrid group and no other.
fn is_hybrid(pq: Pq, is_offered: bool) -> bool {
    match pq {
        Pq::Required => true,
        Pq::Hybrid => is_offered,
        _ => false,
    }
}

/// How a handshake ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exchanged {
    pub(crate) group: &'static str,
    /// The client offered the hybrid group and did not get it.
    pub(crate) is_downgrade: bool,
}

/// Names of the IANA registry.
fn name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        NamedGroup::X25519 => "x25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => "other",
    }
}

/// Why a handshake failed: a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandshakeFailure(pub(crate) &'static str);

fn failure(error: &io::Error) -> HandshakeFailure {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref());
    HandshakeFailure(match cause {
        Some(rustls::Error::PeerIncompatible(what)) => match what {
            PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NamedGroupsExtensionRequired
            | PeerIncompatible::KeyShareExtensionRequired => "key_exchange",
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13 => "version",
            _ => "incompatible",
        },
        // A client that does not trust the certificate says so.
        Some(rustls::Error::AlertReceived(_)) => "alert",
        Some(_) => "protocol",
        None => "connection",
    })
}

/// What is counted of handshakes.
pub(crate) struct TlsMetrics {
    handshakes_total: CounterFamily<GroupLabel>,
    downgrade_total: Counter,
    failures_total: CounterFamily<ReasonLabel>,
}

labels! {
    /// A key exchange group.
    pub(crate) struct GroupLabel { group }
}

impl TlsMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            handshakes_total: metrics.counter_family(
                "pq_handshake_total",
                "TLS handshakes, by the group of the key exchange.",
            )?,
            downgrade_total: metrics.counter(
                "pq_downgrade_total",
                "TLS handshakes whose client offered X25519MLKEM768 and did not get it.",
            )?,
            failures_total: metrics.counter_family(
                "tls_handshake_failures_total",
                "TLS handshakes that failed, by cause.",
            )?,
        })
    }

    pub(crate) fn exchanged(&self, exchanged: Exchanged) {
        let handshakes = self.handshakes_total.get(&GroupLabel::new(exchanged.group));
        handshakes.inc();
        if exchanged.is_downgrade {
            self.downgrade_total.inc();
        }
    }

    pub(crate) fn failed(&self, failure: HandshakeFailure) {
        self.failures_total.get(&ReasonLabel::new(failure.0)).inc();
    }
}

fn read_configs(files: &TlsFiles) -> Result<Configs, TlsError> {
    let pem = |key, path: &Path, expected| TlsError::Pem {
        key,
        path: path.to_owned(),
        expected,
    };
    let no_cert = || pem("tls.cert", &files.cert, "certificate");
    let cert = read("tls.cert", &files.cert, false)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(no_cert)?;
    let key = read("tls.key", &files.key, true)?;
    let key = PrivateKeyDer::from_pem_slice(&key);
    let key = key.map_err(|_| pem("tls.key", &files.key, "private key"))?;
    let config = |groups: &[&'static dyn SupportedKxGroup]| {
        let provider = Arc::new(CryptoProvider {
            kx_groups: groups.to_vec(),
            ..default_provider()
        });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key.clone_key())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    };
    let unusable = |error: rustls::Error| TlsError::Unusable {
        cert: files.cert.clone(),
        key: files.key.clone(),
        reason: error.to_string(),
    };
    Ok(Configs {
        classical: config(&CLASSICAL).map_err(unusable)?,
        hybrid: config(&HYBRID).map_err(unusable)?,
    })
}

/// Asks the open file for its mode, so that it cannot be swapped in between. Links are followed, as orchestrators mount
/// secrets by links.
fn read(key: &'static str, path: &Path, is_secret: bool) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read {
        key,
        path: path.to_owned(),
        source,
    };
    // A pipe would wait for a writer.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is no file")));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if is_secret && mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(TlsError::Exposed { path, mode });
    }
    let length = metadata.len();
    if length > FILE_MAX {
        let reason = format!("it has more than {FILE_MAX} bytes");
        return Err(failed(io::Error::other(reason)));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(FILE_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::path::Path;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, HandshakeKind, RootCertStore};
    use tokio_rustls::TlsConnector;

    fn fixture(name: &str) -> PathBuf {
        let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
        kit.join("../../ron-metrics/tests/tls").join(name)
    }

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn install(dir: &Path, name: &str) -> TlsFiles {
        let files = TlsFiles {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
        };
        let read = |kind: &str| fs::read(fixture(&format!("{name}.{kind}.pem"))).unwrap();
        write(&files.cert, &read("cert"), 0o600);
        write(&files.key, &read("key"), 0o600);
        files
    }

    fn client(groups: &[&'static dyn SupportedKxGroup]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for name in ["one", "two"] {
            let cert = CertificateDer::from_pem_file(fixture(&format!("{name}.cert.pem")));
            roots.add(cert.unwrap()).unwrap();
        }
        let provider = CryptoProvider {
            kx_groups: groups.to_vec(),
            ..default_provider()
        };
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    type Shaken = (HandshakeKind, Option<Vec<u8>>, Exchanged);

    /// What the server makes of a client, which reads what is sent to it after the handshake.
    async fn shake(tls: &Tls, client: &Arc<ClientConfig>) -> Result<Shaken, HandshakeFailure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap());
        let (theirs, ours) = tokio::join!(theirs, listener.accept());
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::clone(client));
        let theirs = async {
            let mut stream = connector.connect(name, theirs.unwrap()).await?;
            stream.read_u8().await
        };
        let ours = async {
            let (mut stream, exchanged) = tls.accept(ours.unwrap().0).await?.unwrap();
            let _ = stream.write_u8(0).await;
            let _ = stream.flush().await;
            let connection = stream.get_ref().1;
            let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
            Ok((connection.handshake_kind().unwrap(), alpn, exchanged))
        };
        tokio::join!(theirs, ours).1
    }

    #[tokio::test]
    async fn every_group_of_the_documentation_can_be_agreed_on() {
        let dir = tempfile::tempdir().unwrap();
        let files = install(dir.path(), "one");
        let groups: [(&'static dyn SupportedKxGroup, &str, [bool; 3]); 4] = [
            (kx_group::X25519, "x25519", [true, true, false]),
            (kx_group::SECP256R1, "secp256r1", [true, true, false]),
            (kx_group::SECP384R1, "secp384r1", [true, true, false]),
            (
                kx_group::X25519MLKEM768,
                "X25519MLKEM768",
                [false, true, true],
            ),
        ];
        for (mode, pq) in [Pq::Off, Pq::Hybrid, Pq::Required].into_iter().enumerate() {
            let tls = Tls::load(files.clone(), pq).unwrap();
            for (group, name, taken_by) in groups {
                let shaken = shake(&tls, &Arc::new(client(&[group]))).await;
                let group = shaken.map(|(_, _, exchanged)| exchanged.group);
                let expected = taken_by[mode].then_some(name);
                assert_eq!(
                    group,
                    expected.ok_or(HandshakeFailure("key_exchange")),
                    "{pq:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn protocols_are_agreed_on_and_distrust_is_told_from_noise() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::load(install(dir.path(), "one"), Pq::Off).unwrap();
        let speaking = |protocols: &[&str]| {
            let mut client = client(&CLASSICAL);
            client.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
            Arc::new(client)
        };
        let one = b"http/1.1".to_vec();
        for (protocols, expected) in [
            (&[][..], Ok(None)),
            (&["h2", "http/1.1"], Ok(Some(one))),
            (&["h2"], Err(HandshakeFailure("protocol"))),
        ] {
            let shaken = shake(&tls, &speaking(protocols)).await;
            assert_eq!(shaken.map(|(_, alpn, _)| alpn), expected, "{protocols:?}");
        }
        let mut stranger = client(&CLASSICAL);
        stranger = ClientConfig::builder_with_provider(Arc::clone(stranger.crypto_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let shaken = shake(&tls, &Arc::new(stranger)).await;
        assert_eq!(shaken.unwrap_err(), HandshakeFailure("alert"));
    }

    #[tokio::test]
    async fn a_session_goes_on_with_a_new_exchange_and_not_beyond_a_rotation_or_another_group() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::load(install(dir.path(), "one"), Pq::Hybrid).unwrap();
        let mut both = client(&[kx_group::X25519MLKEM768, kx_group::X25519]);
        let again = async |client: ClientConfig| {
            let (kind, _, exchanged) = shake(&tls, &Arc::new(client)).await.unwrap();
            assert!(!exchanged.is_downgrade);
            (kind == HandshakeKind::Resumed, exchanged.group)
        };
        let (full, resumed) = (false, true);
        both.enable_early_data = true;
        assert_eq!(again(both.clone()).await, (full, "X25519MLKEM768"));
        assert_eq!(again(both.clone()).await, (resumed, "X25519MLKEM768"));
        let mut classical = client(&[kx_group::X25519]);
        classical.resumption = both.resumption.clone();
        assert_eq!(again(classical).await, (full, "x25519"));
        install(dir.path(), "two");
        assert!(matches!(tls.follow(1), Some(Ok(()))));
        assert_eq!(again(both.clone()).await, (full, "X25519MLKEM768"));
    }

    #[test]
    fn files_are_read_once_for_each_reload() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::load(install(dir.path(), "one"), Pq::Off).unwrap();
        assert!(tls.follow(0).is_none());
        for reload in 1..3 {
            assert!(matches!(tls.follow(reload), Some(Ok(()))));
            assert!(tls.follow(reload).is_none());
        }
    }

    #[test]
    fn only_its_owner_may_read_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let files = install(dir.path(), "one");
        for (mode, is_taken) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o620, false),
            (0o601, false),
            (0o604, false),
        ] {
            fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
            let loaded = Tls::load(files.clone(), Pq::Off);
            match loaded {
                Ok(_) => assert!(is_taken, "{mode:o}"),
                Err(TlsError::Exposed { mode: told, .. }) => {
                    assert_eq!((is_taken, told), (false, mode));
                }
                Err(error) => panic!("{mode:o}: {error}"),
            }
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let files = install(dir.path(), "one");
        // Behind more than is read there would be nothing.
        let mut large = fs::read(&files.cert).unwrap();
        large.resize(FILE_MAX as usize + 1, b'\n');
        write(&files.cert, &large, 0o600);
        let error = Tls::load(files.clone(), Pq::Off).unwrap_err().to_string();
        assert!(error.contains("1048576 bytes"), "{error}");
        fs::remove_file(&files.cert).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &files.cert,
            rustix::fs::FileType::Fifo,
            mode,
            0,
        )
        .unwrap();
        let error = Tls::load(files, Pq::Off).unwrap_err().to_string();
        assert!(error.contains("it is no file"), "{error}");
    }
}
