//! Under-stores that speak the XML of S3: `s3://` (Amazon S3, and whatever does as it does), `gs://` (Google Cloud Storage)
//! and `oss://` (Alibaba OSS).
//!
//! What object stores have in common is in `object/`; here are the requests of these, made once. What differs between the
//! three is a table, `dialect.rs`, and how one connects to each.
//!
//! # What conditional requests do (measured against SeaweedFS 4.48)
//! | request | condition | SeaweedFS 4.48 |
//! |---|---|---|
//! | GET | If-Match other etag | 412 |
//! | PUT | If-None-Match: *, object exists | 412 |
//! | PUT | If-Match other etag, or no object | 412 |
//! | CompleteMultipartUpload | If-None-Match: * / If-Match | 412, the upload stays and is aborted by us |
//! | CopyObject | If-None-Match: * | 412 |
//! | DELETE | If-Match other etag | 412 |
//!
//! Of PUTs that race under a condition one wins. Of CompleteMultipartUploads that race, SeaweedFS lets several win: it
//! looks just before it writes. Amazon S3 documents both as atomic (404 for If-Match without an object, 409 when two
//! conditional writes race), so only at its own endpoints do [`Capabilities`] promise that for large writes. A store that
//! ignores conditions altogether would overwrite silently; for it a multipart publication also looks at the target itself.
//!
//! Ceph 16 wants etags without quotes in the conditions of a PUT (it answers 412 to others), does not tell the etag of a
//! completed upload, and percent-encodes the keys of uploads under way without saying so.
//!
//! SeaweedFS also lists in name order where Amazon S3 lists in key order, collapses `a//b` to `a/b`, takes `a\b` for
//! `a/b`, replaces control characters in continuation tokens, shows a directory after its last object is gone until it has
//! cleaned up, and deletes a marker only when nothing is under it.
//!
//! - `copy.rs` copies, large objects in parts.
//! - `aws.rs`, `gcs.rs` and `oss.rs` read URI and options, with what `connect.rs` has for all (`alias.rs`: other names for
//!   the options of the first); `keys.rs` is where keys come from (`profile.rs`: Amazon's files; `temporary.rs`: those that
//!   last for a while, of Amazon's roles in `role.rs` and of Alibaba's in `ram.rs`), `v4.rs` signs with them; `client.rs`
//!   sends requests; `xml.rs` reads and writes documents.

mod alias;
mod aws;
mod client;
mod connect;
mod copy;
mod dialect;
mod gcs;
mod keys;
mod oss;
mod profile;
mod ram;
mod role;
mod temporary;
pub(crate) mod v4;
mod xml;

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use md5::{Digest, Md5};

#[cfg(feature = "testing")]
pub(crate) use self::aws::connect as connect_aws;
pub(crate) use self::{
    alias::{ALIASES as AWS_ALIASES, translate as translate_aws},
    aws::open as open_aws,
    gcs::{ALIASES as GCS_ALIASES, open as open_gcs, translate as translate_gcs},
    keys::{NoKeys, Provided},
    oss::{ALIASES as OSS_ALIASES, open as open_oss, translate as translate_oss},
};
use self::{
    client::{Client, Failure, Request},
    dialect::Version,
    xml::{
        CompleteAnswer, DeleteAnswer, DeleteError, InitiateAnswer, ListAnswer, UploadsAnswer, VersioningAnswer,
        complete_body, delete_body,
    },
};
use crate::{
    Call, Compares, Condition, Error, FileId, Operation, Part, Result,
    object::{
        Ask, Begin, Content, Head, Keys, Object, Protocol, Rules, Uploads, UploadsFrom, Wanted, store_error, text_of,
    },
    web::{Answer, Opened, header_of, http_time_ms},
};

/// How long [`Protocol::check`] may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause of one; it grows with each.
const RACE_PAUSE: Duration = Duration::from_millis(50);
/// How often a write that races others under a condition is sent again.
const RACES_MAX: u32 = 4;

/// A bucket at work.
pub(crate) struct S3 {
    client: Client,
    /// The dialect's, or better ones where more is promised.
    rules: Rules,
    /// Whether the bucket is known to keep no old versions.
    is_unversioned: AtomicBool,
    /// Whether conditions hold only of etags without their quotes, as Ceph before 17 has it.
    wants_bare_etags: AtomicBool,
    /// Whether the server refuses to be asked for digests, as Backblaze does.
    tells_no_digests: AtomicBool,
}

