//! An object store in memory, below the adapter that all object stores share: what that adapter does with keys, markers,
//! uploads and conditions is tested without a server, and with any fault that a server or a network can have.
//!
//! It lists in key order and believes every condition. Each write gives its key a new version. [`Habits`] say what else it
//! does as the one or the other real store does.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::{
    Call, Compares, Condition, Error, FileId, Part, Result, Traffic, UnderStore,
    object::{
        Ask, Begin, Content, DigestKind, Fence, Head, Key, Keys, Markers, Object, Objects, Protocol, Rules, Upload,
        Uploads, UploadsFrom, Wanted, store_error, text_of,
    },
};

/// What a bucket in memory allows: little, so that small tests reach its bounds.
const RULES: Rules = Rules {
    key_bytes_max: 1024,
    small_bytes_max: 1 << 20,
    part_bytes: 1 << 20,
    part_bytes_max: 1 << 30,
    delete_keys_max: 3,
    create: Compares::Atomically,
    replace: Compares::Atomically,
    complete: Compares::Atomically,
    fence: Fence::Abort,
    markers: Markers::Within,
    drops_parts: false,
};
/// How late an answer may be.
const SLOW: Duration = Duration::from_secs(12);
/// Bytes of one chunk of content.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes up to which a digest of a range is told, by Azure's habits.
const DIGEST_BYTES_MAX: u64 = 256 << 10;
/// Uploads of one page.
const UPLOADS_PAGE: usize = 100;

/// The requests of an object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// What is at a key.
    Head,
    /// Content of an object.
    Get,
    /// A page of keys.
    Keys,
    /// A whole object.
    Put,
    /// An empty object that stands for a directory.
    PutMarker,
    /// The end of an object.
    Delete,
    /// Another object like one.
    Copy,
    /// The begin of an upload.
    BeginUpload,
    /// A part of one.
    PutPart,
    /// Its end as an object.
    CompleteUpload,
    /// Its end without one.
    AbortUpload,
    /// A page of uploads.
    Uploads,
}

/// What one request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestFault {
    /// Nothing.
    None,
    /// It fails and was not done: 500.
    Fail,
    /// The server is asked too much: 429, 503.
    Throttled,
    /// The keys that it is signed with have expired.
    Expired,
    /// It is done, and its answer is lost: the connection is reset.
    AnswerLost,
    /// It is done, and its answer is not waited for.
    TimedOut,
    /// Nobody listens.
    Unreachable,
    /// It is done late.
    Slow,
    /// The answer tells of another version than there is.
    OtherVersion,
    /// The listing still has what was deleted last.
    StaleKeys,
    /// Content ends early, as if it were whole.
    Truncated,
    /// Content breaks off.
    CutOff,
    /// More content is promised than there is: it breaks off behind its last byte.
    Overlong,
    /// Another length is sent than was asked for.
    WrongRange,
    /// The condition is ignored, and what is there now is sent.
    ConditionIgnored,
    /// A bit of the content is flipped on the way.
    Damaged,
}

/// Whose ways a bucket has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Habits {
    /// Of Amazon S3: uploads have ids and can be aborted; a directory's marker is an object under its prefix; a digest is told
    /// of whole objects.
    #[default]
    Amazon,
    /// Of Azure: parts belong to the key, nobody can remove them, and whoever writes there ends the uploads of all others; a
    /// directory's marker is an object beside its prefix; a digest is told of any range that is short enough.
    Azure,
}

type Hook = dyn Fn(Request, &str) -> RequestFault + Send + Sync;

#[derive(Debug, Clone)]
struct Stored {
    content: Bytes,
    version: u64,
    file_id: Option<FileId>,
    /// Whether it stands for a directory whose key is this with a slash.
    is_marker: bool,
}

#[derive(Debug)]
struct Begun {
    key: String,
    /// None after a part came that no upload was begun for.
    file_id: Option<FileId>,
    parts: BTreeMap<u32, Bytes>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<u64, Begun>,
    /// What was deleted last.
    deleted: Option<(String, Stored)>,
    serial: u64,
}

/// A bucket in memory. Clones are the same bucket.
#[derive(Clone)]
pub struct Bucket {
    state: Arc<Mutex<State>>,
    traffic: Traffic,
    habits: Habits,
    hook: Arc<Hook>,
    damaged: Arc<Damages>,
}

