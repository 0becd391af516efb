//! What file systems that are asked over a network have in common.
//!
//! ```text
//!  UnderStore (paths, stats, staged writes) ── here ──▶ Protocol (calls by path) ── hdfs, … ──▶ the network
//! ```
//! A version is length, modification time and whatever else the system tells (`version.rs`). Two files that are equal
//! in all of it could not be told apart, so one never replaces the other: the newer file's time is made later, or the
//! write is refused with [`Error::Conflict`]. What other programs write within one step of the system's clock, of equal
//! length, is not seen where there is no tag.
//!
//! A read looks at the version again when it is over: no file has the version asked for before and after, and another
//! between.
//!
//! - `protocol.rs` is what a system must give; `call.rs` asks it; `list.rs` lists, and deletes what cannot be deleted whole; `staging.rs`
//!   writes.

mod call;
mod list;
mod protocol;
mod staging;
#[cfg(test)]
mod tests;
mod version;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;

pub(crate) use self::protocol::{Chunks, Listing, Name, Node, Protocol, Rules, Sink, Span, What};
use self::{
    call::{CHANGE, LOOK, RESUMABLE},
    version::{is_another, to_stat, version_in},
};
use crate::{
    Capabilities, Condition, Depth, Error, FileId, Landing, PATH_BYTES_MAX, Remnant, Result, Settled, Staged,
    StagedRecord, Stat, StorePath, Swept, Traffic, TrafficSettings, UnderStore, VersionToken,
    store::{Compares, Pages},
};

/// How long a check may take.
const CHECK_MAX: Duration = Duration::from_secs(5);

/// What to do about a server that does not answer.
pub(crate) const ADVICE_UNREACHABLE: &str = "check that it runs, its address and the network";

/// A folder of a file system as an under-store.
#[derive(Debug)]
pub(crate) struct Tree {
    inner: Arc<Inner>,
}

/// What listings and staged writes share with the store.
struct Inner {
    /// Without what must not be shown.
    uri: String,
    traffic: Traffic,
    protocol: Box<dyn Protocol>,
}

/// By hand: the clients below would print more than they should.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, traffic) = (self.protocol.endpoint(), self.traffic.totals());
        f.debug_struct("Tree").field("uri", &self.uri).field("endpoint", &endpoint).field("traffic", &traffic).finish()
    }
}

impl Tree {
    /// The folder that a protocol leads to, asked by the rules of a mount.
    pub(crate) fn new(uri: String, rules: TrafficSettings, protocol: Box<dyn Protocol>) -> Self {
        Self { inner: Arc::new(Inner { uri, traffic: Traffic::new(rules), protocol }) }
    }
}

impl Inner {
    fn capabilities(&self) -> Capabilities {
        let rules = self.protocol.rules();
        Capabilities {
            writes: rules.writes,
            lists: rules.lists,
            create_only: rules.create_only,
            replace: Compares::JustBefore,
            large_writes: Compares::JustBefore,
            native_rename: true,
            real_directories: true,
            shared_upload: false,
            descriptors: false,
            file_bytes_max: None,
            control_characters: true,
            refused_characters: rules.refused_characters,
            path_bytes_max: PATH_BYTES_MAX,
            drops_parts: false,
        }
    }