impl S3 {
    fn new(client: Client, rules: Rules) -> Self {
        Self {
            client,
            rules,
            is_unversioned: AtomicBool::new(false),
            wants_bare_etags: AtomicBool::new(false),
            tells_no_digests: AtomicBool::new(false),
        }
    }

    /// The version that the head of an answer tells; empty if it tells none.
    fn version<'a>(&self, headers: &'a HeaderMap) -> &'a str {
        header_of(headers, self.client.dialect.version.header()).unwrap_or_default()
    }

    /// Sends a write whose conditions the server judges, until they are judged: who races others is told to try again.
    async fn judged(&self, request: &Request<'_>) -> Result<Answer> {
        let mut races = 0;
        loop {
            let answer = self.client.send(request).await?;
            let is_race = answer.status == 409
                && Failure::of(&answer).is_some_and(|failure| !self.client.dialect.says_exists(&failure));
            if !is_race || races == RACES_MAX {
                return Ok(if races == 0 { answer } else { answer.of_several() });
            }
            races += 1;
            tokio::time::sleep(RACE_PAUSE * races).await;
        }
    }

    /// One try of a put. The condition is the server's to judge, however the etag in it is spelled.
    async fn try_put(
        &self,
        key: &str,
        content: Vec<Bytes>,
        file_id: FileId,
        condition: &Condition,
        is_bare: bool,
    ) -> Result<Answer> {
        let (dialect, id) = (self.client.dialect, file_id.to_string());
        let mut headers = vec![("content-type", "application/octet-stream"), (dialect.file_id, id.as_str())];
        if let Some((name, value)) = dialect.put_if(condition) {
            headers.push((name, if is_bare { value.trim_matches('"') } else { value }));
        }
        let digest = dialect.sent_digest(&content).await;
        headers.extend(digest.as_ref().map(|(name, value)| (*name, value.as_str())));
        // Sent again although it may have a condition: a refusal of our own object is recognized by who asked.
        let put = Request { headers: &headers, content, ..Request::new(Operation::Write, Method::PUT, key) };
        self.judged(&put).await
    }

    /// The version of what was just written, for servers that do not say it.
    async fn version_of(&self, key: &str, file_id: FileId) -> Result<String> {
        match self.head(key).await? {
            Head { object, file_id: Some(found) } if found == file_id => Ok(object.version),
            _ => Err(Error::Conflict { path: key.to_owned(), reason: "it was replaced at once".into() }),
        }
    }

    /// A page of uploads, with keys encoded or not.
    async fn uploads_page(&self, prefix: &str, from: Option<&UploadsFrom>, encoded: bool) -> Result<UploadsAnswer> {
        let mut query = vec![("max-uploads", "1000"), ("prefix", prefix), ("uploads", "")];
        if encoded {
            query.insert(0, ("encoding-type", "url"));
        }
        if let Some(from) = from {
            query.extend([("key-marker", from.key.as_str()), ("upload-id-marker", from.id.as_str())]);
        }
        self.ask_bucket(prefix, &query).await?.document(prefix)
    }

    /// Whether a failure says that the condition of a publication does not hold. An object that was to be replaced and is
    /// gone is one way of that.
    fn refuses(&self, failure: &Failure, condition: &Condition) -> bool {
        match failure.status.as_u16() {
            409 | 412 => true,
            404 => matches!(condition, Condition::Replaces(_)) && failure.code != "NoSuchBucket",
            _ => false,
        }
    }

    /// Asks for an object of parts.
    async fn end_upload(&self, key: &str, upload_id: &str, parts: &[Part], condition: &Condition) -> Result<Answer> {
        let mut headers = vec![("content-type", "application/xml")];
        headers.extend(self.client.dialect.complete_if(condition));
        let complete = Request {
            query: &[("uploadId", upload_id)],
            headers: &headers,
            content: vec![complete_body(parts)],
            ..Request::new(Operation::Write, Method::POST, key)
        };
        self.judged(&complete).await
    }

    fn not_ended(&self, key: &str, condition: &Condition, failure: &Failure) -> Error {
        match self.refuses(failure, condition) {
            true => self.refused(key, condition, failure),
            false => self.client.failed(key, failure),
        }
    }

    fn refused(&self, key: &str, condition: &Condition, failure: &Failure) -> Error {
        match condition {
            Condition::MustNotExist if self.client.dialect.says_exists(failure) => {
                Error::AlreadyExists { path: key.to_owned() }
            }
            _ => Error::Conflict { path: key.to_owned(), reason: format!("the store says {}", failure.text()) },
        }
    }

    /// Finds out whether the bucket keeps old versions. That it may not be asked is no failure.
    async fn look_for_versions(&self) -> Result<()> {
        let ask = Request { query: &[("versioning", "")], ..Request::new(Operation::List, Method::GET, "") };
        let answer = self.client.send(&ask).await?;
        if Failure::of(&answer).is_none() {
            let VersioningAnswer { status } = answer.document(&self.client.bucket)?;
            self.is_unversioned.store(status.is_empty(), Relaxed);
        }
        Ok(())
    }

    /// Asks the bucket about the keys under a prefix.
    async fn ask_bucket(&self, prefix: &str, query: &[(&str, &str)]) -> Result<Answer> {
        let answer = self.client.send(&Request { query, ..Request::new(Operation::List, Method::GET, "") }).await?;
        match Failure::of(&answer) {
            None => Ok(answer),
            Some(failure) => Err(self.client.failed(prefix, &failure)),
        }
    }

    /// Creates the bucket, for tests that bring their own server.
    #[cfg(feature = "testing")]
    pub(crate) async fn create_bucket(&self) -> Result<()> {
        let answer = self.client.send(&Request::new(Operation::Change, Method::PUT, "")).await?;
        match Failure::of(&answer) {
            None => Ok(()),
            Some(failure) if failure.code == "BucketAlreadyOwnedByYou" => Ok(()),
            Some(failure) => Err(self.client.failed(&self.client.bucket, &failure)),
        }
    }
}

