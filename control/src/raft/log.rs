//! The log as Raft needs it: the trait a store implements, and what it holds.

use std::fmt;
use std::io;
use std::ops::Range;

use bytes::Bytes;

/// The identity of an entry: who led when it was proposed, and where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryId {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of term {}", self.index, self.term)
    }
}

/// The index after `id`; 0 where there is none.
pub(crate) fn index_after(id: Option<EntryId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

/// A vote given. The order is Raft's: a later term wins, within a term the elected leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ballot {
    pub(crate) term: u64,
    pub(crate) elected: bool,
    pub(crate) member: u64,
}

/// An entry as it is stored; what the payload means is storage.rs's affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: EntryId,
    pub(crate) payload: Bytes,
}

/// What the log holds: the entries after `purged`, up to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) purged: Option<EntryId>,
    pub(crate) last: Option<EntryId>,
}

/// Figures for the metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogStats {
    pub(crate) bytes_on_disk: u64,
    pub(crate) syncs: u64,
}

/// Called once, when what preceded it is on disk or never will be.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A durable log.
///
/// Writes are ordered: what one call wrote is on disk before what a later call wrote is
/// acknowledged. A call returns when its change is visible to [`LogStore::read`]; `done` follows
/// when it is durable. After the first error everything fails, and no `done` gets an `Ok` any more.
pub(crate) trait LogStore: Send + 'static {
    /// The range held.
    fn bounds(&self) -> Bounds;
    /// The last vote saved.
    fn ballot(&self) -> Option<Ballot>;
    /// The entries of `range` that are held, in order.
    fn read(&self, range: Range<u64>) -> io::Result<Vec<Record>>;
    /// Saves a vote.
    fn save_ballot(&mut self, ballot: Ballot, done: Done) -> io::Result<()>;
    /// Appends entries whose indices follow the last.
    fn append(&mut self, records: &mut dyn Iterator<Item = Record>, done: Done) -> io::Result<()>;
    /// Drops the entries after `keep`.
    fn truncate_after(&mut self, keep: Option<EntryId>, done: Done) -> io::Result<()>;
    /// Drops the entries up to and including `upto`.
    fn purge(&mut self, upto: EntryId, done: Done) -> io::Result<()>;
    /// Figures for the metrics.
    fn stats(&self) -> LogStats;
}
