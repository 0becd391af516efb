//! The numbers that shape the log, and their bounds.

use std::time::Duration;

/// Commands waiting to be put into an entry. A caller waits beyond that.
pub(crate) const PROPOSALS_QUEUED_MAX: usize = 4096;
/// Proposals coalesced into one entry.
pub(crate) const PROPOSALS_PER_ENTRY_MAX: usize = 1024;
/// Bytes at which no further proposal joins an entry.
pub(crate) const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// The largest entry: one batch of one caller may fill it alone.
pub(crate) const ENTRY_BYTES_MAX: usize = 16 << 20;
/// Entries on their way to disk at once: one is synced while the next is gathered. With 64 callers
/// on a disk that syncs in 0.3 ms, commands a second as a share of the raw log's (raft_rate): 0.46
/// with one, 0.75 with two, 0.62 with eight, whose entries are small.
pub(crate) const ENTRIES_IN_FLIGHT_MAX: usize = 2;
/// How long opening may go without applying anything before it is called a failure.
pub(crate) const READY_WAIT: Duration = Duration::from_secs(30);
/// The only member's id.
pub(crate) const MEMBER_ID: u64 = 1;

/// How the log is kept. The defaults suit a master; tests make everything small.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where other members would reach this one; recorded in the membership at the first start.
    pub address: String,
    /// Size of a log file (16 to 64 MiB in production). Purging frees whole files.
    pub chunk_bytes: usize,
    /// Entries kept in memory beyond those of the open file (64 to 256 MiB in production).
    pub cache_bytes: usize,
    /// How long the flusher waits for company before an fsync. Commands were already gathered
    /// into an entry by then, so this only merges the entries of a pipeline.
    pub flush_wait: Duration,
    /// Log written since the last snapshot that calls for the next one. A snapshot larger than
    /// this raises the bar to its own size, so that snapshots never cost more than the log does.
    pub snapshot_log_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            address: String::new(),
            chunk_bytes: 16 << 20,
            cache_bytes: 64 << 20,
            flush_wait: Duration::from_micros(10),
            snapshot_log_bytes: 64 << 20,
        }
    }
}
