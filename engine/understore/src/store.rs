//! The contract of an under-store: what every adapter promises, whatever system is behind it.
//!
//! - Paths are [`StorePath`]s relative to the mount. A path names a file or a directory; where a store lets one
//!   name be both, the file wins and its listing reports the shadowed directory as a [`Refusal`].
//! - A [`VersionToken`] is opaque and equal only for equal content; a read carries it, and fails with
//!   [`Error::VersionChanged`](crate::Error::VersionChanged) rather than return bytes of another version.
//! - Listings come in name order by bytes, each name once, in bounded pages; what cannot be named is reported
//!   beside the entries and never fails the list. Temporaries of ours are in no listing.
//! - A write is staged, sealed, published and, after a crash, settled: see [`crate::Staged`].
//!
//! Adding a system is one file that implements [`UnderStore`] and one line in the registry of `mount.rs`.

use std::{fmt, ops::Range, os::fd::OwnedFd, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{
    Error, FileId, LocalDirectory, Part, Remnant, Result, Settled, Staged, StagedRecord, StorePath, Swept, Traffic,
};

/// Entries and refusals of one page of a listing, together.
pub const PAGE_ENTRIES_MAX: usize = 1000;
/// Bytes of a version token.
pub const TOKEN_BYTES_MAX: usize = 256;

/// The identity of one version of one file, as its store tells versions apart. Opaque.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionToken(Arc<[u8]>);

impl VersionToken {
    /// Wraps a token; one longer than [`TOKEN_BYTES_MAX`] is refused.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > TOKEN_BYTES_MAX {
            return Err(Error::BadRecord { reason: "a version token is longer than 256 bytes" });
        }
        Ok(Self(Arc::from(bytes)))
    }

    /// The token's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for VersionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) => f.write_str(text),
            _ => self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// File or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Dir,
}

/// What a store says of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// File or directory.
    pub kind: Kind,
    /// Bytes; zero for a directory.
    pub len: u64,
    /// The version; empty for a directory.
    pub token: VersionToken,
    /// Last modification in milliseconds since 1970; zero where the store keeps none (implied directories).
    pub mtime_ms: i64,
}

impl Stat {
    /// The stat of a directory.
    pub(crate) fn dir(mtime_ms: i64) -> Self {
        Self { kind: Kind::Dir, len: 0, token: VersionToken(Arc::from([])), mtime_ms }
    }

    /// Whether this is a file.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last component.
    pub name: String,
    /// What it is.
    pub stat: Stat,
}

/// A name that exists in the store and that we cannot or may not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The name, with what cannot be shown replaced.
    pub name: String,
    /// Why, in words.
    pub reason: &'static str,
}

/// Up to [`PAGE_ENTRIES_MAX`] names of a directory, in order across pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// What is served.
    pub entries: Vec<Entry>,
    /// What is not.
    pub refused: Vec<Refusal>,
}

/// A listing under way.
pub type Pages = BoxStream<'static, Result<Page>>;

/// Where bytes of a read arrive.
///
/// `land` is called with consecutive offsets of the file, from the start of the range to its end, on the thread
/// that received them; it should copy (with a checksum) and return. At the start of the range it may begin once more:
/// what landed before was damaged on its way, and is void. When the read fails, what landed is not to be used.
pub trait Landing: Send {
    /// Takes the bytes at `offset` of the file.
    fn land(&mut self, offset: u64, bytes: &[u8]);
}

impl<F: FnMut(u64, &[u8]) + Send> Landing for F {
    fn land(&mut self, offset: u64, bytes: &[u8]) {
        self(offset, bytes);
    }
}

/// How a store compares a target with what a writer expects of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compares {
    /// In one step with the publication.
    Atomically,
    /// Just before it: another program may still slip between.
    JustBefore,
}

