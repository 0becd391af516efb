//! How many requests a mount may have under way: found out, not configured.
//!
//! Additive increase, multiplicative decrease (Chiu and Jain 1989; TCP's congestion avoidance): a full round of good
//! answers, while at least half of the limit is in use, adds about one; a throttled or timed-out answer takes
//! [`DECREASE`] of it. Answers to requests that began before the last decrease do not decrease it again: a server that
//! refuses a hundred at once says one thing, not a hundred.
//!
//! [`Limiter`] decides and has neither clock nor lock; [`Gate`] is where tasks wait. The limit is never below 1 and
//! never above the mount's bound.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests under way that a mount begins with.
const START: usize = 64;
/// What is left of the limit after a decrease.
const DECREASE: f64 = 0.7;
/// Tasks that wait for their turn at one mount.
pub(super) const WAITING_MAX: usize = 16_384;

/// What the end of a request says about the load of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// It served the request.
    Served,
    /// It was asked too much.
    Overloaded,
    /// Nothing: the request was dropped, or failed for another reason.
    Unknown,
}

/// A request under way, as the limiter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    number: u64,
    /// Whether at least half of the limit was in use when this one began: less says nothing about what is too much.
    crowded: bool,
}

/// The limit, and who is under it.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: f64,
    max: usize,
    in_flight: usize,
    begun: u64,
    /// Requests with a lower number began before the last decrease.
    decreased_at: u64,
}

impl Limiter {
    pub(super) fn new(max: usize) -> Self {
        assert!(max > 0, "a limit of zero would let nothing through");
        Self { limit: START.min(max) as f64, max, in_flight: 0, begun: 0, decreased_at: 0 }
    }

    /// Requests that may be under way.
    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn begin(&mut self) -> Slot {
        self.in_flight += 1;
        self.begun += 1;
        Slot { number: self.begun, crowded: self.in_flight * 2 >= self.limit() }
    }

    pub(super) fn end(&mut self, slot: Slot, load: Load) {
        assert!(self.in_flight > 0, "a request ends that never began");
        self.in_flight -= 1;
        match load {
            Load::Served if slot.crowded => self.limit = (self.limit + 1.0 / self.limit).min(self.max as f64),
            Load::Overloaded if slot.number > self.decreased_at => {
                self.limit = (self.limit * DECREASE).max(1.0);
                self.decreased_at = self.begun;
            }
            Load::Served | Load::Overloaded | Load::Unknown => {}
        }
    }
}

/// Where requests wait until the limit lets them through, in the order in which they came.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct GateState {
    limiter: Limiter,
    /// Permits that exist, free or held. More than the limit only until enough of those that are held come back.
    permits: usize,
}

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Gate {
    pub(super) fn new(max: usize) -> Self {
        let limiter = Limiter::new(max);
        let permits = limiter.limit();
        let state = Mutex::new(GateState { limiter, permits });
        Self { state, permits: Arc::new(Semaphore::new(permits)), waiting: AtomicUsize::new(0) }
    }

    /// The limit, and how many are under it.
    pub(super) fn figures(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.limiter.limit(), state.limiter.in_flight())
    }

    /// Waits for a turn.
    pub(super) async fn enter(self: &Arc<Self>) -> Result<Entry, Full> {
        if let Some(entry) = self.try_enter() {
            return Ok(entry);
        }
        let _waiter = Waiter::enlist(&self.waiting)?;
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        Ok(self.entry(permit))
    }

    /// A turn, if there is one now.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Entry> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(self.entry(permit))
    }

    fn entry(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Entry {
        let slot = self.state.lock().limiter.begin();
        Entry { gate: Arc::clone(self), slot, permit: Some(permit), load: Load::Unknown }
    }

    fn leave(&self, slot: Slot, load: Load, permit: OwnedSemaphorePermit) {
        let mut state = self.state.lock();
        state.limiter.end(slot, load);
        let limit = state.limiter.limit();
        if limit < state.permits {
            permit.forget();
            state.permits -= 1;
            let excess = state.permits - limit.min(state.permits);
            state.permits -= self.permits.forget_permits(excess);
        } else {
            self.permits.add_permits(limit - state.permits);
            state.permits = limit;
            // The permit goes back to the semaphore when it is dropped.
        }
    }
}

/// Counts one task in the queue, for as long as it is there.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn enlist(waiting: &'a AtomicUsize) -> Result<Self, Full> {
        let waiter = Self(waiting);
        // Dropping the waiter takes it off the count again.
        if waiting.fetch_add(1, Relaxed) < WAITING_MAX { Ok(waiter) } else { Err(Full) }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A request under way. It ends when this is dropped, with [`Load::Unknown`] unless something else was said.
#[derive(Debug)]
pub(super) struct Entry {
    gate: Arc<Gate>,
    slot: Slot,
    /// None only while it is dropped.
    permit: Option<OwnedSemaphorePermit>,
    load: Load,
}

