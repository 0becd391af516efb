//! Appends to the log alone, each synced: what durable commands cost at the least.

use crate::citius::creates::{Load, SyncGroup, directory_of, path_of};
use crate::cpu;
use crate::measure::Side;
use anyhow::{Context as _, Result};
use citius_control::raft::{Config, bench::RawLog};
use citius_control::state::{Caller, Change, Command, Create};
use citius_wire::{ClientId, FileKey, MountId, Place, Serial, WriteType};
use std::time::Instant;
use tempfile::TempDir;

/// The commands that the creates of a round become, so many in an entry, each entry synced.
pub(crate) struct Log {
    load: Load,
    group: SyncGroup,
    core: usize,
    log: RawLog,
    _folder: TempDir,
}

impl Log {
    /// Opens a new log in the folder for temporary files, where the home of Citius is too.
    pub(crate) fn open(core: usize, load: Load, group: SyncGroup) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("citius-perf-log-").tempdir().context("making a folder")?;
        // The flusher is a thread that it starts, so it is opened where it is to run.
        let log = on_core(core, || Ok(RawLog::open(folder.path(), &Config::default())?))?;
        Ok(Self { load, group, core, log, _folder: folder })
    }
}

fn command(directory: &str, number: usize) -> Vec<u8> {
    let path = path_of(directory, number);
    let caller = Caller { client: ClientId([7; 16]), serial: Serial(number as u64) };
    let create = Create {
        mount: MountId(1),
        place: Place::of_path(MountId(1), &path),
        path,
        file: FileKey([number as u8; 16]),
        write_type: WriteType::MustCache,
        block_bytes: 64 << 20,
        overwrite: false,
        replaces: None,
        lease_ms: 60_000,
    };
    Command { caller: Some(caller), change: Change::Create(create) }.encode()
}

impl Side for Log {
    /// Commands per second of the clock.
    fn round(&mut self, seed: u64) -> Result<f64> {
        let (load, directory, group) = (self.load, directory_of(seed), self.group.creates());
        let commands: Vec<_> = (0..load.batches * load.batch).map(|i| command(&directory, i)).collect();
        let log = &mut self.log;
        on_core(self.core, || {
            let start = Instant::now();
            for batch in commands.chunks(group) {
                log.append(batch.iter().map(Vec::as_slice))?;
            }
            Ok(commands.len() as f64 / start.elapsed().as_secs_f64())
        })
    }
}

/// Does something on a thread of its own that is pinned to a core.
fn on_core<T: Send>(core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            cpu::pin(core)?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_appends_what_creates_become() {
        let core = cpu::Cores::choose().unwrap().server;
        let load = Load { batches: 3, batch: 4, depth: 1 };
        let mut log = Log::open(core, load, SyncGroup::of_all_in_flight(load)).unwrap();
        assert!(log.round(1).unwrap() > 0.0);
        let command = Command::decode(&command("/d", 5)).unwrap();
        assert!(matches!(command.change, Change::Create(create) if create.path == "/d/part-000005"));
    }
}
