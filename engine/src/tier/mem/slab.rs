//! Objects under 8 MiB, many to a memfd: one memfd a small file would run out of descriptors and mappings.
//!
//! Each object is one span of consecutive addresses in a segment. Its pages are allocated with the first object that
//! touches them and freed with the last. Segments are never shown to clients: an object that a client wants to map
//! moves to a memfd of its own first, which is the one copy that is allowed.

use super::arena::{Arena, Place, SEGMENT_PAGES};
use super::block::BlockMem;
use super::error::MemError;
use super::extent::Extent;
use super::fills::{Fill, Filled, Fills};
use super::pool::PagePool;
use super::size_class::SizeClass;
use crate::ring::{Span, SpanMut};
use core::ops::Range;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

/// Segments of one shard, each a descriptor and a mapping: 1 TiB of objects.
const SEGMENTS_MAX: usize = 1024;

/// The small objects of one shard. A clone is the same slab.
#[derive(Clone)]
pub struct Slab {
    core: Rc<SlabCore>,
}

struct SlabCore {
    pool: PagePool,
    arena: RefCell<Arena>,
    /// By the arena's segment number.
    extents: RefCell<Vec<Option<Rc<Extent>>>>,
}

/// What a slab holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabUse {
    /// Objects.
    pub objects: usize,
    /// Memfds that they lie in.
    pub segments: usize,
    /// Pages with memory behind them.
    pub pages: u32,
}

impl Slab {
    /// An empty slab that takes its pages from `pool`.
    pub fn new(pool: PagePool) -> Self {
        Self { core: Rc::new(SlabCore { pool, arena: RefCell::default(), extents: RefCell::default() }) }
    }

    /// Memory for an object of `length` bytes, allocated. Its old bytes may be another object's.
    ///
    /// # Errors
    /// As [`BlockMem::prepare`], and if there are too many segments.
    ///
    /// # Panics
    /// If `length` is not below [`OBJECT_BYTES_MAX`](super::OBJECT_BYTES_MAX).
    pub async fn object(&self, length: usize) -> Result<Rc<SlabObject>, MemError> {
        let place = self.core.place(SizeClass::of(length))?;
        let extent = self.core.extent(place.segment);
        let core = Rc::clone(&self.core);
        let object = Rc::new(SlabObject { core, extent, place, length, fills: Fills::default() });
        // The allocation holds the object, so that its slot is not given away while pages are on their way to it.
        object.extent.ensure(place.pages(), Rc::clone(&object) as _).await?;
        Ok(object)
    }

    /// What it holds now.
    pub fn usage(&self) -> SlabUse {
        let arena = self.core.arena.borrow();
        let extents = self.core.extents.borrow();
        let pages = extents.iter().flatten().map(|extent| extent.parts().pages.present_count()).sum();
        SlabUse { objects: arena.object_count(), segments: arena.segment_count(), pages }
    }
}

impl SlabCore {
    fn place(&self, class: SizeClass) -> Result<Place, MemError> {
        let mut arena = self.arena.borrow_mut();
        if let Some(place) = arena.place(class) {
            return Ok(place);
        }
        if arena.segment_count() >= SEGMENTS_MAX {
            let source = io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(MemError::System { call: "adding a slab segment", source });
        }
        let extent = self.pool.core().extent(SEGMENT_PAGES)?;
        let segment = arena.add_segment() as usize;
        let mut extents = self.extents.borrow_mut();
        if segment == extents.len() {
            extents.push(None);
        }
        extents[segment] = Some(extent);
        Ok(arena.place(class).expect("an empty segment has room for any run"))
    }

    fn extent(&self, segment: u32) -> Rc<Extent> {
        Rc::clone(self.extents.borrow()[segment as usize].as_ref().expect("a placed object has a segment"))
    }
}

/// Memory of one small object. Hold an `Rc` of it for as long as anybody may touch it.
pub struct SlabObject {
    core: Rc<SlabCore>,
    extent: Rc<Extent>,
    place: Place,
    length: usize,
    fills: Fills,
}

impl SlabObject {
    /// Bytes of the object.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes of memory that it holds: its slot.
    pub fn bytes_allocated(&self) -> u64 {
        self.place.bytes().len() as u64
    }

    /// The bytes at `range`, to send or to verify.
    ///
    /// # Panics
    /// If `range` is not within the object.
    pub fn span(self: &Rc<Self>, range: Range<usize>) -> Span {
        self.extent.span(self.within_segment(&range), Rc::clone(self) as _)
    }

    /// The right to write the bytes at `range`, held until the last part of it is dropped.
    ///
    /// # Errors
    /// [`MemError::Busy`] if somebody else writes a part of the range.
    ///
    /// # Panics
    /// If `range` is not within the object.
    pub fn fill(self: &Rc<Self>, range: Range<usize>) -> Result<SpanMut, MemError> {
        let start = self.extent.address(&self.within_segment(&range));
        let fill = Fill::claim(self, range.clone())?;
        // SAFETY: present and writable while the fill holds the object; the claim excludes other writers, and who reads
        // through a `Span` answers for reading only what is valid.
        Ok(unsafe { SpanMut::new(start, range.end - range.start, fill) })
    }

    /// Copies a complete object to a memfd of its own, for a client to map.
    ///
    /// # Errors
    /// [`MemError::Busy`] if a fill is in flight, else as [`BlockMem::prepare`].
    pub async fn to_block(self: &Rc<Self>) -> Result<Rc<BlockMem>, MemError> {
        let block = BlockMem::new(&self.core.pool, self.length)?;
        block.prepare(0..self.length.max(1)).await?;
        if !self.fills.is_empty() {
            return Err(MemError::Busy);
        }
        let from = self.span(0..self.length);
        // SAFETY: nothing fills the object, and nothing can begin to while this thread copies.
        block.fill(0..self.length)?.bytes_mut().copy_from_slice(unsafe { from.bytes() });
        Ok(block)
    }

    fn within_segment(&self, range: &Range<usize>) -> Range<usize> {
        assert!(range.start <= range.end && range.end <= self.length, "bytes {range:?} of {}", self.length);
        let start = self.place.bytes().start;
        start + range.start..start + range.end
    }
}

impl Filled for SlabObject {
    fn fills(&self) -> &Fills {
        &self.fills
    }
}

impl Drop for SlabObject {
    fn drop(&mut self) {
        let removed = self.core.arena.borrow_mut().remove(self.place);
        for page in removed.idle_pages {
            // Absent if its allocation failed; moving if it is being freed since an earlier object.
            let is_present = self.extent.parts().pages.all_present(page..page + 1);
            if is_present {
                self.extent.release(page..page + 1);
            }
        }
        let mut arena = self.core.arena.borrow_mut();
        if removed.is_segment_empty && arena.segment_count() > 1 {
            arena.remove_segment(self.place.segment);
            self.core.extents.borrow_mut()[self.place.segment as usize] = None;
        }
    }
}
