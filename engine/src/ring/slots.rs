//! The table of operations that the kernel has not finished with.
//!
//! ```text
//!            insert                 complete               take
//! Vacant ------------> Waiting ---------------> Done ---------------> Vacant
//!                        | future dropped
//!                        v            complete
//!                      Orphan ------------------------------------> Vacant
//! Vacant ------------> Detached ----------------------------------> Vacant
//! ```
//!
//! Invariants: a slot holds its guard from before the kernel sees the operation until after its completion was read; a
//! slot's index is the operation's `user_data` and is not reused before that completion. Nothing here drops a guard:
//! what a guard's release runs may come back to the ring, so guards are handed out and dropped by a caller that holds
//! no borrow.

use super::span::Keep;
use std::io;
use std::task::Waker;

/// Operations in flight on one ring: one for each idle connection, and what a stuck device may pin.
pub(super) const OPS_IN_FLIGHT_MAX: usize = 65_536;

/// What to run with a detached operation's result.
pub(super) type Done = Box<dyn FnOnce(io::Result<u32>)>;

/// What the kernel may still use: the descriptor's owner and the memory's.
#[derive(Default)]
#[expect(dead_code, reason = "what a guard holds is dropped and never looked at")]
pub(super) struct Guard {
    pub(super) fd: Option<Keep>,
    pub(super) memory: Option<Keep>,
    /// Whether the operation ends when a peer acts, which may be never.
    pub(super) waits_for_peer: bool,
}

enum Slot {
    Vacant { next: Option<u32> },
    Waiting { guard: Guard, waker: Option<Waker> },
    Orphan { guard: Guard },
    Detached { guard: Guard, done: Done },
    Done { result: i32 },
}

/// What a completion set free. The caller runs and drops it with no borrow held.
#[derive(Default)]
pub(super) struct Finished {
    pub(super) guard: Guard,
    pub(super) waker: Option<Waker>,
    pub(super) done: Option<Done>,
}

#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    vacant: Option<u32>,
    in_flight: usize,
}

impl Slots {
    /// Operations whose completion has not been read.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Operations in flight that end by themselves: all but those that a future waits for and a peer has to end.
    pub(super) fn ending(&self) -> usize {
        let is_ending = |slot: &&Slot| match slot {
            Slot::Waiting { guard, .. } => !guard.waits_for_peer,
            // An orphan that waited for a peer is being cancelled.
            Slot::Orphan { .. } | Slot::Detached { .. } => true,
            Slot::Vacant { .. } | Slot::Done { .. } => false,
        };
        self.slots.iter().filter(is_ending).count()
    }

    /// Takes a slot for an operation that a future waits for, or that `done` is told of; gives both back when full.
    pub(super) fn insert(&mut self, guard: Guard, done: Option<Done>) -> Result<u32, (Guard, Option<Done>)> {
        if self.in_flight >= OPS_IN_FLIGHT_MAX {
            return Err((guard, done));
        }
        let slot = match done {
            Some(done) => Slot::Detached { guard, done },
            None => Slot::Waiting { guard, waker: None },
        };
        self.in_flight += 1;
        match self.vacant {
            Some(index) => {
                let Slot::Vacant { next } = self.slots[index as usize] else {
                    unreachable!("free list names a slot in use")
                };
                self.vacant = next;
                self.slots[index as usize] = slot;
                Ok(index)
            }
            None => {
                self.slots.push(slot);
                Ok(self.slots.len() as u32 - 1)
            }
        }
    }

    /// Undoes `insert` for an operation that never reached the kernel.
    pub(super) fn withdraw(&mut self, index: u32) -> (Guard, Option<Done>) {
        let finished = self.complete(index, 0);
        if matches!(self.slots[index as usize], Slot::Done { .. }) {
            self.vacate(index);
        }
        (finished.guard, finished.done)
    }

    /// Records the completion of an operation and hands out what it held.
    ///
    /// # Panics
    /// If the slot has no operation in flight: the kernel and the table disagree, and memory may already be in danger.
    pub(super) fn complete(&mut self, index: u32, result: i32) -> Finished {
        let slot = std::mem::replace(&mut self.slots[index as usize], Slot::Done { result });
        self.in_flight -= 1;
        match slot {
            Slot::Waiting { guard, waker } => Finished { guard, waker, done: None },
            Slot::Orphan { guard } => {
                self.vacate(index);
                Finished { guard, ..Finished::default() }
            }
            Slot::Detached { guard, done } => {
                self.vacate(index);
                Finished { guard, waker: None, done: Some(done) }
            }
            Slot::Vacant { .. } | Slot::Done { .. } => panic!("a second completion of operation {index}"),
        }
    }

    /// The result if the operation is done (the slot is then free); else remembers whom to wake, and hands back the
    /// waker that was there before.
    pub(super) fn poll(&mut self, index: u32, waker: &Waker) -> Result<i32, Option<Waker>> {
        match &mut self.slots[index as usize] {
            Slot::Done { result } => {
                let result = *result;
                self.vacate(index);
                Ok(result)
            }
            Slot::Waiting { waker: present, .. } => match present {
                Some(same) if same.will_wake(waker) => Err(None),
                _ => Err(present.replace(waker.clone())),
            },
            _ => unreachable!("a future polls only its own operation"),
        }
    }

    /// Forgets the future of an operation. True if the operation is still in flight, so that cancelling it has a point.
    pub(super) fn orphan(&mut self, index: u32) -> (bool, Option<Waker>) {
        match std::mem::replace(&mut self.slots[index as usize], Slot::Done { result: 0 }) {
            Slot::Waiting { guard, waker } => {
                self.slots[index as usize] = Slot::Orphan { guard };
                (true, waker)
            }
            Slot::Done { .. } => {
                self.vacate(index);
                (false, None)
            }
            _ => unreachable!("a future drops only its own operation"),
        }
    }

    /// Ends every operation that never completed, for a ring that is going away: futures see `ECANCELED`. The guards
    /// come back for the caller to leak, because the kernel may still use what they hold.
    pub(super) fn abandon(&mut self) -> Vec<Finished> {
        let mut left = Vec::new();
        for index in 0..self.slots.len() as u32 {
            if !matches!(self.slots[index as usize], Slot::Vacant { .. } | Slot::Done { .. }) {
                left.push(self.complete(index, -libc::ECANCELED));
            }
        }
        left
    }

    fn vacate(&mut self, index: u32) {
        self.slots[index as usize] = Slot::Vacant { next: self.vacant };
        self.vacant = Some(index);
    }
}