#[async_trait]
impl Protocol for S3 {
    fn endpoint(&self) -> &str {
        &self.client.web.endpoint
    }

    fn rules(&self) -> Rules {
        let mut rules = self.rules;
        // Where nobody has looked, or may, the worse is assumed.
        if self.client.dialect.versioned_overwrites && !self.is_unversioned.load(Relaxed) {
            rules.create = Compares::JustBefore;
        }
        rules
    }

    async fn check(&self, prefix: &str) -> Result<()> {
        let (web, endpoint) = (&self.client.web, || self.client.web.endpoint.clone());
        let late = |who: &str| format!("no answer from {who} within {} s", CHECK_TIMEOUT.as_secs());
        // Where no keys are given, a machine's metadata service is asked for them, and seldom is there one.
        match tokio::time::timeout(CHECK_TIMEOUT, web.find_keys()).await {
            Ok(found) => found?,
            Err(_) => {
                let (endpoint, reason) = (endpoint(), late("the source of keys"));
                return Err(Error::MissingKeys { endpoint, reason, advice: web.advice.missing_keys });
            }
        }
        let query = [("list-type", "2"), ("max-keys", "1"), ("prefix", prefix)];
        let request = Request { query: &query, ..Request::new(Operation::List, Method::GET, "") };
        let Ok(answer) = tokio::time::timeout(CHECK_TIMEOUT, self.client.send(&request)).await else {
            let (endpoint, reason) = (endpoint(), late("it"));
            return Err(Error::Unreachable { endpoint, reason, advice: web.advice.unreachable });
        };
        match Failure::of(&answer?) {
            None if self.client.dialect.versioned_overwrites => self.look_for_versions().await,
            None => Ok(()),
            Some(failure) if failure.status == 404 => Err(self.client.missing_bucket()),
            Some(failure) => Err(self.client.failed(&self.client.bucket, &failure)),
        }
    }

    async fn head(&self, key: &str) -> Result<Head> {
        let also = self.client.dialect.read_also;
        let head = Request { headers: also.as_slice(), ..Request::new(Operation::Stat, Method::HEAD, key) };
        let answer = self.client.ask(&head).await?;
        let len = answer.header("content-length").and_then(|len| len.parse().ok());
        let object = Object {
            len: len.ok_or_else(|| store_error(key, "the store gives no length"))?,
            version: self.version(&answer.headers).to_owned(),
            mtime_ms: answer.header("last-modified").map_or(0, http_time_ms),
        };
        Ok(Head { object, file_id: answer.header(self.client.dialect.file_id).and_then(FileId::from_hex) })
    }

