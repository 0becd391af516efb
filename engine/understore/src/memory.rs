//! `memory://name`: an under-store in this process, for tests. Simple enough to be the twin of the others.
//!
//! Everything is one map behind one lock. Objects have serial numbers as versions; writes are staged in the map under
//! their file id, so that records can be published through any handle of the same store.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::{
    Capabilities, Condition, Depth, Entry, Error, FileId, Landing, PATH_BYTES_MAX, Page, Part, Remnant, Result,
    Settled, Staged, StagedBody, StagedRecord, Stat, StorePath, Swept, Traffic, UnderStore, VersionToken,
    staged::ordered_parts,
    store::{Compares, Kind, PAGE_ENTRIES_MAX, Pages},
};

/// Bytes of one call of a landing, so that readers see more than one.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
struct Object {
    content: Vec<Bytes>,
    len: u64,
    serial: u64,
    file_id: Option<FileId>,
    mtime_ms: i64,
}

#[derive(Debug, Clone)]
enum Node {
    File(Object),
    Dir,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, Node>,
    staged: BTreeMap<FileId, BTreeMap<u32, Vec<Bytes>>>,
    serial: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    traffic: Traffic,
}

/// A store in memory.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    uri: String,
    shared: Arc<Shared>,
}

impl MemoryStore {
    /// A store that nobody else sees.
    pub fn new(uri: impl Into<String>) -> Self {
        Self { uri: uri.into(), shared: Arc::default() }
    }

    /// The store of this name in this process.
    #[cfg(feature = "testing")]
    pub(crate) fn named(uri: &str) -> Arc<dyn UnderStore> {
        static STORES: Mutex<BTreeMap<String, MemoryStore>> = Mutex::new(BTreeMap::new());
        Arc::new(STORES.lock().entry(uri.to_owned()).or_insert_with(|| Self::new(uri)).clone())
    }
}

impl State {
    fn stat(&self, path: &StorePath) -> Result<Stat> {
        if path.is_root() {
            return Ok(Stat::dir(0));
        }
        match self.nodes.get(path.as_str()) {
            Some(Node::File(object)) => Ok(to_stat(object)),
            Some(Node::Dir) => Ok(Stat::dir(0)),
            None => Err(Error::NotFound { path: path.to_string() }),
        }
    }

    fn object(&self, path: &StorePath) -> Result<&Object> {
        match self.nodes.get(path.as_str()) {
            Some(Node::File(object)) => Ok(object),
            Some(Node::Dir) => Err(Error::IsADirectory { path: path.to_string() }),
            None if path.is_root() => Err(Error::IsADirectory { path: "/".into() }),
            None => Err(Error::NotFound { path: path.to_string() }),
        }
    }

    fn need_parent(&self, path: &StorePath) -> Result<()> {
        let reason = "it is the root of the mount, which is neither made, moved nor deleted".to_owned();
        let parent = path.parent().ok_or_else(|| Error::Unnameable { path: "/".into(), reason })?;
        match self.stat(&parent)? {
            stat if stat.is_file() => Err(Error::NotADirectory { path: parent.to_string() }),
            _ => Ok(()),
        }
    }

    fn compare(&self, path: &StorePath, condition: &Condition) -> Result<()> {
        let conflict = |reason: &str| Err(Error::Conflict { path: path.to_string(), reason: reason.to_owned() });
        match (condition, self.stat(path)) {
            (Condition::MustNotExist, Ok(_)) => Err(Error::AlreadyExists { path: path.to_string() }),
            (_, Ok(stat)) if !stat.is_file() => Err(Error::IsADirectory { path: path.to_string() }),
            (Condition::Replaces(token), Ok(stat)) if stat.token != *token => conflict("it is another version"),
            (Condition::Replaces(_), Err(_)) => conflict("it is gone"),
            _ => Ok(()),
        }
    }

    fn below(&self, dir: &StorePath) -> Vec<String> {
        let prefix = if dir.is_root() { String::new() } else { format!("{dir}/") };
        self.nodes.keys().filter(|name| name.starts_with(&prefix)).cloned().collect()
    }

    fn published(&self, record: &StagedRecord) -> Option<VersionToken> {
        let object = self.object(&record.path).ok()?;
        (object.file_id == Some(record.file_id)).then(|| to_stat(object).token)
    }
}

fn to_stat(object: &Object) -> Stat {
    let token = VersionToken::new(&object.serial.to_le_bytes()).expect("8 bytes are within the bound");
    Stat { kind: Kind::File, len: object.len, token, mtime_ms: object.mtime_ms }
}

fn length(content: &[Bytes]) -> u64 {
    content.iter().map(|bytes| bytes.len() as u64).sum()
}

