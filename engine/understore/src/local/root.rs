//! The mounted folder, as a descriptor beneath which every name is resolved.
//!
//! Every path goes through `openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)`: `..`, absolute links and links out
//! of the folder are refused by the kernel at the moment of use, so no rename between a check and a use can
//! lead out. Links that stay beneath the folder are followed.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{self, AtFlags, FileType, FsWord, Mode, OFlags, ResolveFlags, StatxFlags},
    io::Errno,
};

use super::near;
use crate::{Error, Glance, Result, Stat, StorePath, VersionToken, path::is_reserved, store::Kind};

/// The kernel answers EAGAIN when a rename races with the resolution; it is tried again this often.
const RESOLVE_ATTEMPTS_MAX: usize = 64;
/// Nothing outside the folder, by whatever name.
pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// The root of a `file:` mount.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    shown: PathBuf,
    /// Of which kind its file system is, where that could be asked.
    magic: Option<FsWord>,
}

impl Root {
    /// Opens the folder; its own path may hold links, as the user gave it.
    pub(super) fn open(folder: PathBuf) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = || folder.display().to_string();
        match fs::open(&folder, flags, Mode::empty()) {
            Ok(dir) => {
                let magic = fs::fstatfs(&dir).ok().map(|statfs| statfs.f_type);
                Ok(Self { dir, shown: folder, magic })
            }
            Err(Errno::NOENT) => Err(Error::MissingFolder { path: path() }),
            Err(Errno::NOTDIR) => Err(Error::NotAFolder { path: path() }),
            Err(errno) => Err(io_error(&path(), "open", errno)),
        }
    }

    /// Whether the mounted path still names the folder that was opened, and may be read.
    pub(super) fn check(&self) -> Result<()> {
        let shown = self.shown.display().to_string();
        let now = Self::open(self.shown.clone())?;
        let ids = |fd: &OwnedFd| fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        match (ids(&now.dir), ids(&self.dir)) {
            (Ok(now), Ok(then)) if now == then => {}
            (Err(errno), _) | (_, Err(errno)) => return Err(io_error(&shown, "stat", errno)),
            // Replaced since: what was opened is unlinked, and nothing written there would be found again.
            _ => return Err(Error::MissingFolder { path: shown }),
        }
        let open = self.open_beneath(&StorePath::root(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        open.map(drop)
    }

    /// Opens a path beneath the folder.
    pub(super) fn open_beneath(&self, path: &StorePath, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        self.open_with(path, |name| self.resolve(name, flags, mode))
    }

    fn open_with(&self, path: &StorePath, resolve: impl Fn(&str) -> Result<OwnedFd, Errno>) -> Result<OwnedFd> {
        path.check_unreserved()?;
        match path.as_str() {
            // What has no name in the mount is called by where it is.
            "" => resolve(".").map_err(|errno| io_error(&self.shown.display().to_string(), "open", errno)),
            name => resolve(name).map_err(|errno| io_error(name, "open", errno)),
        }
    }

    /// Whether the folder lies in a file system that answers at once.
    pub(super) fn is_near(&self) -> bool {
        self.magic.is_some_and(near::answers_at_once)
    }

    /// The folder in a file system that was mounted in the place of this one, if this one does not answer any more: a FUSE
    /// client that ended, a handle that its NFS server has forgotten. What is beneath a mount that is gone is not it,
    /// and of another kind where it could be told.
    pub(super) fn reopened(&self) -> Option<Self> {
        fs::fstatfs(&self.dir).err()?;
        let now = Self::open(self.shown.clone()).ok()?;
        (now.magic.is_some() && now.magic == self.magic.or(now.magic)).then_some(now)
    }

    /// What is at a path, seen without leaving the folder's own file system: another one that is mounted below it may be
    /// slow or away.
    pub(super) fn glance(&self, path: &StorePath) -> Result<Glance> {
        let stat = match self.open_near(path, OFlags::PATH) {
            Ok(fd) => fs::fstat(&fd).map_err(|errno| io_error(path.as_str(), "stat", errno))?,
            Err(Error::NotFound { .. } | Error::NotADirectory { .. }) => return Ok(Glance::Nothing),
            // A link that leads out of the mount looks the same from here, and is told apart where there is time.
            Err(Error::EscapesMount { .. }) => return Ok(Glance::Elsewhere),
            Err(other) => return Err(other),
        };
        to_stat(path.as_str(), &stat).map(Glance::Found)
    }

    /// Opens a path in the folder's own file system; one that leads into another is said to escape the mount.
    pub(super) fn open_near(&self, path: &StorePath, flags: OFlags) -> Result<OwnedFd> {
        self.open_with(path, |name| self.resolve_as(name, flags, Mode::empty(), BENEATH | ResolveFlags::NO_XDEV))
    }

    /// Opens a name that may be one of our temporaries.
    pub(super) fn resolve(&self, name: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        self.resolve_as(name, flags, mode, BENEATH)
    }

    fn resolve_as(&self, name: &str, flags: OFlags, mode: Mode, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        for _ in 0..RESOLVE_ATTEMPTS_MAX {
            match fs::openat2(&self.dir, name, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The directory that holds `path`, for calls that name the last component themselves.
    pub(super) fn open_parent(&self, path: &StorePath) -> Result<OwnedFd> {
        if is_reserved(path.name()) {
            // The same refusal as for opening it.
            self.open_beneath(path, OFlags::PATH, Mode::empty())?;
        }
        let parent = path.parent().ok_or_else(|| Error::Unnameable {
            path: "/".into(),
            reason: "it is the root of the mount, which is neither made, moved nor deleted".into(),
        })?;
        self.open_beneath(&parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// What is at a path; links beneath the folder are followed.
    pub(super) fn stat(&self, path: &StorePath) -> Result<Stat> {
        to_stat(path.as_str(), &self.look(path)?)
    }

    /// What the file system says of a path; links beneath the folder are followed.
    pub(super) fn look(&self, path: &StorePath) -> Result<fs::Stat> {
        match self.open_beneath(path, OFlags::PATH, Mode::empty()) {
            Ok(fd) => fs::fstat(&fd).map_err(|errno| io_error(path.as_str(), "stat", errno)),
            // A name below a file does not exist, as on every other store.
            Err(Error::NotADirectory { path }) => Err(Error::NotFound { path }),
            Err(other) => Err(other),
        }
    }

    /// Opens a regular file for reading and gives its stat; a pipe or device is never opened for good.
    pub(super) fn open_file(&self, path: &StorePath) -> Result<(OwnedFd, Stat)> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.open_beneath(path, flags, Mode::empty())?;
        let failed = |errno| io_error(path.as_str(), "stat", errno);
        let stat = to_stat(path.as_str(), &fs::fstat(&fd).map_err(failed)?)?;
        if !stat.is_file() {
            return Err(Error::IsADirectory { path: path.to_string() });
        }
        // NONBLOCK kept a pipe from hanging the open. On a regular file it must go again: io_uring would
        // answer EAGAIN instead of waiting for the disk.
        fs::fcntl_setfl(&fd, OFlags::empty()).map_err(failed)?;
        Ok((fd, stat))
    }

    /// Whether a rename from the mount's root into `dir` stays within one mounted file system. Bind mounts of one
    /// file system have one device and still refuse renames, so mount ids are compared, not devices.
    pub(super) fn shares_mount_with(&self, dir: impl AsFd) -> bool {
        let mount_of = |fd: rustix::fd::BorrowedFd<'_>| {
            fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok().map(|statx| statx.stx_mnt_id)
        };
        mount_of(self.dir.as_fd()).is_some_and(|id| Some(id) == mount_of(dir.as_fd()))
    }

    /// The descriptor of the folder itself.
    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }
}

/// The stat of a file or directory; anything else is named and refused.
pub(super) fn to_stat(path: &str, stat: &fs::Stat) -> Result<Stat> {
    let mtime_ms = stat.st_mtime.saturating_mul(1000).saturating_add(stat.st_mtime_nsec as i64 / 1_000_000);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(Stat::dir(mtime_ms)),
        FileType::RegularFile => {
            Ok(Stat { kind: Kind::File, len: stat.st_size as u64, token: to_token(stat), mtime_ms })
        }
        other => Err(Error::NotAFile { path: path.to_owned(), what: describe(other) }),
    }
}

pub(super) fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Symlink => "a symbolic link to nothing",
        _ => "neither a file nor a directory",
    }
}

