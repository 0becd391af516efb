//! What other threads ask of a shard.

use super::lend::Lent;
use crate::agent::Node;
use crate::inbox::Inbox;
use crate::net::acceptor::Accepted;
use citius_wire::{BlockId, Counters, Failure, FileKey};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The way into a shard.
pub(crate) type ShardInbox = Inbox<ShardMessage>;

/// One thing said to a shard.
pub(crate) enum ShardMessage {
    /// The node that it is a part of; said first.
    Node(Arc<Node>),
    /// A client, past its hello.
    Connection(Accepted),
    /// The node has a newer view of the cluster.
    View,
    /// A written file is in its under-store now: its blocks are clean, under a new key.
    Rekey {
        /// As written.
        from: FileKey,
        /// As persisted.
        to: FileKey,
    },
    /// A file is gone.
    Drop {
        /// Its key.
        file: FileKey,
    },
    /// The publisher has staged a block in the under-store.
    Staged {
        /// Which.
        block: BlockId,
        /// Whether it stays cached.
        keep: bool,
    },
    /// The publisher wants a sealed block.
    Lend {
        /// Which.
        block: BlockId,
        /// Where it goes.
        reply: oneshot::Sender<Result<Lent, Failure>>,
    },
    /// What was counted.
    Counters {
        /// Where it goes.
        reply: oneshot::Sender<Counters>,
    },
    /// Which files have been unpersisted here for longer than `age`.
    Dirty {
        /// How long.
        age: Duration,
        /// Where they go.
        reply: oneshot::Sender<Vec<FileKey>>,
    },
    /// Finish what is under way, and end.
    End,
}
