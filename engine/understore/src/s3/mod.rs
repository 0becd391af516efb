//! `s3://` under-stores: Amazon S3, and whatever speaks its protocol.
//!
//! A version is the etag. What object stores have in common is in `object/`; here are the requests of this one.
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
//! - `connect.rs` reads URI and options; `client.rs` signs raw requests; `xml.rs` reads and writes documents.

mod client;
mod connect;
mod xml;

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::Method;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, PutMode, PutOptions, PutPayload, PutResult,
    UpdateVersion,
    aws::AmazonS3,
    client::{HttpError, HttpErrorKind},
    multipart::MultipartStore,
    path::Path,
};

#[cfg(feature = "testing")]
pub(crate) use self::connect::connect;
pub(crate) use self::connect::open;
use self::{
    client::{Answer, Client, Request, chain, encode_path},
    xml::{CompleteAnswer, InitiateAnswer, ListAnswer, UploadsAnswer, complete_body},
};
use crate::{
    Condition, Error, FileId, Part, Result,
    object::{Ask, Begin, Content, Head, Keys, Object, Protocol, Rules, Uploads, UploadsFrom, store_error, text_of},
    store::Compares,
};

/// How long [`Protocol::check`] may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Name of the metadata that says which write of Citius an object is, and of the header that carries it.
const FILE_ID_NAME: &str = "citius-file";
const FILE_ID_HEADER: &str = "x-amz-meta-citius-file";

/// What S3 allows. It wants parts of at least 5 MiB.
const RULES: Rules = Rules {
    key_bytes_max: 1024,
    small_bytes_max: 8 << 20,
    part_bytes: 8 << 20,
    part_bytes_max: 5 << 30,
    copy_bytes_max: 5 << 30,
    put: Compares::Atomically,
    complete: Compares::JustBefore,
};

/// A bucket at work.
pub(crate) struct S3 {
    /// Streaming reads, puts and parts.
    objects: AmazonS3,
    /// Everything else.
    client: Client,
    /// Whether conditions hold only of etags without their quotes, as Ceph before 17 has it.
    wants_bare_etags: AtomicBool,
}

impl S3 {
    /// The error that `object_store` means, for requests that it makes.
    fn objects_error(&self, key: &str, error: object_store::Error) -> Error {
        let shown = key.to_owned();
        match error {
            object_store::Error::NotFound { .. } => Error::NotFound { path: shown },
            object_store::Error::PermissionDenied { source, .. } => {
                Error::PermissionDenied { path: shown, reason: chain(&*source) }
            }
            object_store::Error::Unauthenticated { source, .. } => {
                Error::WrongKeys { endpoint: self.client.endpoint.clone(), reason: chain(&*source) }
            }
            object_store::Error::InvalidPath { source } => {
                Error::Unnameable { path: shown, reason: source.to_string() }
            }
            other => match connection_failure(&other) {
                Some(reason) => Error::Unreachable { endpoint: self.client.endpoint.clone(), reason },
                None => store_error(key, other),
            },
        }
    }

    fn path(&self, key: &str) -> Result<Path> {
        Path::parse(key).map_err(|error| self.objects_error(key, error.into()))
    }

    /// Sends a request that may be repeated, and takes a failure for what it means.
    async fn ask(&self, method: Method, request: &Request<'_>) -> Result<Answer> {
        let answer = self.client.send(method, request, true).await?;
        match answer.failure() {
            None => Ok(answer),
            Some(failure) => Err(self.client.failed(request.key, &failure)),
        }
    }

