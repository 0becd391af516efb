//! The log store alone, for measuring what the rest of the path costs. Not part of the interface.

use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};

use super::batch::BatchBuilder;
use super::config::Config;
use super::error::Error;
use super::latch::Latch;
use super::log::{EntryId, LogStore, Record};
use super::wal::WalLog;

/// A log that is appended to and synced by one caller.
pub struct RawLog {
    log: WalLog,
    next_index: u64,
}

impl RawLog {
    /// Opens a new log under `dir`.
    pub fn open(dir: &Path, config: &Config) -> Result<RawLog, Error> {
        let log = WalLog::open(dir, config, Arc::new(Latch::default()))?;
        Ok(RawLog { log, next_index: 0 })
    }

    /// Appends `commands` as one entry, framed as [`super::Raft::propose_batch`] would, and
    /// returns when they are on disk.
    pub fn append<'a>(&mut self, commands: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut batch = BatchBuilder::new(0);
        commands.for_each(|command| batch.push(command));
        let id = EntryId { term: 1, index: self.next_index };
        self.next_index += 1;
        let record = Record { id, payload: batch.finish(0).payload().clone() };
        let (tell, told) = mpsc::sync_channel(1);
        self.log.append(&mut std::iter::once(record), Box::new(move |result| drop(tell.send(result))))?;
        told.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }
}
