//! The state of each page of an extent, one bit of each of two bitmaps.
//!
//! ```text
//! present moving
//!    0      0     absent: must not be touched
//!    0      1     being allocated or freed by a kernel thread: must not be touched
//!    1      0     present: may be touched
//! ```

use core::ops::Range;

/// Page states of one extent.
pub(super) struct Pages {
    present: Box<[u64]>,
    moving: Box<[u64]>,
    count: u32,
}

impl Pages {
    /// `count` pages, all absent.
    pub(super) fn new(count: u32) -> Self {
        let words = (count as usize).div_ceil(u64::BITS as usize);
        Self { present: vec![0; words].into(), moving: vec![0; words].into(), count }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn present_count(&self) -> u32 {
        self.present.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether every page of the range may be touched.
    pub(super) fn all_present(&self, range: Range<u32>) -> bool {
        range.end <= self.count && range.into_iter().all(|page| is_set(&self.present, page))
    }

    /// Whether any page of the range is on its way.
    pub(super) fn any_moving(&self, range: Range<u32>) -> bool {
        range.into_iter().any(|page| is_set(&self.moving, page))
    }

    /// The first run of absent pages within `range`.
    pub(super) fn first_absent(&self, range: Range<u32>) -> Option<Range<u32>> {
        let absent = |page: &u32| !is_set(&self.present, *page) && !is_set(&self.moving, *page);
        let start = range.clone().find(absent)?;
        let end = (start..range.end).find(|page| !absent(page)).unwrap_or(range.end);
        Some(start..end)
    }

    /// Absent or present pages start to move.
    pub(super) fn depart(&mut self, range: Range<u32>) {
        for page in range {
            assert!(!is_set(&self.moving, page), "page {page} moves twice");
            clear(&mut self.present, page);
            set(&mut self.moving, page);
        }
    }

    /// Moving pages come to rest.
    pub(super) fn arrive(&mut self, range: Range<u32>, present: bool) {
        for page in range {
            assert!(is_set(&self.moving, page), "page {page} arrives without having moved");
            clear(&mut self.moving, page);
            if present {
                set(&mut self.present, page);
            }
        }
    }
}

fn is_set(words: &[u64], page: u32) -> bool {
    words[page as usize / 64] & (1 << (page % 64)) != 0
}

fn set(words: &mut [u64], page: u32) {
    words[page as usize / 64] |= 1 << (page % 64);
}

fn clear(words: &mut [u64], page: u32) {
    words[page as usize / 64] &= !(1 << (page % 64));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_absent_pages() {
        let mut pages = Pages::new(70);
        assert_eq!(pages.first_absent(0..70), Some(0..70));
        pages.depart(3..5);
        pages.depart(64..66);
        assert_eq!(pages.first_absent(0..70), Some(0..3));
        assert_eq!(pages.first_absent(3..70), Some(5..64));
        assert_eq!(pages.first_absent(64..66), None);
        assert!(pages.any_moving(60..65) && !pages.any_moving(5..64));
        pages.arrive(3..5, true);
        pages.arrive(64..66, false);
        assert!(pages.all_present(3..5) && !pages.all_present(3..6) && !pages.all_present(64..65));
        assert!(!pages.all_present(69..71), "no page past the end is present");
        assert_eq!(pages.present_count(), 2);
    }
}