    async fn get(&self, call: &Call, key: &str, version: &str, wanted: Wanted) -> Result<Content> {
        let range = format!("bytes={}-{}", wanted.range.start, wanted.range.end - 1);
        let dialect = self.client.dialect;
        loop {
            let asks_whole = wanted.is_whole && !self.tells_no_digests.load(Relaxed);
            let whole = dialect.read_whole.filter(|_| asks_whole);
            let mut headers = vec![(dialect.read_if, version), whole.unwrap_or(("range", range.as_str()))];
            headers.extend(dialect.read_also);
            let request = Request { headers: &headers, ..Request::new(Operation::Read, Method::GET, key) };
            let failure = match self.client.open(&request, call).await? {
                Opened::Flowing { headers, range, is_whole, chunks } => {
                    let digest = if is_whole { (dialect.digest)(&headers) } else { None };
                    return Ok(Content { range, version: self.version(&headers).to_owned(), digest, chunks });
                }
                Opened::Failed(answer) => Failure::of(&answer),
            };
            return Err(match failure {
                Some(failure) if whole.is_some_and(|(name, _)| failure.refuses_header(name)) => {
                    self.tells_no_digests.store(true, Relaxed);
                    continue;
                }
                // An object that is shorter now is another one.
                Some(failure) if matches!(failure.status.as_u16(), 412 | 416) => {
                    Error::VersionChanged { path: key.to_owned() }
                }
                Some(failure) => self.client.failed(key, &failure),
                None => store_error(key, "the store gives neither content nor an error"),
            });
        }
    }

    async fn keys(&self, ask: &Ask<'_>) -> Result<Keys> {
        let count_max = ask.count_max.to_string();
        let mut query =
            vec![("encoding-type", "url"), ("list-type", "2"), ("max-keys", &count_max), ("prefix", ask.prefix)];
        if ask.delimited {
            query.push(("delimiter", "/"));
        }
        match ask.from {
            Begin::First => {}
            Begin::After(key) => query.push(("start-after", key)),
            Begin::Token(token) => query.push(("continuation-token", token)),
        }
        let page: ListAnswer = self.ask_bucket(ask.prefix, &query).await?.document(ask.prefix)?;
        Ok(page.into_keys(self.client.dialect))
    }

    async fn put(&self, key: &str, content: Vec<Bytes>, file_id: FileId, condition: &Condition) -> Result<String> {
        let wants_bare = self.wants_bare_etags.load(Relaxed);
        let mut is_bare = wants_bare;
        loop {
            let answer = self.try_put(key, content.clone(), file_id, condition, is_bare).await?;
            let Some(failure) = Failure::of(&answer) else {
                self.wants_bare_etags.fetch_or(is_bare, Relaxed);
                let version = self.version(&answer.headers);
                return if version.is_empty() { self.version_of(key, file_id).await } else { Ok(version.to_owned()) };
            };
            if !self.refuses(&failure, condition) {
                let is_final = answer.is_final_refusal() && is_bare == wants_bare;
                return Err(self.client.failed(key, &failure).unpublished_if(is_final));
            }
            // Where the very version is there that was to be replaced, it was not understood.
            if let Condition::Replaces(token) = condition
                && !is_bare
                && self.client.dialect.version == Version::Etag
                && matches!(self.head(key).await, Ok(head) if Some(head.object.version.as_str()) == text_of(token))
            {
                is_bare = true;
                continue;
            }
            return Err(self.refused(key, condition, &failure));
        }
    }

    async fn put_marker(&self, key: &str) -> Result<()> {
        debug_assert!(key.ends_with('/'));
        let headers = [("content-type", "application/x-directory")];
        let put = Request { headers: &headers, ..Request::new(Operation::Change, Method::PUT, key) };
        self.client.ask(&put).await.map(drop)
    }

    async fn delete(&self, key: &str, version: Option<&str>) -> Result<()> {
        let replaced = || Error::Conflict { path: key.to_owned(), reason: "it was replaced meanwhile".into() };
        let condition = match (version, self.client.dialect.delete_if) {
            (Some(version), Some(name)) => Some((name, version)),
            (Some(version), None) => match self.head(key).await {
                Ok(head) if head.object.version == version => None,
                Ok(_) => return Err(replaced()),
                Err(Error::NotFound { .. }) => return Ok(()),
                Err(other) => return Err(other),
            },
            (None, _) => None,
        };
        let delete = Request { headers: condition.as_slice(), ..Request::new(Operation::Change, Method::DELETE, key) };
        match Failure::of(&self.client.send(&delete).await?) {
            None => Ok(()),
            Some(failure) if failure.status == 404 && failure.code != "NoSuchBucket" => Ok(()),
            Some(failure) if failure.status == 412 => Err(replaced()),
            Some(failure) => Err(self.client.failed(key, &failure)),
        }
    }

