//! Many small objects, and a long stream, through Citius.

use super::Citius;
use super::cold::{MOUNT, mount};
use crate::context::Context;
use crate::cpu::{Spent, Watch};
use crate::measure::Side;
use crate::raw::plain::HELD_BYTES_MAX;
use anyhow::Result;
use citius_client::{Config, CreateOptions};
use citius_understore::testing::servers::SeaweedFs;
use std::sync::Arc;

/// Files loaded at once.
const JOBS: &str = "64";

/// Bytes written by one call, as the baseline has it.
const APPEND_BYTES: usize = 4 << 20;

/// `citius load` of a directory with as many objects, which are not here.
pub(crate) struct Load<'a> {
    context: &'a Context,
    citius: Citius,
    directory: String,
    count: usize,
    spent: Option<Spent>,
    _server: Arc<SeaweedFs>,
}

impl<'a> Load<'a> {
    /// `None` if only baselines are to be measured.
    pub(crate) fn new(
        context: &'a Context,
        server: &Arc<SeaweedFs>,
        directory: &str,
        count: usize,
    ) -> Result<Option<Self>> {
        let Some(citius) = Citius::start_by_client(context)? else { return Ok(None) };
        mount(&citius, server)?;
        let directory = format!("{MOUNT}/{directory}");
        Ok(Some(Self { context, citius, directory, count, spent: None, _server: Arc::clone(server) }))
    }
}

impl Side for Load<'_> {
    /// Objects per second.
    fn round(&mut self, _seed: u64) -> Result<f64> {
        self.citius.command(self.context, &["--quiet", "free", &self.directory])?;
        let watch = Watch::start(Some(self.citius.process()))?;
        self.citius.command(self.context, &["--quiet", "load", "--jobs", JOBS, &self.directory])?;
        Ok(self.count as f64 / self.spent.insert(watch.stop()?).seconds)
    }

    fn cpu_seconds(&self) -> Option<f64> {
        self.spent.map(|it| it.cpu_seconds)
    }
}

/// A file written through to the under-store.
pub(crate) struct Stream {
    citius: Citius,
    bytes: usize,
    spent: Option<Spent>,
    server: Arc<SeaweedFs>,
    runtime: tokio::runtime::Runtime,
}

impl Stream {
    /// `None` if only baselines are to be measured.
    pub(crate) fn new(context: &Context, server: &Arc<SeaweedFs>, bytes: usize) -> Result<Option<Self>> {
        let Some(citius) = Citius::start_by_client(context)? else { return Ok(None) };
        mount(&citius, server)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Some(Self { citius, bytes, spent: None, server: Arc::clone(server), runtime }))
    }
}

impl Side for Stream {
    /// Bytes per second.
    fn round(&mut self, _seed: u64) -> Result<f64> {
        let path = format!("{MOUNT}/stream");
        let client = self.citius.client(Config::default())?;
        // As the baseline does: that neither makes its bytes is no part of the comparison.
        let content = vec![7; APPEND_BYTES];
        let watch = Watch::start(Some(self.citius.process()))?;
        let mut writer = client.create(&path, CreateOptions::default())?;
        let mut left = self.bytes;
        while left > 0 {
            let piece = left.min(content.len());
            writer.append(&content[..piece])?;
            left -= piece;
        }
        writer.close()?;
        let speed = self.bytes as f64 / self.spent.insert(watch.stop()?).seconds;
        client.delete(&path, false)?;
        self.runtime.block_on(self.server.reclaim(HELD_BYTES_MAX))?;
        Ok(speed)
    }

    fn cpu_seconds(&self) -> Option<f64> {
        self.spent.map(|it| it.cpu_seconds)
    }
}
