//! What this master's stores counted, in the words of the wire.

use citius_understore::TrafficTotals;
use citius_wire::{BreakerState, Latency, MountId, MountTraffic};

/// The traffic of a mount.
pub(crate) fn of_mount(mount: MountId, totals: TrafficTotals) -> MountTraffic {
    MountTraffic {
        mount,
        read_requests: totals.reads,
        read_bytes: totals.bytes_read,
        other_requests: totals.requests.saturating_sub(totals.reads),
        write_bytes: totals.bytes_written,
        retries: totals.retries,
        retries_denied: totals.retries_denied,
        hedges: totals.hedges,
        barred: totals.barred,
        saved_requests: totals.saved,
        failures: totals.failures,
        latencies: totals.latencies.map(|it| Latency::new(&it.buckets, it.sum_us)),
        concurrency_limit: totals.concurrency_limit,
        in_flight: totals.in_flight,
        breaker: match totals.breaker {
            citius_understore::BreakerState::Closed => BreakerState::Closed,
            citius_understore::BreakerState::HalfOpen => BreakerState::HalfOpen,
            citius_understore::BreakerState::Open => BreakerState::Open,
        },
        breaker_reason: totals.breaker_reason,
    }
}

#[cfg(test)]
mod tests {
    use citius_understore::{Failure, Latencies, Operation};
    use citius_wire::{FAILURE_NAMES, LATENCY_BUCKETS, OPERATION_NAMES};

    use super::*;

    /// Counts cross the wire by their place: both sides must mean the same by it.
    #[test]
    fn places_and_bounds_mean_the_same_on_both_sides() {
        assert_eq!(Failure::ALL.map(Failure::name), FAILURE_NAMES);
        assert_eq!(Operation::ALL.map(Operation::name), OPERATION_NAMES);
        for bucket in 0..LATENCY_BUCKETS {
            let bound_us = Latencies::upper_bound(bucket).map(|bound| bound.as_micros() as u64);
            assert_eq!(bound_us, Latency::upper_bound_us(bucket));
        }
    }
}
