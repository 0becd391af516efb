//! `/metrics`, in Prometheus' text form.
//!
//! Names begin with `citius_`. Labels are bounded: `worker` by the ring, `mount` by the mounts, `kind` and `operation` by the
//! protocol; no path, no file, no
//! client is ever a label.
//!
//! | name | what |
//! |---|---|
//! | `citius_master_up` | 1 while this master serves |
//! | `citius_master_uptime_seconds` | since it started |
//! | `citius_master_rpc_*` | connections and requests of the metadata RPC |
//! | `citius_master_cache_*` | the cache of under-store metadata |
//! | `citius_master_log_*` | the replicated log |
//! | `citius_master_inodes`, `_intents`, `_publications`, `_remains`, `_tasks` | what the log holds, and what waits |
//! | `citius_ring_epoch`, `citius_workers_live` | the ring |
//! | `citius_worker_*{worker}` | every counter of [`Counters`], from heartbeats |
//! | `citius_mount_*{mount}` | the traffic of workers and masters with an under-store: requests, bytes, retries, limit, breaker |
//! | `citius_mount_failures_total{mount,kind}` | requests without a good answer |
//! | `citius_mount_request_seconds{mount,operation}` | how long answers took, a histogram |

use std::fmt::Write;

use citius_wire::{Counters, LATENCY_BUCKETS, Latency, MountInfo, MountTraffic, WorkerInfo};

use crate::service::Service;

/// Counters of a worker that are of now, and may fall.
const GAUGES: [&str; 6] = [
    "memory_capacity_bytes",
    "memory_used_bytes",
    "memory_pinned_bytes",
    "memory_mapped_bytes",
    "blocks",
    "connections",
];

