//! Writes to an object store: a small put, or an upload of parts that several processes share.
//!
//! Every object that Citius writes carries its file id as metadata, so that a look at it proves whose write it is. A small
//! write is held and sent as one put at publication; more goes up as parts while it is written.
//!
//! **Ending a write of unknown fate.** An aborted upload can never be completed. A put cannot be called back, so
//! it is bounded by time: no put is sent, and none is waited for, after the record's `publish_by_ms`. Settling waits
//! until that and [`FENCE_GRACE`] (for the server to finish, and for clocks to differ) are over before it says `Absent`.
//! If the object is found to be ours, nothing is waited for. A caller who knows since when the publisher is dead may
//! lower `publish_by_ms` to that time. Where a store cannot be made to refuse an upload ([`Fence::Time`]), its end is
//! bounded in the same way, and its parts are removed only after it is known to be absent: they may be what was published.
//!
//! **What is left on the store by a crash.** An upload begun and not yet logged stays; [`Inner::sweep`] lists all
//! uploads under the prefix. Stores show neither metadata nor owner's program of an unfinished upload, so its caller
//! must decide by upload id and age; see [`Remnant::Upload`].

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::task::JoinHandle;

use super::{
    Inner,
    protocol::{Fence, Upload},
    store_error, text_of, to_stat, token_of,
};
use crate::{
    Compares, Condition, Error, FileId, Part, Remnant, Result, Settled, Staged, StagedBody, StagedRecord, StorePath,
    Swept, VersionToken,
    staged::{PARTS_MAX, ordered_parts},
};

/// Parts of one writer on their way at once: fewer leave a server idle that answers late.
const PARTS_IN_FLIGHT_MAX: usize = 8;
/// Without a hint, parts grow by this factor each time so many have been sent: 10,000 parts of 8 MiB then reach 5 TiB.
const PARTS_PER_GROWTH: u32 = 1000;
/// What time alone fences must be published, answer and all, within this time of its seal.
const PUBLISH_WINDOW: Duration = Duration::from_secs(30);
/// How long after the last possible end of a publication its object could still appear.
const FENCE_GRACE: Duration = Duration::from_secs(5);
/// How long a server may be away in the middle of a write: a restart takes less.
const ABSENCE_MAX: Duration = Duration::from_secs(20);
/// The pause before it is tried again.
const ABSENCE_PAUSE: Duration = Duration::from_millis(500);
/// Pages of uploads that one sweep looks at.
const SWEEP_PAGES_MAX: usize = 1000;

/// A write to an object store under way.
pub(super) struct StagedObject {
    inner: Arc<Inner>,
    path: StorePath,
    key: String,
    file_id: FileId,
    part_bytes: u64,
    held: Vec<Bytes>,
    held_bytes: u64,
    /// Bytes of the parts that were sent.
    sent_bytes: u64,
    len: u64,
    /// None while everything is held.
    upload_id: Option<String>,
    parts: Vec<Part>,
    next_number: u32,
    in_flight: FuturesUnordered<JoinHandle<Result<Part>>>,
    shared: bool,
    sealed: Option<StagedRecord>,
    /// Whether it may be published, now or a little later.
    may_be_published: bool,
}

impl StagedObject {
    pub(super) fn new(inner: &Arc<Inner>, path: StorePath, file_id: FileId, len_hint: Option<u64>) -> Result<Self> {
        let key = inner.object_key(&path)?;
        inner.capabilities().check_len(&path, len_hint.unwrap_or(0))?;
        let rules = inner.protocol.rules();
        let fitting = len_hint.unwrap_or(0).div_ceil(PARTS_MAX as u64).next_multiple_of(1 << 20);
        Ok(Self {
            inner: Arc::clone(inner),
            path,
            key,
            file_id,
            part_bytes: fitting.clamp(rules.part_bytes, rules.part_bytes_max),
            held: Vec::new(),
            held_bytes: 0,
            sent_bytes: 0,
            len: 0,
            upload_id: None,
            parts: Vec::new(),
            next_number: 1,
            in_flight: FuturesUnordered::new(),
            shared: false,
            sealed: None,
            may_be_published: false,
        })
    }

