//! The sizes that slab objects are rounded up to.
//!
//! Four sizes a doubling, so at most a fifth of a slot is wasted; whole sectors, so that a sector's checksum covers one
//! object. The slots of a size lie in runs of pages, long enough that at most an eighth of a run is left over.

use citius_wire::units::{PAGE_BYTES, SECTOR_BYTES, SECTORS_PER_PAGE};

/// Objects of this many bytes and more get a memfd of their own.
pub const OBJECT_BYTES_MAX: usize = 8 << 20;

/// Sizes up to this many sectors are all there.
const SECTORS_EXACT_MAX: usize = 8;
const STEPS_PER_DOUBLING: usize = 4;
/// Number of size classes.
pub(super) const CLASSES: usize =
    SECTORS_EXACT_MAX + STEPS_PER_DOUBLING * (OBJECT_BYTES_MAX / SECTOR_BYTES / SECTORS_EXACT_MAX).ilog2() as usize;
/// Pages of the longest run.
pub(super) const RUN_PAGES_MAX: usize = 8;
/// Slots of the fullest run.
pub(super) const RUN_SLOTS_MAX: usize = SECTORS_PER_PAGE;
/// The most of a run that may be left over, one part in this many.
const RUN_WASTE_PART: usize = 8;

/// One of the sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SizeClass(u8);

impl SizeClass {
    /// The least size that holds `bytes`.
    ///
    /// # Panics
    /// If `bytes` is not below [`OBJECT_BYTES_MAX`].
    pub(super) fn of(bytes: usize) -> Self {
        assert!(bytes < OBJECT_BYTES_MAX, "an object of {bytes} bytes belongs in a block");
        let sectors = bytes.div_ceil(SECTOR_BYTES).max(1);
        if sectors <= SECTORS_EXACT_MAX {
            return Self(sectors as u8 - 1);
        }
        // Sizes above 2^k come in steps of 2^k / 4.
        let doubling = (sectors - 1).ilog2();
        let step = (1usize << doubling) / STEPS_PER_DOUBLING;
        let within = (sectors - (1 << doubling)).div_ceil(step);
        let first = SECTORS_EXACT_MAX + (doubling - SECTORS_EXACT_MAX.ilog2()) as usize * STEPS_PER_DOUBLING;
        Self((first + within - 1) as u8)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Bytes of a slot.
    pub(super) fn bytes(self) -> usize {
        let index = self.index();
        let sectors = if index < SECTORS_EXACT_MAX {
            index + 1
        } else {
            let above = index - SECTORS_EXACT_MAX;
            let base = SECTORS_EXACT_MAX << (above / STEPS_PER_DOUBLING);
            base + (above % STEPS_PER_DOUBLING + 1) * base / STEPS_PER_DOUBLING
        };
        sectors * SECTOR_BYTES
    }

    /// Pages of a run of this size.
    pub(super) fn run_pages(self) -> u32 {
        let fits = |pages: &u32| {
            let run = *pages as usize * PAGE_BYTES;
            run >= self.bytes() && (run % self.bytes()) * RUN_WASTE_PART <= run
        };
        (1..=RUN_PAGES_MAX as u32).find(fits).expect("some run of at most RUN_PAGES_MAX pages fits every size")
    }

    /// Slots in a run of this size.
    pub(super) fn run_slots(self) -> u16 {
        (self.run_pages() as usize * PAGE_BYTES / self.bytes()) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_fits_tightly() {
        let mut before = SizeClass(0);
        for sectors in 1..OBJECT_BYTES_MAX / SECTOR_BYTES {
            for bytes in [sectors * SECTOR_BYTES - 1, sectors * SECTOR_BYTES] {
                let class = SizeClass::of(bytes);
                assert!(class.bytes() >= bytes, "{bytes} in {}", class.bytes());
                assert!(class.bytes() - bytes < SECTOR_BYTES + bytes / 4, "{bytes} in {}", class.bytes());
                assert!(class.0 == before.0 || class.0 == before.0 + 1, "sizes grow one by one at {bytes}");
                before = class;
            }
        }
        assert_eq!(before.index(), CLASSES - 1);
        assert_eq!(before.bytes(), OBJECT_BYTES_MAX);
        assert_eq!(SizeClass::of(0), SizeClass(0));
    }

    #[test]
    fn runs_waste_little() {
        for class in (0..CLASSES as u8).map(SizeClass) {
            let run = class.run_pages() as usize * PAGE_BYTES;
            let used = usize::from(class.run_slots()) * class.bytes();
            assert!(used <= run && (run - used) * RUN_WASTE_PART <= run, "{} in {run}", class.bytes());
            assert!(usize::from(class.run_slots()) <= RUN_SLOTS_MAX && class.run_slots() > 0);
        }
    }
}