/// What an adapter can do: shown to users by `citius mount check`, and what the adapter itself and those above it plan by.
/// Those that speak protocols compute it from what they know of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether it takes writes; without them, what is said of writes means nothing.
    pub writes: bool,
    /// Whether it tells what is in a directory; else files are found by their paths alone.
    pub lists: bool,
    /// How "must not exist" is checked at publication of a small write.
    pub create_only: Compares,
    /// How "replaces this version" is checked at publication of a small write.
    pub replace: Compares,
    /// How both are checked at publication of a write of many parts.
    pub large_writes: Compares,
    /// Whether renaming a directory is one step, not a copy of everything in it.
    pub native_rename: bool,
    /// Whether directories exist by themselves; else they are prefixes and markers.
    pub real_directories: bool,
    /// Whether other processes may upload parts of a staged write ([`UnderStore::put_part`]).
    pub shared_upload: bool,
    /// Whether [`UnderStore::local`] may give descriptors.
    pub descriptors: bool,
    /// Bytes of the largest file; `None` where the store alone knows.
    pub file_bytes_max: Option<u64>,
    /// Whether names may hold ASCII control characters.
    pub control_characters: bool,
    /// Other characters that names may not hold, besides the slash and NUL.
    pub refused_characters: &'static str,
    /// Bytes of the longest path below the mount that is not refused for its length alone. Where a server itself holds
    /// less, for the path of the mounted folder counts there too, it is the server that refuses.
    pub path_bytes_max: usize,
    /// Whether the store itself drops, in time, what a write that died has uploaded, so that a sweep finds none of it.
    pub drops_parts: bool,
}

impl Capabilities {
    /// Refuses a path that holds what names may not hold here.
    pub(crate) fn check_name(&self, path: &StorePath) -> Result<()> {
        let refuse = |reason| Err(Error::Unnameable { path: path.to_string(), reason });
        if !self.control_characters && path.as_str().contains(|c: char| c.is_ascii_control()) {
            return refuse("names on this under-store hold no control characters".to_owned());
        }
        match path.as_str().chars().find(|character| self.refused_characters.contains(*character)) {
            Some(character) => refuse(format!("names on this under-store hold no {character:?}")),
            None => Ok(()),
        }
    }

    /// Refuses a file of more bytes than the store holds in one.
    pub(crate) fn check_len(&self, path: &StorePath, len: u64) -> Result<()> {
        match self.file_bytes_max {
            Some(bytes_max) if len > bytes_max => Err(Error::TooLarge { path: path.to_string(), bytes_max }),
            _ => Ok(()),
        }
    }
}

/// What must hold of the target for a publication or a rename to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there is replaced.
    Any,
    /// Nothing is there.
    MustNotExist,
    /// This version is there.
    Replaces(VersionToken),
}

/// How much a directory deletion takes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Only an empty directory.
    Empty,
    /// Everything below; may be called again after a failure, and goes on where it stopped.
    Recursive,
}

/// An under-store at work. All methods may be called from many tasks at once, inside a tokio runtime.
#[async_trait]
pub trait UnderStore: Send + Sync + fmt::Debug {
    /// The mounted URI, without secrets.
    fn uri(&self) -> &str;

    /// What this store can do.
    fn capabilities(&self) -> Capabilities;

    /// What it has cost so far.
    fn traffic(&self) -> &Traffic;

    /// Finds within seconds what is wrong with the mount: unreachable, keys, bucket, folder, rights.
    async fn check(&self) -> Result<()>;

    /// What is at a path.
    async fn stat(&self, path: &StorePath) -> Result<Stat>;

    /// The names in a directory that come after `after` in byte order; all of them after the empty name.
    fn list(&self, dir: &StorePath, after: &str) -> Pages;

    /// Reads `range` of the version `token` into `landing`, all of it or an error.
    async fn read(
        &self,
        path: &StorePath,
        token: &VersionToken,
        range: Range<u64>,
        landing: &mut dyn Landing,
    ) -> Result<()>;