    fn record(&self, body: StagedBody) -> StagedRecord {
        StagedRecord { path: self.path.clone(), file_id: self.file_id, len: self.len, body }
    }

    async fn upload_id(&mut self) -> Result<String> {
        if self.upload_id.is_none() {
            let begin = || self.inner.protocol.begin_upload(&self.key, self.file_id);
            self.upload_id = Some(patiently(begin).await?);
        }
        Ok(self.upload_id.clone().expect("it was just set"))
    }

    /// Sends what is held as one part, when few enough are on their way.
    async fn send_part(&mut self) -> Result<()> {
        if self.next_number as usize > PARTS_MAX {
            // Nobody said how long it would become, and its parts were too small for this.
            return Err(Error::TooLarge { path: self.path.to_string(), bytes_max: self.sent_bytes });
        }
        let upload_id = self.upload_id().await?;
        while self.in_flight.len() >= PARTS_IN_FLIGHT_MAX {
            self.collect_part().await?;
        }
        let number = self.next_number;
        self.next_number += 1;
        if self.next_number.is_multiple_of(PARTS_PER_GROWTH) {
            self.part_bytes = (self.part_bytes * 2).min(self.inner.protocol.rules().part_bytes_max);
        }
        let (inner, key) = (Arc::clone(&self.inner), self.key.clone());
        let held = std::mem::take(&mut self.held);
        self.sent_bytes += std::mem::take(&mut self.held_bytes);
        self.in_flight.push(tokio::spawn(async move { inner.send_part(&key, &upload_id, number, held).await }));
        Ok(())
    }

    async fn collect_part(&mut self) -> Result<()> {
        if let Some(done) = self.in_flight.next().await {
            let part = done.map_err(|error| store_error(self.path.as_str(), error))??;
            self.parts.push(part);
        }
        Ok(())
    }
}

#[async_trait]
impl Staged for StagedObject {
    fn begun(&self) -> StagedRecord {
        match (&self.sealed, &self.upload_id) {
            (Some(record), _) => record.clone(),
            (None, Some(id)) => self.record(upload(id, Vec::new(), None)),
            (None, None) => self.record(StagedBody::Named),
        }
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        assert!(self.sealed.is_none() && !self.shared, "bytes after the seal or beside shared parts have no place");
        let mut bytes = bytes;
        self.len += bytes.len() as u64;
        // Parts are cut exactly, without a copy; what fits a small put stays until it is known not to be one.
        while self.held_bytes + bytes.len() as u64 > self.part_bytes {
            let rest = bytes.split_off((self.part_bytes - self.held_bytes) as usize);
            self.held.push(std::mem::replace(&mut bytes, rest));
            self.held_bytes = self.part_bytes;
            self.send_part().await?;
        }
        self.held_bytes += bytes.len() as u64;
        self.held.push(bytes);
        Ok(())
    }

    async fn share(&mut self) -> Result<StagedRecord> {
        assert!(self.len == 0, "a write is shared before its first byte");
        let upload_id = self.upload_id().await?;
        self.shared = true;
        Ok(self.record(upload(&upload_id, Vec::new(), None)))
    }

    fn adopt(&mut self, parts: Vec<Part>) -> Result<()> {
        assert!(self.shared && self.sealed.is_none(), "only a shared write that is not sealed takes parts");
        self.len += parts.iter().map(|part| part.len).sum::<u64>();
        self.parts.extend(parts);
        Ok(())
    }

