//! `file:` under-stores: a folder of this machine, or of a file system mounted on it (NFS, GlusterFS, CephFS).
//!
//! Every UTF-8 name works as it is. A version is inode, size, and modification and change time in nanoseconds, so
//! a rename, a chmod or a new hard link also makes a new version; where the kernel stamps times coarsely (before
//! 6.13: 4 ms), a write in place of equal length within one tick of the last one is not seen.
//!
//! Calls that touch the disk run on tokio's blocking threads, at most [`BLOCKING_MAX`] for each mount. The engine
//! reads through descriptors ([`LocalReads`]); [`UnderStore::read`] here is for everybody else.
//!
//! - `root.rs` resolves names beneath the folder; `directory.rs` looks at many names of one directory, and `known.rs`
//!   knows which are not there; `list.rs` lists and deletes trees; `staging.rs` writes.

mod directory;
mod known;
mod list;
mod root;
mod staging;

use std::{
    fs::File,
    ops::Range,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use rustix::{
    fs::{self, AtFlags, Mode},
    io::Errno,
};
use tokio::sync::Semaphore;

pub use self::directory::LocalDirectory;
use self::{
    known::KnownNames,
    root::{Root, io_error, to_stat},
    staging::LocalStaged,
};
use crate::{
    Capabilities, Condition, Depth, Error, FileId, Landing, LocalReads, Remnant, Result, Settled, Staged, StagedRecord,
    Stat, StorePath, Swept, Traffic, UnderStore, VersionToken,
    store::{Compares, Pages},
};

/// Blocking calls of one mount at once; the others wait without a thread.
const BLOCKING_MAX: usize = 32;
/// Bytes read by one blocking call.
const READ_BYTES: usize = 1 << 20;

/// A mounted folder.
#[derive(Debug)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

/// What blocking calls and listings share.
#[derive(Debug)]
struct Inner {
    root: Root,
    uri: String,
    known: KnownNames,
    traffic: Traffic,
    permits: Arc<Semaphore>,
}

impl Inner {
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&Arc<Self>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        let inner = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            call(&inner)
        });
        match task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Cancelled { path: self.uri.clone() }),
            },
        }
    }
}

impl LocalStore {
    /// Opens a folder by its absolute path.
    pub fn open(folder: PathBuf) -> Result<Self> {
        let uri = format!("file://{}", folder.display());
        if !folder.is_absolute() {
            let reason = "the path is not absolute; write file:///path/to/folder".to_owned();
            return Err(Error::InvalidUri { uri, reason });
        }
        let root = Root::open(folder)?;
        let permits = Arc::new(Semaphore::new(BLOCKING_MAX));
        let (known, traffic) = (KnownNames::default(), Traffic::default());
        Ok(Self { inner: Arc::new(Inner { root, uri, known, traffic, permits }) })
    }

    /// Runs a call of one operation on a blocking thread.
    async fn operation<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner.traffic.count_request();
        self.inner.blocking(call).await
    }
}

