//! Writes to a file system on a network: a temporary file, written, finished, renamed.
//!
//! Temporaries lie in the hidden folder `.citius-staging` in the mount's root, named by file id, so that they are found
//! again without walking the tree. The folder is the writer's alone, and goes with the sweep that finds it empty. A
//! target in another file system that the server has mounted below the folder, or in another encryption zone, cannot be
//! renamed to: such a folder needs a mount of its own.
//!
//! **Whose write is at a path.** A rename keeps length, modification time and, on some systems, the tag; the record holds
//! them. That alone would prove nothing where clocks are coarse, so it counts only when the temporary is gone: a write
//! whose temporary was there to be removed was not published, whatever lies at its path.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{TryStreamExt, future::try_join};

use super::{
    Inner,
    call::{CHANGE, RESUMABLE},
    protocol::{Node, Sink, What},
    version::{mark_of, to_stat},
};
use crate::{
    Condition, Error, FileId, Operation, Remnant, Result, Settled, Staged, StagedBody, StagedRecord, StorePath, Swept,
    VersionToken, path::STAGING,
};

/// A sweep may remove the empty folder between our making it and using it.
const CREATE_ATTEMPTS_MAX: usize = 8;
/// Writes that replace one file at once make some servers say of each other's renames that there is nothing.
const PUBLISH_ATTEMPTS_MAX: usize = 4;
/// Temporaries that one sweep looks at.
const SWEEP_NAMES_MAX: usize = 1_000_000;

/// The temporary's path.
fn temp_of(file_id: FileId) -> String {
    format!("{STAGING}/{file_id}")
}

/// A write under way.
pub(super) struct StagedTemp {
    inner: Arc<Inner>,
    path: StorePath,
    file_id: FileId,
    sink: Box<dyn Sink>,
    len: u64,
    sealed: Option<StagedRecord>,
}

impl StagedTemp {
    /// Creates the temporary; the target's directory must exist.
    pub(super) async fn create(inner: &Arc<Inner>, path: StorePath, file_id: FileId) -> Result<Self> {
        let target_path = inner.movable(&path)?;
        let parent = path.parent().expect("only the root has none");
        let (parent, target) = try_join(inner.node(parent.as_str()), inner.look(target_path)).await?;
        if parent.what != What::Dir {
            return Err(Error::NotADirectory { path: path.to_string() });
        }
        if target.is_some_and(|node| node.what == What::Dir) {
            return Err(Error::IsADirectory { path: path.to_string() });
        }
        let sink = inner.create_temp(&temp_of(file_id), target_path).await?;
        Ok(Self { inner: Arc::clone(inner), path, file_id, sink, len: 0, sealed: None })
    }
}

#[async_trait]
impl Staged for StagedTemp {
    fn begun(&self) -> StagedRecord {
        self.sealed.clone().unwrap_or_else(|| StagedRecord::named(self.path.clone(), self.file_id))
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        assert!(self.sealed.is_none(), "bytes after the seal would not be in the record");
        let len = bytes.len() as u64;
        self.inner.traffic.pace_write(len).await;
        self.inner.stalls(self.path.as_str(), self.sink.write(bytes)).await??;
        self.len += len;
        self.inner.traffic.count_written(len);
        Ok(())
    }

    async fn seal(&mut self) -> Result<StagedRecord> {
        if let Some(record) = &self.sealed {
            return Ok(record.clone());
        }
        let (inner, temp, path) = (&self.inner, temp_of(self.file_id), self.path.as_str());
        inner.once(Operation::Write, path, self.sink.finish()).await?;
        let (node, target) = try_join(inner.node(&temp), inner.look(path)).await?;
        if node.len != self.len {
            return Err(Error::WrongLength { path: path.to_owned(), expected: self.len, got: node.len });
        }
        let node = inner.set_apart(&temp, node, target.as_ref()).await?;
        let mark = if inner.protocol.rules().keeps_tags { mark_of(&node.tag) } else { 0 };
        let body = StagedBody::Temp { name: temp, inode: mark, mtime_ns: node.mtime_ns };
        let record = StagedRecord { path: self.path.clone(), file_id: self.file_id, len: self.len, body };
        Ok(self.sealed.insert(record).clone())
    }

    async fn publish(&mut self, condition: &Condition) -> Result<VersionToken> {
        let record = self.seal().await?;
        self.inner.publish(&record, condition).await
    }

    async fn abandon(&mut self) -> Result<()> {
        self.inner.remove_temp(&temp_of(self.file_id)).await.map(drop)
    }
}

impl Inner {
    async fn create_temp(&self, temp: &str, shown: &str) -> Result<Box<dyn Sink>> {
        for _ in 0..CREATE_ATTEMPTS_MAX {
            match self.call(RESUMABLE, shown, || self.protocol.create(temp, shown)).await {
                Err(Error::NotFound { .. }) => {
                    match self.call(RESUMABLE, STAGING, || self.protocol.mkdir(STAGING, true)).await {
                        Ok(()) | Err(Error::AlreadyExists { .. }) => {}
                        Err(other) => return Err(other),
                    }
                }
                // An earlier attempt at the same file; ids are never reused, so its bytes are nobody's.
                Err(Error::AlreadyExists { .. }) => {
                    self.remove_temp(temp).await?;
                }
                other => return other,
            }
        }
        Err(Error::Busy { what: "attempts to create a temporary file", limit: CREATE_ATTEMPTS_MAX })
    }

