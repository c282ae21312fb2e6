//! Objects in a bucket of an S3-compatible service, by the `object_store` crate.
//!
//! `objects/HEX` holds an object: its bytes, then its tree. A put gathers the object in memory, under the budget, and sends it
//! as one request, so that the service has all of it or nothing. It sends it though the service may have it already: whether
//! that is intact is not known without reading it, and so a put heals what is damaged.

use std::fs;
use std::future::Future;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path as File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt,
    PutPayload, RetryConfig,
};
use tokio::time::timeout;

use super::budget::{Budget, Reservation};
use super::memory::Held;
use super::settings::S3Settings;
use super::trouble::Trouble;
use super::{form, Before, Found, StoreError};
use crate::object::{Address, Tree, GROUP_LEN};

/// What is asked for of an object that is opened: all of one of up to a group, the tree of one of up to 128 MiB.
pub(super) const TAIL: u64 = GROUP_LEN as u64 + 16;
/// What is read at a time: a request takes milliseconds however little it asks for.
pub(super) const WINDOW: u64 = 16 * GROUP_LEN as u64;
/// Until the service answers at all.
const CONNECT: Duration = Duration::from_secs(3);
/// After a first try; a service that fails three times is not there.
const RETRIES: usize = 2;
/// Of what the service says of an error, as much is logged.
const TEXT_MAX: usize = 300;
/// What a look writes and reads, and a name that nothing has.
const PROBE: (&str, &[u8]) = ("probe", b"probe");
const ABSENT: &str = "probe-absent";

/// A bucket; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Remote(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bucket: AmazonS3,
    /// For whatever is asked, with all requests and retries that takes.
    timeout: Duration,
}

/// A stored object.
#[derive(Debug)]
pub(super) struct Stored {
    remote: Remote,
    path: Path,
    pub(super) tree: Tree,
    /// All of a small object, as it came with its tree.
    pub(super) whole: Option<Bytes>,
    /// Memory that it is read into.
    room: Arc<Reservation>,
}

/// What was read, and its part of a budget, until nobody has any of it.
struct Window {
    bytes: Bytes,
    _room: Arc<Reservation>,
}

impl Remote {
    /// The bucket of these settings. Reads the file of the secret; nothing is sent.
    ///
    /// # Errors
    /// The file cannot be read, or others may read it; or the settings cannot be used.
    pub(super) fn open(settings: &S3Settings) -> Result<Self, StoreError> {
        let file = settings.secret_key_file.as_deref();
        let secret = secret(file.unwrap_or(File::new("")))?;
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: settings.timeout,
        };
        let options = ClientOptions::new()
            .with_timeout(settings.timeout)
            .with_connect_timeout(CONNECT.min(settings.timeout))
            .with_allow_http(settings.allow_http);
        // With a proxy of its own the client looks for none in the environment; one that is for no name and no address is none.
        let options = match &settings.proxy {
            Some(proxy) => options.with_proxy_url(proxy),
            None => options
                .with_proxy_url("http://127.0.0.1:9")
                .with_proxy_excludes("*,0.0.0.0/0,::/0"),
        };
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
        let timeout = settings.timeout;
        Ok(Self(Arc::new(Inner { bucket, timeout })))
    }

    /// One deadline for all that `work` takes.
    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let within = self.0.timeout;
        let late = |_| {
            let what = "the service of the bucket does not answer in time";
            Err(StoreError::unavailable(what, format!("within {within:?}")))
        };
        timeout(within, work).await.unwrap_or_else(late)
    }

    /// The object at `address`, with its tree verified. What is read of it now and later takes `room`.
    ///
    /// # Errors
    /// The service fails, there is no room, or what it has is not the object.
    pub(super) async fn get(
        &self,
        address: &Address,
        room: Reservation,
    ) -> Result<Option<Stored>, StoreError> {
        self.within(self.find(address, room)).await
    }

    async fn find(
        &self,
        address: &Address,
        mut room: Reservation,
    ) -> Result<Option<Stored>, StoreError> {
        let path = path(address);
        let tail = GetOptions {
            range: Some(GetRange::Suffix(TAIL)),
            ..GetOptions::default()
        };
        let got = match self.0.bucket.get_opts(&path, tail).await {
            Ok(got) => got,
            Err(Error::NotFound { source, .. }) if !is_of_bucket(&*source) => return Ok(None),
            // Nothing has no last bytes: a 416, or an answer that is no part.
            Err(error) if kind(&error).is_none() && [None, Some(416)].contains(&status(&error)) => {
                return match self.0.bucket.head(&path).await {
                    Ok(head) if head.size == 0 => Err(StoreError::Damaged),
                    _ => Err(failed(&error)),
                };
            }
            Err(error) => return Err(failed(&error)),
        };
        let (stored, start) = (got.meta.size, got.range.start);
        let len = form::object_len(stored).ok_or(StoreError::Damaged)?;
        super::reading(&mut room, len, WINDOW)?;
        let tail = got.bytes().await.map_err(|error| failed(&error))?;
        let encoded = match len.checked_sub(start) {
            Some(at) => tail.slice((at as usize).min(tail.len())..),
            None => self.range(&path, len, stored).await?,
        };
        let tree = Tree::decode(&encoded, address, len).map_err(|_| StoreError::Damaged)?;
        let room = Arc::new(room);
        let is_whole = start == 0 && tail.len() as u64 == stored;
        let whole = is_whole.then(|| Window::of(tail.slice(..len as usize), &room));
        Ok(Some(Stored {
            remote: self.clone(),
            path,
            tree,
            whole,
            room,
        }))
    }

    /// Sends the object of `tree`, which consists of `groups`.
    ///
    /// # Errors
    /// The service fails; it has the object or has it not.
    pub(super) async fn put(&self, groups: &Held, tree: &Tree) -> Result<Before, StoreError> {
        let bucket = &self.0.bucket;
        self.within(async {
            let path = path(&tree.address());
            let before = match bucket.head(&path).await {
                Ok(_) => Before::Intact,
                Err(Error::NotFound { .. }) => Before::Absent,
                Err(error) => return Err(failed(&error)),
            };
            let encoded = Bytes::from(tree.encode());
            let whole = groups.iter().cloned().chain([encoded]);
            let sent = bucket.put(&path, whole.collect::<PutPayload>()).await;
            sent.map_err(|error| failed(&error))?;
            Ok(before)
        })
        .await
    }

    /// Does what a put and a get need, and what failed before: what is missing still, though the rest works.
    ///
    /// # Errors
    /// It does not work.
    pub(super) async fn probe(&self, trouble: Option<&Trouble>) -> Result<Found, StoreError> {
        self.within(self.look()).await?;
        let Some((address, start)) = trouble.and_then(|trouble| trouble.unread) else {
            return Ok(Found::Well);
        };
        let room = Budget::unlimited().reservation();
        let read = async {
            let Some(stored) = self.get(&address, room).await? else {
                return Ok(());
            };
            let end = stored.tree.object_len().min(start + WINDOW);
            match stored.whole {
                None if start < end => stored.read(start, end).await.map(drop),
                _ => Ok(()),
            }
        };
        Ok(match read.await {
            Err(error @ StoreError::Unavailable { .. }) => Found::Unread(error),
            _ => Found::Well,
        })
    }

    async fn look(&self) -> Result<(), StoreError> {
        let (bucket, path) = (&self.0.bucket, Path::from(PROBE.0));
        let sent = bucket.put(&path, PutPayload::from_static(PROBE.1)).await;
        sent.map_err(|error| failed_at("the bucket cannot be written", &error))?;
        let unread = |error: Error| failed_at("the bucket cannot be read", &error);
        let got = bucket.get(&path).await.map_err(unread)?;
        if got.bytes().await.map_err(unread)? != PROBE.1 {
            let what = "the bucket does not give back what was written";
            return Err(StoreError::unavailable(what, PROBE.0));
        }
        match bucket.head(&Path::from(ABSENT)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            Err(Error::PermissionDenied { .. }) => {
                let what = "the bucket does not tell what is not there, which takes ListBucket";
                Err(StoreError::unavailable(what, ABSENT))
            }
            Err(error) => Err(failed(&error)),
            Ok(_) => {
                let what = "the bucket has what nobody has put there";
                Err(StoreError::unavailable(what, ABSENT))
            }
        }
    }

    async fn range(&self, path: &Path, start: u64, end: u64) -> Result<Bytes, StoreError> {
        let got = self.0.bucket.get_range(path, start..end).await;
        got.map_err(|error| failed(&error))
    }
}

