//! Files created in batches, each on disk before it is acknowledged.

use super::Citius;
use super::server::CALL_PATIENCE;
use crate::context::Context;
use crate::measure::Side;
use anyhow::{Context as _, Result, ensure};
use citius_client::raw::{Connection, Deadline};
use citius_client::{Client, Config, Operation, WriteType};
use citius_wire::{Batch, Serial};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

/// How creates are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Batches of a round.
    pub(crate) batches: usize,
    /// Creates of a batch.
    pub(crate) batch: usize,
    /// Batches in flight.
    pub(crate) depth: usize,
}

impl Load {
    /// How many are in flight at once: more cannot share a sync.
    pub(crate) fn in_flight(self) -> usize {
        self.batch * self.depth
    }
}

/// How many creates shared one sync of the log, as the last round had it; before the first one, all in flight.
#[derive(Clone, Debug)]
pub(crate) struct SyncGroup(Rc<Cell<usize>>);

impl SyncGroup {
    /// Before any round.
    pub(crate) fn of_all_in_flight(load: Load) -> Self {
        Self(Rc::new(Cell::new(load.in_flight())))
    }

    /// Creates that share a sync.
    pub(crate) fn creates(&self) -> usize {
        self.0.get()
    }

    fn observe(&self, creates: usize, syncs: u64) {
        self.0.set(creates.div_ceil(syncs.max(1) as usize));
    }
}

/// Creates on one connection to the master.
pub(crate) struct Creates {
    client: Client,
    connection: Connection,
    load: Load,
    group: SyncGroup,
    serial_next: u64,
    citius: Citius,
}

impl Creates {
    /// Each round tells `group` what it saw. `None` if only baselines are to be measured.
    pub(crate) fn new(context: &Context, load: Load, group: SyncGroup) -> Result<Option<Self>> {
        let Some(citius) = Citius::start(context)? else { return Ok(None) };
        let (client, connection) = (citius.client(Config::default())?, citius.master()?);
        Ok(Some(Self { client, connection, load, group, serial_next: 1, citius }))
    }

    fn queue(&mut self, directory: &str, batch: usize) {
        let operations = (0..self.load.batch).map(|i| Operation::Create {
            path: path_of(directory, batch * self.load.batch + i),
            overwrite: false,
            parents: false,
            write_type: WriteType::MustCache,
            block_bytes: 0,
        });
        let batch = Batch { first: Serial(self.serial_next), operations: operations.collect() };
        self.serial_next += self.load.batch as u64;
        self.connection.queue(&batch);
    }
}

/// The path of a created file.
pub(crate) fn path_of(directory: &str, number: usize) -> String {
    format!("{directory}/part-{number:06}")
}

/// The directory of a round.
pub(crate) fn directory_of(seed: u64) -> String {
    format!("/creates-{seed:08}")
}

impl Side for Creates {
    /// Creates per second of the clock.
    fn round(&mut self, seed: u64) -> Result<f64> {
        let (load, deadline) = (self.load, Deadline::after(CALL_PATIENCE));
        let directory = directory_of(seed);
        self.client.mkdir(&directory, false)?;
        let syncs = self.citius.log_syncs()?;
        let start = Instant::now();
        let (mut asked, mut answered) = (0, 0);
        while answered < load.batches {
            while asked < load.batches && asked - answered < load.depth {
                self.queue(&directory, asked);
                asked += 1;
            }
            self.connection.flush(deadline)?;
            self.connection.receive(0, deadline)?;
            let reply = self.connection.reply::<Batch>()?;
            ensure!(reply.results.len() == load.batch, "a batch with {} results", reply.results.len());
            reply.results.into_iter().collect::<Result<Vec<_>, _>>().context("a create")?;
            answered += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        let creates = load.batches * load.batch;
        self.group.observe(creates, self.citius.log_syncs()? - syncs);
        self.client.delete(&directory, true)?;
        Ok(creates as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_what_the_last_round_had() {
        let group = SyncGroup::of_all_in_flight(Load { batches: 9, batch: 64, depth: 4 });
        let same = group.clone();
        assert_eq!(same.creates(), 256);
        group.observe(1000, 9);
        assert_eq!(same.creates(), 112);
        group.observe(10, 0);
        assert_eq!(same.creates(), 10);
    }
}
