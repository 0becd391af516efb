//! Changes of the tree of an S3 store: markers, copies, renames, deletions.
//!
//! S3 has no rename: files are copied under the condition that their version has not changed, the copy is looked at, and
//! only the version that was copied is deleted. A directory is renamed by copying everything in it before anything is
//! deleted, so a failure leaves the source whole, and the call can be made again.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;

use super::{
    Inner,
    client::{Request, encode_path, store_error},
    list::{Begin, Object, to_stat},
};
use crate::{Condition, Error, Result, Stat, StorePath};

/// Bytes that one CopyObject may copy; more would need a multipart copy.
const COPY_BYTES_MAX: u64 = 5 << 30;
/// Copies or deletions of one directory at once.
const REQUESTS_IN_FLIGHT_MAX: usize = 8;
/// Rounds of a recursive deletion that may find the same keys again.
const DELETE_IDLE_ROUNDS_MAX: usize = 10;

impl Inner {
    pub(super) async fn delete_key(&self, key: &str, if_match: Option<&str>) -> Result<()> {
        let headers: &[_] = match &if_match {
            Some(etag) => &[("if-match", *etag)],
            None => &[],
        };
        let request = Request { key, headers, ..Request::default() };
        let answer = self.client.send(Method::DELETE, &request, true).await?;
        match answer.failure() {
            None => Ok(()),
            Some(failure) if failure.status == 404 && failure.code != "NoSuchBucket" => Ok(()),
            Some(failure) if failure.status == 412 => {
                Err(Error::Conflict { path: key.to_owned(), reason: "it was replaced meanwhile".into() })
            }
            Some(failure) => Err(self.client.failed(key, &failure)),
        }
    }