#[async_trait]
impl UnderStore for MemoryStore {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            writes: true,
            lists: true,
            create_only: Compares::Atomically,
            replace: Compares::Atomically,
            large_writes: Compares::Atomically,
            native_rename: true,
            real_directories: true,
            shared_upload: true,
            descriptors: false,
            file_bytes_max: None,
            control_characters: true,
            refused_characters: "",
            path_bytes_max: PATH_BYTES_MAX,
            drops_parts: false,
        }
    }

    fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        self.shared.traffic.count_request();
        self.shared.state.lock().stat(path)
    }

    fn list(&self, dir: &StorePath, after: &str) -> Pages {
        self.shared.traffic.count_request();
        let state = self.shared.state.lock();
        match state.stat(dir) {
            Err(error) => return stream::once(async { Err(error) }).boxed(),
            Ok(stat) if stat.is_file() => {
                let error = Error::NotADirectory { path: dir.to_string() };
                return stream::once(async { Err(error) }).boxed();
            }
            Ok(_) => {}
        }
        let skip = if dir.is_root() { 0 } else { dir.as_str().len() + 1 };
        let mut entries: Vec<Entry> = state
            .below(dir)
            .into_iter()
            .filter(|path| !path[skip..].contains('/') && &path[skip..] > after)
            .map(|path| Entry {
                name: path[skip..].to_owned(),
                stat: match &state.nodes[&path] {
                    Node::File(object) => to_stat(object),
                    Node::Dir => Stat::dir(0),
                },
            })
            .collect();
        drop(state);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let pages: Vec<_> = entries
            .chunks(PAGE_ENTRIES_MAX)
            .map(|entries| Ok(Page { entries: entries.to_vec(), refused: Vec::new() }))
            .collect();
        stream::iter(pages).boxed()
    }

    async fn read(
        &self,
        path: &StorePath,
        token: &VersionToken,
        range: Range<u64>,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        self.shared.traffic.count_request();
        self.shared.traffic.count_content();
        let object = self.shared.state.lock().object(path)?.clone();
        if to_stat(&object).token != *token {
            return Err(Error::VersionChanged { path: path.to_string() });
        }
        if range.end > object.len {
            let (expected, got) = (range.end - range.start, object.len.saturating_sub(range.start));
            return Err(Error::WrongLength { path: path.to_string(), expected, got });
        }
        let mut start = 0;
        for bytes in &object.content {
            let end = start + bytes.len() as u64;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                let wanted = &bytes[(from - start) as usize..(to - start) as usize];
                let mut offset = from;
                for chunk in wanted.chunks(CHUNK_BYTES) {
                    landing.land(offset, chunk);
                    offset += chunk.len() as u64;
                }
                self.shared.traffic.count_read(to - from);
            }
            start = end;
        }
        Ok(())
    }

    async fn mkdir(&self, path: &StorePath) -> Result<()> {
        let mut state = self.shared.state.lock();
        state.need_parent(path)?;
        if state.stat(path).is_ok() {
            return Err(Error::AlreadyExists { path: path.to_string() });
        }
        state.nodes.insert(path.to_string(), Node::Dir);
        Ok(())
    }

    async fn delete_file(&self, path: &StorePath) -> Result<()> {
        let mut state = self.shared.state.lock();
        state.object(path)?;
        state.nodes.remove(path.as_str());
        Ok(())
    }

    async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()> {
        let mut state = self.shared.state.lock();
        state.need_parent(path)?;
        if state.stat(path)?.is_file() {
            return Err(Error::NotADirectory { path: path.to_string() });
        }
        let below = state.below(path);
        if depth == Depth::Empty && !below.is_empty() {
            return Err(Error::NotEmpty { path: path.to_string() });
        }
        for name in below {
            state.nodes.remove(&name);
        }
        state.nodes.remove(path.as_str());
        Ok(())
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        if from != to && from.contains(to) {
            let reason = "a directory cannot be moved into itself".to_owned();
            return Err(Error::Unnameable { path: to.to_string(), reason });
        }
        let mut state = self.shared.state.lock();
        state.need_parent(from)?;
        state.need_parent(to)?;
        let stat = state.stat(from)?;
        if from == to {
            return Ok(stat);
        }
        let condition = if stat.is_file() { condition } else { &Condition::MustNotExist };
        state.compare(to, condition)?;
        for name in state.below(from) {
            let node = state.nodes.remove(&name).expect("it was just listed");
            state.nodes.insert(format!("{to}{}", &name[from.as_str().len()..]), node);
        }
        let node = state.nodes.remove(from.as_str()).expect("it was just found");
        state.nodes.insert(to.to_string(), node);
        Ok(stat)
    }

    async fn stage(&self, path: &StorePath, file_id: FileId, _len_hint: Option<u64>) -> Result<Box<dyn Staged>> {
        let mut state = self.shared.state.lock();
        state.need_parent(path)?;
        if state.stat(path).is_ok_and(|stat| !stat.is_file()) {
            return Err(Error::IsADirectory { path: path.to_string() });
        }
        state.staged.insert(file_id, BTreeMap::new());
        let store = self.clone();
        Ok(Box::new(MemoryStaged { store, path: path.clone(), file_id, parts: Vec::new(), record: None }))
    }

    async fn put_part(&self, record: &StagedRecord, number: u32, bytes: Vec<Bytes>) -> Result<Part> {
        self.shared.traffic.count_request();
        let mut state = self.shared.state.lock();
        let Some(parts) = state.staged.get_mut(&record.file_id) else { return Err(lost(record)) };
        let len = length(&bytes);
        self.shared.traffic.count_written(len);
        parts.insert(number, bytes);
        Ok(Part { number, len, tag: format!("part-{number}") })
    }

    async fn publish(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        let StagedBody::Upload { parts, .. } = &record.body else {
            return Err(Error::BadRecord { reason: "it is not of a write to this store" });
        };
        self.shared.traffic.count_request();
        let mut state = self.shared.state.lock();
        if let Some(token) = state.published(record) {
            return Ok(token);
        }
        state.need_parent(&record.path)?;
        let Some(staged) = state.staged.get(&record.file_id) else { return Err(lost(record)) };
        let mut content = Vec::new();
        if !parts.is_empty() {
            for part in ordered_parts(&record.path, parts.clone())? {
                content.extend(staged.get(&part.number).ok_or_else(|| lost(record))?.iter().cloned());
            }
        }
        state.compare(&record.path, condition)?;
        state.staged.remove(&record.file_id);
        state.serial += 1;
        let mtime_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let (len, serial) = (length(&content), state.serial);
        let object = Object { content, len, serial, file_id: Some(record.file_id), mtime_ms };
        let token = to_stat(&object).token;
        state.nodes.insert(record.path.to_string(), Node::File(object));
        Ok(token)
    }

    async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        let mut state = self.shared.state.lock();
        state.staged.remove(&record.file_id);
        Ok(state.published(record).map_or(Settled::Absent, Settled::Published))
    }

    async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        let mut state = self.shared.state.lock();
        let mut swept = Swept::default();
        state.staged.retain(|file_id, _| {
            let is_dead = dead(&Remnant::Temp { file_id: *file_id, mtime_ms: 0 });
            swept.seen += 1;
            swept.removed += u64::from(is_dead);
            !is_dead
        });
        Ok(swept)
    }
}

