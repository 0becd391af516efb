//! Durable commands a second: the whole path (propose, group commit, openraft, apply, reply)
//! beside the log store alone and a bare file, on the same disk, in turns.
//!
//! ```text
//! cargo run --release -p citius-control --example raft_rate -- [folder] [rounds] [callers]
//! ```
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use citius_control::raft::bench::RawLog;
use citius_control::raft::{Config, Machine, Position, Raft, SnapshotWriter};

const COMMAND_BYTES: usize = 100;
const ROUND: Duration = Duration::from_secs(1);

/// Counts, and answers with the count.
#[derive(Default)]
struct Counter(u64);

impl Machine for Counter {
    type Reply = u64;

    fn apply(&mut self, _at: Position, _command: &[u8]) -> u64 {
        self.0 += 1;
        self.0
    }

    fn snapshot(&self) -> SnapshotWriter {
        let count = self.0;
        Box::new(move |out: &mut dyn Write| out.write_all(&count.to_le_bytes()))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut count = [0; 8];
        from.read_exact(&mut count)?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
}

/// Commands a second of `callers` that each wait for their reply; commands an entry; and a sync.
async fn proposals(raft: &Raft<Counter>, callers: usize) -> (f64, f64, f64) {
    let before = raft.metrics();
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let raft = raft.clone();
            tokio::spawn(async move {
                let command = Bytes::from(vec![7; COMMAND_BYTES]);
                let mut count = 0u64;
                while start.elapsed() < ROUND {
                    raft.propose(command.clone()).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await.unwrap();
    }
    let after = raft.metrics();
    let entries = after.next_index - before.next_index;
    let syncs = after.syncs - before.syncs;
    (total as f64 / start.elapsed().as_secs_f64(), total as f64 / entries as f64, total as f64 / syncs as f64)
}

/// Commands a second of one caller that sends batches of `batch`.
async fn batches(raft: &Raft<Counter>, batch: usize) -> f64 {
    let commands = vec![Bytes::from(vec![7; COMMAND_BYTES]); batch];
    let (start, mut total) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        total += raft.propose_batch(commands.clone()).await.unwrap().len();
    }
    total as f64 / start.elapsed().as_secs_f64()
}

fn raw_log(log: &mut RawLog, batch: usize) -> f64 {
    let command = [7; COMMAND_BYTES];
    let (start, mut total) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        log.append((0..batch).map(|_| &command[..])).unwrap();
        total += batch;
    }
    total as f64 / start.elapsed().as_secs_f64()
}

/// A file that grows by the same bytes, with fdatasync after each batch.
fn bare_file(dir: &Path, batch: usize) -> f64 {
    let file = std::fs::File::create(dir.join("bare")).unwrap();
    let bytes = vec![7; batch * (COMMAND_BYTES + 4) + 16 + 36];
    let (start, mut at) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        file.write_all_at(&bytes, at).unwrap();
        file.sync_data().unwrap();
        at += bytes.len() as u64;
    }
    (at as usize / bytes.len() * batch) as f64 / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1);
    let base = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds: usize = args.next().map_or(5, |n| n.parse().unwrap());
    let callers: usize = args.next().map_or(64, |n| n.parse().unwrap());
    let dir = tempfile::tempdir_in(base).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let raft = runtime.block_on(Raft::open(dir.path().join("raft"), Config::default(), Counter::default())).unwrap();
    let mut raw = RawLog::open(&dir.path().join("raw"), &Config::default()).unwrap();

    let mut columns: [Vec<f64>; 6] = Default::default();
    for round in 0..rounds {
        let (proposed, per_entry, per_sync) = runtime.block_on(async {
            let raft = raft.clone();
            tokio::spawn(async move { proposals(&raft, callers).await }).await.unwrap()
        });
        let row = [
            proposed,
            runtime.block_on(batches(&raft, callers)),
            raw_log(&mut raw, callers),
            bare_file(dir.path(), callers),
            per_entry,
            per_sync,
        ];
        println!(
            "round {round}: propose {:.0}/s ({:.1} an entry, {:.1} a sync), batch {:.0}/s, raw log {:.0}/s, bare file {:.0}/s",
            row[0], row[4], row[5], row[1], row[2], row[3]
        );
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    let [propose, batch, raw_log, bare_file, ..] = columns.map(median);
    println!(
        "medians: propose {propose:.0}/s = {:.2} of the raw log; batch {batch:.0}/s = {:.2}; raw log {raw_log:.0}/s; bare file {bare_file:.0}/s",
        propose / raw_log,
        batch / raw_log
    );
    let metrics = raft.metrics();
    runtime.block_on(raft.shutdown());
    let start = Instant::now();
    let open = Raft::open(dir.path().join("raft"), Config::default(), Counter::default());
    let raft = runtime.block_on(open).unwrap();
    let since_snapshot = metrics.next_index - metrics.snapshot_next_index;
    println!("reopened in {:?}, with {since_snapshot} entries since the snapshot", start.elapsed());
    runtime.block_on(raft.shutdown());
    let start = Instant::now();
    let open = Raft::open(dir.path().join("empty"), Config::default(), Counter::default());
    let raft = runtime.block_on(open).unwrap();
    println!("an empty log opened in {:?}", start.elapsed());
    runtime.block_on(raft.shutdown());
}
