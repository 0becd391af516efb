//! Reads of what only the under-store has: an S3 server on this machine, which both sides read the same object from.

use super::Citius;
use super::server::{are_words, write_words};
use crate::context::Context;
use crate::cpu::{Spent, Watch};
use crate::measure::Side;
use crate::offsets::Offsets;
use anyhow::{Context as _, Result, bail, ensure};
use citius_client::{Client, Config, CreateOptions, MountOptions, MountTraffic};
use citius_understore::testing::servers::SeaweedFs;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that one call reads in sequence.
const CALL_BYTES: usize = 4 << 20;
/// Where the bucket is mounted.
pub(crate) const MOUNT: &str = "/s3";
/// The object, in the bucket.
pub(crate) const KEY: &str = "object";
/// Between two looks at the traffic of the mount: longer than a heartbeat, by which workers tell it.
const LOOK: Duration = Duration::from_millis(1200);
/// Looks until it is told.
const LOOKS_MAX: usize = 10;

/// An S3 server with one object, which Citius wrote.
pub(crate) struct Cold {
    citius: Citius,
    bytes: usize,
    _server: Arc<SeaweedFs>,
}

impl Cold {
    /// Has Citius write an object of so many bytes to an S3 server. `None` if only baselines are to be measured.
    pub(crate) fn new(context: &Context, server: &Arc<SeaweedFs>, bytes: usize) -> Result<Option<Self>> {
        Self::over(Citius::start(context)?, server, bytes)
    }

    /// The same, on its client's core.
    pub(crate) fn by_client(context: &Context, server: &Arc<SeaweedFs>, bytes: usize) -> Result<Option<Self>> {
        Self::over(Citius::start_by_client(context)?, server, bytes)
    }

    fn over(citius: Option<Citius>, server: &Arc<SeaweedFs>, bytes: usize) -> Result<Option<Self>> {
        let Some(citius) = citius else { return Ok(None) };
        mount(&citius, server)?;
        write_words(&citius.client(Config::default())?, &Self::path(), bytes, CreateOptions::default())?;
        Ok(Some(Self { citius, bytes, _server: Arc::clone(server) }))
    }

    fn path() -> String {
        format!("{MOUNT}/{KEY}")
    }

    /// Has every tier forget the object, and gives a client that has mapped nothing of it: what a client maps it keeps.
    fn forget(&self) -> Result<Client> {
        let client = self.citius.client(Config::default())?;
        client.open(&Self::path())?.free()?;
        Ok(client)
    }

    /// Bytes read from the under-store so far, by everybody in Citius.
    fn bytes_fetched(client: &Client) -> Result<u64> {
        Ok(Self::traffic(client)?.read_bytes)
    }

    fn traffic(client: &Client) -> Result<MountTraffic> {
        let mut mounts = client.mounts()?.into_iter();
        Ok(*mounts.find(|mount| mount.path == MOUNT).context("the mount is gone")?.traffic)
    }

    /// Requests made of the under-store so far, once three looks agree.
    fn requests(client: &Client) -> Result<u64> {
        let now = || Self::traffic(client).map(|it| it.read_requests + it.other_requests);
        let (mut seen, mut last) = (0, now()?);
        for _ in 0..LOOKS_MAX {
            std::thread::sleep(LOOK);
            let next = now()?;
            seen = if next == last { seen + 1 } else { 0 };
            last = next;
            if seen == 2 {
                return Ok(last);
            }
        }
        bail!("requests are made without end");
    }

