//! `example://name`: a file system that lies in this process, as the smallest that an under-store can be.
//!
//! It is the worked example of docs/adding-an-under-store.md, which quotes it, and it is held to the same contract as
//! every other system. What it cannot do it leaves to the defaults of [`Protocol`].

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::{
    Compares, Error, MountSpec, Result, TrafficSettings,
    tree::{Chunks, Listing, Node, Protocol, Rules, Sink, Span, Tree, What},
};

/// What is at each path, and the content of files.
type Disk = BTreeMap<String, (Node, Bytes)>;

/// A connection: all of one name share a disk.
#[derive(Clone)]
struct Example {
    disk: Arc<Mutex<Disk>>,
}

/// Reads `example://name`; it takes no options.
pub(crate) fn open(spec: &MountSpec) -> Result<Tree> {
    static DISKS: LazyLock<Mutex<BTreeMap<String, Example>>> = LazyLock::new(Mutex::default);
    let name = spec.uri.strip_prefix("example://").filter(|name| !name.is_empty() && !name.contains('/'));
    let name =
        name.ok_or_else(|| Error::InvalidUri { uri: spec.redacted_uri(), reason: "write example://name".into() })?;
    if let Some(option) = spec.options.keys().next() {
        let (uri, advice) = (spec.redacted_uri(), "there are none".to_owned());
        return Err(Error::UnknownOption { uri, option: option.clone(), advice });
    }
    let blank = || {
        let root = (Node::dir(0), Bytes::new());
        Example { disk: Arc::new(Mutex::new(BTreeMap::from([(String::new(), root)]))) }
    };
    let example = DISKS.lock().entry(name.to_owned()).or_insert_with(blank).clone();
    Ok(Tree::new(spec.redacted_uri(), TrafficSettings::default(), Box::new(example)))
}

fn missing(path: &str) -> Error {
    Error::NotFound { path: path.to_owned() }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Puts something at a path where nothing is, in a directory that is there.
fn add(disk: &mut Disk, path: &str, node: Node) -> Result<()> {
    match disk.get(parent_of(path)) {
        None => return Err(missing(path)),
        Some((parent, _)) if parent.is_file() => return Err(Error::NotADirectory { path: parent_of(path).to_owned() }),
        Some(_) if disk.contains_key(path) => return Err(Error::AlreadyExists { path: path.to_owned() }),
        Some(_) => disk.insert(path.to_owned(), (node, Bytes::new())),
    };
    Ok(())
}

#[async_trait]
impl Protocol for Example {
    fn endpoint(&self) -> &str {
        "example"
    }

    fn rules(&self) -> Rules {
        Rules {
            writes: true,
            lists: true,
            // A rename looks for its target under the same lock.
            create_only: Compares::Atomically,
            // Times are as fine as this, and can be set: so two versions never look alike.
            mtime_step_ns: Some(1),
            keeps_tags: true,
            refuses_full: true,
            refused_characters: "",
        }
    }

    async fn stat(&self, path: &str) -> Result<Node> {
        self.disk.lock().get(path).map(|(node, _)| node.clone()).ok_or_else(|| missing(path))
    }

    fn list(&self, dir: &str) -> Listing {
        let disk = self.disk.lock();
        let names: Vec<_> = match disk.get(dir) {
            None => vec![Err(missing(dir))],
            Some((node, _)) if node.is_file() => vec![Err(Error::NotADirectory { path: dir.to_owned() })],
            Some(_) => {
                let below = disk.iter().filter(|(path, _)| !path.is_empty() && parent_of(path) == dir);
                let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
                below.map(|(path, (node, _))| Ok((Ok(name(path)), node.clone()))).collect()
            }
        };
        stream::iter(names).boxed()
    }

    async fn read(&self, path: &str, span: Span<'_>) -> Result<Chunks> {
        let disk = self.disk.lock();
        let (node, content) = disk.get(path).ok_or_else(|| missing(path))?;
        if node != span.version {
            return Err(Error::VersionChanged { path: path.to_owned() });
        }
        let part = content.slice(span.offset as usize..(span.offset + span.len) as usize);
        Ok(stream::iter([Ok(part)]).boxed())
    }

    async fn create(&self, path: &str, _shown: &str) -> Result<Box<dyn Sink>> {
        let node = Node { what: What::File, len: 0, mtime_ns: now_ns(), tag: String::new(), mode: None };
        add(&mut self.disk.lock(), path, node)?;
        Ok(Box::new(Writing { example: self.clone(), path: path.to_owned(), content: Vec::new() }))
    }

    async fn mkdir(&self, path: &str, _is_private: bool) -> Result<()> {
        add(&mut self.disk.lock(), path, Node::dir(now_ns()))
    }

    async fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        let mut disk = self.disk.lock();
        if !disk.contains_key(from) {
            return Err(missing(from));
        }
        if !disk.contains_key(parent_of(to)) {
            return Err(missing(to));
        }
        if !replace && disk.contains_key(to) {
            return Err(Error::AlreadyExists { path: to.to_owned() });
        }
        let is_moved = |path: &str| path == from || path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/'));
        let moved: Vec<_> = disk.extract_if(.., |path, _| is_moved(path)).collect();
        disk.extend(moved.into_iter().map(|(path, held)| (format!("{to}{}", &path[from.len()..]), held)));
        Ok(())
    }

    async fn delete_file(&self, path: &str) -> Result<()> {
        self.disk.lock().remove(path).map(drop).ok_or_else(|| missing(path))
    }

    async fn delete_dir(&self, path: &str) -> Result<()> {
        let mut disk = self.disk.lock();
        if disk.keys().any(|other| !other.is_empty() && parent_of(other) == path) {
            return Err(Error::NotEmpty { path: path.to_owned() });
        }
        disk.remove(path).map(drop).ok_or_else(|| missing(path))
    }

    async fn set_mtime(&self, path: &str, mtime_ns: i64) -> Result<()> {
        let mut disk = self.disk.lock();
        let (node, _) = disk.get_mut(path).ok_or_else(|| missing(path))?;
        node.mtime_ns = mtime_ns;
        Ok(())
    }
}

/// A file that is being written.
struct Writing {
    example: Example,
    path: String,
    content: Vec<u8>,
}

#[async_trait]
impl Sink for Writing {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.content.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        let mut disk = self.example.disk.lock();
        let (node, held) = disk.get_mut(&self.path).ok_or_else(|| missing(&self.path))?;
        *held = std::mem::take(&mut self.content).into();
        (node.len, node.mtime_ns) = (held.len() as u64, now_ns());
        Ok(())
    }
}

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}
