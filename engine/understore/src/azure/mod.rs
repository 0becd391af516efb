//! `abfs://`, `wasb://` and `az://` under-stores: Azure Blob Storage, and ADLS Gen2 through its Blob endpoint.
//!
//! A version is the etag. What object stores have in common is in `object/`; here are the requests of this one. They are
//! those of the Blob service also where an account has a hierarchical namespace: its directories come as blobs that say
//! they are one, so a rename of such a directory copies what is in it, as everywhere else.
//!
//! # Uploads
//! Parts are blocks that belong to the key, not to an upload: Put Block sends one under an id, and Put Block List makes the
//! blob of the ids that it names, in one step with its condition. An upload's id is the file's id and a number of our own,
//! and all its blocks are called by it, so that two writers of one key never mix their parts. But:
//!
//! - Whoever makes a blob of the key, by whatever request, ends the uploads of all others there: Azure drops their blocks,
//!   and their Put Block List is refused. That is a [`Error::Conflict`], also for a writer who would replace anything.
//! - Nobody can take blocks back without writing to the key. A blob in its place would be seen, one replaced by itself would
//!   have a new etag, and either would drop the blocks of the key's next writer. So an upload is not aborted but
//!   outlived ([`Fence::Time`]), and what it sent is gone with the next write of the key, or after a week, which is when Azure
//!   drops blocks that were never committed. There is nothing for a sweep to do.
//!
//! Staging under another key, and a copy at publication, would need none of this. But Azure promises neither that a copy is
//! done when it is answered, nor that until then readers see the old blob, and it would pay for each byte twice.
//!
//! # What conditional requests do (Azurite 3.37, and the service as it is documented)
//! | request | condition | answer |
//! |---|---|---|
//! | Get Blob | If-Match other etag | 412 |
//! | Put Blob, Put Block List, Copy Blob | If-None-Match: *, blob exists | 409 BlobAlreadyExists |
//! | Put Blob, Put Block List, Delete Blob | If-Match other etag, or no blob | 412 |
//! | Copy Blob | x-ms-source-if-match other etag | 412 |
//!
//! # Digests
//! What is sent has its CRC64 with it, which Azure compares. Of what is read Azure makes one where it is asked to, of up to
//! 4 MiB. An emulator, which is known by the account in the path of its endpoint, is told and asked for an MD5 in its place:
//! Azurite before 3.37 answers 500 to a CRC64. The MD5 that a blob has is not held against what is read: whoever writes its
//! properties writes that as well.
//!
//! A directory is an empty blob at the directory's key without its slash, with metadata `hdi_isfolder`: Azure asks for keys that do
//! not end in a slash, and its tools and Hadoop's make such blobs.
//!
//! - `connect.rs` reads URI and options; `sign.rs` signs; `client.rs` makes requests; `xml.rs` reads and writes documents.

mod alias;
mod client;
mod connect;
mod sign;
mod xml;

