//! `file:` under-stores: a folder of this machine, or of a file system mounted on it (NFS, GlusterFS, CephFS).
//!
//! Every UTF-8 name works as it is. A version is inode, size, and modification and change time in nanoseconds, so
//! a rename, a chmod or a new hard link also makes a new version; where the kernel stamps times coarsely (before
//! 6.13: 4 ms), a write in place of equal length within one tick of the last one is not seen.
//!
//! Calls that touch the file system run on tokio's blocking threads, bounded in number and time for each mount, for its
//! server may be away; so even the folder is opened by the first call and not before. Where the file system is near, that
//! is on this machine, it also answers on the calling thread, and the engine reads through descriptors ([`LocalReads`]);
//! what lies in other file systems mounted below the folder is left to [`UnderStore::stat`] and [`UnderStore::read`].
//!
//! - `near.rs` tells which file systems are near; `calls.rs` bounds the calls to all of them.
//! - `root.rs` resolves names beneath the folder; `directory.rs` looks at many names of one directory, and `known.rs`
//!   knows which are not there; `list.rs` lists and deletes trees; `staging.rs` writes.

mod calls;
mod directory;
mod known;
mod list;
mod near;
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
use parking_lot::RwLock;
use rustix::{
    fs::{self, AtFlags, Mode},
    io::Errno,
};

pub use self::directory::LocalDirectory;
use self::{
    calls::{Call, Calls, NoAnswer, Patience},
    known::KnownNames,
    root::{Root, io_error, to_stat},
    staging::LocalStaged,
};
use crate::{
    Capabilities, Condition, Depth, Error, FileId, Glance, Landing, LocalReads, PATH_BYTES_MAX, Remnant, Result,
    Settled, Staged, StagedRecord, Stat, StorePath, Swept, Traffic, UnderStore, VersionToken,
    store::{Compares, Pages},
};

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
    folder: PathBuf,
    /// Opened by the first call, and anew after its file system was mounted again.
    root: RwLock<Option<Arc<Root>>>,
    uri: String,
    known: KnownNames,
    traffic: Traffic,
    calls: Calls,
}

impl Inner {
    /// The open folder.
    fn root(&self) -> Arc<Root> {
        self.root.read().clone().expect("every call opens the folder before it does anything")
    }

    /// Opens the folder if no call has done so yet. It asks the file system.
    fn open_root(&self) -> Result<()> {
        if self.root.read().is_none() {
            let root = Arc::new(Root::open(self.folder.clone())?);
            self.root.write().get_or_insert(root);
        }
        Ok(())
    }

    /// After a failure that the loss of the whole file system would explain: if it is mounted anew, the next call finds it.
    fn reopen_root(&self) {
        let root = self.root();
        let Some(now) = root.reopened() else { return };
        let mut held = self.root.write();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &root)) {
            tracing::info!(uri = self.uri, "its file system was mounted anew, and the folder is opened there");
            *held = Some(Arc::new(now));
        }
    }

    /// Runs a call about `path` on a blocking thread.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        call: Call,
        path: &str,
        work: impl FnOnce(&Arc<Self>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(self);
        let made = self.calls.make(call, move || {
            inner.open_root()?;
            let done = work(&inner);
            if done.as_ref().is_err_and(may_be_lost) {
                inner.reopen_root();
            }
            done
        });
        made.await.unwrap_or_else(|no_answer| match no_answer {
            NoAnswer::Late(patience) => {
                let target = if path.is_empty() { self.uri.clone() } else { format!("{}/{path}", self.uri) };
                Err(Error::Away { target, seconds: patience.as_secs() })
            }
            NoAnswer::Ending => Err(Error::Cancelled { path: self.uri.clone() }),
        })
    }
}

impl LocalStore {
    /// A folder by its absolute path. It is opened by the first call.
    pub fn new(folder: PathBuf) -> Result<Self> {
        Self::waiting_for(folder, Patience::default())
    }