    async fn seal(&mut self) -> Result<StagedRecord> {
        let limit_ms = now_ms() + PUBLISH_WINDOW.as_millis() as u64;
        if let Some(StagedRecord { body: StagedBody::Upload { publish_by_ms, .. }, .. }) = &mut self.sealed {
            *publish_by_ms = publish_by_ms.map(|_| limit_ms);
            return Ok(self.sealed.clone().expect("it was just looked at"));
        }
        let body = if self.shared && self.parts.is_empty() {
            // An upload needs a part: an empty file that was shared becomes a small put.
            if let Some(upload_id) = self.upload_id.take() {
                self.inner.protocol.abort_upload(&self.key, &upload_id).await?;
            }
            StagedBody::Small { publish_by_ms: limit_ms }
        } else if self.upload_id.is_some() || self.held_bytes > self.inner.protocol.rules().small_bytes_max {
            if self.held_bytes > 0 {
                self.send_part().await?;
            }
            let upload_id = self.upload_id().await?;
            while !self.in_flight.is_empty() {
                self.collect_part().await?;
            }
            let parts = ordered_parts(&self.path, std::mem::take(&mut self.parts))?;
            let sent: u64 = parts.iter().map(|part| part.len).sum();
            assert_eq!(sent, self.len, "every byte taken is in a part");
            let is_timed = self.inner.protocol.rules().fence == Fence::Time;
            upload(&upload_id, parts, is_timed.then_some(limit_ms))
        } else {
            StagedBody::Small { publish_by_ms: limit_ms }
        };
        let record = self.record(body);
        Ok(self.sealed.insert(record).clone())
    }

    async fn publish(&mut self, condition: &Condition) -> Result<VersionToken> {
        let record = match &self.sealed {
            Some(record) => record.clone(),
            None => self.seal().await?,
        };
        let was_tried = std::mem::replace(&mut self.may_be_published, true);
        let published = match &record.body {
            StagedBody::Small { publish_by_ms } => {
                self.inner.put_small(&record, &self.key, self.held.clone(), condition, *publish_by_ms).await
            }
            _ => self.inner.publish_upload(&record, condition).await,
        };
        if let Err(error) = &published
            && (error.refuses_publication() || matches!(error, Error::Expired { .. }))
        {
            // This try came to nothing; one before it may still succeed.
            self.may_be_published = was_tried;
        }
        published
    }

    async fn abandon(&mut self) -> Result<()> {
        for task in &self.in_flight {
            task.abort();
        }
        let Some(upload_id) = self.upload_id.take() else { return Ok(()) };
        match &self.sealed {
            // Its parts may be what will be published after all.
            Some(record) if self.may_be_published && self.inner.protocol.rules().fence == Fence::Time => {
                self.inner.settle(record).await.map(drop)
            }
            _ => self.inner.protocol.abort_upload(&self.key, &upload_id).await,
        }
    }
}

impl Drop for StagedObject {
    fn drop(&mut self) {
        for task in &self.in_flight {
            task.abort();
        }
    }
}