    /// Reads all of it once.
    fn read(client: &Client, buffer: &mut [u8]) -> Result<()> {
        let file = client.open(&Self::path())?;
        let mut offset = 0;
        for part in buffer.chunks_mut(CALL_BYTES) {
            ensure!(file.read_at(part, offset)? == part.len(), "a short read at {offset}");
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// As [`Cold::bytes_fetched`], once two looks agree that it is more than `before`.
    fn bytes_fetched_since(client: &Client, before: u64) -> Result<u64> {
        let mut last = before;
        for _ in 0..LOOKS_MAX {
            std::thread::sleep(LOOK);
            let now = Self::bytes_fetched(client)?;
            if now > before && now == last {
                return Ok(now - before);
            }
            last = now;
        }
        bail!("no bytes were fetched by a cold read");
    }
}

/// Mounts the server's bucket.
pub(crate) fn mount(citius: &Citius, server: &SeaweedFs) -> Result<()> {
    let uri = format!("s3://{}", server.s3().name());
    citius.client(Config::default())?.mount_add(MOUNT, &uri, mount_options(server))?;
    Ok(())
}

fn mount_options(server: &SeaweedFs) -> MountOptions {
    let (key, secret) = server.s3().keys();
    let options = [
        ("aws_endpoint", server.s3().endpoint()),
        ("aws_access_key_id", key),
        ("aws_secret_access_key", secret),
        ("aws_region", "us-east-1"),
        ("aws_allow_http", "true"),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value.into())).to_vec();
    MountOptions { options, ..MountOptions::default() }
}

/// Bytes per second of one pass over the object, mapped block by block, into a buffer that is there.
pub(crate) struct Sequential {
    cold: Cold,
    buffer: Vec<u8>,
    spent: Option<Spent>,
}

impl Sequential {
    pub(crate) fn new(cold: Cold) -> Self {
        Self { buffer: vec![1; cold.bytes], cold, spent: None }
    }
}

impl Side for Sequential {
    fn round(&mut self, _seed: u64) -> Result<f64> {
        let client = self.cold.forget()?;
        self.buffer.fill(1);
        let watch = Watch::start(Some(self.cold.citius.process()))?;
        Cold::read(&client, &mut self.buffer)?;
        let spent = self.spent.insert(watch.stop()?);
        ensure!(are_words(&self.buffer, 0), "other bytes than were written");
        Ok(self.buffer.len() as f64 / spent.seconds)
    }

    fn cpu_seconds(&self) -> Option<f64> {
        self.spent.map(|it| it.cpu_seconds)
    }
}

/// Which of two passes over the object is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    First,
    Second,
}

/// Requests that one pass over the object makes of the under-store.
pub(crate) struct Requests {
    cold: Cold,
    pass: Pass,
    buffer: Vec<u8>,
}

impl Requests {
    pub(crate) fn new(cold: Cold, pass: Pass) -> Self {
        Self { buffer: vec![1; cold.bytes], cold, pass }
    }
}

impl Side for Requests {
    fn round(&mut self, _seed: u64) -> Result<f64> {
        let client = self.cold.forget()?;
        if self.pass == Pass::Second {
            Cold::read(&client, &mut self.buffer)?;
        }
        let before = Cold::requests(&client)?;
        self.buffer.fill(1);
        Cold::read(&client, &mut self.buffer)?;
        ensure!(are_words(&self.buffer, 0), "other bytes than were written");
        Ok((Cold::requests(&client)? - before) as f64)
    }
}

/// Bytes fetched for one read of 4 KiB of an object that is not here.
pub(crate) struct Small(pub(crate) Cold);

impl Side for Small {
    fn round(&mut self, seed: u64) -> Result<f64> {
        let client = self.0.forget()?;
        let before = Cold::bytes_fetched(&client)?;
        let offset = Offsets::new(seed, self.0.bytes, SMALL_BYTES).next();
        let mut target = [0; SMALL_BYTES];
        let file = client.open(&Cold::path())?;
        ensure!(file.read_at(&mut target, offset)? == SMALL_BYTES && are_words(&target, offset), "other bytes");
        Ok(Cold::bytes_fetched_since(&client, before)? as f64)
    }
}

/// Bytes of a small read.
pub(crate) const SMALL_BYTES: usize = 4 << 10;
