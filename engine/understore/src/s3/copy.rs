//! Copies within a bucket: at once, or part by part where an object is large.
//!
//! Amazon copies at most 5 GiB at once, and says nothing meanwhile; parts are copied beside each other, and each answers
//! in time. Every part names the version that it is of, so a source that is replaced in the middle fails the copy. What a
//! copy at once takes along by itself - the type, the user's metadata, which write of Citius it is - is taken from the
//! source's head.

use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, Method};

use super::{
    S3,
    client::{Failure, Request},
    xml::{CopyPartAnswer, InitiateAnswer},
};
use crate::{
    Condition, Error, Operation, Part, Result,
    object::{Object, Protocol, store_error},
    staged::PARTS_MAX,
    web::encode_path,
};

/// Bytes of a part, unless there would be too many.
const PART_BYTES: u64 = 128 << 20;
const PARTS_IN_FLIGHT_MAX: usize = 4;
/// Headers of an object that are its own, besides its metadata.
const OWN: &[&str] =
    &["content-type", "content-encoding", "content-language", "content-disposition", "cache-control", "expires"];

impl S3 {
    /// Copies an object that still has the version it is given with.
    pub(super) async fn copy_object(&self, from: &str, object: &Object, to: &str, create_only: bool) -> Result<()> {
        if object.len > self.client.dialect.copy_whole_bytes_max {
            return self.copy_in_parts(from, object, to, create_only).await;
        }
        let dialect = self.client.dialect;
        let source = self.source(from);
        let mut headers = vec![(dialect.copy_source, source.as_str()), (dialect.copy_if, object.version.as_str())];
        if create_only {
            headers.push(dialect.create_only());
        }
        let request = Request { headers: &headers, ..Request::new(Operation::Change, Method::PUT, to) };
        match Failure::of(&self.client.send(&request).await?) {
            None => Ok(()),
            Some(failure) if create_only && dialect.says_exists(&failure) => {
                Err(Error::AlreadyExists { path: to.to_owned() })
            }
            Some(failure) => Err(self.not_copied(from, &failure)),
        }
    }

    async fn copy_in_parts(&self, from: &str, object: &Object, to: &str, create_only: bool) -> Result<()> {
        let head = self.client.ask(&Request::new(Operation::Stat, Method::HEAD, from)).await?;
        if self.version(&head.headers) != object.version {
            return Err(Error::VersionChanged { path: from.to_owned() });
        }
        let own = self.own(&head.headers);
        let begin =
            Request { query: &[("uploads", "")], headers: &own, ..Request::new(Operation::Write, Method::POST, to) };
        let upload_id = self.client.ask(&begin).await?.document::<InitiateAnswer>(to)?.upload_id;
        let condition = if create_only { Condition::MustNotExist } else { Condition::Any };
        let copied = async {
            let part_bytes = PART_BYTES.max(object.len.div_ceil(PARTS_MAX as u64));
            let parts = (0..object.len.div_ceil(part_bytes)).map(|at| {
                let range = at * part_bytes..object.len.min((at + 1) * part_bytes);
                self.copy_part(from, object, to, &upload_id, at as u32 + 1, range)
            });
            let parts: Vec<Part> = stream::iter(parts).buffered(PARTS_IN_FLIGHT_MAX).try_collect().await?;
            match Failure::of(&self.end_upload(to, &upload_id, &parts, &condition).await?) {
                None => Ok(()),
                Some(failure) => Err(self.not_ended(to, &condition, &failure)),
            }
        };
        let copied = copied.await;
        if copied.is_err() {
            // The upload is nobody's; if this fails too, the sweep finds it.
            let _ = self.abort_upload(to, &upload_id).await;
        }
        copied
    }

    async fn copy_part(
        &self,
        from: &str,
        object: &Object,
        to: &str,
        upload_id: &str,
        number: u32,
        range: std::ops::Range<u64>,
    ) -> Result<Part> {
        let dialect = self.client.dialect;
        let (source, number_text) = (self.source(from), number.to_string());
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let headers = [
            (dialect.copy_source, source.as_str()),
            (dialect.copy_if, object.version.as_str()),
            (dialect.copy_range, bytes.as_str()),
        ];
        let query = [("partNumber", number_text.as_str()), ("uploadId", upload_id)];
        let request = Request { query: &query, headers: &headers, ..Request::new(Operation::Change, Method::PUT, to) };
        let answer = self.client.send(&request).await?;
        if let Some(failure) = Failure::of(&answer) {
            return Err(self.not_copied(from, &failure));
        }
        let tag = answer.document::<CopyPartAnswer>(to)?.etag;
        if tag.is_empty() {
            return Err(store_error(to, "the store gives a copied part no etag"));
        }
        Ok(Part { number, len: range.end - range.start, tag })
    }

    /// What of an object's head is the object's own.
    fn own<'a>(&self, head: &'a HeaderMap) -> Vec<(&'a str, &'a str)> {
        let is_own = |name: &str| OWN.contains(&name) || name.starts_with(self.client.dialect.metadata);
        let headers = head.iter().filter(|(name, _)| is_own(name.as_str()));
        headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect()
    }

    /// How requests name what is copied.
    fn source(&self, key: &str) -> String {
        format!("{}{}/{}", self.client.dialect.copy_root, self.client.bucket, encode_path(key))
    }

    fn not_copied(&self, from: &str, failure: &Failure) -> Error {
        match failure.status.as_u16() {
            412 => Error::VersionChanged { path: from.to_owned() },
            _ => self.client.failed(from, failure),
        }
    }
}
