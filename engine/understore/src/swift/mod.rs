//! `swift://` under-stores: OpenStack Swift, and the gateway of Ceph by its protocol.
//!
//! A version is the etag: a digest of the content, or of its segments' digests. What object stores have in common is in
//! `object/`; here are the requests of this one.
//!
//! # Large objects
//! Parts are segments in the container `CONTAINER_segments`, named `KEY/UPLOAD/NUMBER`, where an upload's id is the file's id
//! and a number of our own. A manifest put at the key publishes them: a static large object. Manifests hold a thousand segments,
//! so more parts than that are first made large objects of a thousand each, beside the segments.
//!
//! - Nothing keeps a manifest from being put while its segments are deleted: Swift looks at them just before. So an upload is
//!   outlived ([`Fence::Time`]) before its segments are, and whoever deletes them has seen that it is not what lies at the key.
//! - An object is deleted with its segments. One that is replaced leaves them, and who replaces it deletes them afterwards;
//!   what a crash leaves in between is a sweep's, which takes the segments of every upload that is not what lies at its key.
//! - A large object is copied segment by segment.
//! - Ceph lists a large object by the length of its manifest's text and by the digest of nothing: each such line costs a look.
//!
//! # Digests
//! What is put is sent with its MD5, which Swift and Ceph compare. The etag of what is read is one, unless it is a large
//! object.
//!
//! # Conditions
//! Swift knows `If-None-Match: *` of a put, and of racing ones lets several win. It knows no other condition but those of a
//! read. So the target is looked at just before, and that is all that [`Rules`] promise. Listings may lag behind.
//!
//! - `connect.rs` reads URI and options, `clouds.rs` the files of clouds; `login.rs` logs in; `client.rs` makes requests;
//!   `json.rs` reads and writes documents.

mod alias;
mod client;
mod clouds;
mod connect;
mod json;
mod login;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;

pub(crate) use self::{
    alias::{ALIASES, translate},
    connect::open,
};
use self::{
    client::{Client, Failure, Place, Request},
    json::{Deleted, Listed, ManifestLine, Segment, bare, manifest},
};
use crate::{
    Call, Condition, Error, FileId, Operation, Part, Result,
    object::{
        Ask, Begin, Content, Digest, DigestKind, Fence, Head, Key, Keys, Markers, Object, Protocol, Rules, Upload,
        Uploads, UploadsFrom, Wanted, store_error,
    },
    staged::PARTS_MAX,
    store::Compares,
    web::{Answer, Opened, encode_path, header_of, http_time_ms},
};

/// How long [`Protocol::check`] may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The header that says which write of Citius an object is.
const FILE_ID_HEADER: &str = "x-object-meta-citius-file";
/// The headers of objects that are made of others, whose etags are no digests of their content.
const MANIFEST_HEADERS: [&str; 2] = ["x-static-large-object", "x-object-manifest"];
/// Segments of one manifest, as Swift and Ceph have it unless they are told otherwise.
const SEGMENTS_MAX: usize = 1000;
/// Segments of one listing.
const SEGMENTS_PAGE: usize = 1000;
/// Looks at once at objects that a listing did not tell of.
const LOOKS_IN_FLIGHT_MAX: usize = 8;
/// Deletions of segments at once.
const DELETIONS_IN_FLIGHT_MAX: usize = 8;
/// How often an upload is looked for again after its segments are deleted, for those that were on their way.
const ABORT_ROUNDS_MAX: usize = 10;
const ABORT_PAUSE: Duration = Duration::from_millis(500);
/// Bytes of a name, as Swift and Ceph have it unless they are told otherwise.
const KEY_BYTES_MAX: usize = 1024;
/// The longest name that comes behind a key in that of a segment.
const SEGMENT_NAME_BYTES: usize = "/01234567890123456789012345678901-01234567/m000000".len();

/// What Swift allows.
const RULES: Rules = Rules {
    key_bytes_max: KEY_BYTES_MAX,
    small_bytes_max: 8 << 20,
    part_bytes: 8 << 20,
    part_bytes_max: 5 << 30,
    delete_keys_max: 1,
    create: Compares::JustBefore,
    replace: Compares::JustBefore,
    complete: Compares::JustBefore,
    fence: Fence::Time,
    markers: Markers::Within,
    drops_parts: false,
};

