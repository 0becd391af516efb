//! A store that fails where a test says so.
//!
//! The hook is asked before every call and answers with a [`Fault`]. `FailAfter` does the call and loses its answer,
//! which is what a recovery must be proof against.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Capabilities, Condition, Depth, Error, FileId, Landing, LocalReads, Part, Remnant, Result, Settled, Staged,
    StagedRecord, Stat, StorePath, Swept, Traffic, UnderStore, VersionToken, store::Pages,
};

/// The calls that a hook may disturb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`UnderStore::stat`]
    Stat,
    /// [`UnderStore::read`]
    Read,
    /// [`UnderStore::mkdir`]
    Mkdir,
    /// [`UnderStore::delete_file`]
    DeleteFile,
    /// [`UnderStore::delete_dir`]
    DeleteDir,
    /// [`UnderStore::rename`]
    Rename,
    /// [`UnderStore::stage`]
    Stage,
    /// [`Staged::write`]
    Write,
    /// [`UnderStore::put_part`]
    PutPart,
    /// [`Staged::seal`]
    Seal,
    /// [`Staged::publish`] and [`UnderStore::publish`]
    Publish,
    /// [`UnderStore::settle`]
    Settle,
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It fails and was not done.
    Fail,
    /// It is done and fails.
    FailAfter,
    /// It is done later.
    Delay(Duration),
    /// A read breaks off when so many bytes have landed; other calls are not disturbed.
    CutAfter(u64),
}

type Hook = Arc<dyn Fn(Operation, &StorePath) -> Fault + Send + Sync>;

/// Wraps a store; see the module.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn UnderStore>,
    hook: Hook,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl FaultyStore {
    /// A store that is `inner` except where the hook says otherwise.
    pub fn new(
        inner: Arc<dyn UnderStore>,
        hook: impl Fn(Operation, &StorePath) -> Fault + Send + Sync + 'static,
    ) -> Self {
        Self { inner, hook: Arc::new(hook) }
    }

    async fn disturb<T>(
        &self,
        operation: Operation,
        path: &StorePath,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        disturb(&self.hook, operation, path, call).await
    }

    async fn read_disturbed(
        &self,
        path: &StorePath,
        token: &VersionToken,
        range: Range<u64>,
        is_whole: bool,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        match (self.hook)(Operation::Read, path) {
            Fault::Fail => return Err(injected(path)),
            Fault::CutAfter(got) if got < range.end - range.start => {
                let expected = range.end - range.start;
                self.inner.read(path, token, range, &mut Cut { landing, left: got }).await?;
                return Err(Error::WrongLength { path: path.to_string(), expected, got });
            }
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::FailAfter => {
                self.inner.read(path, token, range, landing).await?;
                return Err(injected(path));
            }
            Fault::None | Fault::CutAfter(_) => {}
        }
        match is_whole {
            true => self.inner.read_whole(path, token, range.end, landing).await,
            false => self.inner.read(path, token, range, landing).await,
        }
    }
}

async fn disturb<T>(
    hook: &Hook,
    operation: Operation,
    path: &StorePath,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    match hook(operation, path) {
        Fault::None | Fault::CutAfter(_) => call.await,
        Fault::Fail => Err(injected(path)),
        Fault::FailAfter => {
            call.await?;
            Err(injected(path))
        }
        Fault::Delay(time) => {
            tokio::time::sleep(time).await;
            call.await
        }
    }
}

fn injected(path: &StorePath) -> Error {
    Error::Store { path: path.to_string(), source: "injected by a test".into() }
}

/// Lets the first bytes through.
struct Cut<'a> {
    landing: &'a mut dyn Landing,
    left: u64,
}

impl Landing for Cut<'_> {
    fn land(&mut self, offset: u64, bytes: &[u8]) {
        let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= passed as u64;
        if passed > 0 {
            self.landing.land(offset, &bytes[..passed]);
        }
    }
}

#[async_trait]
impl UnderStore for FaultyStore {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn traffic(&self) -> &Traffic {
        self.inner.traffic()
    }

    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        self.disturb(Operation::Stat, path, self.inner.stat(path)).await
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
        self.read_disturbed(path, token, range, false, landing).await
    }

    async fn read_whole(
        &self,
        path: &StorePath,
        token: &VersionToken,
        len: u64,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        self.read_disturbed(path, token, 0..len, true, landing).await
    }

    async fn mkdir(&self, path: &StorePath) -> Result<()> {
        self.disturb(Operation::Mkdir, path, self.inner.mkdir(path)).await
    }

    async fn delete_file(&self, path: &StorePath) -> Result<()> {
        self.disturb(Operation::DeleteFile, path, self.inner.delete_file(path)).await
    }

    async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()> {
        self.disturb(Operation::DeleteDir, path, self.inner.delete_dir(path, depth)).await
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        self.disturb(Operation::Rename, from, self.inner.rename(from, to, condition)).await
    }

    async fn stage(&self, path: &StorePath, file_id: FileId, len_hint: Option<u64>) -> Result<Box<dyn Staged>> {
        let inner = self.disturb(Operation::Stage, path, self.inner.stage(path, file_id, len_hint)).await?;
        Ok(Box::new(FaultyStaged { inner, path: path.clone(), hook: Arc::clone(&self.hook) }))
    }

    async fn put_part(&self, record: &StagedRecord, number: u32, bytes: Vec<Bytes>) -> Result<Part> {
        self.disturb(Operation::PutPart, &record.path, self.inner.put_part(record, number, bytes)).await
    }

    async fn publish(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        self.disturb(Operation::Publish, &record.path, self.inner.publish(record, condition)).await
    }

    async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        self.disturb(Operation::Settle, &record.path, self.inner.settle(record)).await
    }

    async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        self.inner.sweep(dead).await
    }

    fn local(&self) -> Option<&dyn LocalReads> {
        self.inner.local()
    }
}

struct FaultyStaged {
    inner: Box<dyn Staged>,
    path: StorePath,
    hook: Hook,
}

#[async_trait]
impl Staged for FaultyStaged {
    fn begun(&self) -> StagedRecord {
        self.inner.begun()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        disturb(&self.hook, Operation::Write, &self.path, self.inner.write(bytes)).await
    }

    async fn share(&mut self) -> Result<StagedRecord> {
        self.inner.share().await
    }

    fn adopt(&mut self, parts: Vec<Part>) -> Result<()> {
        self.inner.adopt(parts)
    }

    async fn seal(&mut self) -> Result<StagedRecord> {
        disturb(&self.hook, Operation::Seal, &self.path, self.inner.seal()).await
    }

    async fn publish(&mut self, condition: &Condition) -> Result<VersionToken> {
        disturb(&self.hook, Operation::Publish, &self.path, self.inner.publish(condition)).await
    }

    async fn abandon(&mut self) -> Result<()> {
        self.inner.abandon().await
    }
}
