//! TLS from certificate and key files that can be rotated while the server runs.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// Largest file read. A chain of certificates has a few KiB.
const FILE_MAX: u64 = 1024 * 1024;

/// Where certificate and key are. Complete: a server needs these two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsFiles {
    /// PEM: the server's certificate first, then the chain.
    pub cert: PathBuf,
    /// PEM: the private key, PKCS#8, SEC1 or PKCS#1. Only its owner may read it.
    pub key: PathBuf,
}

/// Certificate and key in use. Clones share them, so that one reload serves all.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

/// TLS could not be set up. Whatever was in use before stays in use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file could not be read.
    #[error("tls: cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read the key.
    #[error("tls: key {path} has mode {mode:04o}; it must not be readable for group or others (0600 or 0400)", path = .path.display())]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("tls: {path}: expected {expected} in PEM", path = .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// Certificate and key are not usable, or do not belong together.
    #[error("tls: certificate {cert} and key {key} cannot be used together", cert = .files.cert.display(), key = .files.key.display())]
    Unusable {
        /// The files.
        files: TlsFiles,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server was started without TLS.
    #[error("tls: this server has no TLS; set it in its options")]
    Off,
}

impl Tls {
    /// Reads certificate and key. TLS 1.2 and 1.3, no client certificates.
    ///
    /// Links are followed, as orchestrators mount secrets by links; the mode that counts is that of the file itself.
    ///
    /// # Errors
    ///
    /// A file cannot be read or parsed, the key is readable for group or others, or the two do not belong together.
    pub fn load(files: TlsFiles) -> Result<Tls, TlsError> {
        let config = read_config(&files)?;
        Ok(Tls {
            inner: Arc::new(Inner {
                files,
                config: RwLock::new(Arc::new(config)),
            }),
        })
    }

    /// Reads the files again. Connections made from now on use what they hold; established ones stay as they are.
    ///
    /// # Errors
    ///
    /// As [`load`](Tls::load); nothing has changed then.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(read_config(&self.inner.files)?);
        *self
            .inner
            .config
            .write()
            .unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let config = self
            .inner
            .config
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(config.clone())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.inner.files).finish()
    }
}

fn read_config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let pem = |path: &Path, expected| TlsError::Pem {
        path: path.to_path_buf(),
        expected,
    };
    let cert = read(&files.cert, false)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<_, _>>()
        .map_err(|_| pem(&files.cert, "certificates"))?;
    if chain.is_empty() {
        return Err(pem(&files.cert, "certificates"));
    }
    let key = read(&files.key, true)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| pem(&files.key, "a private key"))?;

    let unusable = |source: rustls::Error| TlsError::Unusable {
        files: files.clone(),
        source: Box::new(source),
    };
    // Named, not taken from the process: a host may have installed another provider, or two may be compiled in.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Reads a file that is asked for its mode after it was opened, so that it cannot be swapped in between.
fn read(path: &Path, secret: bool) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = mode(&file).map_err(failed)?;
    if secret && mode & 0o077 != 0 {
        return Err(TlsError::KeyExposed {
            path: path.to_path_buf(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

#[cfg(unix)]
fn mode(file: &File) -> io::Result<u32> {
    use std::os::unix::fs::PermissionsExt;
    Ok(file.metadata()?.permissions().mode() & 0o7777)
}

/// Elsewhere access is not a matter of mode bits.
#[cfg(not(unix))]
fn mode(_: &File) -> io::Result<u32> {
    Ok(0)
}
