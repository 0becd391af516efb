//! One directory of a mounted folder, held open: each of many names in it is looked at without resolving the path of
//! the directory again.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::{
    fs::{self, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    Inner,
    root::{BENEATH, io_error, to_stat},
};
use crate::{
    Glance, PATH_BYTES_MAX, Result, StorePath,
    path::{check_component, is_reserved},
};

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
        let fd = inner.root().open_near(path, OFlags::PATH | OFlags::DIRECTORY)?;
        let may_be_known = inner.known.may_know(inner.root().dir(), &fd);
        Ok(Self { inner: Arc::clone(inner), path: path.clone(), fd, may_be_known })
    }

    /// What is at a name in the directory, now, on this thread. It is what [`crate::LocalReads::stat_now`] says of the
    /// whole path, as long as the directory keeps its own.
    pub fn stat_now(&self, name: &str) -> Result<Glance> {
        let path = || self.path.join(name);
        // The kernel takes no path of the full length, though it would take its last name; and our own names are refused.
        let is_long = self.path.as_str().len() + "/".len() + name.len() >= PATH_BYTES_MAX;
        if check_component(name).is_err() || is_long || is_reserved(name) {
            return self.inner.root().glance(&path()?);
        }
        self.inner.traffic.count_request();
        if self.may_be_known && self.inner.known.lack(&self.fd, name) {
            return Ok(Glance::Nothing);
        }
        // Not `fstatat`: it would look at what is mounted at the name, which may be away.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let looked = fs::openat2(&self.fd, name, flags, Mode::empty(), BENEATH | ResolveFlags::NO_XDEV);
        match looked.and_then(fs::fstat) {
            // A link may point anywhere beneath the mount, so it is resolved from the root.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                self.inner.root().glance(&path()?)
            }
            Ok(stat) => to_stat(path()?.as_str(), &stat).map(Glance::Found),
            Err(Errno::NOENT) => Ok(Glance::Nothing),
            Err(Errno::XDEV | Errno::AGAIN) => Ok(Glance::Elsewhere),
            Err(errno) => Err(io_error(path()?.as_str(), "stat", errno)),
        }
    }
}