    /// Removes a temporary, and says whether there was one.
    async fn remove_temp(&self, temp: &str) -> Result<bool> {
        match self.call(CHANGE, temp, || self.protocol.delete_file(temp)).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Renames a sealed temporary to its path, on behalf of whichever process sealed it.
    pub(super) async fn publish(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        for _ in 1..PUBLISH_ATTEMPTS_MAX {
            match self.publish_once(record, condition).await {
                // Of what nobody sees missing.
                Err(Error::NotFound { .. }) if self.has_parent(&record.path).await? => {}
                other => return other,
            }
        }
        self.publish_once(record, condition).await
    }

    async fn has_parent(&self, path: &StorePath) -> Result<bool> {
        let parent = path.parent().expect("only the root has none");
        Ok(self.look(parent.as_str()).await?.is_some())
    }

    /// [`Error::NotFound`] says that the temporary is there, and the place for it was not.
    async fn publish_once(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        let path = self.movable(&record.path)?;
        let temp = temp_in(record)?;
        let (node, target) = try_join(self.look(temp), self.look(path)).await?;
        let Some(node) = node else {
            // Gone: either renamed by an earlier call whose answer was lost, or removed.
            return self.ours_or(record, path, lost(record, "there is no temporary file")).await;
        };
        if !self.is_same(&node, record) {
            return Err(lost(record, "the temporary file is not as it was sealed"));
        }
        self.compare(path, target.as_ref(), condition)?;
        self.need_apart(path, &node, target.as_ref())?;
        if let Some(mode) = target.as_ref().and_then(|target| target.mode)
            && node.mode.is_some_and(|now| now != mode)
        {
            // A replaced file keeps its permission bits, as an editor would keep them.
            self.call(RESUMABLE, path, || self.protocol.set_mode(temp, mode)).await?;
        }
        let replace = *condition != Condition::MustNotExist;
        match self.call(RESUMABLE, path, || self.protocol.rename(temp, path, replace)).await {
            Ok(()) => {}
            // Perhaps by this very rename, whose answer was lost: then the temporary is gone.
            Err(error @ Error::AlreadyExists { .. }) => {
                return match self.look(temp).await? {
                    Some(_) => Err(error),
                    None => self.ours_or(record, path, error).await,
                };
            }
            Err(Error::NotFound { .. }) => {
                let error = match self.look(temp).await? {
                    Some(_) => Error::NotFound { path: path.to_owned() },
                    None => lost(record, "the temporary file was removed"),
                };
                return self.ours_or(record, path, error).await;
            }
            Err(other) => return Err(other),
        }
        // Somebody may have replaced it in the moment since the rename: ours was published and is history.
        let replaced = Error::Conflict { path: path.to_owned(), reason: "it was replaced at once".into() };
        self.ours_or(record, path, replaced).await
    }

    /// The version at the record's path if it is this write, else the error. Asked only when the temporary is gone.
    async fn ours_or(&self, record: &StagedRecord, path: &str, error: Error) -> Result<VersionToken> {
        match self.look(path).await? {
            Some(node) if self.is_same(&node, record) => Ok(to_stat(path, &node)?.token),
            _ => Err(error),
        }
    }

    fn is_same(&self, node: &Node, record: &StagedRecord) -> bool {
        let StagedBody::Temp { inode: mark, mtime_ns, .. } = &record.body else { return false };
        let is_marked = *mark == 0 || mark_of(&node.tag) == *mark;
        node.is_file() && node.len == record.len && node.mtime_ns == *mtime_ns && is_marked
    }

    /// Removes the temporary; only if it was gone already can the path hold this write.
    pub(super) async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        let path = self.movable(&record.path)?;
        match &record.body {
            // It was never sealed, so it was never published.
            StagedBody::Named => {
                self.remove_temp(&temp_of(record.file_id)).await?;
                return Ok(Settled::Absent);
            }
            _ if self.remove_temp(temp_in(record)?).await? => return Ok(Settled::Absent),
            _ => {}
        }
        match self.look(path).await? {
            Some(node) if self.is_same(&node, record) => Ok(Settled::Published(to_stat(path, &node)?.token)),
            _ => Ok(Settled::Absent),
        }
    }

    pub(super) async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut condemned = Vec::new();
        let mut names = self.names(STAGING);
        loop {
            let (name, node) = match names.try_next().await {
                Ok(Some(found)) if swept.seen < SWEEP_NAMES_MAX as u64 => found,
                Ok(_) => break,
                Err(Error::NotFound { .. }) => return Ok(swept),
                Err(other) => return Err(other),
            };
            let Ok(name) = name else { continue };
            // What belongs to a temporary has its name, and more.
            let id = name.split('.').next().unwrap_or_default();
            let Some(file_id) = FileId::from_hex(id) else { continue };
            swept.seen += 1;
            if dead(&Remnant::Temp { file_id, mtime_ms: node.mtime_ns / 1_000_000 }) {
                condemned.push(name);
            }
        }
        drop(names);
        for name in condemned {
            swept.removed += u64::from(self.remove_temp(&format!("{STAGING}/{name}")).await?);
        }
        // Where the system would delete what has come into it since, an empty folder stays.
        if swept.seen == swept.removed && self.protocol.rules().refuses_full {
            // That it has a new temporary, or is gone, matters to nobody.
            let _ = self.call(RESUMABLE, STAGING, || self.protocol.delete_dir(STAGING)).await;
        }
        Ok(swept)
    }
}

/// The temporary of a record. Only one that is where ours are is ever renamed or removed.
fn temp_in(record: &StagedRecord) -> Result<&str> {
    match &record.body {
        StagedBody::Temp { name, .. } if *name == temp_of(record.file_id) => Ok(name),
        _ => Err(Error::BadRecord { reason: "it is not of a write to this kind of under-store" }),
    }
}

fn lost(record: &StagedRecord, reason: &str) -> Error {
    let path = record.path.to_string();
    Error::StagedLost { path, file_id: record.file_id.to_string(), reason: reason.to_owned() }
}
