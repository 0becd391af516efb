//! Whether and when a request is tried again. The only place that decides it.
//!
//! - [`may_repeat`]: which failures of which requests.
//! - [`Patience`]: how often and how long one call goes on, with exponential backoff and full jitter (Brooker,
//!   "Exponential Backoff and Jitter", AWS Architecture Blog 2015); a server's Retry-After is the least that is waited.
//! - [`Budget`]: a token bucket of the whole mount, so that a dead server is asked little more than by first tries.
//!
//! Time and chance come in as parameters.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::Failure;

/// The longest pause before the first retry; it doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause before any retry, unless the server asks for a longer one.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Retries that each request adds to the budget.
const BUDGET_PER_REQUEST: f64 = 0.2;
/// Retries that each second adds to the budget, so that a mount that is seldom asked is not left without any.
const BUDGET_PER_SECOND: f64 = 1.0;
/// Retries that the budget holds at most, and at the start.
const BUDGET_MAX: f64 = 100.0;

/// What repeating a request can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Nothing that one of them would not have done; also where the caller recognizes its own work in a refusal.
    Harmless,
    /// Harm, if the first one was carried out and only its answer was lost.
    Harmful,
    /// It is not possible: what is sent is spent with the first try.
    Never,
}

/// Whether a request that failed so may be sent again.
pub(super) fn may_repeat(failure: Failure, repeat: Repeat) -> bool {
    match failure {
        Failure::Unreachable | Failure::Throttled => repeat != Repeat::Never,
        Failure::TimedOut | Failure::Broken | Failure::Server => repeat == Repeat::Harmless,
        Failure::Refused => false,
    }
}

/// How long one call is tried.
#[derive(Debug)]
pub(super) struct Patience {
    retries_left: u32,
    backoff: Duration,
    deadline: Instant,
}

impl Patience {
    pub(super) fn new(retries_max: u32, deadline: Instant) -> Self {
        Self { retries_left: retries_max, backoff: BACKOFF_FIRST, deadline }
    }

    /// Whether nothing was tried a second time.
    pub(super) fn is_fresh(&self) -> bool {
        self.backoff == BACKOFF_FIRST
    }

    /// When no retry begins any more.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How long to wait before the next try; `None` if there is to be none. `chance` is uniform in 0..1.
    pub(super) fn next(&mut self, retry_after: Option<Duration>, now: Instant, chance: f64) -> Option<Duration> {
        self.retries_left = self.retries_left.checked_sub(1)?;
        let pause = self.backoff.mul_f64(chance).max(retry_after.unwrap_or_default());
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        // A time that does not fit the clock is behind every deadline.
        let next = now.checked_add(pause)?;
        (next < self.deadline).then_some(pause)
    }
}

/// What a mount may spend on retries.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: f64,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: BUDGET_MAX, filled: now }
    }

    /// A request, not a retry, was made.
    pub(super) fn deposit(&mut self) {
        self.tokens = (self.tokens + BUDGET_PER_REQUEST).min(BUDGET_MAX);
    }

    /// Whether there may be one more retry now; it is paid for at once.
    pub(super) fn withdraw(&mut self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + idle * BUDGET_PER_SECOND).min(BUDGET_MAX);
        self.filled = self.filled.max(now);
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

/// Chance for those outside the pure parts: SplitMix64 (Steele, Lea and Flood 2014) from a random seed.
#[derive(Debug)]
pub(super) struct Dice(AtomicU64);

impl Dice {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one("backoff")))
    }

    /// Uniform in 0..1.
    pub(super) fn roll(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.0.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_may_have_happened_is_not_repeated_where_that_harms() {
        let repeated = |repeat| Failure::ALL.into_iter().filter(move |failure| may_repeat(*failure, repeat));
        assert_eq!(repeated(Repeat::Harmful).collect::<Vec<_>>(), [Failure::Unreachable, Failure::Throttled]);
        assert_eq!(repeated(Repeat::Harmless).count(), Failure::ALL.len() - 1);
        assert_eq!(repeated(Repeat::Never).count(), 0);
        assert!(!may_repeat(Failure::Refused, Repeat::Harmless));
    }

    proptest! {
        /// Pauses have their bounds, are never shorter than the server asks, and end before the deadline.
        #[test]
        fn one_call_is_tried_so_often_and_so_long(
            retries_max in 0_u32..20,
            patience_ms in 0_u64..60_000,
            steps in prop::collection::vec((0.0_f64..1.0, prop::option::of(0_u64..20_000)), 30),
        ) {
            let start = Instant::now();
            let deadline = start + Duration::from_millis(patience_ms);
            let (mut patience, mut now, mut retries) = (Patience::new(retries_max, deadline), start, 0);
            for (chance, after) in steps {
                let after = after.map(Duration::from_millis);
                let Some(pause) = patience.next(after, now, chance) else { break };
                retries += 1;
                let backoff = BACKOFF_FIRST.mul_f64(f64::from(1 << (retries - 1).min(20))).min(BACKOFF_MAX);
                prop_assert!(pause >= after.unwrap_or_default());
                prop_assert!(pause <= backoff.max(after.unwrap_or_default()));
                now += pause;
                prop_assert!(now < deadline);
            }
            prop_assert!(retries <= retries_max);
        }

        /// Ten thousand requests to a server that never answers well, each as patient as can be: what is sent on top
        /// of the first tries is the named share, the reserve, and one a second.
        #[test]
        fn the_budget_bounds_the_retries_of_a_dead_server(gap_ms in 0_u64..20) {
            const REQUESTS: u64 = 10_000;
            let start = Instant::now();
            let (mut budget, mut now, mut retries) = (Budget::new(start), start, 0);
            for _ in 0..REQUESTS {
                budget.deposit();
                now += Duration::from_millis(gap_ms);
                let mut patience = Patience::new(10, now + Duration::from_secs(3600));
                while patience.next(None, now, 0.5).is_some() && budget.withdraw(now) {
                    retries += 1;
                }
            }
            let seconds = (now - start).as_secs_f64();
            let most = BUDGET_PER_REQUEST * REQUESTS as f64 + BUDGET_MAX + seconds * BUDGET_PER_SECOND;
            prop_assert!(f64::from(retries) <= most, "{retries} retries, at most {most}");
            prop_assert!(f64::from(retries) >= 0.9 * (most - BUDGET_MAX), "{retries} retries: the budget is not usable");
        }
    }

    #[test]
    fn a_pause_beyond_every_clock_is_no_retry() {
        let now = Instant::now();
        let mut patience = Patience::new(1, now + Duration::from_secs(60));
        assert_eq!(patience.next(Some(Duration::MAX), now, 0.0), None);
    }

    #[test]
    fn a_spent_budget_comes_back_with_time() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        while budget.withdraw(start) {}
        assert!(!budget.withdraw(start + Duration::from_millis(900)));
        assert!(budget.withdraw(start + Duration::from_millis(1100)));
    }

    #[test]
    fn dice_are_fair_enough() {
        let dice = Dice::new();
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            tenths[(dice.roll() * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (800..1200).contains(count)), "{tenths:?}");
    }
}
