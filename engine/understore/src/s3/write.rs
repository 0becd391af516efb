//! Writes to S3: a small put, or a multipart upload that several processes share.
//!
//! Every object that Citius writes carries its file id as metadata (`citius-file`), so that a HEAD proves whose
//! write it is. Up to [`SMALL_BYTES_MAX`] bytes are held and sent as one PUT at publication; more go up as parts while
//! they are written.
//!
//! **Ending a write of unknown fate.** An aborted upload can never be completed. A PUT cannot be called back, so
//! it is bounded by time: no PUT is sent, and none is waited for, after the record's `publish_by_ms`. Settling waits
//! until that and [`FENCE_GRACE`] (for the server to finish, and for clocks to differ) are over before it says `Absent`.
//! If the object is found to be ours, nothing is waited for. A caller who knows since when the publisher is dead may
//! lower `publish_by_ms` to that time.
//!
//! **What is left on the store by a crash.** An upload begun and not yet logged stays; [`Inner::sweep`] lists all
//! uploads under the prefix. S3 shows neither metadata nor owner's program of an unfinished upload, so its caller
//! must decide by upload id and age; see [`Remnant::Upload`].

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use http::Method;
use object_store::{
    Attribute, Attributes, ObjectStore, PutMode, PutOptions, PutPayload, UpdateVersion, multipart::MultipartStore,
    path::Path,
};
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::{
    FILE_ID_HEADER, Inner,
    client::{Request, decode_key, store_error, time_ms},
    list::to_stat,
};
use crate::{
    Condition, Error, FileId, Operation, Part, Remnant, Repeat, Result, Settled, Staged, StagedBody, StagedRecord,
    StorePath, Swept, VersionToken,
    staged::{PARTS_MAX, ordered_parts},
};

