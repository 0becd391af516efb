//! Bytes of a file as they lie in the worker's memory: nothing is copied.

use crate::error::Error;
use crate::file::File;
use crate::mapping::MappedBlock;
use core::fmt;
use core::ops::{Deref, Range};
use std::sync::Arc;

/// Verified bytes of one block, mapped from the worker that holds it. They stay valid, and never change, for as long
/// as the view lives, whatever becomes of the file, the worker or the client.
#[derive(Clone)]
pub struct View {
    /// None for a view of nothing.
    block: Option<Arc<MappedBlock>>,
    range: Range<usize>,
}

impl View {
    /// A view at or past the end of a file.
    pub(crate) fn empty() -> Self {
        Self { block: None, range: 0..0 }
    }

    /// A view of a range whose grains were verified.
    pub(crate) fn new(block: Arc<MappedBlock>, range: Range<usize>) -> Self {
        Self { block: Some(block), range }
    }

    /// A part of it, which holds the block as well.
    ///
    /// # Panics
    /// If `range` is not within the view.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len(), "{range:?} of {} bytes", self.range.len());
        let start = self.range.start;
        Self { block: self.block.clone(), range: start + range.start..start + range.end }
    }
}

impl Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], |block| block.verified(self.range.clone()))
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({} bytes)", self.range.len())
    }
}

/// Views of a range that may cross blocks, one for each block. After an error it ends.
#[derive(Debug)]
pub struct Views<'a> {
    file: &'a File,
    range: Range<u64>,
}

impl<'a> Views<'a> {
    pub(crate) fn new(file: &'a File, range: Range<u64>) -> Self {
        Self { file, range }
    }
}

impl Iterator for Views<'_> {
    type Item = Result<View, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        let length = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let view = self.file.view(self.range.start, length);
        match &view {
            Ok(view) if view.is_empty() => {
                self.range.start = self.range.end;
                return None;
            }
            Ok(view) => self.range.start += view.len() as u64,
            Err(_) => self.range.start = self.range.end,
        }
        Some(view)
    }
}
