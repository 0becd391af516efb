//! The replicated log: every change of state passes through here, and nothing else is on disk.
//!
//! ```text
//!  callers (any runtime)          the raft thread (one tokio runtime)              flusher thread
//!  ---------------------          -----------------------------------              --------------
//!  propose() --bounded queue-->  Proposer: many commands, one entry
//!                                   | openraft: term, index, quorum
//!                                   v
//!                                LogStorage -> LogStore (WalLog) ------write, fsync, mark---> disk
//!                                   ^--------------- entry is durable ------------------------'
//!                                   | openraft: committed
//!                                   v
//!  with_state() <--RwLock------  Applier: Machine::apply, one reply a command
//!  reply        <-------------------'
//! ```
//!
//! What holds:
//! - A reply is sent only after the command's entry is on disk and has been applied, so a caller
//!   that has a reply reads its own write by [`Raft::with_state`].
//! - Time and position reach the [`Machine`] from the log alone ([`Position`]); applying the same
//!   log twice gives the same state.
//! - The first I/O error of the log latches it: nothing is acknowledged after it, and every later
//!   call says so ([`Error::Failed`]). An entry in flight at that moment may or may not survive.
//! - Acknowledged entries never vanish silently: a high-water mark beside the log, written after
//!   each fsync and before its acknowledgement, is compared with the log before it is opened.
//! - Snapshots are files, written aside, synced, renamed; the log is purged up to a snapshot only
//!   once that snapshot is durable.
//!
//! This module is the sole user of openraft and raft-log. One member is supported; more need only
//! another network than `alone` and a lease that counts a quorum's answers ([`Raft::read_lease`]).
//!
//! The directory:
//! ```text
//! log/r-*.wal    raft-log's chunks, and its LOCK
//! mark           how far the log was acknowledged (mark.rs)
//! snapshots/     at most one snapshot, and a temporary while one is written (snapshot.rs)
//! ```

mod alone;
mod applier;
mod batch;
mod config;
mod error;
mod handle;
mod keeper;
mod latch;
mod log;
mod machine;
mod mark;
mod membership;
pub(crate) mod private;
mod proposer;
mod snapshot;
mod storage;
mod types;
mod wal;

#[doc(hidden)]
pub mod bench;

pub use config::Config;
pub use error::Error;
pub use handle::{Metrics, Raft};
pub use machine::{Machine, Position, SnapshotWriter};

/// What every fallible call of this module returns.
pub type Result<T> = std::result::Result<T, Error>;
