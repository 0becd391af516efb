//! A mount that takes no writes: every change is refused before it reaches the store.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;

use crate::{
    Capabilities, Condition, Depth, Error, FileId, Landing, LocalReads, Remnant, Result, Settled, Staged, StagedRecord,
    Stat, StorePath, Swept, Traffic, UnderStore, VersionToken, store::Pages,
};

/// Passes reads on and refuses the rest.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    inner: Arc<dyn UnderStore>,
}

impl ReadOnly {
    pub(crate) fn new(inner: Arc<dyn UnderStore>) -> Self {
        Self { inner }
    }
}

fn refuse<T>(path: &StorePath) -> Result<T> {
    Err(Error::ReadOnly { path: path.to_string() })
}

#[async_trait]
impl UnderStore for ReadOnly {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { writes: false, ..self.inner.capabilities() }
    }

    fn traffic(&self) -> &Traffic {
        self.inner.traffic()
    }

    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        self.inner.stat(path).await
    }

    fn list(&self, dir: &StorePath, after: &str) -> Pages {
        self.inner.list(dir, after)
    }

    async fn read(
        &self,
        path: &StorePath,
        token: &VersionToken,
        range: Range<u64>,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        self.inner.read(path, token, range, landing).await
    }

    async fn read_whole(
        &self,
        path: &StorePath,
        token: &VersionToken,
        len: u64,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        self.inner.read_whole(path, token, len, landing).await
    }

    async fn mkdir(&self, path: &StorePath) -> Result<()> {
        refuse(path)
    }

    async fn delete_file(&self, path: &StorePath) -> Result<()> {
        refuse(path)
    }

    async fn delete_dir(&self, path: &StorePath, _depth: Depth) -> Result<()> {
        refuse(path)
    }

    async fn rename(&self, from: &StorePath, _to: &StorePath, _condition: &Condition) -> Result<Stat> {
        refuse(from)
    }

    async fn stage(&self, path: &StorePath, _file_id: FileId, _len_hint: Option<u64>) -> Result<Box<dyn Staged>> {
        refuse(path)
    }

    async fn publish(&self, record: &StagedRecord, _condition: &Condition) -> Result<VersionToken> {
        refuse(&record.path)
    }

    /// A write begun before the mount became read-only is still settled, which may remove its temporary: leaving it
    /// would leave its fate open.
    async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        self.inner.settle(record).await
    }

    async fn sweep(&self, _dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        Ok(Swept::default())
    }

    fn local(&self) -> Option<&dyn LocalReads> {
        self.inner.local()
    }
}
