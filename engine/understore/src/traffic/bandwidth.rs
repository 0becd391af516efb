//! How fast bytes of a mount may flow, where its owner sets a rate.
//!
//! A token bucket that may go into debt: bytes that are here already are taken at once, and the pause after them pays.
//! So a transfer of any size passes, and no more than the rate and [`BURST`] of it flow in any span of time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What may flow at once after a time of rest, in seconds of the rate.
const BURST: f64 = 0.25;

/// The decision. Pure.
#[derive(Debug)]
pub(super) struct Bucket {
    bytes_per_second: f64,
    /// Bytes that may flow now; negative when they flowed already.
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(bytes_per_second: u64, now: Instant) -> Self {
        assert!(bytes_per_second > 0, "a rate of zero would let nothing through");
        let bytes_per_second = bytes_per_second as f64;
        Self { bytes_per_second, tokens: bytes_per_second * BURST, filled: now }
    }

    /// Takes bytes, and gives how long to pause for them.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let idle = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + idle * self.bytes_per_second).min(self.bytes_per_second * BURST);
        self.tokens -= bytes as f64;
        // What does not fit a duration is as good as for ever.
        Duration::try_from_secs_f64((-self.tokens / self.bytes_per_second).max(0.0)).unwrap_or(Duration::MAX)
    }
}

/// One direction of a mount.
#[derive(Debug)]
pub(super) struct Pace(Option<Mutex<Bucket>>);

impl Pace {
    /// A cap, or none.
    pub(super) fn new(bytes_per_second: Option<u64>, now: Instant) -> Self {
        Self(bytes_per_second.map(|rate| Mutex::new(Bucket::new(rate, now))))
    }

    /// Takes bytes; `None` if nothing needs to be waited for.
    pub(super) fn take(&self, bytes: u64) -> Option<Duration> {
        let bucket = self.0.as_ref()?;
        let pause = bucket.lock().take(bytes, tokio::time::Instant::now().into_std());
        (!pause.is_zero()).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Senders that keep to the pauses they are told, however large their pieces, keep to the rate.
        #[test]
        fn the_rate_is_kept_and_used(
            rate in 1_000_u64..1_000_000_000,
            pieces in prop::collection::vec(1_u64..10_000_000, 1..100),
        ) {
            let start = Instant::now();
            let (mut bucket, mut now) = (Bucket::new(rate, start), start);
            for bytes in &pieces {
                now += bucket.take(*bytes, now);
            }
            let (sent, seconds) = (pieces.iter().sum::<u64>() as f64, (now - start).as_secs_f64());
            let most = rate as f64 * (seconds + BURST);
            prop_assert!(sent <= most * 1.000_001 + 1.0, "{sent} bytes in {seconds} s at {rate}");
            prop_assert!(seconds == 0.0 || sent >= most * 0.999_999 - 1.0, "{sent} bytes in {seconds} s at {rate}");
        }
    }

    #[test]
    fn rest_is_not_saved_up() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        assert_eq!(bucket.take(250, start), Duration::ZERO);
        assert_eq!(bucket.take(1000, start), Duration::from_secs(1));
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(250, later), Duration::ZERO);
        assert_eq!(bucket.take(500, later), Duration::from_millis(500));
    }
}
