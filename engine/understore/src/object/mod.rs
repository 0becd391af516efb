//! What all object stores have in common: files and directories over keys.
//!
//! ```text
//!  UnderStore (paths, stats, staged writes) ── here ──▶ Protocol (keys, objects, uploads) ── s3/, … ──▶ requests
//! ```
//! A version is what the protocol tells versions apart by. Reads carry it as a condition, so that no byte of another
//! version is returned; the version of the answer is compared as well, for servers that ignore the condition. A directory
//! is a prefix with keys under it, or a marker `dir/` ([`Markers`]); where an object and a prefix share a name, the object
//! is served.
//!
//! - `protocol.rs` is what a store must give; `digest.rs` compares bytes with what is told of them; `list.rs` lists;
//!   `tree.rs` renames and deletes; `write.rs` stages, publishes, settles and sweeps.

mod digest;
mod list;
mod protocol;
mod tree;
mod write;

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use self::digest::Check;
pub(crate) use self::{
    digest::{Digest, Kind as DigestKind, MD5_READ_BYTES_MAX},
    protocol::{
        Ask, Begin, Content, Fence, Head, Key, Keys, Markers, Object, Protocol, Rules, Upload, Uploads, UploadsFrom,
        Wanted,
    },
};
use crate::{
    Call, Capabilities, Condition, Depth, Error, Failure, FileId, Landing, Operation, Part, Remnant, Repeat, Result,
    Settled, Staged, StagedRecord, Stat, StorePath, Swept, Traffic, UnderStore, VersionToken,
    error::Source,
    staged::PARTS_MAX,
    store::{Kind, Pages},
};

/// A bucket, or a prefix of one, as an under-store.
#[derive(Debug)]
pub(crate) struct Objects {
    inner: Arc<Inner>,
}

/// What listings and staged writes share with the store.
struct Inner {
    /// Without what must not be shown.
    uri: String,
    /// The mounted prefix, without slashes at its ends.
    prefix: String,
    traffic: Traffic,
    protocol: Box<dyn Protocol>,
}

/// By hand: the clients below would print key ids, proxies and more.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, traffic) = (self.protocol.endpoint(), self.traffic.totals());
        f.debug_struct("Objects")
            .field("uri", &self.uri)
            .field("endpoint", &endpoint)
            .field("traffic", &traffic)
            .finish()
    }
}

impl Objects {
    /// What lies under a prefix, which has no slash at either end, of the bucket that a protocol leads to.
    pub(crate) fn new(uri: String, prefix: String, traffic: Traffic, protocol: Box<dyn Protocol>) -> Self {
        Self { inner: Arc::new(Inner { uri, prefix, traffic, protocol }) }
    }
}

impl Inner {
    fn capabilities(&self) -> Capabilities {
        let rules = self.protocol.rules();
        let prefix_bytes = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        Capabilities {
            writes: true,
            lists: true,
            create_only: rules.create,
            replace: rules.replace,
            large_writes: rules.complete,
            native_rename: false,
            real_directories: false,
            shared_upload: true,
            descriptors: false,
            file_bytes_max: Some(rules.part_bytes_max * PARTS_MAX as u64),
            control_characters: false,
            refused_characters: "",
            path_bytes_max: rules.key_bytes_max.saturating_sub(prefix_bytes),
            drops_parts: rules.drops_parts,
        }
    }

    /// The key of a path.
    fn key(&self, path: &StorePath) -> Result<String> {
        self.capabilities().check_name(path)?;
        let key = match path.as_str() {
            "" => self.prefix.clone(),
            path => self.prefix_key() + path,
        };
        self.check_length(&key, path.as_str())?;
        Ok(key)
    }

    /// Refuses a key that the store would refuse, or cut. `shown` is what errors call it.
    fn check_length(&self, key: &str, shown: &str) -> Result<()> {
        let bytes_max = self.protocol.rules().key_bytes_max;
        if key.len() <= bytes_max {
            return Ok(());
        }
        let reason = format!("the key, with the mounted prefix, is longer than {bytes_max} bytes");
        Err(Error::Unnameable { path: shown.to_owned(), reason })
    }

