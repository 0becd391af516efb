//! A store that is written by one way and read by another, for ways that only read.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    Capabilities, Condition, Depth, FileId, Landing, Remnant, Result, Settled, Staged, StagedRecord, Stat, StorePath,
    Swept, Traffic, UnderStore, VersionToken, store::Pages,
};

/// Two ways to one folder of one server. Versions must be the same by both: what is read is held against what was written.
#[derive(Debug)]
pub struct Paired {
    reads: Arc<dyn UnderStore>,
    writes: Arc<dyn UnderStore>,
    /// That of both, as of when it was last asked for.
    traffic: Traffic,
    /// Held while it is brought up to date.
    asked: Mutex<()>,
}

impl Paired {
    /// Looks, lists and reads by the one, and changes by the other.
    pub fn new(reads: Arc<dyn UnderStore>, writes: Arc<dyn UnderStore>) -> Self {
        Self { reads, writes, traffic: Traffic::default(), asked: Mutex::default() }
    }
}

#[async_trait]
impl UnderStore for Paired {
    fn uri(&self) -> &str {
        self.reads.uri()
    }

    fn capabilities(&self) -> Capabilities {
        self.writes.capabilities()
    }

    fn traffic(&self) -> &Traffic {
        let _alone = self.asked.lock();
        let (reads, writes, told) =
            (self.reads.traffic().totals(), self.writes.traffic().totals(), self.traffic.totals());
        self.traffic.count_read(reads.bytes_read + writes.bytes_read - told.bytes_read);
        self.traffic.count_written(reads.bytes_written + writes.bytes_written - told.bytes_written);
        (told.requests..reads.requests + writes.requests).for_each(|_| self.traffic.count_request());
        &self.traffic
    }

    async fn check(&self) -> Result<()> {
        self.reads.check().await
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        self.reads.stat(path).await
    }

    fn list(&self, dir: &StorePath, after: &str) -> Pages {
        self.reads.list(dir, after)
    }

    async fn read(
        &self,
        path: &StorePath,
        token: &VersionToken,
        range: Range<u64>,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        self.reads.read(path, token, range, landing).await
    }

    async fn read_whole(
        &self,
        path: &StorePath,
        token: &VersionToken,
        len: u64,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        self.reads.read_whole(path, token, len, landing).await
    }

    async fn mkdir(&self, path: &StorePath) -> Result<()> {
        self.writes.mkdir(path).await
    }

    async fn delete_file(&self, path: &StorePath) -> Result<()> {
        self.writes.delete_file(path).await
    }

    async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()> {
        self.writes.delete_dir(path, depth).await
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        self.writes.rename(from, to, condition).await
    }

    async fn stage(&self, path: &StorePath, file_id: FileId, len_hint: Option<u64>) -> Result<Box<dyn Staged>> {
        self.writes.stage(path, file_id, len_hint).await
    }

    async fn publish(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        self.writes.publish(record, condition).await
    }

    async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        self.writes.settle(record).await
    }

    async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        self.writes.sweep(dead).await
    }
}