    fn waiting_for(folder: PathBuf, patience: Patience) -> Result<Self> {
        let uri = format!("file://{}", folder.display());
        if !folder.is_absolute() {
            let reason = "the path is not absolute; write file:///path/to/folder".to_owned();
            return Err(Error::InvalidUri { uri, reason });
        }
        let (known, traffic, calls) = (KnownNames::default(), Traffic::default(), Calls::new(patience));
        Ok(Self { inner: Arc::new(Inner { folder, root: RwLock::default(), uri, known, traffic, calls }) })
    }

    /// Runs a call of one operation on a blocking thread.
    async fn operation<T: Send + 'static>(
        &self,
        call: Call,
        path: &StorePath,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner.traffic.count_request();
        self.inner.blocking(call, path.as_str(), work).await
    }
}

#[async_trait]
impl UnderStore for LocalStore {
    fn uri(&self) -> &str {
        &self.inner.uri
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            writes: true,
            lists: true,
            create_only: Compares::Atomically,
            replace: Compares::JustBefore,
            large_writes: Compares::JustBefore,
            native_rename: true,
            real_directories: true,
            shared_upload: false,
            descriptors: true,
            file_bytes_max: None,
            control_characters: true,
            refused_characters: "",
            path_bytes_max: PATH_BYTES_MAX,
            drops_parts: false,
        }
    }

    fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    async fn check(&self) -> Result<()> {
        self.operation(Call::Look, &StorePath::root(), |inner| inner.root().check()).await
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        let at = path.clone();
        self.operation(Call::Look, path, move |inner| inner.root().stat(&at)).await
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
        let (at, expected, is_empty) = (path.clone(), token.clone(), range.is_empty());
        // A file is closed where it is read: a server may be waited for then too.
        let opened = self.operation(Call::Look, path, move |inner| {
            let file = File::from(open_version(inner, &at, &expected)?);
            Ok((!is_empty).then_some(file))
        });
        let (mut file, mut buffer, mut offset) = (opened.await?, Vec::new(), range.start);
        while let Some(open) = file.take() {
            let want = usize::try_from(range.end - offset).unwrap_or(usize::MAX).min(READ_BYTES);
            buffer.resize(want, 0);
            let (mut chunk, range, at, expected) = (buffer, range.clone(), path.clone(), token.clone());
            let read = self.inner.blocking(Call::Look, path.as_str(), move |_| {
                let failed = |source| Error::Io { path: at.to_string(), operation: "read", source };
                let got = open.read_at(&mut chunk, offset).map_err(failed)?;
                if got == 0 {
                    let (expected, got) = (range.end - range.start, offset - range.start);
                    return Err(Error::WrongLength { path: at.to_string(), expected, got });
                }
                if offset + (got as u64) < range.end {
                    return Ok((Some(open), chunk, got));
                }
                // A writer in place changes the file under its readers: the version is looked at again at the end.
                check_version(&open, &at, &expected)?;
                Ok((None, chunk, got))
            });
            let got;
            (file, buffer, got) = read.await?;
            landing.land(offset, &buffer[..got]);
            self.inner.traffic.count_read(got as u64);
            offset += got as u64;
        }
        Ok(())
    }

    async fn mkdir(&self, path: &StorePath) -> Result<()> {
        let at = path.clone();
        self.operation(Call::Work, path, move |inner| {
            let parent = inner.root().open_parent(&at)?;
            let mode = Mode::from_raw_mode(0o777);
            fs::mkdirat(&parent, at.name(), mode).map_err(|errno| io_error(at.as_str(), "mkdir", errno))?;
            fs::fsync(&parent).map_err(|errno| io_error(at.as_str(), "fsync", errno))
        })
        .await
    }

    async fn delete_file(&self, path: &StorePath) -> Result<()> {
        let at = path.clone();
        self.operation(Call::Work, path, move |inner| {
            let parent = inner.root().open_parent(&at)?;
            let failed = |errno| io_error(at.as_str(), "delete", errno);
            fs::unlinkat(&parent, at.name(), AtFlags::empty()).map_err(failed)?;
            fs::fsync(&parent).map_err(failed)
        })
        .await
    }

    async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()> {
        let at = path.clone();
        self.operation(Call::Work, path, move |inner| {
            let parent = inner.root().open_parent(&at)?;
            let failed = |errno| io_error(at.as_str(), "delete", errno);
            match fs::unlinkat(&parent, at.name(), AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) if depth == Depth::Recursive => {
                    list::delete_tree(&parent, at.name(), at.as_str())?;
                }
                other => other.map_err(failed)?,
            }
            fs::fsync(&parent).map_err(failed)
        })
        .await
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        let (at, to, condition) = (from.clone(), to.clone(), condition.clone());
        self.operation(Call::Work, from, move |inner| rename(inner, &at, &to, &condition)).await
    }

    async fn stage(&self, path: &StorePath, file_id: FileId, _len_hint: Option<u64>) -> Result<Box<dyn Staged>> {
        let at = path.clone();
        let staged = self.operation(Call::Work, path, move |inner| LocalStaged::create(inner, at, file_id)).await?;
        Ok(Box::new(staged))
    }

    async fn publish(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        let (sealed, condition) = (record.clone(), condition.clone());
        let publish = move |inner: &Arc<Inner>| staging::publish_record(inner, &sealed, &condition);
        self.inner.blocking(Call::Work, record.path.as_str(), publish).await
    }

    async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        let left = record.clone();
        self.operation(Call::Look, &record.path, move |inner| staging::settle(inner, &left)).await
    }

    async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        let root = StorePath::root();
        let remnants = self.operation(Call::Look, &root, |inner| staging::remnants(inner)).await?;
        let seen = remnants.len() as u64;
        let is_dead = |&(file_id, mtime_ms): &_| dead(&Remnant::Temp { file_id, mtime_ms });
        let dead = remnants.into_iter().filter(is_dead).map(|(file_id, _)| file_id).collect();
        let removed = self.operation(Call::Look, &root, |inner| staging::remove(inner, dead)).await?;
        Ok(Swept { seen, removed })
    }

    fn local(&self) -> Option<&dyn LocalReads> {
        self.inner.root.read().as_ref().is_some_and(|root| root.is_near()).then_some(self)
    }
}