/// Bodies that were sent with a flipped bit, and with a digest that says so or without.
#[derive(Debug, Default)]
struct Damages {
    told: AtomicU64,
    untold: AtomicU64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self::with_faults(|_, _| RequestFault::None)
    }
}

impl Bucket {
    /// An empty bucket whose requests meet what the hook says; it is asked with the request and its key or prefix.
    pub fn with_faults(hook: impl Fn(Request, &str) -> RequestFault + Send + Sync + 'static) -> Self {
        Self {
            state: Arc::default(),
            traffic: Traffic::default(),
            habits: Habits::default(),
            hook: Arc::new(hook),
            damaged: Arc::default(),
        }
    }

    /// The same bucket with other habits; it holds nothing yet.
    #[must_use]
    pub fn with_habits(self, habits: Habits) -> Self {
        Self { habits, ..self }
    }

    /// The same bucket as another program finds it: its requests meet what this hook says, and its damages are its own.
    #[must_use]
    pub fn beside(&self, hook: impl Fn(Request, &str) -> RequestFault + Send + Sync + 'static) -> Self {
        Self { hook: Arc::new(hook), damaged: Arc::default(), ..self.clone() }
    }

    /// The under-store at a prefix of the bucket, which has no slash at either end.
    pub fn mount(&self, prefix: &str) -> Arc<dyn UnderStore> {
        let (uri, traffic) = (format!("bucket://memory/{prefix}"), Traffic::default());
        let protocol = Self { traffic: traffic.clone(), ..self.clone() };
        Arc::new(Objects::new(uri, prefix.to_owned(), traffic, Box::new(protocol)))
    }

    /// Puts an object as another program does.
    pub fn put_object(&self, key: &str, content: impl Into<Bytes>) {
        let mut state = self.state.lock();
        state.serial += 1;
        let stored = Stored { content: content.into(), version: state.serial, file_id: None, is_marker: false };
        state.objects.insert(key.to_owned(), stored);
    }

    /// An object as another program sees it.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.state.lock().objects.get(key).map(|stored| stored.content.clone())
    }

    /// All keys, in order.
    pub fn all_keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    /// Bodies that were sent damaged: of which the digest was told, and of which none was.
    pub fn damaged(&self) -> (u64, u64) {
        (self.damaged.told.load(Relaxed), self.damaged.untold.load(Relaxed))
    }

    /// Uploads that were begun and not ended.
    pub fn uploads_under_way(&self) -> usize {
        self.state.lock().uploads.len()
    }

    /// Where the object is that a key names: for the marker of a directory it may be beside it.
    fn place_of<'a>(&self, key: &'a str) -> &'a str {
        match (self.habits, key.strip_suffix('/')) {
            (Habits::Azure, Some(place)) => place,
            _ => key,
        }
    }

    /// What a write of a key does to the parts that others have sent for it.
    fn forget_parts(&self, state: &mut State, key: &str) {
        if self.habits == Habits::Azure {
            state.uploads.retain(|_, begun| begun.key != key);
        }
    }

    /// What a request meets, if that is not its end already.
    async fn meet(&self, request: Request, key: &str) -> Result<RequestFault> {
        self.traffic.count_request();
        // Others get between any two requests, as they do at a server.
        tokio::task::yield_now().await;
        match (self.hook)(request, key) {
            RequestFault::Fail => Err(store_error(key, "HTTP 500, by a test's wish")),
            RequestFault::Throttled => {
                let (endpoint, reason) = ("memory".into(), "503 SlowDown, by a test's wish".into());
                Err(Error::Throttled { endpoint, reason, retry_after: None })
            }
            RequestFault::Expired => {
                let (endpoint, reason) = ("memory".into(), "the token has expired, by a test's wish".into());
                Err(Error::WrongKeys { endpoint, reason, advice: "wait" })
            }
            RequestFault::Slow => {
                tokio::time::sleep(SLOW).await;
                Ok(RequestFault::None)
            }
            RequestFault::Unreachable => Err(unreachable("nobody listens, by a test's wish")),
            fault => Ok(fault),
        }
    }
}

fn unreachable(reason: &str) -> Error {
    Error::Unreachable { endpoint: "memory".into(), reason: reason.into(), advice: "wait" }
}