    /// Copies one object, only if it still has this etag, and proves by a HEAD that the copy is whole.
    async fn copy(&self, from_key: &str, object: &Object, to_key: &str, create_only: bool) -> Result<Object> {
        if object.len > COPY_BYTES_MAX {
            let operation = "rename objects of more than 5 GiB yet; copy it through Citius and delete it";
            return Err(Error::NotSupported { store: self.uri.clone(), operation });
        }
        let source = format!("{}/{}", self.client.bucket, encode_path(from_key));
        let mut headers =
            vec![("x-amz-copy-source", source.as_str()), ("x-amz-copy-source-if-match", object.etag.as_str())];
        if create_only {
            headers.push(("if-none-match", "*"));
        }
        let request = Request { key: to_key, headers: &headers, ..Request::default() };
        let answer = self.client.send(Method::PUT, &request, true).await?;
        if let Some(failure) = answer.failure() {
            return Err(match failure.status.as_u16() {
                412 if create_only => Error::AlreadyExists { path: to_key.to_owned() },
                412 => Error::VersionChanged { path: from_key.to_owned() },
                _ => self.client.failed(from_key, &failure),
            });
        }
        let request = Request { key: to_key, ..Request::default() };
        let answer = self.client.send(Method::HEAD, &request, true).await?;
        if let Some(failure) = answer.failure() {
            return Err(self.client.failed(to_key, &failure));
        }
        let len = answer.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
        if len != object.len {
            return Err(Error::WrongLength { path: to_key.to_owned(), expected: object.len, got: len });
        }
        let etag = answer.header("etag").unwrap_or_default().to_owned();
        let whole = |etag: &str| !etag.contains('-');
        // Etags without parts are digests of the content, on both sides; then they must be equal.
        if whole(&etag) && whole(&object.etag) && etag != object.etag && !etag.is_empty() {
            return Err(store_error(to_key, "the copy has another digest than its source"));
        }
        let mtime = answer.header("last-modified").and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok());
        Ok(Object { len, etag, mtime_ms: mtime.map_or(0, |time| time.timestamp_millis()) })
    }

    pub(super) async fn rename_file(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        let source = self.head(from).await?.object;
        match (condition, self.stat(to).await) {
            (_, Ok(stat)) if !stat.is_file() => return Err(Error::IsADirectory { path: to.to_string() }),
            (Condition::MustNotExist, Ok(_)) => return Err(Error::AlreadyExists { path: to.to_string() }),
            (Condition::Replaces(token), Ok(stat)) if stat.token != *token => {
                return Err(Error::Conflict { path: to.to_string(), reason: "it is another version".into() });
            }
            (Condition::Replaces(_), Err(Error::NotFound { .. })) => {
                return Err(Error::Conflict { path: to.to_string(), reason: "it is gone".into() });
            }
            (_, Ok(_) | Err(Error::NotFound { .. })) => {}
            (_, Err(other)) => return Err(other),
        }
        let (from_key, to_key) = (self.object_key(from)?, self.object_key(to)?);
        let copied = self.copy(&from_key, &source, &to_key, *condition == Condition::MustNotExist).await?;
        // Only the version that was copied is deleted: what replaced it since is nobody's to remove.
        self.delete_key(&from_key, Some(&source.etag)).await?;
        to_stat(to.as_str(), &copied)
    }

    /// Copies everything, then deletes what was copied. A failure before the end leaves the source whole.
    pub(super) async fn rename_dir(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        if *condition != Condition::Any && !self.stat(to).await.is_err_and(|error| error.is_not_found()) {
            return Err(Error::AlreadyExists { path: to.to_string() });
        }
        let (from_key, to_key) = (self.dir_key(from)?, self.dir_key(to)?);
        let mut next = Begin::First;
        let mut deletions = Vec::new();
        loop {
            let (keys, more) = self.keys(&from_key, false, "1000", &next).await?;
            let copies = keys.into_iter().map(|found| {
                let (from_key, to_key) = (&from_key, &to_key);
                async move {
                    let key = found.name.map_err(|name| Error::Unnameable {
                        path: name,
                        reason: "its key is not UTF-8, so it cannot be moved; rename it with the store's own tools"
                            .into(),
                    })?;
                    let object = found.object.ok_or_else(|| store_error(&key, "an undelimited list has a prefix"))?;
                    let rest = key.strip_prefix(from_key).ok_or_else(|| store_error(&key, "it was not asked for"))?;
                    let target = format!("{to_key}{rest}");
                    if key.ends_with('/') {
                        self.put_marker(&target).await?;
                    } else {
                        self.copy(&key, &object, &target, false).await?;
                    }
                    Ok::<_, Error>((key, object.etag))
                }
            });
            let copied: Vec<_> = stream::iter(copies).buffer_unordered(REQUESTS_IN_FLIGHT_MAX).try_collect().await?;
            deletions.extend(copied);
            match more {
                Some(token) => next = Begin::Token(token),
                None => break,
            }
        }
        let deletions = deletions.into_iter().map(|(key, etag)| (key, Some(etag))).collect();
        self.delete_keys(deletions).await?;
        Ok(Stat::dir(0))
    }

    pub(super) async fn put_marker(&self, key: &str) -> Result<()> {
        debug_assert!(key.ends_with('/'));
        let request =
            Request { key, headers: &[("content-type", "application/x-directory")], body: Bytes::new(), query: &[] };
        let answer = self.client.send(Method::PUT, &request, true).await?;
        answer.failure().map_or(Ok(()), |failure| Err(self.client.failed(key, &failure)))
    }

    /// Deletes objects in parallel, each only in the version given, and then markers, the deepest first: a store
    /// with directories inside keeps one that still has entries.
    async fn delete_keys(&self, keys: Vec<(String, Option<String>)>) -> Result<()> {
        let (mut markers, objects): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(key, _)| key.ends_with('/'));
        let deletions =
            objects.into_iter().map(|(key, etag)| async move { self.delete_key(&key, etag.as_deref()).await });
        stream::iter(deletions).buffer_unordered(REQUESTS_IN_FLIGHT_MAX).try_collect::<Vec<()>>().await?;
        markers.sort();
        for (marker, _) in markers.iter().rev() {
            self.delete_key(marker, None).await?;
        }
        Ok(())
    }

    /// Each round lists from the start what is left, so a failed call is simply made again.
    pub(super) async fn delete_tree(&self, dir_key: &str) -> Result<()> {
        let mut last = None;
        let mut idle_rounds = 0;
        loop {
            let (keys, _) = self.keys(dir_key, false, "1000", &Begin::First).await?;
            if keys.is_empty() {
                return Ok(());
            }
            let names = keys.into_iter().map(|found| {
                found.name.map(|key| (key, None)).map_err(|path| Error::Unnameable {
                    path,
                    reason: "its key is not UTF-8; delete it with the store's own tools".into(),
                })
            });
            let names = names.collect::<Result<Vec<_>>>()?;
            // The store may need a moment to forget what was deleted; for ever it may not.
            if last.as_ref() == Some(&names) {
                idle_rounds += 1;
                if idle_rounds > DELETE_IDLE_ROUNDS_MAX {
                    return Err(Error::NotEmpty { path: dir_key.to_owned() });
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            self.delete_keys(names.clone()).await?;
            last = Some(names);
        }
    }
}
