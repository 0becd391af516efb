//! What the protocol of an object store gives: requests for keys. All else that object stores have in common - files and
//! directories, listings in name order, staged writes, renames - is built on it, once.
//!
//! Keys are whole: they hold the mounted prefix, and errors name them. The version of an object is a text that the store
//! gives and takes back in conditions (an etag, a generation); it differs for different content.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::digest::Digest;
use crate::{Call, Condition, FileId, Part, Result, store::Compares};

/// What a store says of an object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) len: u64,
    /// Empty where the store gives none.
    pub(crate) version: String,
    /// In milliseconds since 1970; zero where the store keeps none.
    pub(crate) mtime_ms: i64,
}

/// An object, and which write of Citius it is.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) object: Object,
    pub(crate) file_id: Option<FileId>,
}

/// What is wanted of an object.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) range: Range<u64>,
    /// Whether that is all of it.
    pub(crate) is_whole: bool,
}

/// Content of an object from the start of the range that was asked for.
pub(crate) struct Content {
    /// What the store says that it sends.
    pub(crate) range: Range<u64>,
    pub(crate) version: String,
    /// What the store tells of exactly the bytes of this range.
    pub(crate) digest: Option<Digest>,
    pub(crate) chunks: BoxStream<'static, Result<Bytes>>,
}

/// A key of a listing: decoded, or why it cannot be shown.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: std::result::Result<String, String>,
    /// None for a common prefix.
    pub(crate) object: Option<Object>,
}

/// Where a page of keys begins.
#[derive(Debug, Clone)]
pub(crate) enum Begin {
    First,
    /// Behind a key.
    After(String),
    /// Where the last page said.
    Token(String),
}

/// Which keys are asked for.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) prefix: &'a str,
    /// Whether keys with a slash behind the prefix are folded into common prefixes.
    pub(crate) delimited: bool,
    pub(crate) count_max: usize,
    pub(crate) from: &'a Begin,
}

/// A page of keys, in the store's order.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) keys: Vec<Key>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<String>,
}

/// An upload that was begun and not ended.
#[derive(Debug)]
pub(crate) struct Upload {
    /// None if it is not UTF-8.
    pub(crate) key: Option<String>,
    pub(crate) id: String,
    /// In milliseconds since 1970.
    pub(crate) begun_ms: i64,
}

/// A page of uploads.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    pub(crate) uploads: Vec<Upload>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<UploadsFrom>,
}

/// Where a page of uploads begins.
#[derive(Debug, Clone)]
pub(crate) struct UploadsFrom {
    pub(crate) key: String,
    pub(crate) id: String,
}

/// What makes sure that an upload of unknown fate never becomes an object any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    /// Aborting it: the store knows an upload by its id, and then knows none.
    Abort,
    /// Time, as with a put: nothing that can be done to its parts makes the store refuse to complete it, unseen by readers
    /// and other writers of the key. Aborting it removes what can be removed, and comes after the time is over.
    Time,
}

/// Where the object lies that stands for a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Markers {
    /// At the directory's key with its slash, and so among the keys under it.
    Within,
    /// At the key without the slash, marked as a directory; [`Protocol::head`] calls it one. Keys that end in a slash
    /// still name it, in listings too, where it comes where the key without the slash comes.
    Beside,
}

/// What a store allows and promises.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) key_bytes_max: usize,
    /// Bytes up to which a write is one put.
    pub(crate) small_bytes_max: u64,
    /// Bytes of a part unless a file would have too many of them.
    pub(crate) part_bytes: u64,
    pub(crate) part_bytes_max: u64,
    /// Keys that one request may delete.
    pub(crate) delete_keys_max: usize,
    /// How a put checks that nothing is there.
    pub(crate) create: Compares,
    /// How a put checks that it replaces a version.
    pub(crate) replace: Compares,
    /// How conditions of the end of an upload are checked.
    pub(crate) complete: Compares,
    pub(crate) fence: Fence,
    pub(crate) markers: Markers,
    /// Whether the store itself drops parts that never became an object, so that there are none to be swept.
    pub(crate) drops_parts: bool,
}

/// An object store at work. A request that fails for a while is repeated inside; what comes out is final.
#[async_trait]
pub(crate) trait Protocol: Send + Sync {
    /// What errors call the server.
    fn endpoint(&self) -> &str;

    /// What the store allows and promises.
    fn rules(&self) -> Rules;

    /// Finds what is wrong with address, keys, bucket or rights, by asking for keys under a prefix.
    async fn check(&self, prefix: &str) -> Result<()>;

    /// What is at a key. `NotFound` if nothing is, `IsADirectory` if it is the marker of one.
    async fn head(&self, key: &str) -> Result<Head>;

    /// Content of this version, as a request of this call. `VersionChanged` if it is another one.
    async fn get(&self, call: &Call, key: &str, version: &str, wanted: Wanted) -> Result<Content>;

    /// A page of keys.
    async fn keys(&self, ask: &Ask<'_>) -> Result<Keys>;

    /// Puts a whole object, and gives its version. `AlreadyExists` or `Conflict` if the condition does not hold, as far
    /// as the rules say that it is checked atomically.
    async fn put(&self, key: &str, content: Vec<Bytes>, file_id: FileId, condition: &Condition) -> Result<String>;

    /// Puts an empty object that stands for a directory; its key ends in a slash.
    async fn put_marker(&self, key: &str) -> Result<()>;

    /// Deletes a key, if it still has this version; that it is gone is no error. `Conflict` if it has another. Where the
    /// store cannot compare, the version is looked at just before.
    async fn delete(&self, key: &str, version: Option<&str>) -> Result<()>;

    /// Deletes keys, whatever their versions, with one request; at most [`Rules::delete_keys_max`] of them. That they are
    /// gone is no error.
    async fn delete_all(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            self.delete(key, None).await?;
        }
        Ok(())
    }

    /// Copies an object that still has the version it is given with, and looks at the copy. `VersionChanged` if it has
    /// another, `AlreadyExists` if the target may not be there and is.
    async fn copy(&self, from: &str, object: &Object, to: &str, create_only: bool) -> Result<Object>;

    /// Begins an upload of parts, and gives its id.
    async fn begin_upload(&self, key: &str, file_id: FileId) -> Result<String>;

    /// Sends one part. Sent again, it replaces itself.
    async fn put_part(&self, key: &str, upload_id: &str, number: u32, content: Vec<Bytes>) -> Result<Part>;

    /// Makes an object of parts, and gives its version. `StagedLost` if there is no such upload any more,
    /// `AlreadyExists` or `Conflict` if the condition does not hold.
    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[Part],
        file_id: FileId,
        condition: &Condition,
    ) -> Result<String>;

    /// Ends an upload without an object, that it is gone is no error. So that it can never be completed, where that is
    /// the [`Fence`].
    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<()>;

    /// A page of the uploads under way whose keys begin with `prefix`.
    async fn uploads(&self, prefix: &str, from: Option<&UploadsFrom>) -> Result<Uploads>;
}