    /// What the key of every path begins with.
    fn prefix_key(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    /// Puts what stands for a directory. Where that is a key with a slash behind it, the slash has to fit as well.
    async fn put_marker(&self, dir_key: &str, path: &StorePath) -> Result<()> {
        if self.protocol.rules().markers == Markers::Within {
            self.check_length(dir_key, path.as_str())?;
        }
        self.protocol.put_marker(dir_key).await
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
        self.protocol.head(&self.object_key(path)?).await
    }

    /// Reads a range of a version; `is_whole` says that the version has no more bytes.
    async fn read(
        &self,
        path: &StorePath,
        token: &VersionToken,
        range: Range<u64>,
        is_whole: bool,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        let changed = || Error::VersionChanged { path: path.to_string() };
        let key = self.object_key(path)?;
        if range.is_empty() {
            // There is no such thing as an empty range request; the version is still looked at.
            let now = self.stat(path).await?;
            return if now.token == *token { Ok(()) } else { Err(changed()) };
        }
        let version = text_of(token).ok_or_else(changed)?;
        let call = self.traffic.call(Operation::Read, Repeat::Harmless);
        let mut reading = Reading::new(is_whole, &range);
        loop {
            match self.read_once(&call, path, &key, version, &mut reading, landing).await {
                Err(Stopped::Broken(_)) if self.traffic.again(&call, Failure::Broken).await => {
                    // What broke off behind its last byte had more than was told of it, and nothing is left to ask for.
                    if reading.left.is_empty() {
                        reading = Reading::new(is_whole, &range);
                    }
                }
                Err(Stopped::Damaged(error)) if self.traffic.again(&call, Failure::Broken).await => {
                    tracing::warn!(uri = self.uri, %error, "it is read again");
                    reading = Reading::new(is_whole, &range);
                }
                Err(Stopped::Broken(error) | Stopped::Damaged(error) | Stopped::Failed(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Lands what is left of a read: one that is taken up again does not begin anew.
    async fn read_once(
        &self,
        call: &Call,
        path: &StorePath,
        key: &str,
        version: &str,
        reading: &mut Reading,
        landing: &mut dyn Landing,
    ) -> Result<(), Stopped> {
        let Range { start, end } = reading.left;
        let wrong_length = |got| Error::WrongLength { path: path.to_string(), expected: end - start, got };
        let wanted = Wanted { range: start..end, is_whole: reading.is_whole };
        let content = self.protocol.get(call, key, version, wanted).await?;
        if content.version != version {
            return Err(Error::VersionChanged { path: path.to_string() }.into());
        }
        if content.range != reading.left {
            let got = content.range.end.saturating_sub(content.range.start);
            let is_shifted = got == end - start;
            let (path, expected) = (path.to_string(), start..end);
            let shifted = || Error::WrongRange { path, expected, got: content.range };
            return Err(if is_shifted { shifted() } else { wrong_length(got) }.into());
        }
        // A digest that was told of an answer which broke off holds of its bytes and the rest together.
        if reading.check.is_none() {
            reading.check = content.digest.and_then(|digest| digest.check(end - start));
        }
        // What is asked for after a part has landed is a part itself.
        reading.is_whole = false;
        let mut chunks = content.chunks;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(Stopped::Broken)?;
            let len = chunk.len() as u64;
            if len > end - reading.left.start {
                return Err(wrong_length(reading.left.start - start + len).into());
            }
            if let Some(check) = &mut reading.check {
                check.update(&chunk);
            }
            landing.land(reading.left.start, &chunk);
            self.traffic.count_read(len);
            reading.left.start += len;
        }
        if !reading.left.is_empty() {
            return Err(wrong_length(reading.left.start - start).into());
        }
        let damaged = |digest| Stopped::Damaged(Error::Damaged { path: path.to_string(), digest });
        reading.check.take().map_or(Ok(()), |check| check.finish().map_err(damaged))
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        if path.is_root() {
            return Ok(Stat::dir(0));
        }
        match self.head(path).await {
            Ok(head) => return to_stat(path.as_str(), &head.object),
            Err(Error::IsADirectory { .. }) => return Ok(Stat::dir(0)),
            Err(Error::NotFound { .. }) => {}
            Err(other) => return Err(other),
        }
        if self.has_keys(&self.dir_key(path)?).await? {
            Ok(Stat::dir(0))
        } else {
            Err(Error::NotFound { path: path.to_string() })
        }
    }
}

#[async_trait]
impl UnderStore for Objects {
    fn uri(&self) -> &str {
        &self.inner.uri
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    async fn check(&self) -> Result<()> {
        self.inner.protocol.check(&self.inner.dir_key(&StorePath::root())?).await
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
        self.inner.read(path, token, range, false, landing).await
    }

    async fn read_whole(
        &self,
        path: &StorePath,
        token: &VersionToken,
        len: u64,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        self.inner.read(path, token, 0..len, true, landing).await
    }

    async fn mkdir(&self, path: &StorePath) -> Result<()> {
        match self.inner.stat(path).await {
            Ok(_) => Err(Error::AlreadyExists { path: path.to_string() }),
            Err(Error::NotFound { .. }) => self.inner.put_marker(&self.inner.dir_key(path)?, path).await,
            Err(other) => Err(other),
        }
    }

    async fn delete_file(&self, path: &StorePath) -> Result<()> {
        // Object stores delete what is not there without a word, so it is looked for first.
        let stat = self.inner.stat(path).await?;
        if !stat.is_file() {
            return Err(Error::IsADirectory { path: path.to_string() });
        }
        self.inner.protocol.delete(&self.inner.object_key(path)?, None).await
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
        self.inner.delete_dir(path, depth).await
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
        Ok(Box::new(write::StagedObject::new(&self.inner, path.clone(), file_id, len_hint)?))
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

/// How far a read has come.
struct Reading {
    /// Whether all of a version is wanted, and nothing of it is here.
    is_whole: bool,
    left: Range<u64>,
    /// What is left is compared with, and some of what has landed.
    check: Option<Check>,
}

impl Reading {
    fn new(is_whole: bool, range: &Range<u64>) -> Self {
        Self { is_whole, left: range.clone(), check: None }
    }
}

/// Why a read stopped.
enum Stopped {
    /// Its content broke off; what has landed may be good.
    Broken(Error),
    /// All of it has landed, and is not what the store told of it.
    Damaged(Error),
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The prefix of a URI without slashes at its ends. Its text is taken as it is, never decoded; what is no path for us
/// cannot be a prefix of one. `shown` is the URI for errors.
pub(crate) fn check_prefix(prefix: &str, shown: &str) -> Result<String> {
    let refuse = |reason: String| Err(Error::InvalidUri { uri: shown.to_owned(), reason });
    let prefix = prefix.trim_end_matches('/');
    if prefix.starts_with('/') {
        return refuse("the prefix begins with a slash; leave one out".to_owned());
    }
    if let Err(Error::Unnameable { reason, .. }) = StorePath::parse(prefix) {
        return refuse(format!("the prefix cannot be used: {reason}"));
    }
    Ok(prefix.to_owned())
}

/// A failure without a name of its own.
pub(crate) fn store_error(path: &str, source: impl Into<Source>) -> Error {
    Error::Store { path: path.to_owned(), source: source.into() }
}

/// The version of an object, as the protocol spells it.
fn token_of(path: &str, version: &str) -> Result<VersionToken> {
    if version.trim_matches('"').is_empty() {
        return Err(store_error(path, "the store gives this object no version, so its versions are alike"));
    }
    VersionToken::new(version.as_bytes())
}

/// The version in a token; `None` if it is another kind of store's.
pub(crate) fn text_of(token: &VersionToken) -> Option<&str> {
    std::str::from_utf8(token.as_bytes()).ok()
}

fn to_stat(path: &str, object: &Object) -> Result<Stat> {
    let token = token_of(path, &object.version)?;
    Ok(Stat { kind: Kind::File, len: object.len, token, mtime_ms: object.mtime_ms })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{Secret, s3};

    fn mounted(uri: &str) -> Arc<Inner> {
        let options = [("aws_access_key_id", "k"), ("aws_secret_access_key", "s")];
        let options: BTreeMap<_, _> = options.map(|(name, value)| (name.to_owned(), Secret::new(value))).into();
        s3::open_aws(uri, &options).unwrap().inner
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
            let inner = mounted(&uri);
            let key = inner.object_key(&path).unwrap();
            // What a listing of the directory gives back.
            let dir_key = inner.dir_key(&path.parent().unwrap()).unwrap();
            prop_assert_eq!(key.strip_prefix(&dir_key), Some(path.name()));
        }
    }

    #[test]
    fn what_cannot_be_named_is_refused_by_name() {
        let inner = mounted("s3://b/prefix");
        for bad in ["a\nb", "a\x7f", &vec!["x".repeat(250); 5].join("/")] {
            let refused = inner.key(&StorePath::parse(bad).unwrap());
            assert!(matches!(refused, Err(Error::Unnameable { .. })), "{bad:?}");
        }
        assert!(matches!(inner.object_key(&StorePath::root()), Err(Error::IsADirectory { .. })));
        assert_eq!(inner.dir_key(&StorePath::root()).unwrap(), "prefix/");
        assert_eq!(mounted("s3://b").dir_key(&StorePath::root()).unwrap(), "");
    }
}