/// All metrics.
pub(super) fn text(service: &Service) -> String {
    let cluster = service.cluster_info();
    let mut page = Page::default();
    let up = u64::from(service.check_lease().is_ok());
    page.gauge("citius_master_up", "1 while this master serves", up);
    page.gauge("citius_master_uptime_seconds", "Seconds since this master started", cluster.uptime_ms / 1000);

    let rpc = service.rpc.figures();
    page.gauge("citius_master_rpc_connections", "Open connections", rpc.connections);
    page.counter("citius_master_rpc_accepted_total", "Connections accepted", rpc.accepted);
    page.counter("citius_master_rpc_turned_away_total", "Connections over the bound", rpc.turned_away);
    page.counter("citius_master_rpc_unauthenticated_total", "Connections without the right token", rpc.unauthenticated);
    page.counter("citius_master_rpc_bad_frames_total", "Connections closed for what was no frame", rpc.bad_frames);
    page.counter("citius_master_rpc_requests_total", "Requests received", rpc.requests);
    let words = "Requests that memory could not answer at once";
    page.counter("citius_master_rpc_requests_elsewhere_total", words, rpc.requests_elsewhere);

    let cache = service.cache_figures();
    page.counter("citius_master_cache_hits_total", "Questions answered from the cache", cache.hits);
    page.counter("citius_master_cache_misses_total", "Questions that went to an under-store", cache.misses);
    page.counter("citius_master_cache_joined_total", "Questions that shared another's answer", cache.joined);
    page.gauge("citius_master_cache_entries", "Entries in the cache", cache.entries);

    let log = service.raft.metrics();
    page.counter("citius_master_log_entries_total", "Entries of the log ever written", log.next_index);
    page.counter("citius_master_log_applied_total", "Entries of the log ever applied", log.applied_next_index);
    page.counter("citius_master_log_syncs_total", "Batches of writes synced since the start", log.syncs);
    let stopped = u64::from(service.raft.stopped_by().is_some());
    page.gauge("citius_master_log_stopped", "1 if an error stopped the log until the master is restarted", stopped);
    page.gauge("citius_master_log_bytes", "Size of the log's files", log.log_bytes);
    page.gauge("citius_master_snapshot_bytes", "Size of the last snapshot", log.snapshot_bytes);

    let (intents, publications, remains) = service.state(|state| {
        (state.intents().count() as u64, state.unsettled().count() as u64, state.remains().count() as u64)
    });
    page.gauge("citius_master_inodes", "Names that only the log knows", cluster.inodes);
    page.gauge("citius_master_intents", "Changes of names under way", intents);
    page.gauge("citius_master_publications", "Files being published", publications);
    page.gauge("citius_master_remains", "Aborted writes to be cleaned up after", remains);
    page.gauge("citius_master_tasks", "Tasks that wait for workers", service.tasks_waiting());
    page.gauge("citius_ring_epoch", "The epoch of the ring", cluster.epoch.0);
    let live = cluster.workers.iter().filter(|worker| worker.live).count() as u64;
    page.gauge("citius_workers_live", "Workers in the ring", live);

    page.workers(&cluster.workers);
    page.mounts(&cluster.mounts);
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        self.line(format_args!("{name} {value}"));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.line(format_args!("{name} {value}"));
    }

    fn workers(&mut self, workers: &[WorkerInfo]) {
        for (i, (field, _)) in Counters::default().each().enumerate() {
            let (kind, suffix) = if GAUGES.contains(&field) { ("gauge", "") } else { ("counter", "_total") };
            let name = format!("citius_worker_{field}{suffix}");
            self.head(&name, &format!("{} of a worker, from its heartbeats", field.replace('_', " ")), kind);
            for worker in workers {
                let value = worker.counters.each().nth(i).map_or(0, |(_, value)| value);
                self.line(format_args!("{name}{{worker=\"{}\"}} {value}", worker.worker));
            }
        }
        self.head("citius_worker_live", "1 while a worker is in the ring", "gauge");
        for worker in workers {
            self.line(format_args!("citius_worker_live{{worker=\"{}\"}} {}", worker.worker, u8::from(worker.live)));
        }
    }

    fn mounts(&mut self, mounts: &[MountInfo]) {
        let counters = [
            ("read_requests", "Requests for content"),
            ("read_bytes", "Bytes read from an under-store"),
            ("other_requests", "Requests of any other kind: metadata, listings, writes"),
            ("write_bytes", "Bytes written to an under-store"),
            ("retries", "Requests sent again after a failure"),
            ("retries_denied", "Retries that the budget did not allow"),
            ("hedges", "Second requests for slow reads"),
            ("barred_requests", "Requests not sent because the breaker was open"),
            ("saved_requests", "Requests that a cache or another request made needless"),
        ];
        let counts = |it: &MountTraffic| {
            [
                it.read_requests,
                it.read_bytes,
                it.other_requests,
                it.write_bytes,
                it.retries,
                it.retries_denied,
                it.hedges,
                it.barred,
                it.saved_requests,
            ]
        };
        for (i, (field, help)) in counters.into_iter().enumerate() {
            self.by_mount(&format!("citius_mount_{field}_total"), help, "counter", mounts, |it| counts(it)[i]);
        }
        let limit = "Requests that may be under way now, of all who ask";
        self.by_mount("citius_mount_concurrency_limit", limit, "gauge", mounts, |it| it.concurrency_limit);
        self.by_mount("citius_mount_requests_in_flight", "Requests under way", "gauge", mounts, |it| it.in_flight);
        let breaker =
            "0 while the server is asked, 1 while one request finds out whether it is back, 2 while none is sent";
        self.by_mount("citius_mount_breaker", breaker, "gauge", mounts, |it| it.breaker as u64);
        self.failures(mounts);
        self.latencies(mounts);
    }

    /// One series for each mount.
    fn by_mount(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        mounts: &[MountInfo],
        read: impl Fn(&MountTraffic) -> u64,
    ) {
        self.head(name, help, kind);
        for mount in mounts {
            self.line(format_args!("{name}{{mount=\"{}\"}} {}", escaped(&mount.path), read(&mount.traffic)));
        }
    }

    fn failures(&mut self, mounts: &[MountInfo]) {
        let name = "citius_mount_failures_total";
        self.head(name, "Requests without a good answer", "counter");
        for mount in mounts {
            let path = escaped(&mount.path);
            for (kind, count) in mount.traffic.each_failure() {
                self.line(format_args!("{name}{{mount=\"{path}\",kind=\"{kind}\"}} {count}"));
            }
        }
    }

    fn latencies(&mut self, mounts: &[MountInfo]) {
        let name = "citius_mount_request_seconds";
        self.head(name, "Time from a request to the head of its answer", "histogram");
        for mount in mounts {
            let path = escaped(&mount.path);
            // An operation that was never asked for has no times; its series begins with the first.
            for (operation, latency) in mount.traffic.each_latency().filter(|(_, latency)| latency.count() > 0) {
                let labels = format!("mount=\"{path}\",operation=\"{operation}\"");
                let mut below = 0_u64;
                for bucket in 0..LATENCY_BUCKETS {
                    below = below.saturating_add(latency.buckets.get(bucket).copied().unwrap_or(0));
                    let bound = Latency::upper_bound_us(bucket).map(|us| (us as f64 / 1e6).to_string());
                    let bound = bound.as_deref().unwrap_or("+Inf");
                    self.line(format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {below}"));
                }
                self.line(format_args!("{name}_sum{{{labels}}} {}", latency.sum_us as f64 / 1e6));
                self.line(format_args!("{name}_count{{{labels}}} {below}"));
            }
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a string takes all");
    }
}

/// A label's value: mount paths may hold anything.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_counters_by_name_and_labels_are_escaped() {
        let known: Vec<&str> = Counters::default().each().map(|(name, _)| name).collect();
        assert!(GAUGES.iter().all(|gauge| known.contains(gauge)), "{known:?}");
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
