//! A block with a memfd of its own, and how it becomes something that clients may map.
//!
//! ```text
//! Filling --------- export: replace the mapping, seal, reopen ----------> Exported
//!    | last reference gone                                                   | last reference gone
//!    v                                                                       v
//! kept for the next block, pages and all                                  closed for ever
//! ```

use super::error::MemError;
use super::extent::{Extent, pages_of};
use super::fills::{Fill, Filled, Fills};
use super::local_write::check_immutable;
use super::memfd::{Memfd, SEALS_IMMUTABLE};
use super::pool::PagePool;
use crate::ring::{Span, SpanMut};
use citius_wire::units::PAGE_BYTES;
use core::ops::Range;
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A block's memory. Hold an `Rc` of it for as long as anybody may touch it: the index, an answer, a client's mapping.
pub struct BlockMem {
    extent: Rc<Extent>,
    fills: Fills,
    length: usize,
    is_exported: Cell<bool>,
}

impl BlockMem {
    /// Memory for a block of `length` bytes, of which nothing is allocated yet or, recycled, everything.
    ///
    /// # Errors
    /// If the process is out of descriptors, mappings or address space; see [`Limits`](super::Limits).
    pub fn new(pool: &PagePool, length: usize) -> Result<Rc<Self>, MemError> {
        let pages = length.div_ceil(PAGE_BYTES).max(1) as u32;
        let extent = match pool.core().extent_recycled(pages) {
            Some(extent) => extent,
            None => pool.core().extent(pages)?,
        };
        extent.set_may_recycle(true);
        Ok(Rc::new(Self { extent, fills: Fills::default(), length, is_exported: Cell::new(false) }))
    }

    pub(super) fn adopted(extent: Rc<Extent>, length: usize) -> Rc<Self> {
        Rc::new(Self { extent, fills: Fills::default(), length, is_exported: Cell::new(true) })
    }

    /// Bytes of the block.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes of memory that it holds.
    pub fn bytes_allocated(&self) -> u64 {
        u64::from(self.extent.parts().pages.present_count()) * PAGE_BYTES as u64
    }

    /// Whether clients may map it. It is then immutable.
    pub fn is_exported(&self) -> bool {
        self.is_exported.get()
    }

    /// Allocates the pages of `range`, off this core, before they may be touched.
    ///
    /// # Errors
    /// [`MemError::NoPages`] when something must be evicted first, [`MemError::PagesLost`] when the system is short.
    pub async fn prepare(self: &Rc<Self>, range: Range<usize>) -> Result<(), MemError> {
        assert!(range.end <= self.extent.bytes(), "bytes {range:?} of a block of {}", self.length);
        self.extent.ensure(pages_of(&range), Rc::clone(self) as _).await
    }

    /// The bytes at `range`, to send or to verify.
    ///
    /// # Panics
    /// If a page of it was not prepared.
    pub fn span(self: &Rc<Self>, range: Range<usize>) -> Span {
        self.extent.span(range, Rc::clone(self) as _)
    }

    /// The right to write the bytes at `range`, held until the last part of it is dropped.
    ///
    /// # Errors
    /// [`MemError::Busy`] if the block is exported or somebody else writes a part of the range.
    ///
    /// # Panics
    /// If a page of it was not prepared.
    pub fn fill(self: &Rc<Self>, range: Range<usize>) -> Result<SpanMut, MemError> {
        if self.is_exported.get() {
            return Err(MemError::Busy);
        }
        let start = self.extent.address(&range);
        let fill = Fill::claim(self, range.clone())?;
        // SAFETY: present and writable while the fill holds the block, which is not exported before the fill ends; the
        // claim excludes other writers, and who reads through a `Span` answers for reading only what is valid.
        Ok(unsafe { SpanMut::new(start, range.end - range.start, fill) })
    }

    /// Makes a complete block immutable, so that clients may map it. Sends from it go on undisturbed.
    ///
    /// The caller says that all `length` bytes are valid; the rest of the last page is zeroed here, because it may hold
    /// another file's bytes. Exporting twice is no error.
    ///
    /// # Errors
    /// [`MemError::Busy`] if a fill is in flight; the block is then as before.
    ///
    /// # Panics
    /// If a page was not prepared.
    pub fn export(&self) -> Result<(), MemError> {
        if self.is_exported.get() {
            return Ok(());
        }
        if !self.fills.is_empty() {
            return Err(MemError::Busy);
        }
        self.zero_tail();
        let mut parts = self.extent.parts_mut();
        let read_only = parts.memfd.reopen_read_only().map_err(MemError::system("open /proc/self/fd"))?;
        let parts = &mut *parts;
        let map = parts.map.as_mut().expect("a block is mapped until it is dropped");
        map.replace(&read_only, false).map_err(MemError::system("mmap"))?;
        if let Err(source) = seal(&parts.memfd) {
            // Something still has it writable. It is not shown to anybody, and can be filled again.
            map.replace(&parts.memfd, true).map_err(MemError::system("mmap"))?;
            return Err(source);
        }
        // The writable description goes; what remains can only be read.
        parts.memfd = read_only;
        self.extent.set_may_recycle(false);
        self.is_exported.set(true);
        Ok(())
    }

    /// A read-only descriptor of an exported block, to pass to a client. Map no more than [`length`](Self::length)
    /// rounded up to a page.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    ///
    /// # Panics
    /// If the block is not exported.
    pub fn descriptor(&self) -> Result<OwnedFd, MemError> {
        assert!(self.is_exported.get(), "only an exported block is shown to clients");
        self.extent.parts().memfd.duplicate().map_err(MemError::system("dup"))
    }

    fn zero_tail(&self) {
        let tail = self.length..self.extent.bytes();
        let start = self.extent.address(&(0..tail.end));
        // SAFETY: the whole block is present and writable (it is not exported), nothing fills it, and nobody reads past
        // its length.
        unsafe { start.add(tail.start).write_bytes(0, tail.end - tail.start) };
    }
}

impl Filled for BlockMem {
    fn fills(&self) -> &Fills {
        &self.fills
    }
}

/// Seals a memfd that nobody can write any more, and checks that it holds.
fn seal(memfd: &Memfd) -> Result<(), MemError> {
    memfd.seal(SEALS_IMMUTABLE).map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => MemError::Busy,
        _ => MemError::System { call: "sealing a block", source },
    })?;
    check_immutable(memfd)
}
