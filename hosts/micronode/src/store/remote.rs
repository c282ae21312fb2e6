//! Objects in a bucket of an S3-compatible service, by the `object_store` crate.
//!
//! `objects/HEX` holds an object: its bytes, then its tree. A put gathers the object in memory, under the budget, and sends it
//! as one request, so that the service has all of it or nothing. It sends it though the service may have it already: whether
//! that is intact is not known without reading it, and so a put heals what is damaged.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path as File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt,
    PutPayload, RetryConfig,
};

use super::settings::S3Settings;
use super::{form, Before, StoreError};
use crate::object::{Address, Tree, GROUP_LEN};

/// What is asked for of an object that is opened: all of one of up to a group, the tree of one of up to 128 MiB.
const TAIL: u64 = GROUP_LEN as u64 + 16;
/// What is read at a time: a request takes milliseconds however little it asks for.
pub(super) const WINDOW: u64 = 16 * GROUP_LEN as u64;
/// Until the service answers at all.
const CONNECT: Duration = Duration::from_secs(3);
/// After a first try; a service that fails three times is not there.
const RETRIES: usize = 2;
/// Of what the service says of an error, as much is told.
const TEXT_MAX: usize = 300;

/// A bucket; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Remote(Arc<AmazonS3>);

/// A stored object.
#[derive(Debug)]
pub(super) struct Stored {
    remote: Remote,
    path: Path,
    pub(super) tree: Tree,
    /// All of a small object, as it came with its tree.
    pub(super) whole: Option<Bytes>,
}

impl Remote {
    /// The bucket of these settings. Reads the file of the secret; nothing is sent.
    ///
    /// # Errors
    /// The file cannot be read, or others may read it; or the settings cannot be used.
    pub(super) fn open(settings: &S3Settings) -> Result<Self, StoreError> {
        let file = settings.secret_key_file.as_deref();
        let secret = secret(file.unwrap_or(File::new("")));
        let secret = secret.map_err(|error| {
            StoreError::unavailable("store.s3.secret_key_file cannot be used", error)
        })?;
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: settings.timeout,
        };
        let options = ClientOptions::new()
            .with_timeout(settings.timeout)
            .with_connect_timeout(CONNECT.min(settings.timeout))
            .with_allow_http(settings.allow_http);
        let bucket = AmazonS3Builder::new()
            .with_endpoint(&settings.endpoint)
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(&settings.access_key_id)
            .with_secret_access_key(secret)
            // Hashing all of a body again would hold up a worker; whoever reads verifies it anyway.
            .with_unsigned_payload(true)
            .with_client_options(options)
            .with_retry(retry);
        let bucket = bucket.build();
        let bucket = bucket
            .map_err(|error| StoreError::unavailable("store.s3 cannot be used", text(&error)))?;
        Ok(Self(Arc::new(bucket)))
    }

    /// The object at `address`, with its tree verified.
    ///
    /// # Errors
    /// The service fails, or what it has is not the object.
    pub(super) async fn get(&self, address: &Address) -> Result<Option<Stored>, StoreError> {
        let path = path(address);
        let tail = GetOptions {
            range: Some(GetRange::Suffix(TAIL)),
            ..GetOptions::default()
        };
        let got = match self.0.get_opts(&path, tail).await {
            Ok(got) => got,
            Err(Error::NotFound { source, .. }) if !is_of_bucket(&*source) => return Ok(None),
            Err(error) => {
                // Nothing has no last bytes.
                let head = self.0.head(&path).await;
                return Err(match head {
                    Ok(head) if head.size == 0 => StoreError::Damaged,
                    _ => failed(&error),
                });
            }
        };
        let (stored, start) = (got.meta.size, got.range.start);
        let tail = got.bytes().await.map_err(|error| failed(&error))?;
        let len = form::object_len(stored).ok_or(StoreError::Damaged)?;
        let encoded = match len.checked_sub(start) {
            Some(at) => tail.slice((at as usize).min(tail.len())..),
            None => self.range(&path, len, stored).await?,
        };
        let tree = Tree::decode(&encoded, address, len).map_err(|_| StoreError::Damaged)?;
        let is_whole = start == 0 && tail.len() as u64 == stored;
        let whole = is_whole.then(|| tail.slice(..len as usize));
        Ok(Some(Stored {
            remote: self.clone(),
            path,
            tree,
            whole,
        }))
    }

    /// Sends the object of `tree`, which consists of `groups`.
    ///
    /// # Errors
    /// The service fails; it has the object or has it not.
    pub(super) async fn put(&self, groups: Vec<Bytes>, tree: &Tree) -> Result<Before, StoreError> {
        let path = path(&tree.address());
        let before = match self.0.head(&path).await {
            Ok(_) => Before::Intact,
            Err(Error::NotFound { .. }) => Before::Absent,
            Err(error) => return Err(failed(&error)),
        };
        let whole = groups.into_iter().chain([Bytes::from(tree.encode())]);
        let sent = self.0.put(&path, whole.collect::<PutPayload>()).await;
        sent.map_err(|error| failed(&error))?;
        Ok(before)
    }

    /// Whether something can be written.
    ///
    /// # Errors
    /// It cannot.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let path = Path::from("probe");
        let sent = self.0.put(&path, PutPayload::from_static(b"probe")).await;
        sent.map(drop).map_err(|error| failed(&error))
    }

    async fn range(&self, path: &Path, start: u64, end: u64) -> Result<Bytes, StoreError> {
        let got = self.0.get_range(path, start..end).await;
        got.map_err(|error| failed(&error))
    }
}

impl Stored {
    /// Bytes of the object from `start` to `end`, not verified.
    pub(super) async fn read(&self, start: u64, end: u64) -> Result<Bytes, StoreError> {
        self.remote.range(&self.path, start, end).await
    }
}

fn path(address: &Address) -> Path {
    Path::from(format!("objects/{address:x}"))
}

/// The one line of a file that is the service's alone.
fn secret(path: &File) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let text = format!("others may read it: its mode is {mode:o}, expected 600");
        return Err(io::Error::other(text));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

/// Whether it is the bucket that is not there. The service's own word for that is in the text only.
fn is_of_bucket(error: &(dyn std::error::Error + Send + Sync)) -> bool {
    error.to_string().contains("NoSuchBucket")
}

fn failed(error: &Error) -> StoreError {
    let cause = match error {
        Error::Unauthenticated { .. } | Error::PermissionDenied { .. } => {
            "the service refuses the credentials".to_owned()
        }
        Error::NotFound { .. } => "there is no such bucket, or what was opened is gone".to_owned(),
        other => text(other),
    };
    StoreError::unavailable("the bucket cannot be used", cause)
}

/// On one line, and not all that a service may say.
fn text(error: &Error) -> String {
    let text = error.to_string();
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(TEXT_MAX)
        .collect()
}
