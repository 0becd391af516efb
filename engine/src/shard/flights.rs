//! Who waits for fetches of a block, and what a failed fetch tells them.
//!
//! The index says which grains are on their way; this says when something about a block's grains has changed. A waiter
//! looks again after each change: its grains may be valid, or missing because their fetch failed, and then it is told
//! why instead of trying for ever.

use crate::tier::mem::Changes;
use citius_wire::{BlockId, Failure};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The blocks with fetches under way.
#[derive(Default)]
pub(crate) struct Flights {
    blocks: RefCell<HashMap<BlockId, Rc<Airport>>>,
}

/// What is known of the fetches of one block.
#[derive(Default)]
struct Airport {
    changes: Changes,
    flying: Cell<u32>,
    failures: Cell<u64>,
    last: RefCell<Option<Failure>>,
}

/// A place from which to wait for changes of one block.
pub(crate) struct Wait {
    airport: Rc<Airport>,
    failures: u64,
}

impl Flights {
    /// A fetch of the block begins. End it with [`Flights::landed`].
    pub(crate) fn departed(&self, block: BlockId) {
        let mut blocks = self.blocks.borrow_mut();
        let airport = blocks.entry(block).or_default();
        airport.flying.set(airport.flying.get() + 1);
    }

    /// A fetch of the block ended; everybody who waits looks again.
    pub(crate) fn landed(&self, block: BlockId, result: Result<(), Failure>) {
        let mut blocks = self.blocks.borrow_mut();
        let Some(airport) = blocks.get(&block).map(Rc::clone) else { return };
        airport.flying.set(airport.flying.get() - 1);
        if airport.flying.get() == 0 {
            blocks.remove(&block);
        }
        drop(blocks);
        if let Err(failure) = result {
            airport.failures.set(airport.failures.get() + 1);
            *airport.last.borrow_mut() = Some(failure);
        }
        airport.changes.notify();
    }

    /// Prepares to wait for the next landing of the block; `None` if nothing flies.
    pub(crate) fn wait(&self, block: BlockId) -> Option<Wait> {
        let airport = Rc::clone(self.blocks.borrow().get(&block)?);
        let failures = airport.failures.get();
        Some(Wait { airport, failures })
    }
}

impl Wait {
    /// Waits for the next landing since this was made.
    ///
    /// # Errors
    /// What the fetch failed with, if one did.
    pub(crate) async fn landing(self) -> Result<(), Failure> {
        if self.airport.failures.get() == self.failures && self.airport.flying.get() > 0 {
            self.airport.changes.next().await;
        }
        if self.airport.failures.get() > self.failures {
            let last = self.airport.last.borrow().clone();
            return Err(last.expect("a failure is kept when it is counted"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use citius_wire::{FileKey, Status};
    use futures::FutureExt;

    const BLOCK: BlockId = BlockId { file: FileKey([1; 16]), index: 0 };

    #[test]
    fn waiters_hear_of_success_and_of_failure() {
        let flights = Flights::default();
        assert!(flights.wait(BLOCK).is_none());
        flights.departed(BLOCK);
        flights.departed(BLOCK);
        let (first, second) = (flights.wait(BLOCK).unwrap(), flights.wait(BLOCK).unwrap());
        let mut first = Box::pin(first.landing());
        assert!(first.as_mut().now_or_never().is_none());
        flights.landed(BLOCK, Ok(()));
        assert_eq!(first.now_or_never(), Some(Ok(())));
        flights.landed(BLOCK, Err(Failure::new(Status::VersionChanged, "x")));
        assert_eq!(second.landing().now_or_never().unwrap().unwrap_err().status, Status::VersionChanged);
        assert!(flights.wait(BLOCK).is_none(), "nothing flies any more");
    }

    #[test]
    fn an_old_failure_is_not_told_to_who_comes_later() {
        let flights = Flights::default();
        flights.departed(BLOCK);
        flights.departed(BLOCK);
        flights.landed(BLOCK, Err(Failure::new(Status::UnderStore, "x")));
        let wait = flights.wait(BLOCK).unwrap();
        flights.landed(BLOCK, Ok(()));
        assert_eq!(wait.landing().now_or_never(), Some(Ok(())));
    }
}
