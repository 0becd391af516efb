//! `/api/v1/status`: the cluster as JSON. The names are the wire's.

use citius_wire::{ClusterInfo, MountInfo, WorkerInfo};
use serde_json::{Map, Value, json};

/// The document.
pub(super) fn json(cluster: &ClusterInfo) -> Value {
    json!({
        "cluster": cluster.cluster.to_string(),
        "release": cluster.release,
        "epoch": cluster.epoch.0,
        "rpc_address": cluster.rpc_address,
        "http_address": cluster.http_address,
        "uptime_ms": cluster.uptime_ms,
        "applied_index": cluster.applied_index,
        "inodes": cluster.inodes,
        "workers": cluster.workers.iter().map(worker).collect::<Vec<_>>(),
        "mounts": cluster.mounts.iter().map(mount).collect::<Vec<_>>(),
        "warnings": cluster.warnings,
    })
}

fn worker(worker: &WorkerInfo) -> Value {
    let counters: Map<String, Value> =
        worker.counters.each().map(|(name, value)| (name.to_owned(), value.into())).collect();
    json!({
        "worker": worker.worker.to_string(),
        // As text: a JavaScript number holds 53 bits.
        "incarnation": worker.incarnation.to_string(),
        "data_address": worker.data_address,
        "shards": worker.shards,
        "backing": worker.backing,
        "live": worker.live,
        "seen_ms_ago": worker.seen_ms_ago,
        "counters": counters,
    })
}

fn mount(mount: &MountInfo) -> Value {
    let options: Map<String, Value> =
        mount.options.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    json!({
        "mount": mount.mount.0,
        "path": mount.path,
        "uri": mount.uri,
        "options": options,
        "read_only": mount.read_only,
        "sync_interval_ms": mount.sync_interval_ms,
        "read_requests": mount.traffic.read_requests,
        "read_bytes": mount.traffic.read_bytes,
        "other_requests": mount.traffic.other_requests,
        "write_bytes": mount.traffic.write_bytes,
        "retries": mount.traffic.retries,
        "failures": mount.traffic.failures_total(),
        "concurrency_limit": mount.traffic.concurrency_limit,
        "in_flight": mount.traffic.in_flight,
        "breaker": mount.traffic.breaker.name(),
        "breaker_reason": mount.traffic.breaker_reason,
    })
}
