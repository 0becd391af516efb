//! An anonymous file of a fixed size, and the seals that keep it what it is.

use super::backing::Backing;
use rustix::fs::{self, MemfdFlags, Mode, OFlags, SealFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// What a block that clients may map is sealed with: it keeps its size, its bytes, and its seals.
pub(super) const SEALS_IMMUTABLE: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);
/// What every memfd of the tier is sealed with from the start.
pub(super) const SEALS_FIXED_SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// A memfd. Its descriptor is counted, because operations in flight hold it too.
pub(super) struct Memfd {
    fd: Rc<OwnedFd>,
    backing: Backing,
    bytes: usize,
}

impl Memfd {
    /// A memfd of `bytes` bytes, none of them allocated, that keeps its size for ever.
    pub(super) fn create(backing: Backing, name: &str, bytes: usize) -> io::Result<Self> {
        let memfd = Self::create_growable(backing, name)?;
        fs::ftruncate(&*memfd.fd, bytes as u64)?;
        fs::fcntl_add_seals(&*memfd.fd, SEALS_FIXED_SIZE)?;
        Ok(Self { bytes, ..memfd })
    }

    /// A memfd of no bytes, not sealed.
    pub(super) fn create_growable(backing: Backing, name: &str) -> io::Result<Self> {
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if backing == Backing::Hugetlb {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let fd = match fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Kernels before 6.3 do not know it; nothing executes these files there either.
            Err(rustix::io::Errno::INVAL) => fs::memfd_create(name, flags)?,
            result => result?,
        };
        // Whoever is passed a descriptor may not reopen it for writing through /proc, unless it is the superuser, whom
        // the seals stop.
        fs::fchmod(&fd, Mode::RUSR)?;
        Ok(Self { fd: Rc::new(fd), backing, bytes: 0 })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn backing(&self) -> Backing {
        self.backing
    }

    pub(super) fn fd(&self) -> &Rc<OwnedFd> {
        &self.fd
    }

    pub(super) fn into_fd(self) -> Rc<OwnedFd> {
        self.fd
    }

    /// Bytes that have memory behind them.
    pub(super) fn bytes_allocated(&self) -> io::Result<u64> {
        /// `st_blocks` counts these, whatever the file system.
        const STAT_BLOCK_BYTES: u64 = 512;
        Ok(fs::fstat(&*self.fd)?.st_blocks as u64 * STAT_BLOCK_BYTES)
    }

    pub(super) fn seals(&self) -> io::Result<SealFlags> {
        Ok(fs::fcntl_get_seals(&*self.fd)?)
    }

    pub(super) fn seal(&self, seals: SealFlags) -> io::Result<()> {
        Ok(fs::fcntl_add_seals(&*self.fd, seals)?)
    }

    /// A second, read-only description of the same file.
    pub(super) fn reopen_read_only(&self) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let fd = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd: Rc::new(fd), backing: self.backing, bytes: self.bytes })
    }

    /// A descriptor to pass to a client, of the same description.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (*self.fd).as_fd()
    }
}
