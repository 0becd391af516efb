//! `citius cluster`.

use super::mount;
use crate::args::Reach;
use crate::error::CliError;
use crate::output::{human_bytes, json_line, shown, table};
use citius_client::{Client, ClusterInfo, WorkerInfo};
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// Shows the cluster.
pub(crate) fn run(client: &Client, reach: &Reach) -> Result<(), CliError> {
    let cluster = client.cluster()?;
    let mut out = io::stdout().lock();
    if reach.json {
        json_line(&mut out, &to_json(&cluster))?;
    } else {
        print(&cluster, &mut out)?;
    }
    Ok(())
}

fn print(cluster: &ClusterInfo, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "cluster {}  release {}  epoch {}  up {} s",
        cluster.cluster,
        cluster.release,
        cluster.epoch,
        cluster.uptime_ms / 1000
    )?;
    writeln!(out, "master  {}  http://{}", cluster.rpc_address, cluster.http_address)?;
    for warning in &cluster.warnings {
        writeln!(out, "warning: {}", shown(warning))?;
    }
    let workers = cluster.workers.iter().map(|worker| {
        let counters = &worker.counters;
        let reads = counters.hits + counters.misses;
        vec![
            worker.worker.to_string(),
            worker.data_address.clone(),
            if worker.live { "live".to_owned() } else { format!("lost {} s ago", worker.seen_ms_ago / 1000) },
            worker.shards.to_string(),
            worker.backing.clone(),
            format!("{} of {}", human_bytes(counters.memory_used_bytes), human_bytes(counters.memory_capacity_bytes)),
            if reads == 0 { "-".to_owned() } else { format!("{:.1}%", 100.0 * counters.hits as f64 / reads as f64) },
        ]
    });
    writeln!(out)?;
    write!(out, "{}", table(&["worker", "data", "state", ">shards", "memory is", ">memory", ">hits"], workers))?;
    writeln!(out)?;
    write!(out, "{}", mount::as_table(&cluster.mounts))
}

fn to_json(cluster: &ClusterInfo) -> Value {
    json!({
        "cluster": cluster.cluster.to_string(),
        "release": cluster.release,
        "epoch": cluster.epoch.0,
        "endpoints": { "rpc": cluster.rpc_address, "http": cluster.http_address },
        "uptime_ms": cluster.uptime_ms,
        "applied_index": cluster.applied_index,
        "inodes": cluster.inodes,
        "workers": cluster.workers.iter().map(worker_json).collect::<Vec<_>>(),
        "mounts": cluster.mounts.iter().map(mount::to_json).collect::<Vec<_>>(),
        "warnings": cluster.warnings,
    })
}

fn worker_json(worker: &WorkerInfo) -> Value {
    let counters: Map<String, Value> =
        worker.counters.each().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    json!({
        "id": worker.worker.to_string(),
        "incarnation": worker.incarnation.0,
        "data": worker.data_address,
        "live": worker.live,
        "seen_ms_ago": worker.seen_ms_ago,
        "shards": worker.shards,
        "backing": worker.backing,
        "tiers": { "mem": {
            "capacity_bytes": worker.counters.memory_capacity_bytes,
            "used_bytes": worker.counters.memory_used_bytes,
            "pinned_bytes": worker.counters.memory_pinned_bytes,
        } },
        "counters": counters,
    })
}