/// A container at work.
pub(crate) struct Swift {
    client: Client,
    /// Whether the container of the segments is there.
    has_segments: AtomicBool,
    /// Whether a read's condition is compared with something else than the etag that is told, as Ceph does of large objects.
    /// Then none is sent, and the etag of each answer is what tells.
    misjudges_reads: AtomicBool,
}

/// What a look at an object tells.
struct Look {
    head: Head,
    /// Whether it is a manifest.
    is_large: bool,
}

impl Swift {
    async fn look(&self, key: &str) -> Result<Look> {
        let answer = self.client.ask(&Request::new(Operation::Stat, Method::HEAD, key)).await?;
        let len = answer.header("content-length").and_then(|len| len.parse().ok());
        let object = Object {
            len: len.ok_or_else(|| store_error(key, "the store gives no length"))?,
            version: bare(answer.header("etag").unwrap_or_default()).to_owned(),
            mtime_ms: answer.header("last-modified").map_or(0, http_time_ms),
        };
        let is_large = answer.header("x-static-large-object").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        Ok(Look { head: Head { object, file_id: answer.header(FILE_ID_HEADER).and_then(FileId::from_hex) }, is_large })
    }

    /// The same, of what may not be there.
    async fn look_at(&self, key: &str) -> Result<Option<Look>> {
        match self.look(key).await {
            Ok(look) => Ok(Some(look)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Puts what becomes an object, and gives its version.
    async fn put_object(
        &self,
        key: &str,
        query: &[(&str, &str)],
        content: Vec<Bytes>,
        file_id: FileId,
        condition: &Condition,
    ) -> Result<std::result::Result<String, Failure>> {
        // What it replaces may have segments, which nobody else will delete.
        let replaced = match condition {
            Condition::MustNotExist => None,
            _ => self.look_at(key).await?.filter(|look| look.head.file_id != Some(file_id)),
        };
        let id = file_id.to_string();
        let mut headers = vec![("content-type", "application/octet-stream"), (FILE_ID_HEADER, id.as_str())];
        if *condition == Condition::MustNotExist {
            headers.push(("if-none-match", "*"));
        }
        // A manifest's etag would be held against what it stands for.
        let digest = if query.is_empty() { Some(sent_digest(&content).await) } else { None };
        headers.extend(digest.as_deref().map(|digest| ("etag", digest)));
        // Sent again although it may have a condition: a refusal of our own object is recognized by who asked.
        let put = Request { query, headers: &headers, content, ..Request::new(Operation::Write, Method::PUT, key) };
        let answer = self.client.send(&put).await?;
        if let Some(failure) = Failure::of(&answer) {
            return Ok(Err(failure));
        }
        self.drop_replaced(key, replaced).await;
        let etag = bare(answer.header("etag").unwrap_or_default());
        // Ceph does not say what the etag of a large object is, or says the manifest's.
        if query.is_empty() && !etag.is_empty() {
            return Ok(Ok(etag.to_owned()));
        }
        match self.look(key).await?.head {
            Head { object, file_id: Some(found) } if found == file_id => Ok(Ok(object.version)),
            _ => Err(Error::Conflict { path: key.to_owned(), reason: "it was replaced at once".into() }),
        }
    }

    /// Deletes the segments of an object of ours that is no more, if it had any.
    async fn drop_replaced(&self, key: &str, replaced: Option<Look>) {
        let file_id = replaced.filter(|look| look.is_large).and_then(|look| look.head.file_id);
        if let Some(file_id) = file_id
            && let Err(error) = self.delete_segments(&format!("{key}/{file_id}-")).await
        {
            tracing::warn!(key, %error, "the segments of the object that was replaced stay, for a sweep");
        }
    }

    /// Copies what is no manifest; gives the digest of the copy, if the store says it.
    async fn copy_plain(&self, place: Place, from: &str, to: &str) -> Result<String> {
        let from = encode_path(from);
        let headers = [("x-copy-from", from.as_str())];
        let copy = Request { place, headers: &headers, ..Request::new(Operation::Change, Method::PUT, to) };
        Ok(bare(self.client.ask(&copy).await?.header("etag").unwrap_or_default()).to_owned())
    }

    /// Copies a large object segment by segment: Swift would make one plain object of it, and Ceph a second manifest of the
    /// same segments, which whoever deletes one of the two would take from the other.
    async fn copy_large(&self, from: &str, source: Head, to: &str) -> Result<Object> {
        let unknown =
            || FileId(RandomState::new().hash_one(from).to_be_bytes().repeat(2).try_into().unwrap_or_default());
        let file_id = source.file_id.unwrap_or_else(unknown);
        let lines = match (self.manifest_of(&self.client.container, from).await?, source.file_id) {
            (Some(lines), _) => lines,
            (None, Some(file_id)) => self.segments_of(from, file_id, source.object.len).await?,
            (None, None) => return Err(store_error(from, "the store does not tell of which segments it is made")),
        };
        let mut leaves = Vec::new();
        for line in lines {
            if !line.sub_slo {
                leaves.push(line);
                continue;
            }
            let (container, name) = line.name.trim_start_matches('/').split_once('/').unwrap_or_default();
            leaves.extend(self.manifest_of(container, name).await?.unwrap_or_default());
        }
        if leaves.len() > PARTS_MAX || leaves.iter().any(|line| line.sub_slo || line.range.is_some()) {
            let store = self.client.web.endpoint.clone();
            let operation =
                "rename an object of so many, such deep or cut segments; copy it through Citius and delete it";
            return Err(Error::NotSupported { store, operation });
        }
        let upload_id = self.begin_upload(to, file_id).await?;
        let upload_id = upload_id.as_str();
        let copies = leaves.into_iter().zip(1..).map(|(line, number)| async move {
            let name = format!("{to}/{upload_id}/{number:06}");
            let digest = self.copy_plain(Place::Segments, &line.name, &name).await?;
            if !digest.is_empty() && digest != bare(&line.hash) {
                return Err(store_error(to, "the copy of a segment has another digest than its source"));
            }
            Ok(Part { number, len: line.bytes, tag: bare(&line.hash).to_owned() })
        });
        let parts: Vec<Part> = stream::iter(copies).buffered(DELETIONS_IN_FLIGHT_MAX).try_collect().await?;
        let version = self.complete_upload(to, upload_id, &parts, file_id, &Condition::Any).await?;
        if version != source.object.version {
            return Err(store_error(to, "the copy has another digest than its source"));
        }
        self.look(to).await.map(|look| look.head.object)
    }

    /// The lines of a manifest, if the store tells them: Ceph sends nothing.
    async fn manifest_of(&self, container: &str, name: &str) -> Result<Option<Vec<ManifestLine>>> {
        let place = if container == self.client.container { Place::Objects } else { Place::Segments };
        if container != self.client.container_of(place) {
            let reason = format!("its segments are in container {container}, which is not ours to look at");
            return Err(store_error(name, reason));
        }
        let query = [("multipart-manifest", "get")];
        let get = Request { place, query: &query, ..Request::new(Operation::Stat, Method::GET, name) };
        let answer = self.client.ask(&get).await?;
        if answer.body.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&answer.body).map(Some).map_err(|error| store_error(name, error))
    }

    /// The segments of an object of ours, by their names. Should those of a write that died lie beside them, the length tells
    /// which are meant, and the digest of the copy whether they were.
    async fn segments_of(&self, key: &str, file_id: FileId, len: u64) -> Result<Vec<ManifestLine>> {
        let (prefix, limit) = (format!("{key}/{file_id}-"), SEGMENTS_PAGE.to_string());
        let mut uploads: BTreeMap<String, Vec<ManifestLine>> = BTreeMap::new();
        let mut marker = String::new();
        loop {
            let query = [("prefix", prefix.as_str()), ("limit", limit.as_str()), ("marker", marker.as_str())];
            let page = self.list(Place::Segments, &query, key).await?;
            let Some(last) = page.last() else { break };
            marker.clone_from(&last.name);
            for listed in page {
                if let Some((upload, number)) = listed.name.rsplit_once('/')
                    && !number.starts_with('m')
                {
                    let (upload, container) = (upload.to_owned(), self.client.container_of(Place::Segments));
                    uploads.entry(upload).or_default().push(listed.into_line(&container));
                }
            }
        }
        let whole = |lines: &Vec<ManifestLine>| lines.iter().map(|line| line.bytes).sum::<u64>() == len;
        uploads.into_values().find(whole).ok_or_else(|| store_error(key, "its segments are not where they were put"))
    }

    /// A page of a container's names behind `marker`.
    async fn list(&self, place: Place, query: &[(&str, &str)], shown: &str) -> Result<Vec<Listed>> {
        let query: Vec<_> = [("format", "json")].iter().chain(query).copied().collect();
        let request = Request { place, query: &query, ..Request::new(Operation::List, Method::GET, "") };
        let answer = self.client.send(&request).await?;
        match Failure::of(&answer) {
            None if answer.body.is_empty() => Ok(Vec::new()),
            None => serde_json::from_slice(&answer.body).map_err(|error| store_error(shown, error)),
            Some(failure) if failure.status == 404 && place == Place::Segments => Ok(Vec::new()),
            Some(failure) if failure.status == 404 => Err(self.client.missing_container()),
            Some(failure) => Err(self.client.failed(shown, &failure)),
        }
    }

    /// What a line of a listing stands for; `None` if that is gone since.
    async fn key_of(&self, line: Listed) -> Result<Option<Key>> {
        if !line.is_of_manifest() {
            return Ok(Some(line.into()));
        }
        let look = self.look_at(&line.name).await?;
        Ok(look.map(|look| Key { name: Ok(line.name), object: Some(look.head.object) }))
    }

    /// Deletes all segments whose names begin so. Whether there were any.
    async fn delete_segments(&self, prefix: &str) -> Result<bool> {
        let (limit, mut marker, mut any) = (SEGMENTS_PAGE.to_string(), String::new(), false);
        loop {
            let query = [("prefix", prefix), ("limit", limit.as_str()), ("marker", marker.as_str())];
            let names: Vec<String> =
                self.list(Place::Segments, &query, prefix).await?.into_iter().map(|listed| listed.name).collect();
            let Some(last) = names.last() else { return Ok(any) };
            any = true;
            marker.clone_from(last);
            let deletions = names.into_iter().map(|name| async move { self.delete_segment(&name).await });
            stream::iter(deletions).buffer_unordered(DELETIONS_IN_FLIGHT_MAX).try_collect::<Vec<()>>().await?;
        }
    }

    async fn delete_segment(&self, name: &str) -> Result<()> {
        let delete = Request::segment(Operation::Change, Method::DELETE, name);
        match Failure::of(&self.client.send(&delete).await?) {
            Some(failure) if failure.status != 404 => Err(self.client.failed(name, &failure)),
            _ => Ok(()),
        }
    }

    /// Makes the container of the segments.
    async fn need_segments(&self) -> Result<()> {
        if !self.has_segments.load(Relaxed) {
            let container = self.client.container_of(Place::Segments);
            let answer = self.client.send(&Request::segment(Operation::Change, Method::PUT, "")).await?;
            if let Some(failure) = Failure::of(&answer) {
                let what = format!("container {container}, which holds the parts of large files");
                return Err(self.client.failed(&what, &failure));
            }
            self.has_segments.store(true, Relaxed);
        }
        Ok(())
    }

    /// Puts a manifest among the segments, and gives the part that it makes of its parts.
    async fn put_group(&self, key: &str, upload_id: &str, number: usize, parts: &[Part]) -> Result<Part> {
        let name = format!("{key}/{upload_id}/m{number:06}");
        let put = Request {
            query: &[("multipart-manifest", "put")],
            content: vec![self.manifest(key, upload_id, parts, "")],
            ..Request::segment(Operation::Write, Method::PUT, &name)
        };
        self.client.ask(&put).await?;
        let head = self.client.ask(&Request::segment(Operation::Stat, Method::HEAD, &name)).await?;
        let len = parts.iter().map(|part| part.len).sum();
        Ok(Part { number: number as u32, len, tag: bare(head.header("etag").unwrap_or_default()).to_owned() })
    }

    fn manifest(&self, key: &str, upload_id: &str, parts: &[Part], kind: &str) -> Bytes {
        let container = self.client.container_of(Place::Segments);
        let segment = |part| segment_of(&container, key, upload_id, part, kind);
        manifest(&parts.iter().map(segment).collect::<Vec<_>>())
    }

    /// Which uploads a page of segments is of, those left out that are what lies at their keys.
    async fn uploads_of(&self, listed: Vec<Listed>, seen: &str) -> Result<Vec<Upload>> {
        let mut uploads = Vec::new();
        let mut known = BTreeSet::from([seen.to_owned()]);
        for listed in listed {
            let Some((upload, _)) = listed.name.rsplit_once('/') else { continue };
            let Some((key, id)) = upload.rsplit_once('/') else { continue };
            let Some(file_id) = id.split_once('-').and_then(|(file_id, _)| FileId::from_hex(file_id)) else { continue };
            if !known.insert(upload.to_owned()) {
                continue;
            }
            let is_published = self.look_at(key).await?.is_some_and(|look| look.head.file_id == Some(file_id));
            if !is_published {
                uploads.push(Upload { key: Some(key.to_owned()), id: id.to_owned(), begun_ms: listed.mtime_ms() });
            }
        }
        Ok(uploads)
    }
}

#[async_trait]
impl Protocol for Swift {
    fn endpoint(&self) -> &str {
        &self.client.web.endpoint
    }

    fn rules(&self) -> Rules {
        RULES
    }

    async fn check(&self, prefix: &str) -> Result<()> {
        let late = || {
            let reason = format!("no answer within {} s", CHECK_TIMEOUT.as_secs());
            let (endpoint, advice) = (self.client.web.endpoint.clone(), self.client.web.advice.unreachable);
            Err(Error::Unreachable { endpoint, reason, advice })
        };
        let Ok(found) = tokio::time::timeout(CHECK_TIMEOUT, self.client.web.find_keys()).await else { return late() };
        found?;
        let query = [("limit", "1"), ("prefix", prefix)];
        let listing = self.list(Place::Objects, &query, &self.client.container);
        match tokio::time::timeout(CHECK_TIMEOUT, listing).await {
            Ok(listed) => listed.map(drop),
            Err(_) => late(),
        }
    }

    async fn head(&self, key: &str) -> Result<Head> {
        Ok(self.look(key).await?.head)
    }

    async fn get(&self, call: &Call, key: &str, version: &str, wanted: Wanted) -> Result<Content> {
        let range = format!("bytes={}-{}", wanted.range.start, wanted.range.end - 1);
        let headers = [("range", range.as_str()), ("if-match", version)];
        let mut is_conditional = !self.misjudges_reads.load(Relaxed);
        loop {
            let headers = if is_conditional { &headers[..] } else { &headers[..1] };
            let request = Request { headers, ..Request::new(Operation::Read, Method::GET, key) };
            let failure = match self.client.open(&request, call).await? {
                Opened::Flowing { headers, range, is_whole, chunks } => {
                    let version = bare(header_of(&headers, "etag").unwrap_or_default()).to_owned();
                    let is_digest = is_whole && MANIFEST_HEADERS.iter().all(|name| !headers.contains_key(*name));
                    let digest = Digest::from_hex(DigestKind::Md5, &version).filter(|_| is_digest);
                    return Ok(Content { range, version, digest, chunks });
                }
                Opened::Failed(answer) => Failure::of(&answer),
            };
            return Err(match failure {
                // Where the very version is there that was asked for, it was not understood.
                Some(failure)
                    if failure.status == 412
                        && is_conditional
                        && self.look(key).await?.head.object.version == version =>
                {
                    self.misjudges_reads.store(true, Relaxed);
                    is_conditional = false;
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
        let mut query = vec![("limit", count_max.as_str()), ("prefix", ask.prefix)];
        if ask.delimited {
            query.push(("delimiter", "/"));
        }
        match ask.from {
            Begin::First => {}
            Begin::After(key) | Begin::Token(key) => query.push(("marker", key)),
        }
        let listed = self.list(Place::Objects, &query, ask.prefix).await?;
        let next = listed.last().filter(|_| listed.len() >= ask.count_max).map(|last| match &last.subdir {
            // Behind a prefix is behind all that it stands for.
            Some(prefix) => format!("{prefix}{}", char::MAX),
            None => last.name.clone(),
        });
        let keys = listed.into_iter().map(|line| self.key_of(line));
        let keys = stream::iter(keys).buffered(LOOKS_IN_FLIGHT_MAX);
        let keys = keys.try_filter_map(|key| std::future::ready(Ok(key))).try_collect().await?;
        Ok(Keys { keys, next })
    }

    async fn put(&self, key: &str, content: Vec<Bytes>, file_id: FileId, condition: &Condition) -> Result<String> {
        match self.put_object(key, &[], content, file_id, condition).await? {
            Ok(version) => Ok(version),
            Err(failure) if failure.status == 412 => Err(Error::AlreadyExists { path: key.to_owned() }),
            Err(failure) => {
                let error = match failure.status.as_u16() {
                    404 => self.client.missing_container(),
                    _ => self.client.failed(key, &failure),
                };
                Err(error.unpublished_if(failure.is_final))
            }
        }
    }

    async fn put_marker(&self, key: &str) -> Result<()> {
        debug_assert!(key.ends_with('/'));
        let headers = [("content-type", "application/directory")];
        let put = Request { headers: &headers, ..Request::new(Operation::Change, Method::PUT, key) };
        self.client.ask(&put).await.map(drop)
    }

    async fn delete(&self, key: &str, version: Option<&str>) -> Result<()> {
        let Some(look) = self.look_at(key).await? else { return Ok(()) };
        if version.is_some_and(|version| version != look.head.object.version) {
            return Err(Error::Conflict { path: key.to_owned(), reason: "it was replaced meanwhile".into() });
        }
        let query: &[_] = if look.is_large { &[("multipart-manifest", "delete")] } else { &[] };
        let delete = Request { query, ..Request::new(Operation::Change, Method::DELETE, key) };
        let answer = self.client.send(&delete).await?;
        match Failure::of(&answer) {
            // What was not found may be what a proxy could not ask for (see [`Client::send`]).
            None if look.is_large && deleted(key, &answer)? => match self.look_at(key).await? {
                Some(now) if now.head.object.version == look.head.object.version => Err(self.client.without_servers()),
                _ => Ok(()),
            },
            Some(failure) if failure.status != 404 => Err(self.client.failed(key, &failure)),
            _ => Ok(()),
        }
    }

    async fn copy(&self, from: &str, object: &Object, to: &str, create_only: bool) -> Result<Object> {
        let source = self.look(from).await?;
        if source.head.object.version != object.version {
            return Err(Error::VersionChanged { path: from.to_owned() });
        }
        // A condition of a copy would be taken for one of its source.
        let replaced = self.look_at(to).await?;
        if create_only && replaced.is_some() {
            return Err(Error::AlreadyExists { path: to.to_owned() });
        }
        if source.is_large {
            return self.copy_large(from, source.head, to).await;
        }
        self.copy_plain(Place::Objects, &format!("/{}/{from}", self.client.container), to).await?;
        let copy = self.look(to).await?;
        self.drop_replaced(to, replaced).await;
        // Etags of plain objects are digests of their content.
        if copy.head.object.version != object.version {
            return Err(match self.look(from).await?.head.object.version == object.version {
                true => store_error(to, "the copy has another digest than its source"),
                false => Error::VersionChanged { path: from.to_owned() },
            });
        }
        Ok(copy.head.object)
    }

    async fn begin_upload(&self, key: &str, file_id: FileId) -> Result<String> {
        let bytes_max = KEY_BYTES_MAX - SEGMENT_NAME_BYTES;
        if key.len() > bytes_max {
            let reason = format!(
                "a file of more than {} bytes is stored in segments named after it, for which its key may have {bytes_max} \
                 bytes, with the mounted prefix",
                RULES.small_bytes_max
            );
            return Err(Error::Unnameable { path: key.to_owned(), reason });
        }
        self.need_segments().await?;
        Ok(format!("{file_id}-{:08x}", RandomState::new().hash_one(file_id) as u32))
    }

    async fn put_part(&self, key: &str, upload_id: &str, number: u32, content: Vec<Bytes>) -> Result<Part> {
        let len = content.iter().map(|bytes| bytes.len() as u64).sum();
        let name = format!("{key}/{upload_id}/{number:06}");
        let digest = sent_digest(&content).await;
        let headers = [("etag", digest.as_str())];
        let put = Request { headers: &headers, content, ..Request::segment(Operation::Write, Method::PUT, &name) };
        let answer = self.client.ask(&put).await?;
        let tag = bare(answer.header("etag").unwrap_or_default()).to_owned();
        if tag.is_empty() {
            return Err(store_error(key, "the store gives a segment no etag"));
        }
        Ok(Part { number, len, tag })
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[Part],
        file_id: FileId,
        condition: &Condition,
    ) -> Result<String> {
        let manifest = if parts.len() <= SEGMENTS_MAX {
            self.manifest(key, upload_id, parts, "")
        } else {
            let groups: Vec<(usize, Vec<Part>)> =
                parts.chunks(SEGMENTS_MAX).map(<[Part]>::to_vec).enumerate().collect();
            let puts = groups
                .into_iter()
                .map(|(at, parts)| async move { self.put_group(key, upload_id, at + 1, &parts).await });
            let groups: Vec<Part> = stream::iter(puts).buffered(DELETIONS_IN_FLIGHT_MAX).try_collect().await?;
            self.manifest(key, upload_id, &groups, "m")
        };
        let query = [("multipart-manifest", "put")];
        match self.put_object(key, &query, vec![manifest], file_id, condition).await? {
            Ok(version) => Ok(version),
            Err(failure) if failure.status == 412 => Err(Error::AlreadyExists { path: key.to_owned() }),
            Err(failure) if matches!(failure.status.as_u16(), 400 | 404 | 409) => Err(Error::StagedLost {
                path: key.to_owned(),
                file_id: file_id.to_string(),
                reason: format!("its segments are not what they were: {}", failure.text()),
            }),
            Err(failure) => Err(self.client.failed(key, &failure)),
        }
    }

    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<()> {
        let file_id = upload_id.split_once('-').and_then(|(file_id, _)| FileId::from_hex(file_id));
        let Some(file_id) = file_id else { return Err(Error::BadRecord { reason: "it is not of an upload to Swift" }) };
        // Segments of what was published are its content.
        if self.look_at(key).await?.is_some_and(|look| look.head.file_id == Some(file_id)) {
            return Ok(());
        }
        for round in 1..=ABORT_ROUNDS_MAX {
            let any = self.delete_segments(&format!("{key}/{upload_id}/")).await?;
            if !any && round > 1 {
                break;
            }
            tokio::time::sleep(ABORT_PAUSE).await;
        }
        Ok(())
    }

    async fn uploads(&self, prefix: &str, from: Option<&UploadsFrom>) -> Result<Uploads> {
        let limit = SEGMENTS_PAGE.to_string();
        let mut query = vec![("prefix", prefix), ("limit", limit.as_str())];
        if let Some(from) = from {
            query.push(("marker", &from.key));
        }
        let listed = self.list(Place::Segments, &query, prefix).await?;
        let last = listed.last().filter(|_| listed.len() >= SEGMENTS_PAGE).map(|last| last.name.clone());
        let next = last.map(|key| {
            let id = key.rsplit_once('/').map_or("", |(upload, _)| upload).to_owned();
            UploadsFrom { key, id }
        });
        // The upload in whose middle the last page ended was told with it.
        let seen = from.map_or("", |from| from.id.as_str());
        Ok(Uploads { uploads: self.uploads_of(listed, seen).await?, next })
    }
}

/// What Swift holds the content of a put against.
async fn sent_digest(content: &[Bytes]) -> String {
    DigestKind::Md5.of(content).await.to_hex()
}

fn segment_of<'a>(container: &str, key: &str, upload_id: &str, part: &'a Part, kind: &str) -> Segment<'a> {
    let path = format!("/{container}/{key}/{upload_id}/{kind}{:06}", part.number);
    Segment { path, etag: &part.tag, size_bytes: part.len }
}

/// What a deletion with its segments came to: whether anything of it was not found.
fn deleted(key: &str, answer: &Answer) -> Result<bool> {
    let said = answer.text().filter(|text| text.trim_start().starts_with('{'));
    let said: Option<Deleted> = said.and_then(|text| serde_json::from_str(text).ok());
    match said {
        Some(said) if !(said.status.starts_with("200") || said.status.is_empty()) || !said.errors.is_empty() => {
            Err(store_error(key, format!("not all of it was deleted: {} {:?}", said.status, said.errors)))
        }
        said => Ok(said.is_some_and(|said| said.not_found > 0)),
    }
}
