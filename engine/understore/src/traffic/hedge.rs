//! A second request for the slow tail of reads ("hedged requests": Dean and Barroso, "The Tail at Scale", 2013).
//!
//! A read that has no answer after the time in which [`PATIENCE`] of this mount's reads had one is asked a second time;
//! the first good answer wins. Off unless the mount asks for it, because it costs requests: never more than
//! [`SHARE_MAX`] of the reads, whatever the latencies are.

use std::time::Duration;

use super::Latencies;

/// Share of reads that are faster than those that get a second request.
const PATIENCE: f64 = 0.95;
/// Second requests for each read, at most.
const SHARE_MAX: f64 = 0.05;
/// Second requests that may be made in a row after a time without any.
const SAVED_MAX: f64 = 10.0;
/// Reads to be seen before the first second request: fewer have no tail to speak of.
const SAMPLES_MIN: u64 = 100;
/// Reads after which what is known counts half.
const SAMPLES_MAX: u64 = 2000;

/// What is known of a mount's reads. Pure.
#[derive(Debug, Default)]
pub(super) struct Hedger {
    latencies: Latencies,
    tokens: f64,
}

impl Hedger {
    /// A read begins. Gives how long to wait before a second request; `None` if there is to be none.
    pub(super) fn begin(&mut self) -> Option<Duration> {
        self.tokens = (self.tokens + SHARE_MAX).min(SAVED_MAX);
        if self.latencies.count() < SAMPLES_MIN { None } else { self.latencies.quantile(PATIENCE) }
    }

    /// Whether the second request may be made, now that it would be.
    pub(super) fn may_send(&mut self) -> bool {
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }

    /// A read was answered after so long.
    pub(super) fn record(&mut self, latency: Duration) {
        self.latencies.record(latency);
        if self.latencies.count() >= SAMPLES_MAX {
            self.latencies.age();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Also where every read is slower than all before it, so that each would want a second request.
        #[test]
        fn the_load_grows_by_no_more_than_the_share(latencies_ms in prop::collection::vec(1_u64..60_000, 1..5000)) {
            let mut hedger = Hedger::default();
            let (mut reads, mut hedges) = (0, 0);
            for ms in latencies_ms {
                reads += 1;
                let latency = Duration::from_millis(ms);
                if hedger.begin().is_some_and(|delay| latency > delay) && hedger.may_send() {
                    hedges += 1;
                }
                hedger.record(latency);
                prop_assert!(f64::from(hedges) <= f64::from(reads) * SHARE_MAX, "{hedges} of {reads}");
            }
        }
    }

    #[test]
    fn the_tail_and_only_the_tail_is_asked_twice() {
        let mut hedger = Hedger::default();
        for _ in 0..SAMPLES_MIN {
            assert_eq!(hedger.begin(), None, "too little is known");
            hedger.record(Duration::from_millis(3));
        }
        assert_eq!(hedger.begin(), Some(Duration::from_micros(4096)));
        // One in thirty takes a second: the wait is still that of the others.
        for i in 0..3000 {
            hedger.record(if i % 30 == 0 { Duration::from_secs(1) } else { Duration::from_millis(3) });
        }
        assert_eq!(hedger.begin(), Some(Duration::from_micros(4096)));
        // The server has become slower for good, and that is soon known.
        (0..SAMPLES_MAX * 4).for_each(|_| hedger.record(Duration::from_millis(50)));
        assert!(hedger.begin().unwrap() > Duration::from_millis(50));
    }
}