    /// One try of a put. The condition is the server's to judge, however the etag in it is spelled.
    async fn try_put(
        &self,
        key: &str,
        payload: PutPayload,
        file_id: FileId,
        condition: &Condition,
        is_bare: bool,
    ) -> Result<object_store::Result<PutResult>> {
        let mode = match condition {
            Condition::Any => PutMode::Overwrite,
            Condition::MustNotExist => PutMode::Create,
            Condition::Replaces(token) => {
                let etag = text_of(token).map(|etag| if is_bare { etag.trim_matches('"') } else { etag });
                PutMode::Update(UpdateVersion { e_tag: etag.map(str::to_owned), version: None })
            }
        };
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata(FILE_ID_NAME.into()), file_id.to_string().into());
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        Ok(self.objects.put_opts(&self.path(key)?, payload, options).await)
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
        let answer = self.client.send(Method::GET, &Request { query: &query, ..Request::default() }, true).await?;
        match answer.failure() {
            Some(failure) => Err(self.client.failed(prefix, &failure)),
            None => answer.document(prefix),
        }
    }

    /// Creates the bucket, for tests that bring their own server.
    #[cfg(feature = "testing")]
    pub(crate) async fn create_bucket(&self) -> Result<()> {
        let answer = self.client.send(Method::PUT, &Request::default(), true).await?;
        match answer.failure() {
            None => Ok(()),
            Some(failure) if failure.code == "BucketAlreadyOwnedByYou" => Ok(()),
            Some(failure) => Err(self.client.failed(&self.client.bucket, &failure)),
        }
    }
}

#[async_trait]
impl Protocol for S3 {
    fn endpoint(&self) -> &str {
        &self.client.endpoint
    }

    fn rules(&self) -> Rules {
        let complete = if self.client.is_amazon { Compares::Atomically } else { RULES.complete };
        Rules { complete, ..RULES }
    }