/// Bytes up to which a write is one PUT.
const SMALL_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a part; more for files that would have too many of them. S3 wants at least 5 MiB.
const PART_BYTES: u64 = 8 << 20;
/// Bytes of the largest part that S3 takes.
const PART_BYTES_MAX: u64 = 5 << 30;
/// Parts of one writer on their way at once.
const PARTS_IN_FLIGHT_MAX: usize = 4;
/// Without a hint, parts grow by this factor each time so many have been sent: 10,000 parts then reach 5 TiB.
const PARTS_PER_GROWTH: u32 = 1000;
/// A small put must be published, answer and all, within this time of its seal.
const PUBLISH_WINDOW: Duration = Duration::from_secs(30);
/// How long after the last possible end of a PUT its object could still appear.
const FENCE_GRACE: Duration = Duration::from_secs(5);
/// How long a server may be away in the middle of a write: a restart takes less.
const ABSENCE_MAX: Duration = Duration::from_secs(20);
/// The pause before it is tried again.
const ABSENCE_PAUSE: Duration = Duration::from_millis(500);
/// Pages of uploads that one sweep looks at.
const SWEEP_PAGES_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InitiateAnswer {
    upload_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CompleteAnswer {
    #[serde(rename = "ETag")]
    etag: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadsAnswer {
    #[serde(default, rename = "Upload")]
    uploads: Vec<UploadUnderWay>,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    encoding_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadUnderWay {
    key: String,
    upload_id: String,
    #[serde(default)]
    initiated: String,
}

/// A write to S3 under way.
pub(super) struct S3Staged {
    inner: Arc<Inner>,
    path: StorePath,
    key: Path,
    file_id: FileId,
    part_bytes: u64,
    held: Vec<Bytes>,
    held_bytes: u64,
    len: u64,
    /// None while everything is held.
    upload_id: Option<String>,
    parts: Vec<Part>,
    next_number: u32,
    in_flight: FuturesUnordered<JoinHandle<Result<Part>>>,
    shared: bool,
    sealed: Option<StagedRecord>,
}

impl S3Staged {
    pub(super) fn new(inner: &Arc<Inner>, path: StorePath, file_id: FileId, len_hint: Option<u64>) -> Result<Self> {
        let key = Path::parse(inner.object_key(&path)?).map_err(|error| inner.objects_error(&path, error.into()))?;
        let fitting = len_hint.unwrap_or(0).div_ceil(PARTS_MAX as u64).next_multiple_of(1 << 20);
        Ok(Self {
            inner: Arc::clone(inner),
            path,
            key,
            file_id,
            part_bytes: fitting.clamp(PART_BYTES, PART_BYTES_MAX),
            held: Vec::new(),
            held_bytes: 0,
            len: 0,
            upload_id: None,
            parts: Vec::new(),
            next_number: 1,
            in_flight: FuturesUnordered::new(),
            shared: false,
            sealed: None,
        })
    }

    fn record(&self, body: StagedBody) -> StagedRecord {
        StagedRecord { path: self.path.clone(), file_id: self.file_id, len: self.len, body }
    }

    async fn upload_id(&mut self) -> Result<String> {
        if self.upload_id.is_none() {
            let begin = || self.inner.begin_upload(&self.path, self.file_id);
            self.upload_id = Some(patiently(begin).await?);
        }
        Ok(self.upload_id.clone().expect("it was just set"))
    }

    /// Sends what is held as one part, when few enough are on their way.
    async fn send_part(&mut self) -> Result<()> {
        let upload_id = self.upload_id().await?;
        while self.in_flight.len() >= PARTS_IN_FLIGHT_MAX {
            self.collect_part().await?;
        }
        let number = self.next_number;
        self.next_number += 1;
        if self.next_number.is_multiple_of(PARTS_PER_GROWTH) {
            self.part_bytes = (self.part_bytes * 2).min(PART_BYTES_MAX);
        }
        let (inner, path, key) = (Arc::clone(&self.inner), self.path.clone(), self.key.clone());
        let held = std::mem::take(&mut self.held);
        self.held_bytes = 0;
        self.in_flight.push(tokio::spawn(async move { inner.send_part(&path, &key, upload_id, number, held).await }));
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
impl Staged for S3Staged {
    fn begun(&self) -> StagedRecord {
        match (&self.sealed, &self.upload_id) {
            (Some(record), _) => record.clone(),
            (None, Some(id)) => self.record(StagedBody::Upload { upload_id: id.clone(), parts: Vec::new() }),
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
        Ok(self.record(StagedBody::Upload { upload_id, parts: Vec::new() }))
    }

    fn adopt(&mut self, parts: Vec<Part>) -> Result<()> {
        assert!(self.shared && self.sealed.is_none(), "only a shared write that is not sealed takes parts");
        self.len += parts.iter().map(|part| part.len).sum::<u64>();
        self.parts.extend(parts);
        Ok(())
    }

    async fn seal(&mut self) -> Result<StagedRecord> {
        if let Some(StagedRecord { body: StagedBody::Upload { .. }, .. }) = &self.sealed {
            return Ok(self.sealed.clone().expect("it was just looked at"));
        }
        let body = if self.shared && self.parts.is_empty() {
            // An upload needs a part: an empty file that was shared becomes a small put.
            if let Some(upload_id) = self.upload_id.take() {
                self.inner.abort_upload(&self.path, &upload_id).await?;
            }
            StagedBody::Small { publish_by_ms: now_ms() + PUBLISH_WINDOW.as_millis() as u64 }
        } else if self.upload_id.is_some() || self.held_bytes > SMALL_BYTES_MAX {
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
            StagedBody::Upload { upload_id, parts }
        } else {
            StagedBody::Small { publish_by_ms: now_ms() + PUBLISH_WINDOW.as_millis() as u64 }
        };
        let record = self.record(body);
        Ok(self.sealed.insert(record).clone())
    }

    async fn publish(&mut self, condition: &Condition) -> Result<VersionToken> {
        let record = match &self.sealed {
            Some(record) => record.clone(),
            None => self.seal().await?,
        };
        match &record.body {
            StagedBody::Small { publish_by_ms } => {
                let payload = PutPayload::from_iter(self.held.iter().cloned());
                self.inner.put_small(&record, &self.key, payload, condition, *publish_by_ms).await
            }
            _ => self.inner.publish_upload(&record, condition).await,
        }
    }

    async fn abandon(&mut self) -> Result<()> {
        for task in &self.in_flight {
            task.abort();
        }
        match self.upload_id.take() {
            Some(upload_id) => self.inner.abort_upload(&self.path, &upload_id).await,
            None => Ok(()),
        }
    }
}

impl Drop for S3Staged {
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
    async fn begin_upload(&self, path: &StorePath, file_id: FileId) -> Result<String> {
        let (key, id) = (self.object_key(path)?, file_id.to_string());
        let request = Request {
            key: &key,
            query: &[("uploads", "")],
            headers: &[(FILE_ID_HEADER, &id), ("content-length", "0")],
            body: Bytes::new(),
        };
        let answer = self.client.send(Method::POST, &request, true).await?;
        if let Some(failure) = answer.failure() {
            return Err(self.client.failed(path.as_str(), &failure));
        }
        Ok(answer.document::<InitiateAnswer>(path.as_str())?.upload_id)
    }

    async fn send_part(
        &self,
        path: &StorePath,
        key: &Path,
        upload_id: String,
        number: u32,
        bytes: Vec<Bytes>,
    ) -> Result<Part> {
        let len = bytes.iter().map(|bytes| bytes.len() as u64).sum();
        let payload = PutPayload::from_iter(bytes);
        let index = number as usize - 1;
        let put = || async {
            let part = self.objects.put_part(key, &upload_id, index, payload.clone()).await;
            part.map_err(|error| self.objects_error(path, error))
        };
        let part = patiently(put).await?;
        self.traffic.count_written(len);
        Ok(Part { number, len, tag: part.content_id })
    }

    pub(super) async fn put_part(&self, record: &StagedRecord, number: u32, bytes: Vec<Bytes>) -> Result<Part> {
        let StagedBody::Upload { upload_id, .. } = &record.body else {
            return Err(Error::BadRecord { reason: "it is not of an upload that takes parts" });
        };
        if number == 0 || number as usize > PARTS_MAX {
            return Err(Error::BadRecord { reason: "parts are numbered from 1 to 10,000" });
        }
        let path = &record.path;
        let key = Path::parse(self.object_key(path)?).map_err(|error| self.objects_error(path, error.into()))?;
        self.send_part(path, &key, upload_id.clone(), number, bytes).await
    }

    /// Sends the one PUT of a small write, within its window.
    async fn put_small(
        &self,
        record: &StagedRecord,
        key: &Path,
        payload: PutPayload,
        condition: &Condition,
        publish_by_ms: u64,
    ) -> Result<VersionToken> {
        let path = &record.path;
        let left_ms = publish_by_ms.saturating_sub(now_ms());
        if left_ms == 0 {
            return Err(Error::Expired { path: path.to_string() });
        }
        let mode = match condition {
            Condition::Any => PutMode::Overwrite,
            Condition::MustNotExist => PutMode::Create,
            Condition::Replaces(token) => {
                let e_tag = Some(String::from_utf8_lossy(token.as_bytes()).into_owned());
                PutMode::Update(UpdateVersion { e_tag, version: None })
            }
        };
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata("citius-file".into()), record.file_id.to_string().into());
        let mut options = PutOptions { mode, attributes, ..PutOptions::default() };
        // Repeated although it may have a condition: a refusal of our own object is recognized below.
        options.extensions.insert(self.traffic.call(Operation::Write, Repeat::Harmless));
        let limit = Duration::from_millis(left_ms).min(PUBLISH_WINDOW);
        let put = tokio::time::timeout(limit, self.objects.put_opts(key, payload, options));
        let error = match put.await {
            Ok(Ok(put)) => {
                self.traffic.count_written(record.len);
                let etag = put.e_tag.unwrap_or_default();
                return token_of(path, &etag);
            }
            Ok(Err(error)) => self.publish_error(path, condition, error),
            Err(_) => Error::TimedOut { path: path.to_string(), seconds: limit.as_secs() },
        };
        // An answer may have been lost and the request repeated: the refusal may be of our own object.
        self.ours_or(record, error).await
    }

    fn publish_error(&self, path: &StorePath, condition: &Condition, error: object_store::Error) -> Error {
        use object_store::Error as Refusal;

        match (condition, error) {
            (Condition::MustNotExist, Refusal::AlreadyExists { .. } | Refusal::Precondition { .. }) => {
                Error::AlreadyExists { path: path.to_string() }
            }
            (_, Refusal::AlreadyExists { .. } | Refusal::Precondition { .. }) => {
                Error::Conflict { path: path.to_string(), reason: "it is another version, or gone".into() }
            }
            (_, other) => self.objects_error(path, other),
        }
    }

    /// Completes an upload, in any process.
    pub(super) async fn publish_upload(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        let path = &record.path;
        let (upload_id, parts) = match &record.body {
            StagedBody::Upload { upload_id, parts } => (upload_id, ordered_parts(path, parts.clone())?),
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
        let etag;
        let mut headers = vec![("content-type", "application/xml")];
        match condition {
            Condition::Any => {}
            Condition::MustNotExist => headers.push(("if-none-match", "*")),
            Condition::Replaces(token) => {
                etag = String::from_utf8_lossy(token.as_bytes()).into_owned();
                headers.push(("if-match", &etag));
            }
        }
        let key = self.object_key(path)?;
        let request =
            Request { key: &key, query: &[("uploadId", upload_id)], headers: &headers, body: complete_body(&parts) };
        let answer = match self.client.send(Method::POST, &request, true).await {
            Ok(answer) => answer,
            Err(error) => return self.ours_or(record, error).await,
        };
        let Some(failure) = answer.failure() else {
            let etag = answer.document::<CompleteAnswer>(path.as_str())?.etag;
            return token_of(path, &etag);
        };
        let error = match (failure.status.as_u16(), condition) {
            (404, _) if failure.code == "NoSuchUpload" => {
                let (path, file_id) = (path.to_string(), record.file_id.to_string());
                Error::StagedLost { path, file_id, reason: "the upload was aborted or completed".into() }
            }
            (412 | 409, Condition::MustNotExist) => Error::AlreadyExists { path: path.to_string() },
            (412 | 409 | 404, _) => {
                Error::Conflict { path: path.to_string(), reason: format!("the store says {}", failure.text()) }
            }
            _ => self.client.failed(path.as_str(), &failure),
        };
        self.ours_or(record, error).await
    }

    /// Looks at the target just before a multipart publication, for stores that ignore conditions there.
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
            return Err(match token_of(path, &head.object.etag) {
                Ok(token) => Ours(token),
                Err(error) => Not(error),
            });
        }
        match (condition, found) {
            (Condition::MustNotExist, Some(_)) => Err(Not(Error::AlreadyExists { path: path.to_string() })),
            (Condition::Replaces(token), Some(head)) if head.object.etag.as_bytes() != token.as_bytes() => {
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
            Ok(_) | Err(Error::NotFound { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    async fn abort_upload(&self, path: &StorePath, upload_id: &str) -> Result<()> {
        let key = self.object_key(path)?;
        let request = Request { key: &key, query: &[("uploadId", upload_id)], ..Request::default() };
        let answer = self.client.send(Method::DELETE, &request, true).await?;
        match answer.failure() {
            None => Ok(()),
            Some(failure) if failure.status == 404 => Ok(()),
            Some(failure) => Err(self.client.failed(path.as_str(), &failure)),
        }
    }

    pub(super) async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        let mut fence_ms = 0;
        match &record.body {
            StagedBody::Upload { upload_id, .. } => self.abort_upload(&record.path, upload_id).await?,
            StagedBody::Small { publish_by_ms } => {
                fence_ms = publish_by_ms.saturating_add(FENCE_GRACE.as_millis() as u64);
            }
            StagedBody::Named => {}
            StagedBody::Temp { .. } => {
                return Err(Error::BadRecord { reason: "it is not of a write to an object store" });
            }
        }
        if let Some(token) = self.published(record).await? {
            return Ok(Settled::Published(token));
        }
        // A damaged record, or a clock set back, must not hold a recovery for ever.
        let longest = PUBLISH_WINDOW + FENCE_GRACE;
        let wait = Duration::from_millis(fence_ms.saturating_sub(now_ms())).min(longest);
        if wait.is_zero() {
            return Ok(Settled::Absent);
        }
        tokio::time::sleep(wait).await;
        Ok(self.published(record).await?.map_or(Settled::Absent, Settled::Published))
    }

    pub(super) async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        let prefix = self.dir_key(&StorePath::root())?;
        let mut swept = Swept::default();
        let mut markers: Option<(String, String)> = None;
        for _ in 0..SWEEP_PAGES_MAX {
            let mut query =
                vec![("encoding-type", "url"), ("max-uploads", "1000"), ("prefix", prefix.as_str()), ("uploads", "")];
            if let Some((key, upload)) = &markers {
                query.extend([("key-marker", key.as_str()), ("upload-id-marker", upload.as_str())]);
            }
            let request = Request { query: &query, ..Request::default() };
            let answer = self.client.send(Method::GET, &request, true).await?;
            if let Some(failure) = answer.failure() {
                return Err(self.client.failed(&self.uri, &failure));
            }
            let page: UploadsAnswer = answer.document(&self.uri)?;
            let encoded = page.encoding_type.as_deref() == Some("url");
            for upload in page.uploads {
                let key = if encoded { decode_key(&upload.key) } else { Ok(upload.key) };
                let path = key.ok().and_then(|key| StorePath::parse(key.strip_prefix(&prefix)?).ok());
                // A key that we cannot name was not ours.
                let Some(path) = path.filter(|path| !path.is_root()) else { continue };
                swept.seen += 1;
                let (upload_id, begun_ms) = (upload.upload_id, time_ms(&upload.initiated));
                let remnant = Remnant::Upload { path: path.clone(), upload_id: upload_id.clone(), begun_ms };
                if dead(&remnant) {
                    self.abort_upload(&path, &upload_id).await?;
                    swept.removed += 1;
                }
            }
            let decode = |text: String| if encoded { decode_key(&text).unwrap_or(text) } else { text };
            match (page.is_truncated, page.next_key_marker, page.next_upload_id_marker) {
                (true, Some(key), upload) => markers = Some((decode(key), upload.unwrap_or_default())),
                _ => return Ok(swept),
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

fn token_of(path: &StorePath, etag: &str) -> Result<VersionToken> {
    if etag.trim_matches('"').is_empty() {
        return Err(store_error(path.as_str(), "the store gave no etag for what it took"));
    }
    VersionToken::new(etag.as_bytes())
}

fn complete_body(parts: &[Part]) -> Bytes {
    use std::fmt::Write;

    let mut xml = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for part in parts {
        let etag = quick_xml::escape::escape(part.tag.as_str());
        write!(xml, "<Part><ETag>{etag}</ETag><PartNumber>{}</PartNumber></Part>", part.number)
            .expect("a String takes all");
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml.into()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
