//! Files created in batches, each on disk before it is acknowledged.

use super::Citius;
use super::server::CALL_PATIENCE;
use crate::context::Context;
use crate::measure::Side;
use anyhow::{Context as _, Result, ensure};
use citius_client::raw::{Connection, Deadline};
use citius_client::{Client, Config, Operation, WriteType};
use citius_wire::{Batch, Serial};
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

/// Creates on one connection to the master.
pub(crate) struct Creates {
    client: Client,
    connection: Connection,
    load: Load,
    serial_next: u64,
    _citius: Citius,
}

impl Creates {
    /// `None` if only baselines are to be measured.
    pub(crate) fn new(context: &Context, load: Load) -> Result<Option<Self>> {
        let Some(citius) = Citius::start(context)? else { return Ok(None) };
        let (client, connection) = (citius.client(Config::default())?, citius.master()?);
        Ok(Some(Self { client, connection, load, serial_next: 1, _citius: citius }))
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
        self.client.delete(&directory, true)?;
        Ok((load.batches * load.batch) as f64 / seconds)
    }
}