use std::{
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::Instant;

#[cfg(feature = "testing")]
pub(crate) use self::sign::SharedKey;
pub(crate) use self::{
    alias::{ALIASES, translate},
    connect::open,
};
use self::{
    client::{Client, Failure, Request},
    xml::{FOLDER_METADATA, ListAnswer, block_list, is_folder},
};
use crate::{
    Call, Condition, Error, FileId, Operation, Part, Result,
    object::{
        Ask, Begin, Content, Digest, DigestKind, Fence, Head, Keys, MD5_READ_BYTES_MAX, Markers, Object, Protocol,
        Rules, Uploads, UploadsFrom, Wanted, store_error, text_of,
    },
    store::Compares,
    web::{Answer, Opened, header_of, http_time_ms},
};

/// How long [`Protocol::check`] may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The version of the service that knows where a listing is to begin. Younger than many a region and stand-in: who does not
/// know it is asked without.
const START_FROM_VERSION: &str = "2026-02-06";
/// The header that says which write of Citius a blob is. Its last part must be an identifier of C#.
const FILE_ID_HEADER: &str = "x-ms-meta-citius_file";
const METADATA_PREFIX: &str = "x-ms-meta-";
const FOLDER_HEADER: &str = "x-ms-meta-hdi_isfolder";
const _: () = assert!(FOLDER_HEADER.len() == METADATA_PREFIX.len() + FOLDER_METADATA.len());

/// How long a copy that Azure makes by and by may take.
const COPY_PATIENCE: Duration = Duration::from_secs(600);
/// The first pause before it is looked at; each is twice as long.
const COPY_PAUSE: Duration = Duration::from_millis(100);
const COPY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What Azure allows: 50,000 blocks of 4,000 MiB, of which we use 10,000.
const RULES: Rules = Rules {
    key_bytes_max: 1024,
    small_bytes_max: 8 << 20,
    part_bytes: 8 << 20,
    part_bytes_max: 4000 << 20,
    delete_keys_max: 1,
    create: Compares::Atomically,
    replace: Compares::Atomically,
    complete: Compares::Atomically,
    fence: Fence::Time,
    markers: Markers::Beside,
    drops_parts: true,
};

/// How bytes are held against digests.
#[derive(Debug)]
struct Digests {
    kind: DigestKind,
    /// The header that tells one, either way.
    header: &'static str,
    /// The header that asks for one of what is read.
    ask: &'static str,
    /// Bytes up to which that is asked.
    bytes_max: u64,
}

/// Azure's own. It refuses to make one of more than 4 MiB.
static CRC64: Digests = Digests {
    kind: DigestKind::Crc64Nvme,
    header: "x-ms-content-crc64",
    ask: "x-ms-range-get-content-crc64",
    bytes_max: 4 << 20,
};

/// What its emulators know as well.
static MD5: Digests = Digests {
    kind: DigestKind::Md5,
    header: "content-md5",
    ask: "x-ms-range-get-content-md5",
    bytes_max: MD5_READ_BYTES_MAX,
};

impl Digests {
    fn at(endpoint: &str) -> &'static Self {
        let has_path = endpoint.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        if has_path { &MD5 } else { &CRC64 }
    }

    /// The value of the header for some content.
    async fn of(&self, content: &[Bytes]) -> String {
        let digest = self.kind.of(content).await;
        if self.kind == DigestKind::Md5 { digest.to_base64() } else { digest.to_base64_reversed() }
    }

    /// What an answer tells of the range that was asked for.
    fn told(&self, headers: &HeaderMap) -> Option<Digest> {
        let text = header_of(headers, self.header)?;
        match self.kind {
            DigestKind::Md5 => Digest::from_base64(self.kind, text),
            _ => Digest::from_base64_reversed(self.kind, text),
        }
    }
}

/// A container at work.
pub(crate) struct Azure {
    client: Client,
    digests: &'static Digests,
    /// Whether the service has said that it does not know [`START_FROM_VERSION`].
    starts_at_first: AtomicBool,
}

impl Azure {
    /// Asks the container about the blobs under a prefix.
    async fn list(&self, prefix: &str, query: &[(&str, &str)], version: Option<&'static str>) -> Result<Answer> {
        let request = Request { query, ..Request::new(Operation::List, Method::GET, "") };
        let request = Request { version: version.unwrap_or(request.version), ..request };
        let answer = self.client.send(&request).await?;
        match Failure::of(&answer) {
            Some(failure) if version.is_none() || failure.status != 400 => Err(self.client.failed(prefix, &failure)),
            _ => Ok(answer),
        }
    }

    /// The headers of a blob, whatever it stands for.
    async fn properties(&self, key: &str) -> Result<Answer> {
        self.client.ask(&Request::new(Operation::Stat, Method::HEAD, key)).await
    }

    /// What it means that the condition of a request does not hold: `changed`, or that nothing is there, of which Azurite
    /// says the same.
    async fn unmet(&self, key: &str, changed: Error) -> Error {
        match self.properties(key).await {
            Err(Error::NotFound { path }) => Error::NotFound { path },
            _ => changed,
        }
    }

    /// Waits until nothing is being copied to a key any more.
    async fn copied(&self, key: &str, deadline: Instant) -> Result<Answer> {
        let mut pause = COPY_PAUSE;
        loop {
            let answer = self.properties(key).await?;
            match answer.header("x-ms-copy-status") {
                Some("pending") if Instant::now() < deadline => tokio::time::sleep(pause).await,
                Some("pending") => {
                    return Err(Error::TimedOut { path: key.to_owned(), seconds: COPY_PATIENCE.as_secs() });
                }
                Some(status @ ("aborted" | "failed")) => {
                    let why = answer.header("x-ms-copy-status-description").unwrap_or_default();
                    return Err(store_error(key, format!("Azure says of its copy: {status} {why}")));
                }
                _ => return Ok(answer),
            }
            pause = (pause * 2).min(COPY_PAUSE_MAX);
        }
    }
}

#[async_trait]
impl Protocol for Azure {
    fn endpoint(&self) -> &str {
        &self.client.web.endpoint
    }

    fn rules(&self) -> Rules {
        RULES
    }