    /// A path that users may name.
    fn path<'a>(&self, path: &'a StorePath) -> Result<&'a str> {
        path.check_unreserved()?;
        self.capabilities().check_name(path)?;
        Ok(path.as_str())
    }

    /// A path that users may make, move and delete.
    fn movable<'a>(&self, path: &'a StorePath) -> Result<&'a str> {
        if path.is_root() {
            let reason = "it is the root of the mount, which is neither made, moved nor deleted".to_owned();
            return Err(Error::Unnameable { path: "/".into(), reason });
        }
        self.path(path)
    }

    async fn node(&self, path: &str) -> Result<Node> {
        self.call(LOOK, path, || self.protocol.stat(path)).await
    }

    /// What is at a path, if anything is.
    async fn look(&self, path: &str) -> Result<Option<Node>> {
        match self.node(path).await {
            Ok(node) => Ok(Some(node)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        let path = self.path(path)?;
        to_stat(path, &self.node(path).await?)
    }

    /// Holds a change against what is at its target.
    fn compare(&self, path: &str, target: Option<&Node>, condition: &Condition) -> Result<()> {
        let conflict = |reason: &str| Err(Error::Conflict { path: path.to_owned(), reason: reason.to_owned() });
        match (condition, target) {
            (Condition::MustNotExist, Some(_)) => Err(Error::AlreadyExists { path: path.to_owned() }),
            (_, Some(node)) if node.what == What::Dir => Err(Error::IsADirectory { path: path.to_owned() }),
            (Condition::Replaces(token), Some(node)) => match to_stat(path, node) {
                Ok(stat) if stat.token == *token => Ok(()),
                _ => conflict("it is another version"),
            },
            (Condition::Replaces(_), None) => conflict("it is gone"),
            (Condition::Any | Condition::MustNotExist, _) => Ok(()),
        }
    }

    /// Makes the file at `path` one that is told apart from the one it is to replace, by a later time; and gives it as it
    /// is then. Where the system cannot, it stays as it is.
    async fn set_apart(&self, path: &str, node: Node, target: Option<&Node>) -> Result<Node> {
        let step_ns = self.protocol.rules().mtime_step_ns;
        let Some(target) = target.filter(|target| target.is_file() && !is_another(&node, target, step_ns.unwrap_or(0)))
        else {
            return Ok(node);
        };
        match step_ns {
            Some(step_ns) => {
                let later_ns = target.mtime_ns.saturating_add(step_ns);
                self.call(RESUMABLE, path, || self.protocol.set_mtime(path, later_ns)).await?;
            }
            None if self.call(CHANGE, path, || self.protocol.renew(path)).await? => {}
            None => return Ok(node),
        }
        // The system may keep a time less finely than it was set.
        self.node(path).await
    }

    /// Refuses to let a file replace one that could not be told apart from it.
    fn need_apart(&self, path: &str, node: &Node, target: Option<&Node>) -> Result<()> {
        let step_ns = self.protocol.rules().mtime_step_ns.unwrap_or(0);
        match target {
            Some(target) if target.is_file() && !is_another(node, target, step_ns) => Err(Error::Conflict {
                path: path.to_owned(),
                reason: "a file of the same length and time is there, which nobody could tell from this one; \
                         write it again"
                    .into(),
            }),
            _ => Ok(()),
        }
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        if from != to && from.contains(to) {
            let reason = "a directory cannot be moved into itself".to_owned();
            return Err(Error::Unnameable { path: to.to_string(), reason });
        }
        let (source_path, target_path) = (self.movable(from)?, self.movable(to)?);
        let source = self.node(source_path).await?;
        if from == to {
            return to_stat(target_path, &source);
        }
        let target = self.look(target_path).await?;
        // Some systems would let a directory replace an empty one; not all can promise that.
        let condition = if source.what == What::Dir { &Condition::MustNotExist } else { condition };
        self.compare(target_path, target.as_ref(), condition)?;
        if source.is_file() {
            let source = self.set_apart(source_path, source, target.as_ref()).await?;
            self.need_apart(target_path, &source, target.as_ref())?;
        }
        let replace = *condition != Condition::MustNotExist;
        self.call(CHANGE, target_path, || self.protocol.rename(source_path, target_path, replace)).await?;
        to_stat(target_path, &self.node(target_path).await?)
    }

    async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()> {
        let path = self.movable(path)?;
        if self.node(path).await?.what != What::Dir {
            return Err(Error::NotADirectory { path: path.to_owned() });
        }
        if depth == Depth::Recursive {
            if !self.call(CHANGE, path, || self.protocol.delete_tree(path)).await? {
                self.delete_below(path).await?;
            }
            return Ok(());
        }
        if !self.protocol.rules().refuses_full && !self.is_empty(path).await? {
            return Err(Error::NotEmpty { path: path.to_owned() });
        }
        self.call(CHANGE, path, || self.protocol.delete_dir(path)).await
    }

    /// Keeps in `met` what the last try met, while nobody answers.
    async fn check(&self, met: &Mutex<Option<Error>>) -> Result<()> {
        self.protocol.reach().await?;
        let look = || async {
            let node = self.protocol.stat("").await;
            *met.lock() = match &node {
                Err(Error::Unreachable { endpoint, reason, advice }) => {
                    Some(Error::Unreachable { endpoint: endpoint.clone(), reason: reason.clone(), advice })
                }
                _ => None,
            };
            node
        };
        match self.call(LOOK, "", look).await {
            Ok(node) if node.what == What::Dir => {}
            Ok(_) => return Err(Error::NotAFolder { path: self.uri.clone() }),
            Err(Error::NotFound { .. }) => return Err(Error::MissingFolder { path: self.uri.clone() }),
            Err(other) => return Err(other),
        }
        // Whether it may be looked into; not every system lists.
        match self.is_empty("").await {
            Ok(_) | Err(Error::NotSupported { .. }) => Ok(()),
            Err(other) => Err(other),
        }
    }
}

#[async_trait]
impl UnderStore for Tree {
    fn uri(&self) -> &str {
        &self.inner.uri
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    async fn check(&self) -> Result<()> {
        let late = || Error::Unreachable {
            endpoint: self.inner.protocol.endpoint().to_owned(),
            reason: format!("no answer within {} s", CHECK_MAX.as_secs()),
            advice: ADVICE_UNREACHABLE,
        };
        let met = Mutex::new(None);
        let checked = tokio::time::timeout(CHECK_MAX, self.inner.check(&met)).await;
        match (checked, met.into_inner()) {
            // That there is no time or no use for another try says less than the last one did.
            (Err(_) | Ok(Err(Error::Unreachable { .. })), Some(met)) => Err(met),
            (Err(_), None) => Err(late()),
            (Ok(checked), _) => checked,
        }
    }

    async fn stat(&self, path: &StorePath) -> Result<Stat> {
        self.inner.stat(path).await
    }

    fn list(&self, dir: &StorePath, after: &str) -> Pages {
        list::pages(Arc::clone(&self.inner), dir, after.to_owned())
    }

    async fn read(
        &self,
        path: &StorePath,
        token: &VersionToken,
        range: Range<u64>,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        let inner = &self.inner;
        let path = inner.path(path)?;
        let Some(version) = version_in(token) else {
            return Err(Error::VersionChanged { path: path.to_owned() });
        };
        let span = Span { offset: range.start, len: range.end.saturating_sub(range.start), version: &version };
        let transferred = match span.len {
            0 => Ok(()),
            len if span.offset + len > version.len => {
                let got = version.len.saturating_sub(range.start);
                Err(Error::WrongLength { path: path.to_owned(), expected: len, got })
            }
            _ => inner.transfer(path, span, landing).await,
        };
        if matches!(transferred, Err(Error::VersionChanged { .. })) {
            return transferred;
        }
        // What went wrong may have done so because the file is another by now, which then is what is to be said.
        match inner.node(path).await {
            Ok(now) if to_stat(path, &now).is_ok_and(|stat| stat.token == *token) => transferred,
            Ok(_) => Err(Error::VersionChanged { path: path.to_owned() }),
            Err(Error::NotFound { path }) => Err(Error::NotFound { path }),
            Err(other) => Err(transferred.err().unwrap_or(other)),
        }
    }

    async fn mkdir(&self, path: &StorePath) -> Result<()> {
        let path = self.inner.movable(path)?;
        // Not every system tells a directory that was there from one that was made.
        if self.inner.look(path).await?.is_some() {
            return Err(Error::AlreadyExists { path: path.to_owned() });
        }
        self.inner.call(CHANGE, path, || self.inner.protocol.mkdir(path, false)).await
    }

    async fn delete_file(&self, path: &StorePath) -> Result<()> {
        let path = self.inner.movable(path)?;
        // Not every system tells files from directories here.
        if self.inner.node(path).await?.what == What::Dir {
            return Err(Error::IsADirectory { path: path.to_owned() });
        }
        self.inner.call(CHANGE, path, || self.inner.protocol.delete_file(path)).await
    }

    async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()> {
        self.inner.delete_dir(path, depth).await
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        self.inner.rename(from, to, condition).await
    }

    async fn stage(&self, path: &StorePath, file_id: FileId, _len_hint: Option<u64>) -> Result<Box<dyn Staged>> {
        Ok(Box::new(staging::StagedTemp::create(&self.inner, path.clone(), file_id).await?))
    }

    async fn publish(&self, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
        self.inner.publish(record, condition).await
    }

    async fn settle(&self, record: &StagedRecord) -> Result<Settled> {
        self.inner.settle(record).await
    }

    async fn sweep(&self, dead: &(dyn for<'a> Fn(&'a Remnant) -> bool + Send + Sync)) -> Result<Swept> {
        self.inner.sweep(dead).await
    }
}