    async fn copy(&self, from: &str, object: &Object, to: &str, create_only: bool) -> Result<Object> {
        self.copy_object(from, object, to, create_only).await?;
        let copy = self.head(to).await?.object;
        let (old, new) = (object.version.as_str(), copy.version.as_str());
        let both_whole = !new.is_empty() && !new.contains('-') && !old.contains('-');
        if self.client.dialect.etags_are_digests && both_whole && new != old {
            return Err(store_error(to, "the copy has another digest than its source"));
        }
        Ok(copy)
    }

    async fn begin_upload(&self, key: &str, file_id: FileId) -> Result<String> {
        let id = file_id.to_string();
        let headers = [(self.client.dialect.file_id, id.as_str())];
        let begin = Request {
            query: &[("uploads", "")],
            headers: &headers,
            ..Request::new(Operation::Write, Method::POST, key)
        };
        Ok(self.client.ask(&begin).await?.document::<InitiateAnswer>(key)?.upload_id)
    }

    async fn put_part(&self, key: &str, upload_id: &str, number: u32, content: Vec<Bytes>) -> Result<Part> {
        let len = content.iter().map(|bytes| bytes.len() as u64).sum();
        let text = number.to_string();
        let query = [("partNumber", text.as_str()), ("uploadId", upload_id)];
        let digest = self.client.dialect.sent_digest(&content).await;
        let headers: Vec<_> = digest.as_ref().map(|(name, value)| (*name, value.as_str())).into_iter().collect();
        let put =
            Request { query: &query, headers: &headers, content, ..Request::new(Operation::Write, Method::PUT, key) };
        let answer = self.client.ask(&put).await?;
        let tag = answer.header("etag").ok_or_else(|| store_error(key, "the store gives a part no etag"))?;
        Ok(Part { number, len, tag: tag.to_owned() })
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[Part],
        file_id: FileId,
        condition: &Condition,
    ) -> Result<String> {
        let answer = self.end_upload(key, upload_id, parts, condition).await?;
        let Some(failure) = Failure::of(&answer) else {
            let version = match self.client.dialect.version {
                Version::Etag => answer.document::<CompleteAnswer>(key)?.etag,
                Version::Generation => self.version(&answer.headers).to_owned(),
            };
            let is_told = !version.trim_matches('"').is_empty();
            return if is_told { Ok(version) } else { self.version_of(key, file_id).await };
        };
        Err(match failure.status.as_u16() {
            404 if failure.code == "NoSuchUpload" => Error::StagedLost {
                path: key.to_owned(),
                file_id: file_id.to_string(),
                reason: "the upload was aborted or completed".into(),
            },
            _ => self.not_ended(key, condition, &failure),
        })
    }

    async fn delete_all(&self, keys: &[String]) -> Result<()> {
        let content = delete_body(keys);
        // Amazon and Alibaba want a digest of this one body in a header, and know this one alike.
        let digest = BASE64.encode(Md5::digest(&content));
        let request = Request {
            query: &[("delete", "")],
            headers: &[("content-type", "application/xml"), ("content-md5", &digest)],
            content: vec![content],
            ..Request::new(Operation::Change, Method::POST, "")
        };
        let answer = self.client.send(&request).await?;
        if !answer.status.is_success() {
            let failure = Failure::of(&answer).ok_or_else(|| store_error(&keys[0], "the store gives no error"))?;
            return Err(self.client.failed(&keys[0], &failure));
        }
        if answer.body.is_empty() {
            // Alibaba's way to say that there are no failures.
            return Ok(());
        }
        let DeleteAnswer { errors } = answer.document(&keys[0])?;
        match errors.into_iter().find(|error| error.code != "NoSuchKey") {
            None => Ok(()),
            Some(DeleteError { key, code, message }) => {
                // What the document calls a failure of one key, an answer of its own would call by this status.
                let status = if code == "AccessDenied" { StatusCode::FORBIDDEN } else { answer.status };
                Err(self.client.failed(&key, &Failure { status, code, message, place: None }))
            }
        }
    }

    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<()> {
        let query = [("uploadId", upload_id)];
        let abort = Request { query: &query, ..Request::new(Operation::Change, Method::DELETE, key) };
        match Failure::of(&self.client.send(&abort).await?) {
            Some(failure) if failure.status != 404 => Err(self.client.failed(key, &failure)),
            _ => Ok(()),
        }
    }

    async fn uploads(&self, prefix: &str, from: Option<&UploadsFrom>) -> Result<Uploads> {
        let page = self.uploads_page(prefix, from, true).await?;
        // Ceph encodes the keys of this list and does not say so: what they are is told only by keys as they are.
        if page.says_encoded() { Ok(page.into()) } else { Ok(self.uploads_page(prefix, from, false).await?.into()) }
    }
}