/// inode u64 | size u64 | mtime s i64 | mtime ns u32 | ctime s i64 | ctime ns u32, little endian.
fn to_token(stat: &fs::Stat) -> VersionToken {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&stat.st_ino.to_le_bytes());
    bytes[8..16].copy_from_slice(&(stat.st_size as u64).to_le_bytes());
    bytes[16..24].copy_from_slice(&stat.st_mtime.to_le_bytes());
    bytes[24..28].copy_from_slice(&(stat.st_mtime_nsec as u32).to_le_bytes());
    bytes[28..36].copy_from_slice(&stat.st_ctime.to_le_bytes());
    bytes[36..].copy_from_slice(&(stat.st_ctime_nsec as u32).to_le_bytes());
    VersionToken::new(&bytes).expect("40 bytes are within the bound")
}

/// The error that an errno means to the person who mounted the folder.
pub(super) fn io_error(path: &str, operation: &'static str, errno: Errno) -> Error {
    let path = path.to_owned();
    match errno {
        Errno::NOENT => Error::NotFound { path },
        Errno::EXIST => Error::AlreadyExists { path },
        Errno::NOTDIR => Error::NotADirectory { path },
        Errno::ISDIR => Error::IsADirectory { path },
        Errno::NOTEMPTY => Error::NotEmpty { path },
        Errno::ACCESS | Errno::PERM => Error::PermissionDenied { path, reason: errno.to_string() },
        Errno::NOSPC | Errno::DQUOT => Error::NoSpace { path },
        Errno::ROFS => Error::ReadOnly { path },
        Errno::NAMETOOLONG => Error::Unnameable { path, reason: "it is too long for this file system".to_owned() },
        // A name that the file system does not take, as NTFS does with ':'.
        Errno::ILSEQ => Error::Unnameable { path, reason: "this file system has no such characters".to_owned() },
        Errno::XDEV if operation == "open" => Error::EscapesMount { path },
        Errno::LOOP => Error::NotAFile { path, what: "a loop of symbolic links" },
        _ => Error::Io { path, operation, source: errno.into() },
    }
}