/// Repeats a call for as long as its server may be restarting: nobody could give the bytes of a long write again. A part
/// that is sent twice replaces itself.
async fn patiently<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> Result<T> {
    let deadline = tokio::time::Instant::now() + ABSENCE_MAX;
    loop {
        match call().await {
            Err(Error::Unreachable { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(ABSENCE_PAUSE).await;
            }
            result => return result,
        }
    }
}

impl Inner {
    async fn send_part(&self, key: &str, upload_id: &str, number: u32, content: Vec<Bytes>) -> Result<Part> {
        let len = content.iter().map(|bytes| bytes.len() as u64).sum();
        let part = patiently(|| self.protocol.put_part(key, upload_id, number, content.clone())).await?;
        self.traffic.count_written(len);
        Ok(part)
    }

    pub(super) async fn put_part(&self, record: &StagedRecord, number: u32, content: Vec<Bytes>) -> Result<Part> {
        let StagedBody::Upload { upload_id, .. } = &record.body else {
            return Err(Error::BadRecord { reason: "it is not of an upload that takes parts" });
        };
        if number == 0 || number as usize > PARTS_MAX {
            return Err(Error::BadRecord { reason: "parts are numbered from 1 to 10,000" });
        }
        self.send_part(&self.object_key(&record.path)?, upload_id, number, content).await
    }

    /// Sends the one put of a small write, within its window.
    async fn put_small(
        &self,
        record: &StagedRecord,
        key: &str,
        content: Vec<Bytes>,
        condition: &Condition,
        publish_by_ms: u64,
    ) -> Result<VersionToken> {
        let path = &record.path;
        let put = async {
            let rules = self.protocol.rules();
            let compares = match condition {
                Condition::Any => Compares::Atomically,
                Condition::MustNotExist => rules.create,
                Condition::Replaces(_) => rules.replace,
            };
            if compares != Compares::Atomically {
                match self.compare(path, record.file_id, condition).await {
                    Ok(()) => {}
                    Err(Ours(token)) => return Ok(token),
                    Err(Not(error)) => return Err(error),
                }
            }
            let version = self.protocol.put(key, content, record.file_id, condition).await?;
            self.traffic.count_written(record.len);
            token_of(path.as_str(), &version)
        };
        match within(path, publish_by_ms, put).await {
            Ok(token) => Ok(token),
            // An answer may have been lost and the request repeated: the refusal may be of our own object.
            Err(error) => self.ours_or(record, error).await,
        }
    }

    /// Completes an upload, in any process.
    pub(super) async fn publish_upload(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        let path = &record.path;
        let (upload_id, parts, publish_by_ms) = match &record.body {
            StagedBody::Upload { upload_id, parts, publish_by_ms } => {
                (upload_id, ordered_parts(path, parts.clone())?, *publish_by_ms)
            }
            StagedBody::Small { .. } => {
                let reason = "its bytes were in the memory of the process that staged it";
                let file_id = record.file_id.to_string();
                return Err(Error::StagedLost { path: path.to_string(), file_id, reason: reason.into() });
            }
            _ => return Err(Error::BadRecord { reason: "it is not of a write to an object store" }),
        };
        if let Err(error) = self.compare(path, record.file_id, condition).await {
            return match error {
                Ours(token) => Ok(token),
                Not(error) => Err(error),
            };
        }
        let key = self.object_key(path)?;
        let complete = self.protocol.complete_upload(&key, upload_id, &parts, record.file_id, condition);
        let completed = match (self.protocol.rules().fence, publish_by_ms) {
            (Fence::Abort, _) => complete.await,
            (Fence::Time, Some(publish_by_ms)) => within(path, publish_by_ms, complete).await,
            (Fence::Time, None) => return Err(Error::BadRecord { reason: "it is of an upload that was not sealed" }),
        };
        match completed {
            Ok(version) => token_of(path.as_str(), &version),
            Err(error) => self.ours_or(record, error).await,
        }
    }

    /// Looks at the target just before a publication, for stores that ignore its condition.
    async fn compare(&self, path: &StorePath, file_id: FileId, condition: &Condition) -> Result<(), Compared> {
        if *condition == Condition::Any {
            return Ok(());
        }
        let found = match self.head(path).await {
            Ok(head) => Some(head),
            Err(Error::NotFound { .. }) => None,
            Err(other) => return Err(Not(other)),
        };
        if let Some(head) = &found
            && head.file_id == Some(file_id)
        {
            return Err(match token_of(path.as_str(), &head.object.version) {
                Ok(token) => Ours(token),
                Err(error) => Not(error),
            });
        }
        match (condition, found) {
            (Condition::MustNotExist, Some(_)) => Err(Not(Error::AlreadyExists { path: path.to_string() })),
            (Condition::Replaces(token), Some(head)) if Some(head.object.version.as_str()) != text_of(token) => {
                Err(Not(Error::Conflict { path: path.to_string(), reason: "it is another version".into() }))
            }
            (Condition::Replaces(_), None) => {
                Err(Not(Error::Conflict { path: path.to_string(), reason: "it is gone".into() }))
            }
            _ => Ok(()),
        }
    }

    /// The version at the path if it is this write after all, else the error.
    async fn ours_or(&self, record: &StagedRecord, error: Error) -> Result<VersionToken> {
        match self.published(record).await {
            Ok(Some(token)) => Ok(token),
            _ => Err(error),
        }
    }

    async fn published(&self, record: &StagedRecord) -> Result<Option<VersionToken>> {
        match self.head(&record.path).await {
            Ok(head) if head.file_id == Some(record.file_id) => {
                Ok(Some(to_stat(record.path.as_str(), &head.object)?.token))
            }
            Ok(_) | Err(Error::NotFound { .. } | Error::IsADirectory { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    pub(super) async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        let (upload_id, publish_by_ms) = match &record.body {
            StagedBody::Upload { upload_id, publish_by_ms, .. } => (Some(upload_id), *publish_by_ms),
            StagedBody::Small { publish_by_ms } => (None, Some(*publish_by_ms)),
            StagedBody::Named => (None, None),
            StagedBody::Temp { .. } => {
                return Err(Error::BadRecord { reason: "it is not of a write to an object store" });
            }
        };
        let abort = async || match upload_id {
            Some(upload_id) => self.protocol.abort_upload(&self.object_key(&record.path)?, upload_id).await,
            None => Ok(()),
        };
        let fence = self.protocol.rules().fence;
        if fence == Fence::Abort {
            abort().await?;
        }
        let mut settled = self.published(record).await?;
        if let (None, Some(publish_by_ms)) = (&settled, publish_by_ms)
            && wait_out(publish_by_ms).await
        {
            settled = self.published(record).await?;
        }
        if let Some(token) = settled {
            return Ok(Settled::Published(token));
        }
        if fence == Fence::Time {
            abort().await?;
        }
        Ok(Settled::Absent)
    }

    pub(super) async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        let prefix = self.dir_key(&StorePath::root())?;
        let mut swept = Swept::default();
        let mut from = None;
        for _ in 0..SWEEP_PAGES_MAX {
            let page = self.protocol.uploads(&prefix, from.as_ref()).await?;
            for Upload { key, id, begun_ms } in page.uploads {
                // A key that we cannot name was not ours.
                let Some(key) = key else { continue };
                let path = key.strip_prefix(&prefix).and_then(|path| StorePath::parse(path).ok());
                let Some(path) = path.filter(|path| !path.is_root()) else { continue };
                swept.seen += 1;
                if dead(&Remnant::Upload { path, upload_id: id.clone(), begun_ms }) {
                    self.protocol.abort_upload(&key, &id).await?;
                    swept.removed += 1;
                }
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        Ok(swept)
    }
}

/// Why a publication does not go on: it has happened already, or must not.
enum Compared {
    Ours(VersionToken),
    Not(Error),
}
use Compared::{Not, Ours};

fn upload(upload_id: &str, parts: Vec<Part>, publish_by_ms: Option<u64>) -> StagedBody {
    StagedBody::Upload { upload_id: upload_id.to_owned(), parts, publish_by_ms }
}

/// A publication, sent and answered before the time that its record names.
async fn within<T>(path: &StorePath, publish_by_ms: u64, publication: impl Future<Output = Result<T>>) -> Result<T> {
    let left_ms = publish_by_ms.saturating_sub(now_ms());
    if left_ms == 0 {
        return Err(Error::Expired { path: path.to_string() });
    }
    let limit = Duration::from_millis(left_ms).min(PUBLISH_WINDOW);
    let late = |_| Error::TimedOut { path: path.to_string(), seconds: limit.as_secs() };
    tokio::time::timeout(limit, publication).await.map_err(late)?
}

/// Waits until no publication bounded by this time can take place any more. Whether there was anything to wait for.
async fn wait_out(publish_by_ms: u64) -> bool {
    let fence_ms = publish_by_ms.saturating_add(FENCE_GRACE.as_millis() as u64);
    // A damaged record, or a clock set back, must not hold a recovery for ever.
    let wait = Duration::from_millis(fence_ms.saturating_sub(now_ms())).min(PUBLISH_WINDOW + FENCE_GRACE);
    tokio::time::sleep(wait).await;
    !wait.is_zero()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
