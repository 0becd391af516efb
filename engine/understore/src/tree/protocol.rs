//! What the protocol of a file system on a network gives: calls by path. All else that such systems have in common -
//! versions, listings in name order, staged writes, conditions - is built on it, once.
//!
//! Paths are relative to the mounted folder, which is the empty path; errors name them. They may be those of our
//! temporaries. A call that is given up by its caller may still happen.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{Result, store::Compares};

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    File,
    Dir,
    /// Neither, in words.
    Other(&'static str),
}

/// What the system says of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) what: What,
    /// Bytes; zero for what is no file.
    pub(crate) len: u64,
    /// Last modification in nanoseconds since 1970, as finely as the system tells it; zero where it does not.
    pub(crate) mtime_ns: i64,
    /// What else tells versions apart (an etag); empty where there is nothing.
    pub(crate) tag: String,
    /// Permission bits, where the system has them.
    pub(crate) mode: Option<u32>,
}

impl Node {
    /// A directory.
    pub(crate) fn dir(mtime_ns: i64) -> Self {
        Self { what: What::Dir, len: 0, mtime_ns, tag: String::new(), mode: None }
    }

    /// Whether this is a file.
    pub(crate) fn is_file(&self) -> bool {
        self.what == What::File
    }
}

/// A name in a directory: decoded, or what can be shown of one that is not UTF-8.
pub(crate) type Name = std::result::Result<String, String>;

/// The names of a directory, in whatever order the system has them, without `.` and `..`.
pub(crate) type Listing = BoxStream<'static, Result<Named>>;

/// A name, and what it names.
pub(crate) type Named = (Name, Node);

/// Which bytes are wanted of which version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    pub(crate) offset: u64,
    /// Never zero, and never past the version's end.
    pub(crate) len: u64,
    /// The file as it was seen: a file of its length, modification time and tag.
    pub(crate) version: &'a Node,
}

/// Content of a file, in order.
pub(crate) type Chunks = BoxStream<'static, Result<Bytes>>;

/// A new file that is being written. Dropped, it is left as it is.
#[async_trait]
pub(crate) trait Sink: Send + Sync {
    /// Appends bytes. They may be on their way when this returns.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Waits until every byte is as safe as the system makes it. Nothing is written after it.
    async fn finish(&mut self) -> Result<()>;
}

/// What a system promises.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Whether it takes writes.
    pub(crate) writes: bool,
    /// Whether it tells what is in a directory.
    pub(crate) lists: bool,
    /// How a rename onto nothing finds out that there is nothing.
    pub(crate) create_only: Compares,
    /// Where modification times can be set: the step of its clock, in nanoseconds. Files are then told apart by making
    /// the time of each later than that of the one it replaces.
    pub(crate) mtime_step_ns: Option<i64>,
    /// Whether a rename keeps the tag.
    pub(crate) keeps_tags: bool,
    /// Whether the system itself refuses to delete a directory that is not empty.
    pub(crate) refuses_full: bool,
    /// ASCII characters that no name may hold, besides the slash and NUL.
    pub(crate) refused_characters: &'static str,
}

/// A file system at work.
#[async_trait]
pub(crate) trait Protocol: Send + Sync {
    /// What errors call the server.
    fn endpoint(&self) -> &str;

    /// What the system promises. May say less until a first call has found out.
    fn rules(&self) -> Rules;

    /// Whether a server answers, with the reason if none does, within the seconds of a check: where other calls wait
    /// longer for another server to take over.
    async fn reach(&self) -> Result<()> {
        Ok(())
    }

    /// What is at a path; a symbolic link is itself. `NotFound` also below a file.
    async fn stat(&self, path: &str) -> Result<Node>;

    /// The names of a directory. The first item says if it is none.
    fn list(&self, dir: &str) -> Listing;

    /// Reads a part of a file from its start, and never more. `VersionChanged` where it is seen to be of another version
    /// than the span's; that is looked at again when it is read.
    async fn read(&self, path: &str, span: Span<'_>) -> Result<Chunks>;

    /// Begins a file where nothing is, a temporary for one that errors of its content call `shown`. `AlreadyExists`,
    /// `NotFound` without its directory.
    async fn create(&self, path: &str, shown: &str) -> Result<Box<dyn Sink>>;

    /// Makes a directory; a private one is its owner's alone, where the system can. `AlreadyExists` where that can be
    /// told, `NotFound` without its parent.
    async fn mkdir(&self, path: &str, is_private: bool) -> Result<()>;

    /// Renames a file or directory in one step. What is at the target, which is no directory, goes in the same step;
    /// unless it must not: then `AlreadyExists`. `NotFound` without the source or the target's directory.
    async fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()>;

    /// Deletes a file, or what is neither file nor directory.
    async fn delete_file(&self, path: &str) -> Result<()>;

    /// Deletes a directory that has been seen to be empty; `NotEmpty` where the system refuses others.
    async fn delete_dir(&self, path: &str) -> Result<()>;

    /// Deletes a directory with all below it, and says whether it did: not every system can.
    async fn delete_tree(&self, path: &str) -> Result<bool> {
        let _ = path;
        Ok(false)
    }

    /// Sets a modification time; called only where [`Rules::mtime_step_ns`] says that it can be.
    async fn set_mtime(&self, path: &str, mtime_ns: i64) -> Result<()> {
        let _ = (path, mtime_ns);
        Ok(())
    }

    /// Gives a file a later time than it has, on a system where times cannot be set; and says whether it did.
    async fn renew(&self, path: &str) -> Result<bool> {
        let _ = path;
        Ok(false)
    }

    /// Sets permission bits; called only where nodes have them.
    async fn set_mode(&self, path: &str, mode: u32) -> Result<()> {
        let _ = (path, mode);
        Ok(())
    }
}
