//! Decides when a snapshot is due, and takes it.
//!
//! The snapshot is written before openraft hears of it: an error here (a full disk, say) leaves
//! the log longer than it need be and is tried again later, where openraft would stop for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::applier::{Applier, Snapshots};
use super::machine::Machine;
use super::types::Types;

/// Counts the log's bytes since the last snapshot was begun.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes: AtomicU64,
    bytes_due: AtomicU64,
    due: Notify,
}

impl Pace {
    pub(crate) fn new(bytes_due: u64) -> Pace {
        Pace { bytes: AtomicU64::new(0), bytes_due: AtomicU64::new(bytes_due), due: Notify::new() }
    }

    /// Counts an entry that was applied.
    pub(crate) fn applied(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes >= self.bytes_due.load(Ordering::Relaxed) {
            self.due.notify_one();
        }
    }

    /// Starts counting anew, up to `bytes_due`.
    fn restart(&self, bytes_due: u64) {
        self.bytes_due.store(bytes_due, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    fn is_due(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.bytes_due.load(Ordering::Relaxed)
    }
}

/// Takes snapshots for as long as the log runs.
pub(crate) async fn keep<M: Machine>(
    raft: openraft::Raft<Types, Applier<M>>,
    snapshots: Arc<Snapshots<M>>,
    log_bytes_min: u64,
) {
    loop {
        snapshots.pace.due.notified().await;
        // A notification may be left over from before the count was restarted.
        if !snapshots.pace.is_due() {
            continue;
        }
        // The bar is at least the snapshot's own size: together, snapshots never write more than
        // the log does.
        let (_, snapshot_bytes) = snapshots.dir.figures();
        snapshots.pace.restart(log_bytes_min.max(snapshot_bytes));
        let taking = snapshots.clone();
        // A machine that panics while it is written down fails this snapshot, not the log.
        let taken = tokio::task::spawn_blocking(move || taking.take()).await;
        match taken.unwrap_or_else(|panic| Err(panic.into())) {
            Ok(()) => {
                if raft.trigger().snapshot().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("no snapshot was written, the log stays long until the next one: {error}");
            }
        }
    }
}