fn lost(record: &StagedRecord) -> Error {
    let (path, file_id) = (record.path.to_string(), record.file_id.to_string());
    Error::StagedLost { path, file_id, reason: "no bytes are staged under this id".into() }
}

struct MemoryStaged {
    store: MemoryStore,
    path: StorePath,
    file_id: FileId,
    parts: Vec<Part>,
    record: Option<StagedRecord>,
}

impl MemoryStaged {
    fn to_record(&self, parts: Vec<Part>) -> StagedRecord {
        let len = parts.iter().map(|part| part.len).sum();
        let body = StagedBody::Upload { upload_id: self.file_id.to_string(), parts, publish_by_ms: None };
        StagedRecord { path: self.path.clone(), file_id: self.file_id, len, body }
    }
}

#[async_trait]
impl Staged for MemoryStaged {
    fn begun(&self) -> StagedRecord {
        self.record.clone().unwrap_or_else(|| self.to_record(Vec::new()))
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let number = self.parts.len() as u32 + 1;
        let part = self.store.put_part(&self.begun(), number, vec![bytes]).await?;
        self.parts.push(part);
        Ok(())
    }

    async fn share(&mut self) -> Result<StagedRecord> {
        Ok(self.begun())
    }

    fn adopt(&mut self, parts: Vec<Part>) -> Result<()> {
        self.parts.extend(parts);
        Ok(())
    }

    async fn seal(&mut self) -> Result<StagedRecord> {
        let parts = self.parts.clone();
        let record = self.to_record(if parts.is_empty() { parts } else { ordered_parts(&self.path, parts)? });
        Ok(self.record.insert(record).clone())
    }

    async fn publish(&mut self, condition: &Condition) -> Result<VersionToken> {
        let record = self.seal().await?;
        self.store.publish(&record, condition).await
    }

    async fn abandon(&mut self) -> Result<()> {
        self.store.shared.state.lock().staged.remove(&self.file_id);
        Ok(())
    }
}