impl Entry {
    /// What the limiter learns when this ends.
    pub(super) fn note(&mut self, load: Load) {
        self.load = load;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let permit = self.permit.take().expect("an entry is dropped once");
        self.gate.leave(self.slot, self.load, permit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A server that serves so many requests at a time and refuses the others at once; each takes one round.
    struct Saturating {
        capacity: usize,
    }

    impl Saturating {
        /// One round of requests from a caller that always has more to ask; gives how many were served.
        fn round(&self, limiter: &mut Limiter) -> usize {
            let slots: Vec<_> = (0..limiter.limit()).map(|_| limiter.begin()).collect();
            let served = slots.len().min(self.capacity);
            for (i, slot) in slots.into_iter().enumerate() {
                limiter.end(slot, if i < self.capacity { Load::Served } else { Load::Overloaded });
            }
            served
        }
    }

    proptest! {
        /// Wherever it starts, it comes within a factor of what the server can do, uses most of it, and follows it
        /// down and up again.
        #[test]
        fn the_limit_converges_to_capacity_and_recovers(capacity in 2_usize..200, later in 2_usize..200) {
            let mut limiter = Limiter::new(256);
            for capacity in [capacity, later, capacity] {
                let server = Saturating { capacity };
                // Long enough to climb from one to the bound, by what the busier half of a round adds.
                (0..600).for_each(|_| { server.round(&mut limiter); });
                let mut served = 0;
                for _ in 0..100 {
                    served += server.round(&mut limiter);
                    prop_assert!(limiter.limit() * 2 >= capacity, "{} of {capacity}", limiter.limit());
                    prop_assert!(limiter.limit() <= capacity + 1, "{} of {capacity}", limiter.limit());
                }
                prop_assert!(served as f64 >= 0.75 * (100 * capacity) as f64, "{served} of {}", 100 * capacity);
            }
        }

        /// Any order of begins and ends keeps it between one and the bound.
        #[test]
        fn the_limit_keeps_its_bounds(max in 1_usize..40, steps in prop::collection::vec(0_u8..4, 0..400)) {
            let mut limiter = Limiter::new(max);
            let mut under_way = Vec::new();
            for step in steps {
                match (step, under_way.pop()) {
                    (0, slot) => {
                        under_way.extend(slot);
                        under_way.push(limiter.begin());
                    }
                    (_, None) => {}
                    (1, Some(slot)) => limiter.end(slot, Load::Served),
                    (2, Some(slot)) => limiter.end(slot, Load::Overloaded),
                    (_, Some(slot)) => limiter.end(slot, Load::Unknown),
                }
                prop_assert!((1..=max).contains(&limiter.limit()));
                prop_assert_eq!(limiter.in_flight(), under_way.len());
            }
        }
    }

    #[test]
    fn one_overload_counts_once() {
        let mut limiter = Limiter::new(64);
        let slots: Vec<_> = (0..64).map(|_| limiter.begin()).collect();
        slots.into_iter().for_each(|slot| limiter.end(slot, Load::Overloaded));
        assert_eq!(limiter.limit(), 44, "sixty-four refusals of one round are one decrease");
    }

    #[test]
    fn a_limit_that_holds_nobody_back_does_not_grow() {
        let mut limiter = Limiter::new(256);
        for _ in 0..10_000 {
            let slot = limiter.begin();
            limiter.end(slot, Load::Served);
        }
        assert_eq!(limiter.limit(), START);
    }

    /// The gate's permits follow the limit down to one, and up again, without losing or inventing any.
    #[tokio::test]
    async fn permits_follow_the_limit() {
        let gate = Arc::new(Gate::new(4));
        let end = |entry: Entry, load| {
            let mut entry = entry;
            entry.note(load);
        };
        for _ in 0..10 {
            end(gate.enter().await.unwrap(), Load::Overloaded);
        }
        assert_eq!(gate.figures(), (1, 0));
        let only = gate.enter().await.unwrap();
        assert!(gate.try_enter().is_none(), "a second one at a limit of one");
        let next = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.unwrap() }
        });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        end(only, Load::Served);
        end(next.await.unwrap(), Load::Served);
        for _ in 0..100 {
            let all: Vec<_> = std::iter::from_fn(|| gate.try_enter()).collect();
            assert_eq!(all.len(), gate.figures().0);
            all.into_iter().for_each(|entry| end(entry, Load::Served));
        }
        assert_eq!(gate.figures(), (4, 0));
    }

    /// Entries held while the limit falls are given up as they end, not kept beside the new limit.
    #[tokio::test]
    async fn held_permits_are_paid_back() {
        let gate = Arc::new(Gate::new(8));
        let held: Vec<_> = std::iter::from_fn(|| gate.try_enter()).collect();
        assert_eq!(held.len(), 8);
        for mut entry in held {
            entry.note(Load::Overloaded);
        }
        let limit = gate.figures().0;
        assert_eq!(limit, 5);
        assert_eq!(std::iter::from_fn(|| gate.try_enter()).collect::<Vec<_>>().len(), limit);
    }
}
