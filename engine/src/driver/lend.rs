//! Lending a complete block to another thread for reading: to the publisher, which sends it to an under-store.
//!
//! The other half of the same idea as [`crate::tier::mem::Loans`]: [`Lent`] crosses, the shard keeps the [`Span`] that
//! holds the memory, and one flag says when it is over. A complete block is written by nobody, so both sides may read
//! at once. A ledger that goes while something is out leaks it rather than free it under a reader.

use crate::ring::Span;
use crate::store::verify_sectors;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks that may be out at once: what a publisher stages ahead, for many files.
pub(crate) const LENT_MAX: usize = 4096;

/// A complete block in another thread's hands. Dropping it gives it back.
pub(crate) struct Lent {
    start: *const u8,
    length: usize,
    crcs: Box<[u32]>,
    returned: Arc<AtomicBool>,
}

// SAFETY: the bytes are immutable and mapped until `returned` is set, which only dropping this value does; so it may be
// read from any thread, and from several.
#[allow(unsafe_code)]
unsafe impl Send for Lent {}
// SAFETY: as for Send; a shared `Lent` gives shared slices of immutable bytes.
#[allow(unsafe_code)]
unsafe impl Sync for Lent {}

impl AsRef<[u8]> for Lent {
    #[allow(unsafe_code)]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped and immutable while this value lives: the ledger holds the span, and it is of a complete block.
        unsafe { core::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Lent {
    /// Compares the bytes with the checksums that were computed as they came in. Whoever sends them on calls this, for
    /// what the under-store gets has no other check.
    ///
    /// # Errors
    /// The number of the first sector that differs.
    pub(crate) fn verify(&self) -> Result<(), usize> {
        verify_sectors(self.as_ref(), &self.crcs)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.returned.store(true, Ordering::Release);
    }
}

/// What is out, on the shard's side.
#[derive(Default)]
pub(crate) struct Ledger {
    out: RefCell<Vec<(Span, Arc<AtomicBool>)>>,
}

impl Ledger {
    /// Lends a span of a complete block with its checksums; `None` when [`LENT_MAX`] are out.
    ///
    /// The caller says that nobody writes these bytes any more: the block is complete.
    pub(crate) fn lend(&self, span: Span, crcs: Box<[u32]>) -> Option<Lent> {
        self.collect();
        let mut out = self.out.borrow_mut();
        if out.len() >= LENT_MAX {
            return None;
        }
        let returned = Arc::new(AtomicBool::new(false));
        let lent = Lent { start: span.as_ptr(), length: span.len(), crcs, returned: Arc::clone(&returned) };
        out.push((span, returned));
        Some(lent)
    }

    /// Whether something is out.
    pub(crate) fn is_out(&self) -> bool {
        !self.out.borrow().is_empty()
    }

    /// Lets go of what has come back.
    pub(crate) fn collect(&self) {
        let back: Vec<_> =
            self.out.borrow_mut().extract_if(.., |(_, returned)| returned.load(Ordering::Acquire)).collect();
        // The spans are dropped here, with no borrow held: that may release the memory of a block.
        drop(back);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        for (span, returned) in self.out.take() {
            if !returned.load(Ordering::Acquire) {
                std::mem::forget(span);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sector_crcs;

    #[test]
    fn damage_is_found_before_it_is_sent_on() {
        let ledger = Ledger::default();
        let (good, mut bytes) = (vec![7; 10_000], vec![7; 10_000]);
        bytes[9_000] ^= 1;
        let lent = ledger.lend(Span::from(bytes), sector_crcs(&good).into()).unwrap();
        assert_eq!(lent.verify(), Err(2));
    }

    #[test]
    fn read_elsewhere_and_given_back() {
        let ledger = Ledger::default();
        let lent = ledger.lend(Span::from(vec![7; 100]), sector_crcs(&[7; 100]).into()).unwrap();
        assert_eq!(lent.verify(), Ok(()));
        ledger.collect();
        assert!(ledger.is_out());
        let sum = std::thread::spawn(move || lent.as_ref().iter().map(|&byte| u32::from(byte)).sum::<u32>());
        assert_eq!(sum.join().unwrap(), 700);
        ledger.collect();
        assert!(!ledger.is_out());
    }

    #[test]
    fn bounded_and_never_freed_under_a_reader() {
        let ledger = Ledger::default();
        let lent: Vec<_> = (0..LENT_MAX).map(|_| ledger.lend(Span::from(vec![1]), Box::default()).unwrap()).collect();
        assert!(ledger.lend(Span::from(vec![1]), Box::default()).is_none());
        drop(ledger);
        assert!(lent.iter().all(|lent| lent.as_ref() == [1]));
    }
}
