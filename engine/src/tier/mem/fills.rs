//! Who may write which bytes of a block: at most one holder for any byte.

use super::error::MemError;
use core::ops::Range;
use std::cell::RefCell;
use std::rc::Rc;

/// Fills of one block at a time. One is at least a grain wide, so this bounds only very small and very many ones.
const FILLS_MAX: usize = 4096;

/// The ranges of one block that are being written.
#[derive(Default)]
pub(super) struct Fills {
    ranges: RefCell<Vec<Range<usize>>>,
}

impl Fills {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.borrow().is_empty()
    }

    /// Takes the right to write `range`.
    fn claim(&self, range: Range<usize>) -> Result<(), MemError> {
        let mut ranges = self.ranges.borrow_mut();
        let taken = ranges.iter().any(|other| other.start < range.end && range.start < other.end);
        if taken || ranges.len() >= FILLS_MAX {
            return Err(MemError::Busy);
        }
        ranges.push(range);
        Ok(())
    }

    fn release(&self, range: &Range<usize>) {
        let mut ranges = self.ranges.borrow_mut();
        let at = ranges.iter().position(|other| other == range).expect("only claimed ranges are released");
        ranges.swap_remove(at);
    }
}

/// Memory whose fills are tracked.
pub(super) trait Filled: 'static {
    fn fills(&self) -> &Fills;
}

/// The right to write a range, held by the keep of a `SpanMut`; it keeps the memory alive too.
pub(super) struct Fill<M: Filled> {
    memory: Rc<M>,
    range: Range<usize>,
}

impl<M: Filled> Fill<M> {
    pub(super) fn claim(memory: &Rc<M>, range: Range<usize>) -> Result<Rc<Self>, MemError> {
        memory.fills().claim(range.clone())?;
        Ok(Rc::new(Self { memory: Rc::clone(memory), range }))
    }
}

impl<M: Filled> Drop for Fill<M> {
    fn drop(&mut self) {
        self.memory.fills().release(&self.range);
    }
}
