//! What a mount costs its under-store, as workers tell masters and masters tell users.
//!
//! The kinds of failures and operations are places in arrays, so that a new one is a new protocol; their names stand
//! here, for metrics and JSON.

use crate::ids::MountId;
use rkyv::{Archive, Deserialize, Serialize};

/// Names of the kinds of failures, in the order of [`MountTraffic::failures`].
pub const FAILURE_NAMES: [&str; 6] = ["unreachable", "timed_out", "broken", "throttled", "server", "refused"];
/// Names of the operations, in the order of [`MountTraffic::latencies`].
pub const OPERATION_NAMES: [&str; 5] = ["read", "write", "stat", "list", "change"];
/// Buckets of a [`Latency`], the last one without an upper bound.
pub const LATENCY_BUCKETS: usize = 22;
/// Microseconds below which the first bucket ends; each next one ends at twice that.
const FIRST_BOUND_US: u64 = 128;

/// Times of requests, in logarithmic buckets. Most mounts are seldom asked for most operations, so what is zero behind
/// the slowest request is left out.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many fell into each bucket, at most [`LATENCY_BUCKETS`] of them.
    pub buckets: Vec<u64>,
    /// Microseconds of all of them together.
    pub sum_us: u64,
}

impl Latency {
    /// The counts of all buckets, of which the last zeros are left out.
    pub fn new(buckets: &[u64; LATENCY_BUCKETS], sum_us: u64) -> Self {
        let end = buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        Self { buckets: buckets[..end].to_vec(), sum_us }
    }

    /// The microseconds that a bucket is below; `None` for the last one.
    pub fn upper_bound_us(bucket: usize) -> Option<u64> {
        (bucket + 1 < LATENCY_BUCKETS).then(|| FIRST_BOUND_US << bucket)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Microseconds that `percent` of them were below, rounded up to the end of a bucket; `None` if there are none, or
    /// it lies in the last bucket.
    pub fn percentile_us(&self, percent: u64) -> Option<u64> {
        let wanted = u128::from(self.count()) * u128::from(percent);
        let mut seen = 0_u128;
        let reached = |count: &u64| {
            seen += u128::from(*count);
            seen > 0 && seen * 100 >= wanted
        };
        Self::upper_bound_us(self.buckets.iter().position(reached)?)
    }

    fn add(&mut self, more: &Self) {
        // Buckets beyond the last one mean nothing: these came over the wire.
        let known = more.buckets.len().min(LATENCY_BUCKETS);
        if self.buckets.len() < known {
            self.buckets.resize(known, 0);
        }
        for (sum, more) in self.buckets.iter_mut().zip(&more.buckets) {
            *sum = sum.saturating_add(*more);
        }
        self.sum_us = self.sum_us.saturating_add(more.sum_us);
    }
}

/// Whether a server is asked. Ordered from good to bad.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// It is.
    #[default]
    Closed,
    /// One request is finding out whether it is back.
    HalfOpen,
    /// It was silent, and is not.
    Open,
}

impl BreakerState {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// The traffic of one mount with its under-store. Counters are from the start of whoever counts; gauges are of now.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTraffic {
    /// Which mount.
    pub mount: MountId,
    /// Requests for the content of files, retries included.
    pub read_requests: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Requests of any other kind: metadata, listings, writes.
    pub other_requests: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Requests that were sent again after a failure.
    pub retries: u64,
    /// Retries that the mount's budget did not allow.
    pub retries_denied: u64,
    /// Second requests for slow reads.
    pub hedges: u64,
    /// Requests that were not sent, because the breaker was open.
    pub barred: u64,
    /// Requests that were not needed: a cache had the answer, or another's request brought it.
    pub saved_requests: u64,
    /// Failures, by the kinds of [`FAILURE_NAMES`].
    pub failures: [u64; FAILURE_NAMES.len()],
    /// Times from a request to the head of its answer, by the operations of [`OPERATION_NAMES`].
    pub latencies: [Latency; OPERATION_NAMES.len()],
    /// Gauge: requests that may be under way, of all who ask.
    pub concurrency_limit: u64,
    /// Gauge: requests under way.
    pub in_flight: u64,
    /// Gauge: the worst of all who ask.
    pub breaker: BreakerState,
    /// What it is that the breaker does not let pass; empty while it is closed.
    pub breaker_reason: String,
}

