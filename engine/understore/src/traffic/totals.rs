//! What a mount has cost its under-store so far: requests, bytes, failures, time.
//!
//! Counters only grow and are relaxed: they are shown to people, and nothing is decided by them.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    BreakerState, FAILURES, Failure, LATENCY_BUCKETS, Latencies,
    latency::{bucket_of, micros},
};

/// Kinds of [`Operation`].
pub const OPERATIONS: usize = 5;

/// What a request is for, as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Content of files is received.
    Read,
    /// Content of files is sent or published.
    Write,
    /// One name is asked about.
    Stat,
    /// Many names are.
    List,
    /// Names are changed: deleted, copied, made.
    Change,
}

impl Operation {
    /// Every kind, in the order of [`TrafficTotals::latencies`].
    pub const ALL: [Self; OPERATIONS] = [Self::Read, Self::Write, Self::Stat, Self::List, Self::Change];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Change => "change",
        }
    }
}

/// The counters of one store, shared by everything that talks to it.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) requests: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) retries_denied: AtomicU64,
    pub(super) hedges: AtomicU64,
    pub(super) barred: AtomicU64,
    pub(super) saved: AtomicU64,
    failures: [AtomicU64; FAILURES],
    latencies: [SharedLatencies; OPERATIONS],
}

#[derive(Debug, Default)]
struct SharedLatencies {
    buckets: [AtomicU64; LATENCY_BUCKETS],
    sum_us: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficTotals {
    /// Requests sent, retries and second requests included; for `file:` the calls of the store's operations.
    pub requests: u64,
    /// Of these, requests for the content of files.
    pub reads: u64,
    /// Bytes of file content received.
    pub bytes_read: u64,
    /// Bytes of file content sent.
    pub bytes_written: u64,
    /// Requests that were sent again after a failure.
    pub retries: u64,
    /// Retries that the mount's budget did not allow.
    pub retries_denied: u64,
    /// Second requests for slow reads.
    pub hedges: u64,
    /// Requests that were not sent, because the breaker was open.
    pub barred: u64,
    /// Requests that were not needed: answered from a cache, or by joining another's.
    pub saved: u64,
    /// Failures by kind, in the order of [`Failure::ALL`]; each try counts.
    pub failures: [u64; FAILURES],
    /// Time from a request to the head of its answer, good or bad, in the order of [`Operation::ALL`].
    pub latencies: [Latencies; OPERATIONS],
    /// Gauge: requests that may be under way now; zero where no network is in between.
    pub concurrency_limit: u64,
    /// Gauge: requests under way.
    pub in_flight: u64,
    /// Gauge: whether the server is asked.
    pub breaker: BreakerState,
    /// Why it is not; empty if it is.
    pub breaker_reason: String,
}

impl Totals {
    pub(super) fn fail(&self, failure: Failure) {
        self.failures[failure as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn time(&self, operation: Operation, latency: Duration) {
        let latencies = &self.latencies[operation as usize];
        latencies.buckets[bucket_of(latency)].fetch_add(1, Relaxed);
        latencies.sum_us.fetch_add(micros(latency), Relaxed);
    }

    /// The counters; gauges are not ours.
    pub(super) fn snapshot(&self) -> TrafficTotals {
        TrafficTotals {
            requests: self.requests.load(Relaxed),
            reads: self.reads.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            retries: self.retries.load(Relaxed),
            retries_denied: self.retries_denied.load(Relaxed),
            hedges: self.hedges.load(Relaxed),
            barred: self.barred.load(Relaxed),
            saved: self.saved.load(Relaxed),
            failures: self.failures.each_ref().map(|count| count.load(Relaxed)),
            latencies: self.latencies.each_ref().map(|shared| Latencies {
                buckets: shared.buckets.each_ref().map(|count| count.load(Relaxed)),
                sum_us: shared.sum_us.load(Relaxed),
            }),
            ..TrafficTotals::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters are found by the place of a kind in its list.
    #[test]
    fn kinds_stand_at_their_index() {
        assert!(Operation::ALL.into_iter().enumerate().all(|(i, operation)| operation as usize == i));
        assert!(Failure::ALL.into_iter().enumerate().all(|(i, failure)| failure as usize == i));
    }

    #[test]
    fn what_is_counted_is_shown() {
        let totals = Totals::default();
        totals.fail(Failure::Throttled);
        totals.time(Operation::List, Duration::from_millis(1));
        let shown = totals.snapshot();
        assert_eq!(shown.failures, [0, 0, 0, 1, 0, 0]);
        assert_eq!(shown.latencies.map(|latencies| latencies.count()), [0, 0, 0, 1, 0]);
        assert_eq!(shown.latencies[3].sum_us, 1000);
    }
}
