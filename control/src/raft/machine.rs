//! What is replicated: a deterministic state that commands change.

use std::io;

/// Where a command stands in the log, and when it was proposed: all that a [`Machine`] may know of
/// the world outside its commands.
///
/// `(index, slot)` is unique for ever and grows, so ids can be minted from it. `time_ms` never goes
/// back from one command to the next, whatever the proposer's clock did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The entry's index in the log.
    pub index: u64,
    /// The command's place in its entry.
    pub slot: u32,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Milliseconds since 1970, stamped by the proposer.
    pub time_ms: u64,
}

/// Writes a state that was frozen earlier, on another thread, while commands are applied.
pub type SnapshotWriter = Box<dyn FnOnce(&mut dyn io::Write) -> io::Result<()> + Send>;

/// A deterministic state machine: the same commands at the same positions give the same state and
/// the same replies on every member and at every replay. So: no clock, no randomness, no I/O.
pub trait Machine: Send + Sync + 'static {
    /// What the proposer of a command gets back.
    type Reply: Send + Sync + 'static;

    /// Applies one committed command. A command the machine does not understand must be answered
    /// by a reply that says so, not by a panic: it is in the log for good.
    fn apply(&mut self, at: Position, command: &[u8]) -> Self::Reply;

    /// Freezes the present state and returns what will write it down.
    ///
    /// Called under a read lock: readers go on, commands wait until it returns. The returned
    /// closure runs elsewhere with no lock. A machine without cheap copies serialises to memory
    /// here, and so holds commands back for the time of one pass over its state.
    fn snapshot(&self) -> SnapshotWriter;

    /// Replaces the state by one that [`Machine::snapshot`] wrote. The bytes were checked against
    /// their checksum before; they must be consumed wholly.
    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()>;
}