impl Stored {
    /// Bytes of the object from `start` to `end`, not verified.
    pub(super) async fn read(&self, start: u64, end: u64) -> Result<Bytes, StoreError> {
        let read = self.remote.range(&self.path, start, end);
        let bytes = self.remote.within(read).await?;
        Ok(Window::of(bytes, &self.room))
    }
}

impl Window {
    fn of(bytes: Bytes, room: &Arc<Reservation>) -> Bytes {
        let _room = Arc::clone(room);
        Bytes::from_owner(Self { bytes, _room })
    }
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn path(address: &Address) -> Path {
    Path::from(format!("objects/{address:x}"))
}

/// The one line of a file that is the service's alone.
fn secret(path: &File) -> Result<String, StoreError> {
    let failed = |error| StoreError::system("store.s3.secret_key_file cannot be read", error);
    let mut file = fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let what =
            format!("others may read store.s3.secret_key_file: its mode is {mode:o}, expected 600");
        return Err(StoreError::unavailable(what, path.display().to_string()));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text.trim_end().to_owned())
}

/// Whether it is the bucket that is not there. The service's own word for that is in the text only.
fn is_of_bucket(error: &(dyn std::error::Error + Send + Sync)) -> bool {
    error.to_string().contains("NoSuchBucket")
}

/// What the service has answered, if it has: the type that knows it is private, its text is not.
fn status(error: &Error) -> Option<u16> {
    let text = error.to_string();
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

fn failed(error: &Error) -> StoreError {
    failed_at("the bucket cannot be used", error)
}

/// Without a word of what the service or its address says but the status.
fn failed_at(what: &str, error: &Error) -> StoreError {
    let why = match error {
        Error::Unauthenticated { .. } | Error::PermissionDenied { .. } => {
            "the service refuses the credentials".to_owned()
        }
        Error::NotFound { .. } => "there is no such bucket, or what was opened is gone".to_owned(),
        other => match (status(other), kind(other)) {
            (Some(status), _) => format!("the service answers {status}"),
            (None, Some(HttpErrorKind::Connect)) => "the service cannot be reached".to_owned(),
            (None, Some(HttpErrorKind::Timeout)) => {
                "the service does not answer in time".to_owned()
            }
            _ => "the log has what failed".to_owned(),
        },
    };
    StoreError::unavailable(format!("{what}: {why}"), text(error))
}

/// How a request failed that was not answered.
fn kind(error: &Error) -> Option<HttpErrorKind> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<HttpError>() {
            return Some(error.kind());
        }
        source = cause.source();
    }
    None
}

/// On one line, and not all that a service may say.
fn text(error: &Error) -> String {
    let text = error.to_string();
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(TEXT_MAX)
        .collect()
}
