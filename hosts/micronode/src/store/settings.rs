//! `store.*`: where objects are kept and how much of them.

use std::path::PathBuf;
use std::time::Duration;

use ron_config::{ByteSize, Schema, Settings};

/// Where objects are kept and how much is taken for them. All of it is the next start's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreSettings {
    /// Where they are kept. In memory.
    pub kind: StoreKind,
    /// What they may take, with what it costs to keep them. 256 MiB: a node beside others on a small machine.
    pub max_bytes: ByteSize,
    /// The directory of a store on disk.
    pub dir: Option<PathBuf>,
    /// Bytes of an object that is put as a stream. 64 MiB: a quarter of the default store.
    pub stream_max_bytes: ByteSize,
    /// From the head of such a put to the last byte of its body. 60 s: 64 MiB at 9 Mbit/s.
    pub stream_timeout: Duration,
    /// The bucket of a store by S3.
    pub s3: S3Settings,
    /// Streams at a time, 64: an eighth of the requests under way, so that slow ones leave room for others.
    pub streams: usize,
    /// Memory for objects that are read from a disk or a bucket. 128 MiB: 256 large ones from a disk at a time, 64 from a
    /// bucket.
    pub read_bytes: ByteSize,
}

/// Where objects are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreKind {
    /// In memory, until the process ends.
    Memory,
    /// In files of a directory.
    Disk,
    /// In a bucket of an S3-compatible service.
    S3,
}

/// `store.s3.*`: a bucket and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct S3Settings {
    /// Where the service is, as `https://HOST[:PORT]`.
    pub endpoint: String,
    /// The bucket, which has to be there.
    pub bucket: String,
    /// What requests are signed for. `us-east-1`, which services that have no regions take.
    pub region: String,
    /// Who signs them.
    pub access_key_id: String,
    /// The file that holds the secret of that key, alone; of mode 600.
    pub secret_key_file: Option<PathBuf>,
    /// For what is asked of it, all requests and retries of that together. 20 s: a large put over a slow line.
    pub timeout: Duration,
    /// Whether the endpoint may be `http://`: then objects go over the wire as they are.
    pub allow_http: bool,
    /// The HTTP proxy that the service is reached by. The environment's are not used.
    pub proxy: Option<String>,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            bucket: String::new(),
            region: "us-east-1".to_owned(),
            access_key_id: String::new(),
            secret_key_file: None,
            timeout: Duration::from_secs(20),
            allow_http: false,
            proxy: None,
        }
    }
}

impl S3Settings {
    /// What is missing or of no use.
    fn check(&self) -> Result<(), String> {
        let named = [
            ("endpoint", &self.endpoint),
            ("bucket", &self.bucket),
            ("access_key_id", &self.access_key_id),
        ];
        if let Some((key, _)) = named.iter().find(|(_, value)| value.is_empty()) {
            return Err(format!("the store by S3 has no store.s3.{key}"));
        }
        if self.secret_key_file.is_none() {
            return Err("the store by S3 has no store.s3.secret_key_file".to_owned());
        }
        if let Some(proxy) = &self.proxy {
            let host = proxy.strip_prefix("http://").unwrap_or_default();
            if host.is_empty() {
                return Err("store.s3.proxy is no http:// address".to_owned());
            }
        }
        match self.endpoint.split_once("://") {
            Some(("https", _)) => Ok(()),
            Some(("http", _)) if self.allow_http => Ok(()),
            _ => Err(
                "store.s3.endpoint is no https:// address; with store.s3.allow_http it may be http://"
                    .to_owned(),
            ),
        }
    }
}

impl Settings for S3Settings {
    fn schema(schema: &mut Schema<Self>) {
        schema
            .key("endpoint", |s3: &mut Self| &mut s3.endpoint)
            .doc("where the S3-compatible service is, as https://HOST[:PORT]");
        schema
            .key("bucket", |s3: &mut Self| &mut s3.bucket)
            .doc("bucket of the objects, which has to be there");
        schema
            .key("region", |s3: &mut Self| &mut s3.region)
            .doc("region that requests are signed for");
        schema
            .key("access_key_id", |s3: &mut Self| &mut s3.access_key_id)
            .doc("key that requests are signed with");
        schema
            .key("secret_key_file", |s3: &mut Self| &mut s3.secret_key_file)
            .doc("file of mode 600 that holds the secret of that key");
        schema
            .key("timeout", |s3: &mut Self| &mut s3.timeout)
            .doc("for an object that is put, opened or read, with all requests and retries of that")
            .range(Duration::from_millis(100)..=Duration::from_secs(300));
        schema
            .key("allow_http", |s3: &mut Self| &mut s3.allow_http)
            .doc("takes an http:// endpoint, over which objects go as they are");
        schema.key("proxy", |s3: &mut Self| &mut s3.proxy).doc(
            "proxy to the service, as http://HOST:PORT; those of the environment are not used",
        );
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            kind: StoreKind::Memory,
            max_bytes: ByteSize::new(256 << 20),
            dir: None,
            s3: S3Settings::default(),
            stream_max_bytes: ByteSize::new(64 << 20),
            stream_timeout: Duration::from_secs(60),
            streams: 64,
            read_bytes: ByteSize::new(128 << 20),
        }
    }
}

impl Settings for StoreSettings {
    fn schema(schema: &mut Schema<Self>) {
        let kinds = [
            ("memory", StoreKind::Memory),
            ("disk", StoreKind::Disk),
            ("s3", StoreKind::S3),
        ];
        schema
            .choice("kind", |store: &mut Self| &mut store.kind, &kinds)
            .doc("where objects are kept; what outlives the process needs amnesia.enabled = false");
        schema
            .key("max_bytes", |store: &mut Self| &mut store.max_bytes)
            .doc("what objects may take in memory or on disk; with s3, puts under way in memory")
            .range(ByteSize::new(1 << 20)..=ByteSize::new(1 << 50));
        schema
            .key("dir", |store: &mut Self| &mut store.dir)
            .doc("directory of a store on disk, of mode 700; made if it is not there");
        schema
            .key("stream_max_bytes", |store: &mut Self| {
                &mut store.stream_max_bytes
            })
            .doc("bytes of an object put with mode=stream")
            .range(ByteSize::new(1 << 20)..=ByteSize::new(1 << 32));
        schema
            .key("stream_timeout", |store: &mut Self| {
                &mut store.stream_timeout
            })
            .doc("for a whole put with mode=stream, from the head on")
            .range(Duration::from_millis(10)..=Duration::from_secs(3600));
        schema
            .key("streams", |store: &mut Self| &mut store.streams)
            .doc("puts with mode=stream under way")
            .range(1..=1 << 16);
        schema
            .key("read_bytes", |store: &mut Self| &mut store.read_bytes)
            .doc("memory for objects that are read from disk or by s3")
            .range(ByteSize::new(8 << 20)..=ByteSize::new(1 << 40));
        schema.section("s3", |store: &mut Self| &mut store.s3);
        schema.check(&["kind", "dir"], |store: &Self| {
            match (store.kind, &store.dir) {
                (StoreKind::Disk, None) => Err("the store on disk has no store.dir".to_owned()),
                (StoreKind::Memory | StoreKind::S3, Some(_)) => {
                    Err("store.dir is set, and store.kind is no disk".to_owned())
                }
                _ => Ok(()),
            }
        });
        schema.check(&["kind", "s3.endpoint"], |store: &Self| match store.kind {
            StoreKind::S3 => store.s3.check(),
            _ if store.s3 != S3Settings::default() => {
                Err("store.s3 is set, and store.kind is not s3".to_owned())
            }
            _ => Ok(()),
        });
    }
}
