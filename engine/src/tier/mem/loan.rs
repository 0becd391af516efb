//! Lending a range of a block to another thread, so that bytes from a network are copied once, off the shard's core.
//!
//! Two halves of one loan: [`Lent`] crosses to the other thread and is the only way to write the range; [`Loan`] stays
//! with the shard and holds the [`SpanMut`], whose keep holds the memory. They share one flag.
//!
//! ```text
//! shard                                   other thread
//! lend(span) -> (Lent, Loan)   --Lent-->  copy into lent.bytes_mut()
//!                                         drop(lent): flag.store(true, Release)
//! loan.reclaim(): flag.load(Acquire) is true
//!   -> the SpanMut, with what was written
//! ```
//!
//! Why it is sound: before the store, only `Lent` reaches the range, because its `SpanMut` is locked in the `Loan`, and
//! `bytes_mut` borrows the `Lent`, so no slice outlives the store. After a load that saw it, the release/acquire pair
//! orders every write before every use by the shard. No other word is shared, so there is nothing else to interleave.
//! The memory outlives `Lent` because no path drops an unreturned span: a dropped `Loan` leaves it with [`Loans`], and
//! [`Loans`] that go while something is out leak it.

use crate::ring::SpanMut;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Ranges of one shard that other threads may hold at a time.
pub const LOANS_MAX: usize = 1024;

/// A range of a block in another thread's hands. Dropping it gives it back.
pub struct Lent {
    start: NonNull<u8>,
    len: usize,
    returned: Arc<AtomicBool>,
}

// SAFETY: the range is reached through this value alone until it is dropped (see the module), so moving it to another
// thread moves the whole right.
unsafe impl Send for Lent {}
// SAFETY: a shared `Lent` gives only shared slices of the range.
unsafe impl Sync for Lent {}

impl Lent {
    /// The bytes to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped, initialised and ours alone until drop, by the module's argument.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The bytes, as they are now.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as in `bytes_mut`; `&self` excludes our own writes.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Bytes of the range.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.returned.store(true, Ordering::Release);
    }
}

/// The shard's loans.
#[derive(Clone, Default)]
pub struct Loans {
    ledger: Rc<Ledger>,
}

#[derive(Default)]
struct Ledger {
    outstanding: Cell<usize>,
    /// Loans that nobody on the shard waits for any more.
    abandoned: RefCell<Vec<Held>>,
}

struct Held {
    span: SpanMut,
    returned: Arc<AtomicBool>,
}

impl Held {
    fn is_returned(&self) -> bool {
        self.returned.load(Ordering::Acquire)
    }
}

impl Loans {
    /// Lends `span` out; gives it back when [`LOANS_MAX`] are out already.
    pub fn lend(&self, span: SpanMut) -> Result<(Lent, Loan), SpanMut> {
        if self.ledger.outstanding.get() >= LOANS_MAX {
            self.collect();
        }
        if self.ledger.outstanding.get() >= LOANS_MAX {
            return Err(span);
        }
        self.ledger.outstanding.set(self.ledger.outstanding.get() + 1);
        let returned = Arc::new(AtomicBool::new(false));
        let lent = Lent { start: span.start(), len: span.len(), returned: Arc::clone(&returned) };
        Ok((lent, Loan { held: Some(Held { span, returned }), ledger: Rc::clone(&self.ledger) }))
    }

    /// Loans not settled yet.
    pub fn outstanding(&self) -> usize {
        self.ledger.outstanding.get()
    }

    /// Settles abandoned loans that have come back; says how many. Call it now and then, and when memory is short.
    pub fn collect(&self) -> usize {
        let back: Vec<Held> = self.ledger.abandoned.borrow_mut().extract_if(.., |held| held.is_returned()).collect();
        self.ledger.outstanding.set(self.ledger.outstanding.get() - back.len());
        // The spans are dropped here, with no borrow held.
        back.len()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        for held in self.abandoned.take() {
            if !held.is_returned() {
                std::mem::forget(held.span);
            }
        }
    }
}

/// The shard's half of a loan.
pub struct Loan {
    /// Taken by `reclaim` or drop.
    held: Option<Held>,
    ledger: Rc<Ledger>,
}

impl Loan {
    /// The span with what was written, if the other thread has dropped its half; else the loan.
    pub fn reclaim(mut self) -> Result<SpanMut, Self> {
        if !self.held.as_ref().is_some_and(Held::is_returned) {
            return Err(self);
        }
        let held = self.held.take().expect("just seen");
        self.ledger.outstanding.set(self.ledger.outstanding.get() - 1);
        Ok(held.span)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        if held.is_returned() {
            self.ledger.outstanding.set(self.ledger.outstanding.get() - 1);
        } else {
            self.ledger.abandoned.borrow_mut().push(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Weak;
    use std::sync::mpsc;

    fn watched(len: usize) -> (SpanMut, Weak<Vec<u8>>) {
        let mut owner = Rc::new(vec![0u8; len]);
        let start = NonNull::from(Rc::get_mut(&mut owner).unwrap().as_mut_slice()).cast();
        let weak = Rc::downgrade(&owner);
        // SAFETY: the vector lives as long as the keep, is initialised, and nothing else touches it.
        (unsafe { SpanMut::new(start, len, owner) }, weak)
    }

    #[test]
    fn another_thread_writes_and_the_shard_reads() {
        let loans = Loans::default();
        for round in 0..200u8 {
            let (mut lent, mut loan) = loans.lend(SpanMut::from(vec![0; 4096])).ok().unwrap();
            let writer = std::thread::spawn(move || lent.bytes_mut().fill(round));
            let span = loop {
                match loan.reclaim() {
                    Ok(span) => break span,
                    Err(still_out) => loan = still_out,
                }
                std::thread::yield_now();
            };
            assert!(span.bytes().iter().all(|byte| *byte == round));
            writer.join().unwrap();
        }
        assert_eq!(loans.outstanding(), 0);
    }

    #[test]
    fn memory_outlives_a_loan_that_nobody_waits_for() {
        let loans = Loans::default();
        let (span, weak) = watched(64);
        let (lent, loan) = loans.lend(span).ok().unwrap();
        drop(loan);
        assert_eq!((loans.collect(), loans.outstanding()), (0, 1));
        assert!(weak.upgrade().is_some(), "the other thread still has it");
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lent = lent;
            lent.bytes_mut()[0] = 1;
            drop(lent);
            done.send(()).unwrap();
        });
        finished.recv().unwrap();
        assert_eq!((loans.collect(), loans.outstanding()), (1, 0));
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn memory_outlives_even_the_shard() {
        let (span, weak) = watched(64);
        let loans = Loans::default();
        let (mut lent, loan) = loans.lend(span).ok().unwrap();
        drop(loans);
        drop(loan);
        assert!(weak.strong_count() > 0, "leaked rather than freed under a writer");
        lent.bytes_mut().fill(7);
    }

    #[test]
    fn loans_are_bounded() {
        let loans = Loans::default();
        let mut out: Vec<_> = (0..LOANS_MAX).map(|_| loans.lend(SpanMut::from(vec![0])).ok().unwrap()).collect();
        assert!(loans.lend(SpanMut::from(vec![0])).is_err());
        drop(out.pop());
        assert!(loans.lend(SpanMut::from(vec![0])).is_ok(), "one that came back makes room");
    }
}
