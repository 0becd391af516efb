//! Messages between a worker's agent and a master, and what both count.

use crate::capability::MacKey;
use crate::codec::Request;
use crate::frame::Kind;
use crate::ids::{FileKey, Incarnation, MountId, WorkerId};
use crate::ring::{Member, Ring};
use crate::secret_text::SecretText;
use crate::traffic::MountTraffic;
use core::fmt;
use rkyv::{Archive, Deserialize, Serialize};

/// The most files in [`Heartbeat::dirty`].
pub const DIRTY_FILES_MAX: usize = 10_000;

/// A worker joins, or comes back.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub struct Register {
    /// Who and where it is. Its incarnation is new in every life.
    pub member: Member,
    /// What its memory tier is made of, for people.
    pub backing: String,
    /// Bytes of its memory tier.
    pub memory_bytes: u64,
}

/// The worker is in the ring.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub struct Registered {
    /// What it needs to serve.
    pub view: ClusterView,
    /// How often a heartbeat is expected.
    pub heartbeat_ms: u32,
}

impl Request for Register {
    const KIND: Kind = Kind::Register;
    type Reply = Registered;
}

/// What a worker must know to serve misses alone. It holds secrets; it never prints them.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub struct ClusterView {
    /// Grows with every change of anything below.
    pub version: u64,
    /// The ring now.
    pub ring: Ring,
    /// Every mount, with its secrets.
    pub mounts: Vec<MountSecret>,
    /// The keys that sign capabilities, newest first.
    pub keys: Vec<MacKey>,
}

/// A mount as a worker needs it.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct MountSecret {
    /// Which mount.
    pub mount: MountId,
    /// Its under-store.
    pub uri: String,
    /// Its options, secrets in the clear.
    pub options: Vec<(String, SecretText)>,
    /// Whether writes are refused.
    pub read_only: bool,
}

impl fmt::Debug for MountSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URI either: `s3://user:password@bucket` is one.
        f.debug_struct("MountSecret").field("mount", &self.mount).finish_non_exhaustive()
    }
}

/// A worker says that it lives, and how it is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub struct Heartbeat {
    /// Who.
    pub worker: WorkerId,
    /// In which life; a master refuses one that was replaced.
    pub incarnation: Incarnation,
    /// The version of its view.
    pub view_version: u64,
    /// The last of the [`Task`]s it has done.
    pub task_done: u64,
    /// What its shards counted, summed.
    pub counters: Counters,
    /// What it read and wrote of each mount since it started.
    pub traffic: Vec<MountTraffic>,
    /// Unpersisted files that it has held for more than a minute, at most [`DIRTY_FILES_MAX`], the others in the
    /// heartbeats that follow: the master answers a
    /// [`Work::Drop`] or [`Work::Rekey`] for those that it knows otherwise, so no task that was lost leaves blocks
    /// that nobody would ever evict.
    pub dirty: Vec<FileKey>,
    /// Set in its last heartbeat: it leaves on purpose.
    pub leaving: bool,
}

/// What the master has for it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub struct HeartbeatReply {
    /// The view, if it is newer than the worker's.
    pub view: Option<Box<ClusterView>>,
    /// What to do, in order; repeated until reported done.
    pub tasks: Vec<Task>,
}

impl Request for Heartbeat {
    const KIND: Kind = Kind::Heartbeat;
    type Reply = HeartbeatReply;
}

/// One numbered thing to do.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Increasing for each worker.
    pub number: u64,
    /// What.
    pub work: Work,
}

/// What a worker does on the master's word.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The file is in the under-store now: its blocks are clean, under a new key.
    Rekey {
        /// As written.
        from: FileKey,
        /// As persisted.
        to: FileKey,
    },
    /// The file is gone: forget its blocks, dirty or clean.
    Drop {
        /// Its key.
        file: FileKey,
    },
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a shard counts, from its start; gauges are of now.
        #[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Adds another shard's, gauges included. A sum that would not fit stays at the most: these came over the wire.
            pub fn add(&mut self, other: &Self) {
                $(self.$name = self.$name.saturating_add(other.$name);)*
            }

            /// Names and values, in order, for metrics and tables.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Gauge: bytes that the memory tier may use.
    memory_capacity_bytes,
    /// Gauge: bytes that it uses.
    memory_used_bytes,
    /// Gauge: of these, bytes that may not be evicted.
    memory_pinned_bytes,
    /// Gauge: bytes that clients may still map of blocks that were evicted.
    memory_mapped_bytes,
    /// Gauge: blocks in memory.
    blocks,
    /// Gauge: open connections.
    connections,
    /// Requests answered.
    requests,
    /// Requests that failed.
    failures,
    /// Reads answered from memory alone.
    hits,
    /// Reads that waited for the under-store.
    misses,
    /// Bytes sent to readers.
    read_bytes,
    /// Bytes received from writers.
    written_bytes,
    /// Bytes fetched from under-stores.
    fetched_bytes,
    /// Bytes fetched from the former owners of blocks that are this worker's since it joined.
    moved_bytes,
    /// Blocks evicted.
    evictions,
    /// Requests refused with the new ring.
    wrong_epochs,
    /// Sectors that a reader found corrupt and that were fetched anew.
    refetched_sectors,
    /// Blocks mapped by clients.
    maps,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_and_name_each_field() {
        let mut sum = Counters { hits: 2, ..Counters::default() };
        sum.add(&Counters { hits: 3, misses: 1, ..Counters::default() });
        assert!(sum.each().any(|pair| pair == ("hits", 5)) && sum.each().any(|pair| pair == ("misses", 1)));
        sum.add(&Counters { hits: u64::MAX, ..Counters::default() });
        assert_eq!(sum.hits, u64::MAX);
    }

    #[test]
    fn secrets_of_a_mount_never_print() {
        let mount = MountSecret {
            mount: MountId(1),
            uri: "s3://me:hunter2@b".into(),
            options: vec![("aws_secret_access_key".into(), "hunter2".into())],
            read_only: false,
        };
        assert!(!format!("{mount:?}").contains("hunter2"));
        assert!(format!("{mount:?}").contains("MountId(1)"));
    }
}