    /// As [`Self::read`], of all `len` bytes of the version: who knows that they are all may be told a digest of them, and
    /// compares it.
    async fn read_whole(
        &self,
        path: &StorePath,
        token: &VersionToken,
        len: u64,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        self.read(path, token, 0..len, landing).await
    }

    /// Makes a directory whose parent exists.
    async fn mkdir(&self, path: &StorePath) -> Result<()>;

    /// Deletes a file.
    async fn delete_file(&self, path: &StorePath) -> Result<()>;

    /// Deletes a directory.
    async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()>;

    /// Renames a file or directory and says what is there now. Resumed after a failure by calling it again with
    /// [`Condition::Any`]. Directories are renamed only onto nothing.
    async fn rename(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat>;

    /// Begins a write. `len_hint` chooses part sizes; a wrong one costs requests, never correctness. The caller has
    /// seen that no directory is at `path`: object stores do not look again.
    async fn stage(&self, path: &StorePath, file_id: FileId, len_hint: Option<u64>) -> Result<Box<dyn Staged>>;

    /// Uploads part `number` (from 1) of the upload that `record` names, from any process. The publisher hands
    /// the parts to [`Staged::adopt`].
    async fn put_part(&self, record: &StagedRecord, number: u32, bytes: Vec<Bytes>) -> Result<Part> {
        let _ = (record, number, bytes);
        Err(Error::NotSupported { store: self.uri().to_owned(), operation: "take parts from several writers" })
    }

    /// Publishes a sealed write, in any process, and gives the version that is now at its path. Calling it again
    /// after it succeeded succeeds again, while nobody else has written there.
    async fn publish(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken>;

    /// Ends a write whose fate is unknown: first nothing of it can appear any more, then what is at the path is
    /// either provably this write or not. Leaves no temporary. Idempotent.
    async fn settle(&self, record: &StagedRecord) -> Result<Settled>;

    /// Finds remains of writes and removes those that `dead` says nobody knows any more.
    async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept>;

    /// Descriptors and stats without a thread hop, where the store is a file system that answers at once: one on this
    /// machine, and not one whose server may be slow or away. `None` also until a first call has found out.
    fn local(&self) -> Option<&dyn LocalReads> {
        None
    }
}

/// What a look on the calling thread saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Glance {
    /// A file or directory.
    Found(Stat),
    /// Nothing is there.
    Nothing,
    /// The path leads into another file system than the mount's own, which may be slow or away: ask [`UnderStore::stat`].
    Elsewhere,
}

/// What only a near file system can give: descriptors for the engine's ring, and stats on the calling thread. Calls
/// block for the time of a system call, and never leave the file system of the mounted folder.
#[async_trait]
pub trait LocalReads: Send + Sync {
    /// What is at a path, now, on this thread.
    fn stat_now(&self, path: &StorePath) -> Result<Glance>;

    /// A directory, open for looking at names in it on this thread. One in another file system is said to escape the
    /// mount; [`UnderStore::stat`] knows better.
    fn directory_now(&self, path: &StorePath) -> Result<LocalDirectory>;

    /// A read-only descriptor of exactly this version; `None` if the file lies in another file system, and is to be read
    /// by [`UnderStore::read`].
    async fn open_local(&self, path: &StorePath, token: &VersionToken) -> Result<Option<OwnedFd>>;

    /// Whether the descriptor still shows this version; asked after reading, before the bytes are believed.
    fn check_local(&self, path: &StorePath, fd: &OwnedFd, token: &VersionToken) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bounded_and_print_readably() {
        assert!(VersionToken::new(&[0; TOKEN_BYTES_MAX]).is_ok());
        assert!(VersionToken::new(&[0; TOKEN_BYTES_MAX + 1]).is_err());
        assert_eq!(format!("{:?}", VersionToken::new(b"\"abc\"").unwrap()), "\"abc\"");
        assert_eq!(format!("{:?}", VersionToken::new(&[1, 255]).unwrap()), "01ff");
    }
}
