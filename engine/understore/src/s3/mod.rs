//! `s3://` under-stores: Amazon S3, and whatever speaks its protocol.
//!
//! A version is the etag. Reads carry it as If-Match, so that no byte of another version is returned; the etag of
//! the answer is compared as well, for servers that ignore the condition. A directory is a prefix with keys under it,
//! or a marker `dir/`; where an object and a prefix share a name, the object is served.
//!
//! # What conditional requests do (measured against SeaweedFS 4.48)
//! | request | condition | SeaweedFS 4.48 |
//! |---|---|---|
//! | GET | If-Match other etag | 412 |
//! | PUT | If-None-Match: *, object exists | 412 |
//! | PUT | If-Match other etag, or no object | 412 |
//! | CompleteMultipartUpload | If-None-Match: * / If-Match | 412, the upload stays and is aborted by us |
//! | CopyObject | If-None-Match: * | 412 |
//! | DELETE | If-Match other etag | 412 |
//!
//! Of PUTs that race under a condition one wins. Of CompleteMultipartUploads that race, SeaweedFS lets several win: it
//! looks just before it writes. Amazon S3 documents both as atomic (404 for If-Match without an object, 409 when two
//! conditional writes race), so only at its own endpoints do [`Capabilities`] promise that for large writes. A store that
//! ignores conditions altogether would overwrite silently; for it a multipart publication also looks at the target itself.
//!
//! SeaweedFS also lists in name order where Amazon S3 lists in key order, collapses `a//b` to `a/b`, takes `a\b` for
//! `a/b`, replaces control characters in continuation tokens, shows a directory after its last object is gone until it has
//! cleaned up, and deletes a marker only when nothing is under it.
//!
//! - `connect.rs` reads URI and options; `client.rs` signs raw requests; `list.rs` lists; `tree.rs` renames and
//!   deletes; `write.rs` stages,
//!   publishes, settles and sweeps.

mod client;
mod connect;
mod list;
mod tree;
mod write;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::Method;
use object_store::{
    GetOptions, GetRange, ObjectStore,
    aws::AmazonS3,
    client::{HttpError, HttpErrorKind},
    path::Path,
};

pub(crate) use self::connect::open;
use self::{
    client::{Client, Request, chain, store_error},
    list::{Object, to_stat},
};
use crate::{
    Call, Capabilities, Condition, Depth, Error, Failure, FileId, Landing, Operation, Part, Remnant, Repeat, Result,
    Settled, Staged, StagedRecord, Stat, StorePath, Swept, Traffic, UnderStore, VersionToken,
    store::{Compares, Pages},
};

/// How long [`UnderStore::check`] may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a key.
const KEY_BYTES_MAX: usize = 1024;
/// Name of the metadata that says which write of Citius an object is.
const FILE_ID_HEADER: &str = "x-amz-meta-citius-file";

/// A bucket, or a prefix of one.
#[derive(Debug)]
pub struct S3Store {
    inner: Arc<Inner>,
}

/// What listings and staged writes share with the store.
struct Inner {
    uri: String,
    objects: AmazonS3,
    client: Client,
    /// The mounted prefix, without slashes at its ends.
    prefix: String,
    traffic: Traffic,
}

/// What HEAD says of an object.
#[derive(Debug)]
struct Head {
    object: Object,
    file_id: Option<FileId>,
}

/// By hand: the clients below would print key ids, proxies and more.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, traffic) = (&self.client.endpoint, self.traffic.totals());
        f.debug_struct("S3").field("uri", &self.uri).field("endpoint", endpoint).field("traffic", &traffic).finish()
    }
}

impl S3Store {
    fn new(uri: String, objects: AmazonS3, client: Client, prefix: String, traffic: Traffic) -> Self {
        Self { inner: Arc::new(Inner { uri, objects, client, prefix, traffic }) }
    }
}

impl Inner {
    /// The key of a path.
    fn key(&self, path: &StorePath) -> Result<String> {
        let refuse = |reason: &str| Error::Unnameable { path: path.to_string(), reason: reason.to_owned() };
        if path.as_str().contains(|c: char| c.is_ascii_control()) {
            return Err(refuse("object stores hold no names with control characters"));
        }
        let key = match (self.prefix.as_str(), path.as_str()) {
            (prefix, "") => prefix.to_owned(),
            ("", path) => path.to_owned(),
            (prefix, path) => format!("{prefix}/{path}"),
        };
        if key.len() > KEY_BYTES_MAX {
            return Err(refuse("the key, with the mounted prefix, is longer than 1,024 bytes"));
        }
        Ok(key)
    }