    async fn check(&self, prefix: &str) -> Result<()> {
        let (web, endpoint) = (&self.client.web, || self.client.web.endpoint.clone());
        let late = |who: &str| format!("no answer from {who} within {} s", CHECK_TIMEOUT.as_secs());
        let unreachable =
            |reason| Err(Error::Unreachable { endpoint: endpoint(), reason, advice: web.advice.unreachable });
        // Where no keys are given, a machine's metadata service is asked for them, and seldom is there one.
        match tokio::time::timeout(CHECK_TIMEOUT, web.find_keys()).await {
            Ok(found) => found?,
            Err(_) => {
                let (endpoint, reason) = (endpoint(), late("the source of keys"));
                return Err(Error::MissingKeys { endpoint, reason, advice: web.advice.missing_keys });
            }
        }
        let query = [("comp", "list"), ("maxresults", "1"), ("prefix", prefix), ("restype", "container")];
        match tokio::time::timeout(CHECK_TIMEOUT, self.list(&self.client.container, &query, None)).await {
            Ok(Err(Error::Unreachable { reason, .. })) if reason.contains("dns error") => {
                unreachable(format!("no storage account has this address: {reason}"))
            }
            // Where there is no container there may be no account's endpoint at all, and so no word of containers.
            Ok(Err(Error::NotFound { .. })) => Err(self.client.missing_container()),
            Ok(listed) => listed.map(drop),
            Err(_) => unreachable(late("it")),
        }
    }

    async fn head(&self, key: &str) -> Result<Head> {
        let answer = self.properties(key).await?;
        if stands_for_folder(&answer.headers) {
            return Err(Error::IsADirectory { path: key.to_owned() });
        }
        let object = object_of(key, &answer)?;
        Ok(Head { object, file_id: answer.header(FILE_ID_HEADER).and_then(FileId::from_hex) })
    }

    async fn get(&self, call: &Call, key: &str, version: &str, wanted: Wanted) -> Result<Content> {
        let Range { start, end } = wanted.range;
        let range = format!("bytes={start}-{}", end - 1);
        let headers = [("if-match", version), ("x-ms-range", range.as_str()), (self.digests.ask, "true")];
        let asks_digest = end - start <= self.digests.bytes_max;
        let headers = if asks_digest { &headers[..] } else { &headers[..2] };
        let request = Request { headers, ..Request::new(Operation::Read, Method::GET, key) };
        match self.client.open(&request, call).await? {
            Opened::Flowing { headers, range, chunks, .. } => {
                let version = header_of(&headers, "etag").unwrap_or_default().to_owned();
                let digest = self.digests.told(&headers).filter(|_| asks_digest);
                Ok(Content { range, version, digest, chunks })
            }
            Opened::Failed(answer) => Err(match Failure::of(&answer) {
                // A blob that is shorter now is another one.
                Some(failure) if failure.status == 416 => Error::VersionChanged { path: key.to_owned() },
                Some(failure) if is_unmet(&failure) => {
                    self.unmet(key, Error::VersionChanged { path: key.to_owned() }).await
                }
                Some(failure) => self.client.failed(key, &failure),
                None => store_error(key, "the store gives neither content nor an error"),
            }),
        }
    }

    async fn keys(&self, ask: &Ask<'_>) -> Result<Keys> {
        let count_max = ask.count_max.to_string();
        let mut query = vec![
            ("comp", "list"),
            ("include", "metadata"),
            ("maxresults", count_max.as_str()),
            ("prefix", ask.prefix),
            ("restype", "container"),
        ];
        if ask.delimited {
            query.push(("delimiter", "/"));
        }
        match ask.from {
            Begin::Token(token) => query.push(("marker", token)),
            Begin::After(key) if !self.starts_at_first.load(Relaxed) => {
                query.push(("startFrom", key));
                let answer = self.list(ask.prefix, &query, Some(START_FROM_VERSION)).await?;
                if answer.status.is_success() {
                    return Ok(answer.document::<ListAnswer>(ask.prefix)?.into());
                }
                self.starts_at_first.store(true, Relaxed);
                query.pop();
            }
            // What comes before is left out by who asked.
            Begin::First | Begin::After(_) => {}
        }
        Ok(self.list(ask.prefix, &query, None).await?.document::<ListAnswer>(ask.prefix)?.into())
    }