#[async_trait]
impl UnderStore for LocalStore {
    fn uri(&self) -> &str {
        &self.inner.uri
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            create_only: Compares::Atomically,
            replace: Compares::JustBefore,
            large_writes: Compares::JustBefore,
            native_rename: true,
            real_directories: true,
            shared_upload: false,
            descriptors: true,
            control_characters: true,
        }
    }

    fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    async fn check(&self) -> Result<()> {
        self.operation(|inner| inner.root.check()).await
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        let path = path.clone();
        self.operation(move |inner| inner.root.stat(&path)).await
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
        self.inner.traffic.count_content();
        let (at, expected) = (path.clone(), token.clone());
        let fd = self.operation(move |inner| open_version(inner, &at, &expected)).await?;
        let file = Arc::new(File::from(fd));
        let mut buffer = Vec::new();
        let mut offset = range.start;
        while offset < range.end {
            let want = usize::try_from(range.end - offset).unwrap_or(usize::MAX).min(READ_BYTES);
            let (reader, at) = (Arc::clone(&file), path.clone());
            buffer.resize(want, 0);
            let mut chunk = std::mem::take(&mut buffer);
            let got;
            (chunk, got) = self
                .inner
                .blocking(move |_| {
                    let got = reader.read_at(&mut chunk, offset);
                    match got {
                        Ok(got) => Ok((chunk, got)),
                        Err(source) => Err(Error::Io { path: at.to_string(), operation: "read", source }),
                    }
                })
                .await?;
            if got == 0 {
                let (expected, got) = (range.end - range.start, offset - range.start);
                return Err(Error::WrongLength { path: path.to_string(), expected, got });
            }
            landing.land(offset, &chunk[..got]);
            self.inner.traffic.count_read(got as u64);
            offset += got as u64;
            buffer = chunk;
        }
        // A writer in place changes the file under its readers: the version is looked at again at the end.
        check_version(&*file, path, token)
    }

    async fn mkdir(&self, path: &StorePath) -> Result<()> {
        let path = path.clone();
        self.operation(move |inner| {
            let parent = inner.root.open_parent(&path)?;
            let mode = Mode::from_raw_mode(0o777);
            fs::mkdirat(&parent, path.name(), mode).map_err(|errno| io_error(path.as_str(), "mkdir", errno))?;
            fs::fsync(&parent).map_err(|errno| io_error(path.as_str(), "fsync", errno))
        })
        .await
    }

    async fn delete_file(&self, path: &StorePath) -> Result<()> {
        let path = path.clone();
        self.operation(move |inner| {
            let parent = inner.root.open_parent(&path)?;
            let failed = |errno| io_error(path.as_str(), "delete", errno);
            fs::unlinkat(&parent, path.name(), AtFlags::empty()).map_err(failed)?;
            fs::fsync(&parent).map_err(failed)
        })
        .await
    }

    async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()> {
        let path = path.clone();
        self.operation(move |inner| {
            let parent = inner.root.open_parent(&path)?;
            let failed = |errno| io_error(path.as_str(), "delete", errno);
            match fs::unlinkat(&parent, path.name(), AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) if depth == Depth::Recursive => {
                    list::delete_tree(&parent, path.name(), path.as_str())?;
                }
                other => other.map_err(failed)?,
            }
            fs::fsync(&parent).map_err(failed)
        })
        .await
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        let (from, to, condition) = (from.clone(), to.clone(), condition.clone());
        self.operation(move |inner| rename(inner, &from, &to, &condition)).await
    }

    async fn stage(&self, path: &StorePath, file_id: FileId, _len_hint: Option<u64>) -> Result<Box<dyn Staged>> {
        let path = path.clone();
        let staged = self.operation(move |inner| LocalStaged::create(inner, path, file_id)).await?;
        Ok(Box::new(staged))
    }

    async fn publish(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        let (record, condition) = (record.clone(), condition.clone());
        self.inner.blocking(move |inner| staging::publish_record(inner, &record, &condition)).await
    }

    async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        let record = record.clone();
        self.operation(move |inner| staging::settle(inner, &record)).await
    }

    async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        // The predicate is borrowed, so it cannot move to another thread; a sweep is short and rare.
        self.inner.traffic.count_request();
        staging::sweep(&self.inner, dead)
    }

    fn local(&self) -> Option<&dyn LocalReads> {
        Some(self)
    }
}

impl LocalReads for LocalStore {
    fn stat_now(&self, path: &StorePath) -> Result<Stat> {
        self.inner.traffic.count_request();
        self.inner.root.stat(path)
    }

    fn directory_now(&self, path: &StorePath) -> Result<LocalDirectory> {
        LocalDirectory::open(&self.inner, path)
    }

    fn open_local(&self, path: &StorePath, token: &VersionToken) -> Result<OwnedFd> {
        self.inner.traffic.count_request();
        open_version(&self.inner, path, token)
    }

    fn check_local(&self, path: &StorePath, fd: &OwnedFd, token: &VersionToken) -> Result<()> {
        check_version(fd, path, token)
    }
}

fn open_version(inner: &Inner, path: &StorePath, token: &VersionToken) -> Result<OwnedFd> {
    let (fd, stat) = inner.root.open_file(path)?;
    if stat.token == *token { Ok(fd) } else { Err(Error::VersionChanged { path: path.to_string() }) }
}

fn check_version(fd: impl rustix::fd::AsFd, path: &StorePath, token: &VersionToken) -> Result<()> {
    let stat = fs::fstat(fd).map_err(|errno| io_error(path.as_str(), "stat", errno))?;
    if to_stat(path.as_str(), &stat)?.token == *token {
        Ok(())
    } else {
        Err(Error::VersionChanged { path: path.to_string() })
    }
}

fn rename(inner: &Inner, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
    if from != to && from.contains(to) {
        let reason = "a directory cannot be moved into itself".to_owned();
        return Err(Error::Unnameable { path: to.to_string(), reason });
    }
    let from_dir = inner.root.open_parent(from)?;
    let to_dir = inner.root.open_parent(to)?;
    let stat = fs::statat(&from_dir, from.name(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| io_error(from.as_str(), "stat", errno))?;
    if from == to {
        return inner.root.stat(to);
    }
    let is_dir = fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory;
    // The kernel would let a directory replace an empty one; no other store can promise that.
    let condition = if is_dir { &Condition::MustNotExist } else { condition };
    staging::rename_checked(inner, (&from_dir, from.name()), (&to_dir, to), condition)?;
    for dir in [&to_dir, &from_dir] {
        fs::fsync(dir).map_err(|errno| io_error(to.as_str(), "fsync", errno))?;
    }
    inner.root.stat(to)
}

#[cfg(test)]
mod tests;