/// The answer, unless it is lost.
fn answer<T>(fault: RequestFault, key: &str, answer: T) -> Result<T> {
    match fault {
        RequestFault::AnswerLost => Err(store_error(key, "the connection was reset, by a test's wish")),
        RequestFault::TimedOut => Err(Error::TimedOut { path: key.to_owned(), seconds: 0 }),
        _ => Ok(answer),
    }
}

fn spelled(version: u64) -> String {
    format!("\"{version:016x}\"")
}

impl Stored {
    fn object(&self) -> Object {
        Object { len: self.content.len() as u64, version: spelled(self.version), mtime_ms: self.version as i64 }
    }
}

impl State {
    fn compare(&self, key: &str, condition: &Condition) -> Result<()> {
        match (condition, self.objects.get(key)) {
            (Condition::MustNotExist, Some(_)) => Err(Error::AlreadyExists { path: key.to_owned() }),
            (Condition::Replaces(token), found)
                if found.map(|stored| spelled(stored.version)).as_deref() != text_of(token) =>
            {
                Err(Error::Conflict { path: key.to_owned(), reason: "it is another version, or gone".into() })
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, key: &str, content: Bytes, file_id: Option<FileId>) -> String {
        self.serial += 1;
        let stored = Stored { content, version: self.serial, file_id, is_marker: false };
        let version = spelled(stored.version);
        self.objects.insert(key.to_owned(), stored);
        version
    }
}

fn whole(content: &[Bytes]) -> Bytes {
    content.concat().into()
}

#[async_trait]
impl Protocol for Bucket {
    fn endpoint(&self) -> &str {
        "memory"
    }

    fn rules(&self) -> Rules {
        match self.habits {
            Habits::Amazon => RULES,
            Habits::Azure => Rules { fence: Fence::Time, markers: Markers::Beside, drops_parts: true, ..RULES },
        }
    }

    async fn check(&self, prefix: &str) -> Result<()> {
        self.meet(Request::Keys, prefix).await.map(drop)
    }

    async fn head(&self, key: &str) -> Result<Head> {
        let fault = self.meet(Request::Head, key).await?;
        let state = self.state.lock();
        let stored = state.objects.get(key).ok_or_else(|| Error::NotFound { path: key.to_owned() })?;
        if stored.is_marker {
            return Err(Error::IsADirectory { path: key.to_owned() });
        }
        let mut object = stored.object();
        if fault == RequestFault::OtherVersion {
            object.version = spelled(u64::MAX);
        }
        answer(fault, key, Head { object, file_id: stored.file_id })
    }

    async fn get(&self, _call: &Call, key: &str, version: &str, wanted: Wanted) -> Result<Content> {
        let range = wanted.range;
        assert!(!range.is_empty(), "no request can ask for no bytes");
        let fault = self.meet(Request::Get, key).await?;
        let stored = self.state.lock().objects.get(key).cloned();
        let stored = stored.ok_or_else(|| Error::NotFound { path: key.to_owned() })?;
        let found = spelled(stored.version);
        if found != version && fault != RequestFault::ConditionIgnored {
            return Err(Error::VersionChanged { path: key.to_owned() });
        }
        let end = range.end.min(stored.content.len() as u64);
        let mut sent = range.start.min(end)..end;
        if fault == RequestFault::WrongRange {
            sent.end = sent.start + (sent.end - sent.start) / 2;
        }
        let mut content = stored.content.slice(sent.start as usize..sent.end as usize);
        let tells = match self.habits {
            Habits::Amazon => wanted.is_whole && content.len() == stored.content.len(),
            Habits::Azure => content.len() as u64 <= DIGEST_BYTES_MAX,
        };
        let digest = if tells { Some(DigestKind::Crc64Nvme.of(std::slice::from_ref(&content)).await) } else { None };
        if fault == RequestFault::Damaged && !content.is_empty() {
            let mut bytes = content.to_vec();
            let at = bytes.len() / 2;
            bytes[at] ^= 1 << (at % 8);
            content = bytes.into();
            let count = if tells { &self.damaged.told } else { &self.damaged.untold };
            count.fetch_add(1, Relaxed);
        }
        let mut chunks: Vec<_> = content.chunks(CHUNK_BYTES).map(|chunk| Ok(content.slice_ref(chunk))).collect();
        let half = chunks.len() / 2;
        match fault {
            RequestFault::Truncated => chunks.truncate(half),
            RequestFault::CutOff => {
                chunks.truncate(half);
                chunks.push(Err(unreachable("the connection was reset, by a test's wish")));
            }
            RequestFault::Overlong => chunks.push(Err(unreachable("the connection was reset, by a test's wish"))),
            _ => {}
        }
        let version = if fault == RequestFault::OtherVersion { spelled(u64::MAX) } else { found };
        answer(fault, key, Content { range: sent, version, digest, chunks: stream::iter(chunks).boxed() })
    }

    async fn keys(&self, ask: &Ask<'_>) -> Result<Keys> {
        let fault = self.meet(Request::Keys, ask.prefix).await?;
        let mut state = self.state.lock();
        let from = match ask.from {
            Begin::First => Bound::Included(ask.prefix),
            Begin::After(key) | Begin::Token(key) => Bound::Excluded(key.as_str()),
        };
        let mut keys: Vec<Key> = Vec::new();
        let (mut last, mut folded, mut next) = (None, None::<String>, None);
        let ghost = state
            .deleted
            .clone()
            .filter(|(key, _)| fault == RequestFault::StaleKeys && !state.objects.contains_key(key));
        if let Some((key, stored)) = &ghost {
            state.objects.insert(key.clone(), stored.clone());
        }
        for (key, stored) in state.objects.range::<str, _>((from, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(ask.prefix) else {
                if key.as_str() < ask.prefix { continue } else { break }
            };
            // What a common prefix stands for is not listed again, nor is what a token stood behind.
            let is_folded = |prefix: &Option<String>| prefix.as_ref().is_some_and(|prefix| key.starts_with(prefix));
            if is_folded(&folded)
                || matches!(ask.from, Begin::Token(token) if token.ends_with('/') && key.starts_with(token))
            {
                continue;
            }
            if keys.len() == ask.count_max {
                next = last;
                break;
            }
            let prefix = rest.split_once('/').filter(|_| ask.delimited);
            let (name, object) = match prefix {
                Some((first, _)) => (format!("{}{first}/", ask.prefix), None),
                None if stored.is_marker => (format!("{key}/"), Some(stored.object())),
                None => (key.clone(), Some(stored.object())),
            };
            folded = object.is_none().then(|| name.clone());
            last = Some(if stored.is_marker { key.clone() } else { name.clone() });
            keys.push(Key { name: Ok(name), object });
        }
        if let Some((key, _)) = &ghost {
            state.objects.remove(key);
        }
        answer(fault, ask.prefix, Keys { keys, next })
    }

    async fn put(&self, key: &str, content: Vec<Bytes>, file_id: FileId, condition: &Condition) -> Result<String> {
        let fault = self.meet(Request::Put, key).await?;
        let mut state = self.state.lock();
        state.compare(key, condition)?;
        self.forget_parts(&mut state, key);
        answer(fault, key, state.put(key, whole(&content), Some(file_id)))
    }

    async fn put_marker(&self, key: &str) -> Result<()> {
        let fault = self.meet(Request::PutMarker, key).await?;
        let (mut state, at) = (self.state.lock(), self.place_of(key));
        state.put(at, Bytes::new(), None);
        state.objects.get_mut(at).expect("it was just put there").is_marker = at != key;
        answer(fault, key, ())
    }

    async fn delete(&self, key: &str, version: Option<&str>) -> Result<()> {
        let fault = self.meet(Request::Delete, key).await?;
        let (mut state, place) = (self.state.lock(), self.place_of(key));
        if place != key && !state.objects.get(place).is_some_and(|stored| stored.is_marker) {
            return answer(fault, key, ());
        }
        let key = place;
        let found = state.objects.get(key).map(|stored| spelled(stored.version));
        if found.is_some() && version.is_some() && version != found.as_deref() {
            return Err(Error::Conflict { path: key.to_owned(), reason: "it was replaced meanwhile".into() });
        }
        state.deleted = state.objects.remove_entry(key).or(state.deleted.take());
        answer(fault, key, ())
    }

    async fn copy(&self, from: &str, object: &Object, to: &str, create_only: bool) -> Result<Object> {
        let fault = self.meet(Request::Copy, from).await?;
        let mut state = self.state.lock();
        let source = state.objects.get(from).cloned().ok_or_else(|| Error::NotFound { path: from.to_owned() })?;
        if spelled(source.version) != object.version {
            return Err(Error::VersionChanged { path: from.to_owned() });
        }
        if create_only {
            state.compare(to, &Condition::MustNotExist)?;
        }
        state.put(to, source.content, source.file_id);
        answer(fault, from, state.objects[to].object())
    }

    async fn begin_upload(&self, key: &str, file_id: FileId) -> Result<String> {
        let fault = self.meet(Request::BeginUpload, key).await?;
        let mut state = self.state.lock();
        state.serial += 1;
        let id = state.serial;
        state.uploads.insert(id, Begun { key: key.to_owned(), file_id: Some(file_id), parts: BTreeMap::new() });
        answer(fault, key, id.to_string())
    }

    async fn put_part(&self, key: &str, upload_id: &str, number: u32, content: Vec<Bytes>) -> Result<Part> {
        let fault = self.meet(Request::PutPart, key).await?;
        let mut state = self.state.lock();
        let id: u64 = upload_id.parse().map_err(|error| store_error(key, error))?;
        if self.habits == Habits::Azure {
            let begun = || Begun { key: key.to_owned(), file_id: None, parts: BTreeMap::new() };
            state.uploads.entry(id).or_insert_with(begun);
        }
        let upload = state.uploads.get_mut(&id).ok_or_else(|| Error::NotFound { path: key.to_owned() })?;
        let content = whole(&content);
        let part = Part { number, len: content.len() as u64, tag: number.to_string() };
        upload.parts.insert(number, content);
        answer(fault, key, part)
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[Part],
        file_id: FileId,
        condition: &Condition,
    ) -> Result<String> {
        let fault = self.meet(Request::CompleteUpload, key).await?;
        let mut state = self.state.lock();
        let id: Option<u64> = upload_id.parse().ok();
        let lost = || Error::StagedLost {
            path: key.to_owned(),
            file_id: file_id.to_string(),
            reason: "the upload was aborted or completed".into(),
        };
        state.compare(key, condition)?;
        let upload = id.and_then(|id| state.uploads.get(&id));
        let Some(upload) = upload.filter(|upload| parts.iter().all(|part| upload.parts.contains_key(&part.number)))
        else {
            let others = state.objects.get(key).is_some_and(|stored| stored.file_id != Some(file_id));
            let reason = "another write has ended this one".to_owned();
            let is_conflict = others && self.habits == Habits::Azure;
            return Err(if is_conflict { Error::Conflict { path: key.to_owned(), reason } } else { lost() });
        };
        let whose = upload.file_id.unwrap_or(file_id);
        assert_eq!((upload.key.as_str(), whose), (key, file_id), "an upload is of one file");
        let upload = id.and_then(|id| state.uploads.remove(&id)).ok_or_else(lost)?;
        let content: Vec<Bytes> = parts.iter().map(|part| upload.parts[&part.number].clone()).collect();
        self.forget_parts(&mut state, key);
        answer(fault, key, state.put(key, whole(&content), Some(file_id)))
    }

    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<()> {
        let fault = self.meet(Request::AbortUpload, key).await?;
        if let (Ok(id), Habits::Amazon) = (upload_id.parse(), self.habits) {
            self.state.lock().uploads.remove(&id);
        }
        answer(fault, key, ())
    }

    async fn uploads(&self, prefix: &str, from: Option<&UploadsFrom>) -> Result<Uploads> {
        let fault = self.meet(Request::Uploads, prefix).await?;
        if self.habits == Habits::Azure {
            return answer(fault, prefix, Uploads::default());
        }
        let after: u64 = from.and_then(|from| from.id.parse().ok()).unwrap_or(0);
        let state = self.state.lock();
        let mut found = state.uploads.range(after + 1..).filter(|(_, begun)| begun.key.starts_with(prefix));
        let uploads: Vec<Upload> = (&mut found)
            .take(UPLOADS_PAGE)
            .map(|(id, begun)| Upload { key: Some(begun.key.clone()), id: id.to_string(), begun_ms: 0 })
            .collect();
        let next = found.next().and(uploads.last());
        let next = next.map(|last| UploadsFrom { key: last.key.clone().unwrap_or_default(), id: last.id.clone() });
        answer(fault, prefix, Uploads { uploads, next })
    }
}
