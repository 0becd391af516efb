//! A block that a local client writes through its own mapping, and the checks before it is served to others.
//!
//! The client gets a fresh memfd with all of its pages, of fixed size. Until the shard has sealed it against writing,
//! nothing in it is believed, and the shard does not touch it: a writer that punches holes into it, or scribbles over
//! it, hurts only itself.

use super::block::BlockMem;
use super::error::MemError;
use super::extent::{Extent, pages_of};
use super::mapping::Mapping;
use super::memfd::{Memfd, SEALS_IMMUTABLE};
use super::pool::PagePool;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A block in the hands of a local writer.
pub struct LocalWrite {
    extent: Rc<Extent>,
}

impl LocalWrite {
    /// A fresh block of up to `bytes` bytes, all of it allocated and zero.
    ///
    /// # Errors
    /// As [`BlockMem::prepare`].
    pub async fn new(pool: &PagePool, bytes: usize) -> Result<Self, MemError> {
        let pages = pages_of(&(0..bytes.max(1)));
        let extent = pool.core().extent(pages.end)?;
        extent.ensure(pages, Rc::new(())).await?;
        // A writable mapping of our own would make the seal fail.
        extent.parts_mut().map = None;
        Ok(Self { extent })
    }

    /// Bytes of memory that it holds.
    pub fn bytes_allocated(&self) -> u64 {
        self.extent.bytes() as u64
    }

    /// The descriptor to pass to the writer: readable and writable, of a size that cannot change.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    pub fn descriptor(&self) -> Result<OwnedFd, MemError> {
        self.extent.parts().memfd.duplicate().map_err(MemError::system("dup"))
    }

    /// Takes the block back, of which the writer says that `length` bytes are written and that it has unmapped it.
    ///
    /// The caller computes the checksums, and only then serves the block; it is immutable from here on.
    ///
    /// # Errors
    /// With the block, which the writer may offer again: [`MemError::StillMapped`], or [`MemError::Refused`] if pages
    /// are missing or there is something past the length.
    pub fn adopt(self, length: usize) -> Result<Rc<BlockMem>, (MemError, Self)> {
        match self.seal_and_map(length) {
            Ok(()) => Ok(BlockMem::adopted(self.extent, length)),
            Err(error) => Err((error, self)),
        }
    }

    fn seal_and_map(&self, length: usize) -> Result<(), MemError> {
        let bytes = self.extent.bytes();
        if length > bytes {
            return Err(MemError::Refused { why: "it is longer than the memory lent for it" });
        }
        let mut parts = self.extent.parts_mut();
        // Offered again, with another length than before, it is sealed already.
        if check_immutable(&parts.memfd).is_err() {
            parts.memfd.seal(SEALS_IMMUTABLE).map_err(|source| match source.raw_os_error() {
                Some(libc::EBUSY) => MemError::StillMapped,
                Some(libc::EPERM) => MemError::Refused { why: "the writer sealed it" },
                _ => MemError::System { call: "sealing a block", source },
            })?;
            check_immutable(&parts.memfd)?;
        }
        // The writer could punch holes until now. In hugepages a hole is a page that may not be there when it is read.
        if parts.memfd.bytes_allocated().map_err(MemError::system("fstat"))? < bytes as u64 {
            return Err(MemError::Refused { why: "the writer freed some of its pages" });
        }
        let read_only = parts.memfd.reopen_read_only().map_err(MemError::system("open /proc/self/fd"))?;
        let map = Mapping::read_only(&read_only).map_err(MemError::system("mmap"))?;
        // SAFETY: the whole file is mapped, allocated, and sealed against any change.
        let tail = unsafe { core::slice::from_raw_parts(map.start().as_ptr().add(length), bytes - length) };
        if tail.iter().any(|byte| *byte != 0) {
            return Err(MemError::Refused { why: "there are bytes past its length" });
        }
        parts.memfd = read_only;
        parts.map = Some(map);
        Ok(())
    }
}

/// Checks that nobody can change a memfd any more, whatever they hold.
pub(super) fn check_immutable(memfd: &Memfd) -> Result<(), MemError> {
    let seals = memfd.seals().map_err(MemError::system("reading seals"))?;
    if seals.contains(SEALS_IMMUTABLE) { Ok(()) } else { Err(MemError::Refused { why: "its seals do not hold" }) }
}
