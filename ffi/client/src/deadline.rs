//! When a call must end, and how long it waits between attempts.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::time::Instant;

/// The first wait between two attempts; each next one is up to twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The longest wait between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The moment at which a call gives up, with the time that it was allowed for messages.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    allowed: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(allowed: Duration) -> Self {
        // A century stands for "never" where the clock cannot count further.
        let at = Instant::now();
        Self { at: at.checked_add(allowed).unwrap_or(at + Duration::from_secs(100 * 365 * 86_400)), allowed }
    }

    /// What is left, unless nothing is.
    pub fn remaining(&self) -> Option<Duration> {
        self.at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// What was allowed in all.
    pub fn allowed(&self) -> Duration {
        self.allowed
    }

    /// The moment itself.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }
}

/// Waits that grow, with jitter so that clients that failed together do not return together.
#[derive(Debug)]
pub(crate) struct Backoff {
    deadline: Deadline,
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new(deadline: Deadline) -> Self {
        Self { deadline, pause: PAUSE_MIN }
    }

    /// Sleeps before the next attempt. `false`, at once, if the deadline leaves no time for one.
    pub(crate) fn pause(&mut self) -> bool {
        let pause = self.pause / 2 + self.pause.mul_f64(unit_random() / 2.0);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        match self.deadline.remaining() {
            Some(left) if left > pause => {
                std::thread::sleep(pause);
                true
            }
            _ => false,
        }
    }
}

/// A number in [0, 1) that differs between calls, threads and processes; good for jitter and nothing else.
fn unit_random() -> f64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let mut x = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) ^ u64::from(std::process::id());
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pause_outlives_the_deadline() {
        let mut backoff = Backoff::new(Deadline::after(Duration::from_millis(30)));
        let mut attempts = 0;
        while backoff.pause() {
            attempts += 1;
            assert!(attempts < 30, "pauses of at least a millisecond");
        }
        assert!(attempts >= 1);
    }

    #[test]
    fn an_endless_deadline_does_not_overflow() {
        assert!(Deadline::after(Duration::MAX).remaining().is_some());
    }

    #[test]
    fn jitter_stays_in_its_interval_and_varies() {
        let values: Vec<f64> = (0..1000).map(|_| unit_random()).collect();
        assert!(values.iter().all(|v| (0.0..1.0).contains(v)));
        assert!(values.iter().filter(|v| **v < 0.5).count() > 300);
        assert!(values.iter().filter(|v| **v >= 0.5).count() > 300);
    }
}
