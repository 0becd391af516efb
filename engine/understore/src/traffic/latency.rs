//! How long requests took: a histogram with fixed logarithmic buckets.
//!
//! ```text
//!  bucket     0        1        2      …      20        21
//!  below   128 µs   256 µs   512 µs    …    134 s    for ever
//! ```
//! A quantile is the upper bound of the bucket it falls into, so it is never too low and at most twice too high: who
//! waits for it before acting (a hedge) waits long enough.

use std::time::Duration;

/// Buckets of a histogram, the last one without an upper bound.
pub const LATENCY_BUCKETS: usize = 22;
/// Microseconds below which the first bucket ends.
const FIRST_BOUND_US: u64 = 128;

/// Counts of latencies by bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latencies {
    /// How many fell into each bucket.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Microseconds of all of them together.
    pub sum_us: u64,
}

/// The bucket of a latency.
pub(super) fn bucket_of(latency: Duration) -> usize {
    let doublings = (micros(latency) / FIRST_BOUND_US).checked_ilog2().map_or(0, |log| log as usize + 1);
    doublings.min(LATENCY_BUCKETS - 1)
}

pub(super) fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}

impl Latencies {
    /// What `bucket` is below; `None` for the last one.
    pub fn upper_bound(bucket: usize) -> Option<Duration> {
        (bucket + 1 < LATENCY_BUCKETS).then(|| Duration::from_micros(FIRST_BOUND_US << bucket))
    }

    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        let count = &mut self.buckets[bucket_of(latency)];
        *count = count.saturating_add(1);
        self.sum_us = self.sum_us.saturating_add(micros(latency));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    /// A time that at least `share` of them were below; `None` if there are none, or the slowest bucket has it.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Self::upper_bound(bucket);
            }
        }
        None
    }

    /// Halves all counts, so that what is old weighs less than what is new.
    pub fn age(&mut self) {
        self.buckets.iter_mut().for_each(|count| *count /= 2);
        self.sum_us /= 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_latency_has_the_first_bucket_above_it() {
        for us in [0, 1, 127, 128, 129, 255, 256, 134_217_727, 134_217_728, u64::MAX] {
            let latency = Duration::from_micros(us);
            let naive = (0..LATENCY_BUCKETS).find(|i| Latencies::upper_bound(*i).is_none_or(|bound| latency < bound));
            assert_eq!(Some(bucket_of(latency)), naive, "{us} µs");
        }
    }

    proptest! {
        /// Against sorting them all: never below the true quantile, and at most twice above it.
        #[test]
        fn a_quantile_is_at_most_one_bucket_high(
            mut us in prop::collection::vec(128_u64..100_000_000, 1..200),
            share in 0.01_f64..1.0,
        ) {
            let mut latencies = Latencies::default();
            us.iter().for_each(|us| latencies.record(Duration::from_micros(*us)));
            us.sort_unstable();
            let exact = us[((us.len() as f64 * share).ceil() as usize).max(1) - 1];
            let shown = micros(latencies.quantile(share).unwrap());
            prop_assert!(shown > exact && shown <= 2 * exact, "{shown} for {exact}");
        }
    }

    #[test]
    fn nothing_recorded_has_no_quantile_and_old_ones_fade() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.95), None);
        (0..5).for_each(|_| latencies.record(Duration::from_millis(1)));
        latencies.age();
        assert_eq!((latencies.count(), latencies.quantile(0.5)), (2, Some(Duration::from_micros(1024))));
    }
}