    /// The key of a directory's marker, which is also the prefix of what is in it; empty for a whole bucket.
    fn dir_key(&self, path: &StorePath) -> Result<String> {
        let mut key = self.key(path)?;
        if !key.is_empty() {
            key.push('/');
        }
        Ok(key)
    }

    /// The key of a path that is an object, never the root.
    fn object_key(&self, path: &StorePath) -> Result<String> {
        if path.is_root() {
            return Err(Error::IsADirectory { path: "/".into() });
        }
        self.key(path)
    }

    async fn head(&self, path: &StorePath) -> Result<Head> {
        let key = self.object_key(path)?;
        let request = Request { key: &key, ..Request::default() };
        let answer = self.client.send(Method::HEAD, &request, true).await?;
        if let Some(failure) = answer.failure() {
            return Err(self.client.failed(path.as_str(), &failure));
        }
        let len = answer.header("content-length").and_then(|len| len.parse().ok());
        let mtime = answer.header("last-modified").and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok());
        let object = Object {
            len: len.ok_or_else(|| store_error(path.as_str(), "the store gives no length"))?,
            etag: answer.header("etag").unwrap_or_default().to_owned(),
            mtime_ms: mtime.map_or(0, |time| time.timestamp_millis()),
        };
        Ok(Head { object, file_id: answer.header(FILE_ID_HEADER).and_then(FileId::from_hex) })
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        if path.is_root() {
            return Ok(Stat::dir(0));
        }
        match self.head(path).await {
            Ok(head) => return to_stat(path.as_str(), &head.object),
            Err(Error::NotFound { .. }) => {}
            Err(other) => return Err(other),
        }
        if self.has_keys(&self.dir_key(path)?).await? {
            Ok(Stat::dir(0))
        } else {
            Err(Error::NotFound { path: path.to_string() })
        }
    }

    /// Lands what is `left` of a read, which shrinks from its start as bytes arrive: a read that is taken up again does
    /// not begin anew.
    async fn read_once(
        &self,
        call: &Call,
        path: &StorePath,
        key: &Path,
        etag: &str,
        left: &mut Range<u64>,
        landing: &mut dyn Landing,
    ) -> Result<(), Stopped> {
        let changed = || Error::VersionChanged { path: path.to_string() };
        let wanted = left.end - left.start;
        let wrong_length = |got| Error::WrongLength { path: path.to_string(), expected: wanted, got };
        let mut options = GetOptions {
            if_match: Some(etag.to_owned()),
            range: Some(GetRange::Bounded(left.clone())),
            ..GetOptions::default()
        };
        options.extensions.insert(call.clone());
        let result = self.objects.get_opts(key, options).await.map_err(|error| match error {
            object_store::Error::Precondition { .. } => changed(),
            other => self.objects_error(path, other),
        })?;
        if result.meta.e_tag.as_deref() != Some(etag) {
            return Err(changed().into());
        }
        if result.range != *left {
            return Err(wrong_length(result.range.end.saturating_sub(result.range.start)).into());
        }
        let mut chunks = result.into_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Stopped::Broken(self.objects_error(path, error)))?;
            let len = chunk.len() as u64;
            if len > left.end - left.start {
                return Err(wrong_length(wanted - (left.end - left.start) + len).into());
            }
            landing.land(left.start, &chunk);
            self.traffic.count_read(len);
            left.start += len;
        }
        if left.is_empty() { Ok(()) } else { Err(wrong_length(wanted - (left.end - left.start)).into()) }
    }

    /// The error that `object_store` means, for requests that it makes.
    fn objects_error(&self, path: &StorePath, error: object_store::Error) -> Error {
        let shown = path.to_string();
        match error {
            object_store::Error::NotFound { .. } => Error::NotFound { path: shown },
            object_store::Error::PermissionDenied { source, .. } => {
                Error::PermissionDenied { path: shown, reason: chain(&*source) }
            }
            object_store::Error::Unauthenticated { source, .. } => {
                Error::WrongKeys { endpoint: self.client.endpoint.clone(), reason: chain(&*source) }
            }
            object_store::Error::InvalidPath { source } => {
                Error::Unnameable { path: shown, reason: source.to_string() }
            }
            other => match connection_failure(&other) {
                Some(reason) => Error::Unreachable { endpoint: self.client.endpoint.clone(), reason },
                None => store_error(path.as_str(), other),
            },
        }
    }
}