impl MountTraffic {
    /// Adds what somebody else counted of the same mount. A sum that would not fit stays at the most: these came over
    /// the wire.
    pub fn add(&mut self, more: &Self) {
        let sums = [
            (&mut self.read_requests, more.read_requests),
            (&mut self.read_bytes, more.read_bytes),
            (&mut self.other_requests, more.other_requests),
            (&mut self.write_bytes, more.write_bytes),
            (&mut self.retries, more.retries),
            (&mut self.retries_denied, more.retries_denied),
            (&mut self.hedges, more.hedges),
            (&mut self.barred, more.barred),
            (&mut self.saved_requests, more.saved_requests),
            (&mut self.concurrency_limit, more.concurrency_limit),
            (&mut self.in_flight, more.in_flight),
        ];
        for (sum, more) in sums.into_iter().chain(self.failures.iter_mut().zip(more.failures)) {
            *sum = sum.saturating_add(more);
        }
        for (sum, more) in self.latencies.iter_mut().zip(&more.latencies) {
            sum.add(more);
        }
        if more.breaker > self.breaker {
            self.breaker = more.breaker;
            self.breaker_reason.clone_from(&more.breaker_reason);
        }
    }

    /// Kinds of failures and how many there were.
    pub fn each_failure(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FAILURE_NAMES.into_iter().zip(self.failures)
    }

    /// Operations and how long they took.
    pub fn each_latency(&self) -> impl Iterator<Item = (&'static str, &Latency)> {
        OPERATION_NAMES.into_iter().zip(&self.latencies)
    }

    /// Failures of all kinds.
    pub fn failures_total(&self) -> u64 {
        self.failures.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_every_field_and_the_worst_breaker() {
        let latency = Latency { buckets: vec![0, 0, 0, 1], sum_us: 900 };
        let one = MountTraffic {
            mount: MountId(1),
            read_requests: 1,
            read_bytes: 2,
            other_requests: 3,
            write_bytes: 4,
            retries: 5,
            retries_denied: 6,
            hedges: 7,
            barred: 8,
            saved_requests: 9,
            failures: [10; FAILURE_NAMES.len()],
            latencies: core::array::from_fn(|_| latency.clone()),
            concurrency_limit: 11,
            in_flight: 12,
            breaker: BreakerState::Open,
            breaker_reason: "why".into(),
        };
        let mut sum = MountTraffic { mount: MountId(1), ..MountTraffic::default() };
        sum.add(&one);
        assert_eq!(sum, one);
        sum.add(&MountTraffic { breaker: BreakerState::HalfOpen, breaker_reason: "other".into(), ..one.clone() });
        assert_eq!((sum.in_flight, sum.failures[5], sum.latencies[4].count()), (24, 20, 2));
        assert_eq!((sum.breaker.name(), sum.breaker_reason.as_str(), sum.failures_total()), ("open", "why", 120));
        sum.add(&MountTraffic { read_bytes: u64::MAX, ..MountTraffic::default() });
        assert_eq!(sum.read_bytes, u64::MAX);
    }

    #[test]
    fn percentiles_are_ends_of_buckets() {
        let mut buckets = [0; LATENCY_BUCKETS];
        let mut latency = Latency::new(&buckets, 0);
        assert_eq!((latency.percentile_us(50), latency.percentile_us(0)), (None, None));
        assert_eq!(latency.buckets.len(), 0);
        (buckets[1], buckets[4]) = (99, 1);
        assert_eq!(Latency::new(&buckets, 0).buckets.len(), 5);
        (buckets[1], buckets[LATENCY_BUCKETS - 1]) = (98, 1);
        latency.add(&Latency::new(&buckets, 0));
        let at = |percent| latency.percentile_us(percent);
        assert_eq!((at(50), at(98), at(99), at(100)), (Some(256), Some(256), Some(2048), None));
        latency.add(&Latency { buckets: vec![u64::MAX; 1000], sum_us: 0 });
        assert_eq!(latency.buckets, [u64::MAX; LATENCY_BUCKETS]);
        assert_eq!((latency.count(), latency.percentile_us(1)), (u64::MAX, Some(128)));
    }
}
