//! Warm reads over TCP: by the call that programs make, one at a time, and by one connection with many in flight.
//!
//! Both verify the checksums of what they get, as every reader of Citius does.

use super::Citius;
use super::server::{CALL_PATIENCE, are_words};
use crate::context::Context;
use crate::measure::{Latencies, Side};
use crate::offsets::Offsets;
use crate::raw::tcp::{Figure, Load};
use anyhow::{Context as _, Result, bail, ensure};
use citius_client::raw::{Connection, Deadline};
use citius_client::{Config, File, Local, Operation, Outcome};
use citius_wire::{Access, Handle, Read, ReadMode};
use std::collections::VecDeque;
use std::hint::black_box;

/// Nothing is mapped, and nothing goes by a Unix socket.
fn remote() -> Config {
    Config { local: Local::Never, ..Config::default() }
}

/// Reads by [`File::read_at`].
pub(crate) struct Calls {
    citius: Citius,
    file: File,
    load: Load,
}

impl Calls {
    /// `None` if only baselines are to be measured.
    pub(crate) fn new(context: &Context, load: Load) -> Result<Option<Self>> {
        let Some(citius) = Citius::start(context)? else { return Ok(None) };
        citius.fill(context.working_set_bytes)?;
        let file = citius.working_set(remote())?;
        let mut first = vec![0; load.length];
        ensure!(file.read_at(&mut first, 0)? == load.length && are_words(&first, 0), "other bytes than were written");
        Ok(Some(Self { citius, file, load }))
    }
}

impl Side for Calls {
    /// The median time of a read, in nanoseconds.
    fn round(&mut self, seed: u64) -> Result<f64> {
        let load = self.load;
        let mut offsets = Offsets::new(seed, self.file.len() as usize, load.length);
        let mut latencies = Latencies::with_capacity(load.requests);
        let mut target = vec![0; load.length];
        // A process that ended would be noticed by the reads; asking costs one look a round.
        self.citius.cpu_time()?;
        for _ in 0..load.requests {
            let offset = offsets.next();
            let count = latencies.time(|| self.file.read_at(&mut target, offset))?;
            ensure!(count == load.length, "a short read at {offset}");
            black_box(&mut target);
        }
        Ok(latencies.percentile(50.0) as f64)
    }
}

/// Reads by one connection that is kept full.
pub(crate) struct Pipeline {
    citius: Citius,
    connection: Connection,
    handle: Handle,
    set_bytes: usize,
    load: Load,
    figure: Figure,
}

impl Pipeline {
    /// `None` if only baselines are to be measured.
    pub(crate) fn new(context: &Context, load: Load, figure: Figure) -> Result<Option<Self>> {
        let Some(citius) = Citius::start(context)? else { return Ok(None) };
        citius.fill(context.working_set_bytes)?;
        let client = citius.client(remote())?;
        let file = citius.working_set(remote())?;
        let open = Operation::Open { path: file.path().to_string(), stale: None };
        let opened = match client.batch(vec![open]).pop().context("no answer to an open")?? {
            Outcome::Opened(opened) => opened,
            other => bail!("an open gave {other:?}"),
        };
        let mut connection = citius.shard(&file)?;
        let deadline = Deadline::after(CALL_PATIENCE);
        let handle = connection.attach(opened.info.version, Access::Read, &opened.capability, deadline)?;
        Ok(Some(Self { citius, connection, handle, set_bytes: context.working_set_bytes, load, figure }))
    }

    fn queue(&mut self, offset: u64) {
        let length = self.load.length as u32;
        self.connection.queue(&Read { handle: self.handle, length, offset, mode: ReadMode::Cache });
    }

    /// Asks for what was answered as soon as nothing whole is left to take, as the baseline's client does.
    fn run(&mut self, offsets: &mut Offsets) -> Result<()> {
        let (load, deadline) = (self.load, Deadline::after(CALL_PATIENCE));
        let mut in_flight = VecDeque::with_capacity(load.depth);
        let mut target = vec![0; load.length];
        let (mut to_ask, mut to_come) = (load.requests, load.requests);
        while to_come > 0 {
            while to_ask > 0 && in_flight.len() < load.depth {
                let offset = offsets.next();
                self.queue(offset);
                in_flight.push_back(offset);
                to_ask -= 1;
            }
            self.connection.flush(deadline)?;
            loop {
                let offset = in_flight.pop_front().context("an answer to no request")?;
                let reply = self.connection.receive(load.length, deadline)?;
                self.connection.read_sectors(offset..offset + load.length as u64, 0, &mut target, deadline)?;
                black_box(&mut target);
                to_come -= 1;
                if in_flight.is_empty() || self.connection.buffered() < reply.frame_bytes() {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Side for Pipeline {
    fn round(&mut self, seed: u64) -> Result<f64> {
        let load = self.load;
        let mut offsets = Offsets::new(seed, self.set_bytes, load.length);
        let before = self.citius.cpu_time()?;
        self.run(&mut offsets)?;
        let server_seconds = (self.citius.cpu_time()? - before).as_secs_f64();
        Ok(match self.figure {
            Figure::RequestsPerServerSecond => load.requests as f64 / server_seconds,
            Figure::BytesPerServerSecond => (load.requests * load.length) as f64 / server_seconds,
            Figure::MedianLatency => bail!("a pipeline has no latency that a program sees"),
        })
    }
}