    async fn put(&self, key: &str, content: Vec<Bytes>, file_id: FileId, condition: &Condition) -> Result<String> {
        let id = file_id.to_string();
        let mut headers = vec![
            ("content-type", "application/octet-stream"),
            ("x-ms-blob-type", "BlockBlob"),
            (FILE_ID_HEADER, id.as_str()),
        ];
        headers.extend(header_for(condition));
        let digest = self.digests.of(&content).await;
        headers.push((self.digests.header, &digest));
        // Sent again although it may have a condition: a refusal of our own blob is recognized by who asked.
        let put = Request { headers: &headers, content, ..Request::new(Operation::Write, Method::PUT, key) };
        let answer = self.client.send(&put).await?;
        match Failure::of(&answer) {
            None => version_of(key, &answer),
            Some(failure) if refuses(&failure, condition) => Err(refused(key, &failure)),
            Some(failure) => Err(self.client.failed(key, &failure).unpublished_if(answer.is_final_refusal())),
        }
    }

    async fn put_marker(&self, key: &str) -> Result<()> {
        let place = key.trim_end_matches('/');
        let headers = [("x-ms-blob-type", "BlockBlob"), (FOLDER_HEADER, "true"), ("if-none-match", "*")];
        let put = Request { headers: &headers, ..Request::new(Operation::Change, Method::PUT, place) };
        match Failure::of(&self.client.send(&put).await?) {
            None => Ok(()),
            Some(failure) if failure.status == 409 => match self.head(place).await {
                Err(Error::IsADirectory { .. }) => Ok(()),
                Ok(_) => Err(Error::AlreadyExists { path: place.to_owned() }),
                Err(other) => Err(other),
            },
            Some(failure) => Err(self.client.failed(place, &failure)),
        }
    }

    async fn delete(&self, key: &str, version: Option<&str>) -> Result<()> {
        let mut marker_version = None;
        if let Some(place) = key.strip_suffix('/') {
            // The marker beside it, if there is one and it is no file; then what another program may have put at the key.
            match self.properties(place).await {
                Ok(answer) if stands_for_folder(&answer.headers) => marker_version = Some(version_of(place, &answer)?),
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(other) => return Err(other),
            }
            if let Some(version) = &marker_version {
                self.delete(place, Some(version)).await?;
            }
        }
        let headers: &[_] = match &version {
            Some(etag) => &[("if-match", *etag)],
            None => &[],
        };
        let delete = Request { headers, ..Request::new(Operation::Change, Method::DELETE, key) };
        match Failure::of(&self.client.send(&delete).await?) {
            None => Ok(()),
            Some(failure) if failure.is_no_blob() => Ok(()),
            Some(failure) if is_unmet(&failure) => {
                let conflict = Error::Conflict { path: key.to_owned(), reason: "it was replaced meanwhile".into() };
                match self.unmet(key, conflict).await {
                    Error::NotFound { .. } => Ok(()),
                    other => Err(other),
                }
            }
            Some(failure) if failure.code == "DirectoryIsNotEmpty" => Err(Error::NotEmpty { path: key.to_owned() }),
            Some(failure) => Err(self.client.failed(key, &failure)),
        }
    }

    async fn copy(&self, from: &str, object: &Object, to: &str, create_only: bool) -> Result<Object> {
        let deadline = Instant::now() + COPY_PATIENCE;
        let source = self.client.source_url(from);
        let mut headers =
            vec![("x-ms-copy-source", source.as_str()), ("x-ms-source-if-match", object.version.as_str())];
        if create_only {
            headers.push(("if-none-match", "*"));
        }
        loop {
            let request = Request { headers: &headers, ..Request::new(Operation::Change, Method::PUT, to) };
            let Some(failure) = Failure::of(&self.client.send(&request).await?) else { break };
            match (failure.status.as_u16(), failure.code.as_str()) {
                // Left by a call that was given up. It writes the same, or what somebody else wants there.
                (409, "PendingCopyOperation") => drop(self.copied(to, deadline).await?),
                (409, "BlobAlreadyExists") => return Err(Error::AlreadyExists { path: to.to_owned() }),
                (412, "TargetConditionNotMet") if create_only => {
                    return Err(Error::AlreadyExists { path: to.to_owned() });
                }
                _ if is_unmet(&failure) => return Err(Error::VersionChanged { path: from.to_owned() }),
                _ => return Err(self.client.failed(from, &failure)),
            }
        }
        object_of(to, &self.copied(to, deadline).await?)
    }

    async fn begin_upload(&self, _key: &str, file_id: FileId) -> Result<String> {
        Ok(format!("{file_id}-{:08x}", RandomState::new().hash_one(file_id) as u32))
    }