#[async_trait]
impl LocalReads for LocalStore {
    fn stat_now(&self, path: &StorePath) -> Result<Glance> {
        self.inner.traffic.count_request();
        self.inner.root().glance(path)
    }

    fn directory_now(&self, path: &StorePath) -> Result<LocalDirectory> {
        LocalDirectory::open(&self.inner, path)
    }

    async fn open_local(&self, path: &StorePath, token: &VersionToken) -> Result<Option<OwnedFd>> {
        let (at, expected) = (path.clone(), token.clone());
        self.operation(Call::Look, path, move |inner| {
            let fd = open_version(inner, &at, &expected)?;
            Ok(inner.root().shares_mount_with(&fd).then_some(fd))
        })
        .await
    }

    fn check_local(&self, path: &StorePath, fd: &OwnedFd, token: &VersionToken) -> Result<()> {
        check_version(fd, path, token)
    }
}

/// Whether a failure may be that of everything in the folder.
fn may_be_lost(error: &Error) -> bool {
    matches!(error, Error::Io { .. } if error.is_transient()) || matches!(error, Error::MissingFolder { .. })
}

fn open_version(inner: &Inner, path: &StorePath, token: &VersionToken) -> Result<OwnedFd> {
    let (fd, stat) = inner.root().open_file(path)?;
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
    let from_dir = inner.root().open_parent(from)?;
    let to_dir = inner.root().open_parent(to)?;
    let stat = fs::statat(&from_dir, from.name(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| io_error(from.as_str(), "stat", errno))?;
    if from == to {
        return inner.root().stat(to);
    }
    let is_dir = fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory;
    // The kernel would let a directory replace an empty one; no other store can promise that.
    let condition = if is_dir { &Condition::MustNotExist } else { condition };
    staging::rename_checked(inner, (&from_dir, from.name()), (&to_dir, to), condition)?;
    for dir in [&to_dir, &from_dir] {
        fs::fsync(dir).map_err(|errno| io_error(to.as_str(), "fsync", errno))?;
    }
    inner.root().stat(to)
}

#[cfg(test)]
mod tests;
