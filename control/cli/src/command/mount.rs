//! `citius mount add`, `set`, `ls`, `rm`.

use crate::args::{MountCommand, Reach};
use crate::error::CliError;
use crate::output::{human_bytes, json_line, shown, table};
use crate::serve::mounts::{add_request, read_options};
use citius_client::{Client, MountInfo, MountTraffic};
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// Does what was asked about mounts.
pub(crate) fn run(client: &Client, reach: &Reach, command: &MountCommand) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match command {
        MountCommand::Add(args) => {
            let (path, uri, options) = add_request(args)?;
            tell(&mut out, reach, &client.mount_add(&path, &uri, options)?)?;
        }
        MountCommand::Set(args) => {
            let options = read_options(&args.options)?;
            tell(&mut out, reach, &client.mount_set(&args.path, options, args.unset.clone())?)?;
        }
        MountCommand::Ls => {
            let mounts = client.mounts()?;
            if reach.json {
                for mount in &mounts {
                    json_line(&mut out, &to_json(mount))?;
                }
            } else {
                write!(out, "{}", as_table(&mounts))?;
            }
        }
        MountCommand::Check(_) => unreachable!("it needs no connection, and was done before there was one"),
        MountCommand::Rm { path } => client.mount_remove(path)?,
    }
    Ok(())
}

/// Tells of a mount that was added or changed.
fn tell(out: &mut impl Write, reach: &Reach, mount: &MountInfo) -> io::Result<()> {
    if reach.json {
        json_line(out, &to_json(mount))
    } else if !reach.quiet {
        writeln!(out, "{} -> {}", shown(&mount.path), shown(&mount.uri))
    } else {
        Ok(())
    }
}

/// Mounts for people.
pub(crate) fn as_table(mounts: &[MountInfo]) -> String {
    table(
        &["path", "under-store", "access", "sync", ">requests", ">failures", ">read", ">written"],
        mounts.iter().map(|mount| {
            let traffic = &mount.traffic;
            vec![
                shown(&mount.path),
                shown(&mount.uri),
                if mount.read_only { "read-only" } else { "read-write" }.to_owned(),
                match mount.sync_interval_ms {
                    -1 => "never".to_owned(),
                    0 => "always".to_owned(),
                    ms => format!("{} s", ms as f64 / 1000.0),
                },
                (traffic.read_requests + traffic.other_requests).to_string(),
                traffic.failures_total().to_string(),
                human_bytes(traffic.read_bytes),
                human_bytes(traffic.write_bytes),
            ]
        }),
    )
}

/// A mount for programs: no secret is in what the master tells.
pub(crate) fn to_json(mount: &MountInfo) -> Value {
    let options: Map<String, Value> =
        mount.options.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect();
    json!({
        "id": mount.mount.0,
        "path": mount.path,
        "uri": mount.uri,
        "options": options,
        "read_only": mount.read_only,
        "sync_interval_ms": mount.sync_interval_ms,
        "under_store": traffic_json(&mount.traffic),
    })
}

fn traffic_json(traffic: &MountTraffic) -> Value {
    let failures: Map<String, Value> =
        traffic.each_failure().map(|(kind, count)| (kind.to_owned(), count.into())).collect();
    // Nothing is known of operations that were never asked for.
    let latencies: Map<String, Value> = traffic
        .each_latency()
        .filter(|(_, latency)| latency.count() > 0)
        .map(|(operation, latency)| {
            let times = json!({
                "requests": latency.count(),
                "p50_us": latency.percentile_us(50),
                "p99_us": latency.percentile_us(99),
            });
            (operation.to_owned(), times)
        })
        .collect();
    json!({
        "read_requests": traffic.read_requests,
        "read_bytes": traffic.read_bytes,
        "other_requests": traffic.other_requests,
        "write_bytes": traffic.write_bytes,
        "retries": traffic.retries,
        "retries_denied": traffic.retries_denied,
        "hedges": traffic.hedges,
        "barred": traffic.barred,
        "saved_requests": traffic.saved_requests,
        "failures": failures,
        "latencies": latencies,
        "concurrency_limit": traffic.concurrency_limit,
        "in_flight": traffic.in_flight,
        "breaker": traffic.breaker.name(),
        "breaker_reason": traffic.breaker_reason,
    })
}