    async fn put_part(&self, key: &str, upload_id: &str, number: u32, content: Vec<Bytes>) -> Result<Part> {
        let len = content.iter().map(|bytes| bytes.len() as u64).sum();
        let id = block_id(upload_id, number);
        let query = [("blockid", id.as_str()), ("comp", "block")];
        let digest = self.digests.of(&content).await;
        let headers = [(self.digests.header, digest.as_str())];
        let put =
            Request { query: &query, headers: &headers, content, ..Request::new(Operation::Write, Method::PUT, key) };
        self.client.ask(&put).await?;
        // What a block is called follows from its upload and its number.
        Ok(Part { number, len, tag: String::new() })
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[Part],
        file_id: FileId,
        condition: &Condition,
    ) -> Result<String> {
        let id = file_id.to_string();
        let mut headers = vec![
            ("content-type", "application/xml"),
            ("x-ms-blob-content-type", "application/octet-stream"),
            (FILE_ID_HEADER, id.as_str()),
        ];
        headers.extend(header_for(condition));
        let complete = Request {
            query: &[("comp", "blocklist")],
            headers: &headers,
            content: vec![block_list(parts.iter().map(|part| block_id(upload_id, part.number)))],
            ..Request::new(Operation::Write, Method::PUT, key)
        };
        let answer = self.client.send(&complete).await?;
        let Some(failure) = Failure::of(&answer) else { return version_of(key, &answer) };
        if refuses(&failure, condition) {
            return Err(refused(key, &failure));
        }
        if failure.code != "InvalidBlockList" {
            return Err(self.client.failed(key, &failure));
        }
        Err(match self.properties(key).await {
            Ok(_) => {
                let reason = "somebody wrote there meanwhile, and Azure dropped the parts of this write".to_owned();
                Error::Conflict { path: key.to_owned(), reason }
            }
            Err(_) => Error::StagedLost {
                path: key.to_owned(),
                file_id: id,
                reason: "Azure has dropped its parts, as it does after a week".into(),
            },
        })
    }

    /// Nothing can be taken back; see the module's page.
    async fn abort_upload(&self, _key: &str, _upload_id: &str) -> Result<()> {
        Ok(())
    }

    async fn uploads(&self, _prefix: &str, _from: Option<&UploadsFrom>) -> Result<Uploads> {
        Ok(Uploads::default())
    }
}

/// What a block is called. Azure wants all ids of one key to be of one length; other programs' are of the same as ours,
/// 64 characters, more often than of any other.
fn block_id(upload_id: &str, number: u32) -> String {
    BASE64_STANDARD.encode(format!("{upload_id}-{number:06}"))
}

fn object_of(key: &str, answer: &Answer) -> Result<Object> {
    let len = answer.header("content-length").and_then(|len| len.parse().ok());
    Ok(Object {
        len: len.ok_or_else(|| store_error(key, "the store gives no length"))?,
        version: answer.header("etag").unwrap_or_default().to_owned(),
        mtime_ms: answer.header("last-modified").map_or(0, http_time_ms),
    })
}

fn version_of(key: &str, answer: &Answer) -> Result<String> {
    let etag = answer.header("etag").filter(|etag| !etag.is_empty());
    Ok(etag.ok_or_else(|| store_error(key, "the store gives no etag"))?.to_owned())
}

/// Whether these are the headers of a blob that stands for a directory, or of a directory.
fn stands_for_folder(headers: &HeaderMap) -> bool {
    let metadata = headers.iter().filter_map(|(name, value)| {
        Some((name.as_str().strip_prefix(METADATA_PREFIX)?, value.to_str().unwrap_or_default()))
    });
    header_of(headers, "x-ms-resource-type") == Some("directory") || is_folder(metadata)
}

fn header_for(condition: &Condition) -> Option<(&'static str, &str)> {
    match condition {
        Condition::Any => None,
        Condition::MustNotExist => Some(("if-none-match", "*")),
        Condition::Replaces(token) => Some(("if-match", text_of(token).unwrap_or_default())),
    }
}

/// Whether a condition of a request does not hold.
fn is_unmet(failure: &Failure) -> bool {
    // The same status says that another program holds a lease.
    failure.status == 412 && !failure.code.starts_with("Lease")
}

/// Whether a failure says that the condition of a publication does not hold.
fn refuses(failure: &Failure, condition: &Condition) -> bool {
    match condition {
        Condition::Any => false,
        Condition::MustNotExist => failure.code == "BlobAlreadyExists" || is_unmet(failure),
        Condition::Replaces(_) => is_unmet(failure) || failure.is_no_blob(),
    }
}

fn refused(key: &str, failure: &Failure) -> Error {
    if failure.code == "BlobAlreadyExists" {
        return Error::AlreadyExists { path: key.to_owned() };
    }
    Error::Conflict { path: key.to_owned(), reason: format!("the store says {}", failure.text()) }
}
