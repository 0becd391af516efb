//! What this worker's stores counted, in the words of the wire.

use citius_understore::TrafficTotals;
use citius_wire::{BreakerState, Latency, MountId, MountTraffic};

/// The traffic of a mount.
pub(super) fn of_mount(mount: MountId, totals: TrafficTotals) -> MountTraffic {
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