    async fn check(&self, prefix: &str) -> Result<()> {
        let endpoint = || self.client.endpoint.clone();
        let late = |who: &str| format!("no answer from {who} within {} s", CHECK_TIMEOUT.as_secs());
        // Where no keys are given, a machine's metadata service is asked for them, and seldom is there one.
        if let Some(credentials) = &self.client.credentials {
            let reason = match tokio::time::timeout(CHECK_TIMEOUT, credentials.get_credential()).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(chain(&error)),
                Err(_) => Some(late("the source of keys")),
            };
            if let Some(reason) = reason {
                return Err(Error::MissingKeys { endpoint: endpoint(), reason });
            }
        }
        let query = [("list-type", "2"), ("max-keys", "1"), ("prefix", prefix)];
        let request = Request { query: &query, ..Request::default() };
        let asking = tokio::time::timeout(CHECK_TIMEOUT, self.client.send(Method::GET, &request, true));
        let Ok(answer) = asking.await else {
            return Err(Error::Unreachable { endpoint: endpoint(), reason: late("it") });
        };
        match answer?.failure() {
            None => Ok(()),
            Some(failure) if failure.status == 404 => {
                Err(Error::MissingBucket { bucket: self.client.bucket.clone(), endpoint: endpoint() })
            }
            Some(failure) => Err(self.client.failed(&self.client.bucket, &failure)),
        }
    }

    async fn head(&self, key: &str) -> Result<Head> {
        let answer = self.ask(Method::HEAD, &Request { key, ..Request::default() }).await?;
        let len = answer.header("content-length").and_then(|len| len.parse().ok());
        let mtime = answer.header("last-modified").and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok());
        let object = Object {
            len: len.ok_or_else(|| store_error(key, "the store gives no length"))?,
            version: answer.header("etag").unwrap_or_default().to_owned(),
            mtime_ms: mtime.map_or(0, |time| time.timestamp_millis()),
        };
        Ok(Head { object, file_id: answer.header(FILE_ID_HEADER).and_then(FileId::from_hex) })
    }

    async fn get(&self, key: &str, version: &str, range: Range<u64>) -> Result<Content> {
        let options = GetOptions {
            if_match: Some(version.to_owned()),
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let result = self.objects.get_opts(&self.path(key)?, options).await.map_err(|error| match error {
            object_store::Error::Precondition { .. } => Error::VersionChanged { path: key.to_owned() },
            other => self.objects_error(key, other),
        })?;
        let (range, version) = (result.range.clone(), result.meta.e_tag.clone().unwrap_or_default());
        let (endpoint, key) = (self.client.endpoint.clone(), key.to_owned());
        let chunks = result.into_stream().map(move |chunk| {
            chunk.map_err(|error| match connection_failure(&error) {
                Some(reason) => Error::Unreachable { endpoint: endpoint.clone(), reason },
                None => store_error(&key, error),
            })
        });
        Ok(Content { range, version, chunks: chunks.boxed() })
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
        let request = Request { query: &query, ..Request::default() };
        let answer = self.client.send(Method::GET, &request, true).await?;
        match answer.failure() {
            Some(failure) => Err(self.client.failed(ask.prefix, &failure)),
            None => Ok(answer.document::<ListAnswer>(ask.prefix)?.into()),
        }
    }

    async fn put(&self, key: &str, content: Vec<Bytes>, file_id: FileId, condition: &Condition) -> Result<String> {
        use object_store::Error as Refusal;

        let payload = PutPayload::from_iter(content);
        let mut is_bare = self.wants_bare_etags.load(Relaxed);
        loop {
            match self.try_put(key, payload.clone(), file_id, condition, is_bare).await? {
                Ok(put) => {
                    self.wants_bare_etags.fetch_or(is_bare, Relaxed);
                    let version = put.e_tag.unwrap_or_default();
                    return if version.is_empty() { self.version_of(key, file_id).await } else { Ok(version) };
                }
                Err(Refusal::AlreadyExists { .. } | Refusal::Precondition { .. }) => {
                    // Where the very version is there that was to be replaced, it was not understood.
                    if let Condition::Replaces(token) = condition
                        && !is_bare
                        && matches!(self.head(key).await, Ok(head) if Some(head.object.version.as_str()) == text_of(token))
                    {
                        is_bare = true;
                        continue;
                    }
                    return Err(refused(key, condition, "it is another version, or gone"));
                }
                Err(other) => return Err(self.objects_error(key, other)),
            }
        }
    }

    async fn put_marker(&self, key: &str) -> Result<()> {
        debug_assert!(key.ends_with('/'));
        let headers = [("content-type", "application/x-directory")];
        self.ask(Method::PUT, &Request { key, headers: &headers, ..Request::default() }).await.map(drop)
    }

    async fn delete(&self, key: &str, version: Option<&str>) -> Result<()> {
        let headers: &[_] = match &version {
            Some(etag) => &[("if-match", *etag)],
            None => &[],
        };
        let answer = self.client.send(Method::DELETE, &Request { key, headers, ..Request::default() }, true).await?;
        match answer.failure() {
            None => Ok(()),
            Some(failure) if failure.status == 404 && failure.code != "NoSuchBucket" => Ok(()),
            Some(failure) if failure.status == 412 => {
                Err(Error::Conflict { path: key.to_owned(), reason: "it was replaced meanwhile".into() })
            }
            Some(failure) => Err(self.client.failed(key, &failure)),
        }
    }

    async fn copy(&self, from: &str, object: &Object, to: &str, create_only: bool) -> Result<Object> {
        let source = format!("{}/{}", self.client.bucket, encode_path(from));
        let mut headers =
            vec![("x-amz-copy-source", source.as_str()), ("x-amz-copy-source-if-match", object.version.as_str())];
        if create_only {
            headers.push(("if-none-match", "*"));
        }
        let request = Request { key: to, headers: &headers, ..Request::default() };
        let answer = self.client.send(Method::PUT, &request, true).await?;
        if let Some(failure) = answer.failure() {
            return Err(match failure.status.as_u16() {
                412 if create_only => Error::AlreadyExists { path: to.to_owned() },
                412 => Error::VersionChanged { path: from.to_owned() },
                _ => self.client.failed(from, &failure),
            });
        }
        let copy = self.head(to).await?.object;
        let whole = |etag: &str| !etag.contains('-');
        // Etags without parts are digests of the content, on both sides; then they must be equal.
        let (old, new) = (object.version.as_str(), copy.version.as_str());
        if whole(new) && whole(old) && new != old && !new.is_empty() {
            return Err(store_error(to, "the copy has another digest than its source"));
        }
        Ok(copy)
    }

    async fn begin_upload(&self, key: &str, file_id: FileId) -> Result<String> {
        let id = file_id.to_string();
        let headers = [(FILE_ID_HEADER, id.as_str())];
        let request = Request { key, query: &[("uploads", "")], headers: &headers, body: Bytes::new() };
        Ok(self.ask(Method::POST, &request).await?.document::<InitiateAnswer>(key)?.upload_id)
    }

    async fn put_part(&self, key: &str, upload_id: &str, number: u32, content: Vec<Bytes>) -> Result<Part> {
        let len = content.iter().map(|bytes| bytes.len() as u64).sum();
        let (path, index) = (self.path(key)?, number as usize - 1);
        let part = self.objects.put_part(&path, &upload_id.to_owned(), index, PutPayload::from_iter(content)).await;
        let part = part.map_err(|error| self.objects_error(key, error))?;
        Ok(Part { number, len, tag: part.content_id })
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[Part],
        file_id: FileId,
        condition: &Condition,
    ) -> Result<String> {
        let mut headers = vec![("content-type", "application/xml")];
        match condition {
            Condition::Any => {}
            Condition::MustNotExist => headers.push(("if-none-match", "*")),
            Condition::Replaces(token) => headers.push(("if-match", text_of(token).unwrap_or_default())),
        }
        let request = Request { key, query: &[("uploadId", upload_id)], headers: &headers, body: complete_body(parts) };
        let answer = self.client.send(Method::POST, &request, true).await?;
        let Some(failure) = answer.failure() else {
            let etag = answer.document::<CompleteAnswer>(key)?.etag;
            return if etag.trim_matches('"').is_empty() { self.version_of(key, file_id).await } else { Ok(etag) };
        };
        Err(match (failure.status.as_u16(), condition) {
            (404, _) if failure.code == "NoSuchUpload" => Error::StagedLost {
                path: key.to_owned(),
                file_id: file_id.to_string(),
                reason: "the upload was aborted or completed".into(),
            },
            (412 | 409, _) => refused(key, condition, &format!("the store says {}", failure.text())),
            (404, _) => Error::Conflict { path: key.to_owned(), reason: format!("the store says {}", failure.text()) },
            _ => self.client.failed(key, &failure),
        })
    }

    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<()> {
        let request = Request { key, query: &[("uploadId", upload_id)], ..Request::default() };
        let answer = self.client.send(Method::DELETE, &request, true).await?;
        match answer.failure() {
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

/// That a condition of a publication does not hold.
fn refused(key: &str, condition: &Condition, reason: &str) -> Error {
    match condition {
        Condition::MustNotExist => Error::AlreadyExists { path: key.to_owned() },
        _ => Error::Conflict { path: key.to_owned(), reason: reason.to_owned() },
    }
}

/// What the connection said, if the request failed for want of one.
fn connection_failure(error: &object_store::Error) -> Option<String> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            let lost =
                matches!(http.kind(), HttpErrorKind::Connect | HttpErrorKind::Timeout | HttpErrorKind::Interrupted);
            return lost.then(|| chain(http));
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A name that reads back as another one would be another file.
        #[test]
        fn keys_are_sent_and_listed_as_they_are(names in prop::collection::vec("[\\PC&&[^/]]{1,20}", 1..5)) {
            prop_assume!(names.iter().all(|name| name != "." && name != ".."));
            let key = names.join("/");
            // What object_store sends.
            let parsed = Path::parse(&key).unwrap();
            prop_assert_eq!(parsed.as_ref(), &key);
            // What a server decodes from our own requests, and we from its encoded answers.
            prop_assert_eq!(client::decode_key(&encode_path(&key)).unwrap(), key);
        }
    }
}