#[async_trait]
impl UnderStore for S3Store {
    fn uri(&self) -> &str {
        &self.inner.uri
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            create_only: Compares::Atomically,
            replace: Compares::Atomically,
            large_writes: if self.inner.client.is_amazon { Compares::Atomically } else { Compares::JustBefore },
            native_rename: false,
            real_directories: false,
            shared_upload: true,
            descriptors: false,
            control_characters: false,
        }
    }

    fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    async fn check(&self) -> Result<()> {
        let inner = &self.inner;
        let prefix = inner.dir_key(&StorePath::root())?;
        let asking = async {
            let query = [("list-type", "2"), ("max-keys", "1"), ("prefix", prefix.as_str())];
            let request = Request { query: &query, ..Request::default() };
            let answer = inner.client.send(Method::GET, &request, true).await?;
            match answer.failure() {
                None => Ok(()),
                Some(failure) if failure.status == 404 => Err(Error::MissingBucket {
                    bucket: inner.client.bucket.clone(),
                    endpoint: inner.client.endpoint.clone(),
                }),
                Some(failure) => Err(inner.client.failed(&inner.uri, &failure)),
            }
        };
        let endpoint = || inner.client.endpoint.clone();
        let late = |who: &str| format!("no answer from {who} within {} s", CHECK_TIMEOUT.as_secs());
        // Where no keys are given, a machine's metadata service is asked for them, and seldom is there one.
        if let Some(credentials) = &inner.client.credentials {
            let reason = match tokio::time::timeout(CHECK_TIMEOUT, credentials.get_credential()).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(chain(&error)),
                Err(_) => Some(late("the source of keys")),
            };
            if let Some(reason) = reason {
                return Err(Error::MissingKeys { endpoint: endpoint(), reason });
            }
        }
        match tokio::time::timeout(CHECK_TIMEOUT, asking).await {
            Ok(result) => result,
            Err(_) => Err(Error::Unreachable { endpoint: endpoint(), reason: late("it") }),
        }
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        self.inner.stat(path).await
    }

    fn list(&self, dir: &StorePath, after: &str) -> Pages {
        list::pages(Arc::clone(&self.inner), dir.clone(), after.to_owned())
    }

    async fn read(
        &self,
        path: &StorePath,
        token: &VersionToken,
        range: Range<u64>,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        let inner = &self.inner;
        let changed = || Error::VersionChanged { path: path.to_string() };
        let key = Path::parse(inner.object_key(path)?).map_err(|error| inner.objects_error(path, error.into()))?;
        if range.is_empty() {
            // There is no such thing as an empty range request; the version is still looked at.
            let now = inner.stat(path).await?;
            return if now.token == *token { Ok(()) } else { Err(changed()) };
        }
        let etag = std::str::from_utf8(token.as_bytes()).map_err(|_| changed())?;
        let call = inner.traffic.call(Operation::Read, Repeat::Harmless);
        let mut left = range;
        loop {
            match inner.read_once(&call, path, &key, etag, &mut left, landing).await {
                Err(Stopped::Broken(_)) if inner.traffic.again(&call, Failure::Broken).await => {}
                Err(Stopped::Broken(error) | Stopped::Failed(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn mkdir(&self, path: &StorePath) -> Result<()> {
        match self.inner.stat(path).await {
            Ok(_) => Err(Error::AlreadyExists { path: path.to_string() }),
            Err(Error::NotFound { .. }) => self.inner.put_marker(&self.inner.dir_key(path)?).await,
            Err(other) => Err(other),
        }
    }

    async fn delete_file(&self, path: &StorePath) -> Result<()> {
        // S3 deletes what is not there without a word, so it is looked for first.
        let stat = self.inner.stat(path).await?;
        if !stat.is_file() {
            return Err(Error::IsADirectory { path: path.to_string() });
        }
        self.inner.delete_key(&self.inner.object_key(path)?, None).await
    }

    async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()> {
        if path.is_root() {
            let reason = "it is the root of the mount, which is neither made, moved nor deleted".to_owned();
            return Err(Error::Unnameable { path: "/".into(), reason });
        }
        let stat = self.inner.stat(path).await?;
        if stat.is_file() {
            return Err(Error::NotADirectory { path: path.to_string() });
        }
        let dir_key = self.inner.dir_key(path)?;
        let (keys, _) = self.inner.keys(&dir_key, false, "2", &list::Begin::First).await?;
        let only_marker = keys.iter().all(|found| found.name.as_ref() == Ok(&dir_key));
        match depth {
            Depth::Empty if !only_marker => Err(Error::NotEmpty { path: path.to_string() }),
            Depth::Empty => self.inner.delete_key(&dir_key, None).await,
            Depth::Recursive => self.inner.delete_tree(&dir_key).await,
        }
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        if from != to && from.contains(to) {
            let reason = "a directory cannot be moved into itself".to_owned();
            return Err(Error::Unnameable { path: to.to_string(), reason });
        }
        let stat = self.inner.stat(from).await?;
        if from == to {
            return Ok(stat);
        }
        if stat.is_file() {
            self.inner.rename_file(from, to, condition).await
        } else {
            self.inner.rename_dir(from, to, condition).await
        }
    }

    async fn stage(&self, path: &StorePath, file_id: FileId, len_hint: Option<u64>) -> Result<Box<dyn Staged>> {
        Ok(Box::new(write::S3Staged::new(&self.inner, path.clone(), file_id, len_hint)?))
    }

    async fn put_part(&self, record: &StagedRecord, number: u32, bytes: Vec<Bytes>) -> Result<Part> {
        self.inner.put_part(record, number, bytes).await
    }

    async fn publish(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        self.inner.publish_upload(record, condition).await
    }

    async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        self.inner.settle(record).await
    }

    async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        self.inner.sweep(dead).await
    }
}

#[cfg(feature = "testing")]
impl S3Store {
    /// Creates the bucket of the mount, for tests that bring their own server.
    pub(crate) async fn create_bucket(&self) -> Result<()> {
        let client = &self.inner.client;
        let answer = client.send(Method::PUT, &Request::default(), true).await?;
        match answer.failure() {
            None => Ok(()),
            Some(failure) if failure.code == "BucketAlreadyOwnedByYou" => Ok(()),
            Some(failure) => Err(client.failed(&self.inner.uri, &failure)),
        }
    }
}

/// Why a read stopped.
enum Stopped {
    /// The body broke off; what has landed is good.
    Broken(Error),
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What the connection said, if the request failed for want of one.
fn connection_failure(error: &object_store::Error) -> Option<String> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            let lost =
                matches!(http.kind(), HttpErrorKind::Connect | HttpErrorKind::Timeout | HttpErrorKind::Interrupted);
            return lost.then(|| chain(http));
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::Secret;

    fn store(uri: &str) -> S3Store {
        let options = [("aws_access_key_id", "k"), ("aws_secret_access_key", "s")];
        let options: BTreeMap<_, _> = options.map(|(name, value)| (name.to_owned(), Secret::new(value))).into();
        open(uri, &options).unwrap()
    }

    proptest! {
        /// A name that reads back as another one would be another file.
        #[test]
        fn names_round_trip_through_keys(
            prefix in "([a-z %#+~\\PC&&[^/\\x00-\\x1f\\x7f]]{1,8})?",
            names in prop::collection::vec("[\\PC&&[^/]]{1,20}", 1..5),
        ) {
            let uri = if prefix.is_empty() { "s3://b".to_owned() } else { format!("s3://b/{prefix}") };
            let path = names.join("/");
            let (Ok(path), false) = (StorePath::parse(&path), matches!(prefix.as_str(), "." | "..")) else {
                return Ok(());
            };
            let inner = store(&uri).inner;
            let key = inner.object_key(&path).unwrap();
            // What object_store sends.
            let parsed = Path::parse(&key).unwrap();
            prop_assert_eq!(parsed.as_ref(), &key);
            // What a listing of the directory gives back.
            let dir_key = inner.dir_key(&path.parent().unwrap()).unwrap();
            prop_assert_eq!(key.strip_prefix(&dir_key), Some(path.name()));
            // What a server decodes from our own requests, and we from its encoded answers.
            prop_assert_eq!(client::decode_key(&client::encode_path(&key)).unwrap(), key);
        }
    }

    #[test]
    fn what_s3_cannot_name_is_refused_by_name() {
        let inner = store("s3://b/prefix").inner;
        for bad in ["a\nb", "a\x7f", &vec!["x".repeat(250); 5].join("/")] {
            let refused = inner.key(&StorePath::parse(bad).unwrap());
            assert!(matches!(refused, Err(Error::Unnameable { .. })), "{bad:?}");
        }
        assert!(matches!(inner.object_key(&StorePath::root()), Err(Error::IsADirectory { .. })));
        assert_eq!(inner.dir_key(&StorePath::root()).unwrap(), "prefix/");
        assert_eq!(store("s3://b").inner.dir_key(&StorePath::root()).unwrap(), "");
    }
}
