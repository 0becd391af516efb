//! One directory of a mounted folder, held open: each of many names in it is looked at without resolving the path of
//! the directory again.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    Inner,
    root::{io_error, is_reserved, to_stat},
};
use crate::{Error, PATH_BYTES_MAX, Result, Stat, StorePath, path::check_component};

/// An open directory.
#[derive(Debug)]
pub struct LocalDirectory {
    inner: Arc<Inner>,
    path: StorePath,
    fd: OwnedFd,
    /// Whether the mount may know that a name of it is missing.
    may_be_known: bool,
}

impl LocalDirectory {
    pub(super) fn open(inner: &Arc<Inner>, path: &StorePath) -> Result<Self> {
        inner.traffic.count_request();
        let fd = inner.root.open_beneath(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let may_be_known = inner.known.may_know(inner.root.dir(), &fd);
        Ok(Self { inner: Arc::clone(inner), path: path.clone(), fd, may_be_known })
    }

    /// What is at a name in the directory, now, on this thread; `None` if nothing is. It is what
    /// [`crate::LocalReads::stat_now`] says of the whole path, as long as the directory keeps its own.
    pub fn stat_now(&self, name: &str) -> Result<Option<Stat>> {
        let path = || self.path.join(name);
        // The kernel takes no path of the full length, though it would take its last name; and our own names are refused.
        let is_long = self.path.as_str().len() + "/".len() + name.len() >= PATH_BYTES_MAX;
        if check_component(name).is_err() || is_long || is_reserved(name) {
            return some(self.inner.root.stat(&path()?));
        }
        self.inner.traffic.count_request();
        if self.may_be_known && self.inner.known.lack(&self.fd, name) {
            return Ok(None);
        }
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            // A link may point anywhere beneath the mount, so it is resolved from the root.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                some(self.inner.root.stat(&path()?))
            }
            Ok(stat) => to_stat(path()?.as_str(), &stat).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(io_error(path()?.as_str(), "stat", errno)),
        }
    }
}

fn some(answer: Result<Stat>) -> Result<Option<Stat>> {
    match answer {
        Ok(stat) => Ok(Some(stat)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
