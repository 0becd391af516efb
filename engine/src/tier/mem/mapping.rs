//! A memfd in this process's memory, and the one place that calls mmap and munmap.

use super::backing::Backing;
use super::memfd::Memfd;
use citius_wire::units::PAGE_BYTES;
use core::ptr::NonNull;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::io;

/// A whole memfd, mapped shared and without a reservation.
///
/// It lies on a page boundary whatever the backing, so that transparent hugepages fit.
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Maps it for reading and writing.
    pub(super) fn writable(memfd: &Memfd) -> io::Result<Self> {
        Self::map(memfd, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps it for reading.
    pub(super) fn read_only(memfd: &Memfd) -> io::Result<Self> {
        Self::map(memfd, ProtFlags::READ)
    }

    /// Puts a mapping of `memfd` in the place of this one, at the same address and in one step, so that a send which
    /// reads from it meanwhile sees the same bytes all the time.
    pub(super) fn replace(&mut self, memfd: &Memfd, writable: bool) -> io::Result<()> {
        assert_eq!(memfd.bytes(), self.bytes, "a mapping is replaced by one of the same file");
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: exactly the range of this mapping, which is ours, is replaced.
        unsafe { map_at(self.start, memfd, protection) }
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn map(memfd: &Memfd, protection: ProtFlags) -> io::Result<Self> {
        let bytes = memfd.bytes();
        // Address space alone, one page more than is needed, of which the aligned part is kept.
        // SAFETY: the kernel chooses an address where nothing is mapped.
        let room = unsafe {
            mmap_anonymous(
                core::ptr::null_mut(),
                bytes + PAGE_BYTES,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let head = (room as usize).next_multiple_of(PAGE_BYTES) - room as usize;
        // SAFETY: head is below PAGE_BYTES, so the range [head, head + bytes) lies within the room.
        let start = unsafe { room.byte_add(head) };
        // SAFETY: head and tail are parts of the room that nothing refers to.
        unsafe {
            if head > 0 {
                munmap(room, head)?;
            }
            munmap(start.byte_add(bytes), PAGE_BYTES - head)?;
        }
        let mapping = Self { start: NonNull::new(start.cast()).expect("mmap returns no null"), bytes };
        // SAFETY: the range is the room that was just set aside, and is `mapping`'s now.
        unsafe { map_at(mapping.start, memfd, protection)? };
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's; whoever held a span of it held a reference to its owner.
        let result = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(result.is_ok(), "munmap of a whole mapping: {result:?}");
    }
}

/// Maps a whole memfd at `start`.
///
/// # Safety
/// The range must be the caller's to replace.
unsafe fn map_at(start: NonNull<u8>, memfd: &Memfd, protection: ProtFlags) -> io::Result<()> {
    let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: by the caller's promise nothing else is lost by replacing the range.
    unsafe { mmap(start.as_ptr().cast(), memfd.bytes(), protection, flags, memfd.fd(), 0)? };
    if memfd.backing() == Backing::Thp {
        // SAFETY: advice on a range that was just mapped.
        unsafe { madvise(start.as_ptr().cast(), memfd.bytes(), Advice::LinuxHugepage)? };
    }
    Ok(())
}
