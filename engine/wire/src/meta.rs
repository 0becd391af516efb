//! Messages between a client and the master: the namespace.
//!
//! There is one hot message, [`Batch`]: operations in order, each with its own result. A single operation is a batch
//! of one; many clients' batches ride in one entry of the log. An operation that changes something is deduplicated by
//! client and serial, so a retry after a lost answer gets the answer of the first try.

use crate::capability::{Hidden, WriteType};
use crate::checkup::MountCheckup;
use crate::cluster::Counters;
use crate::codec::Request;
use crate::frame::Kind;
use crate::ids::{ClusterId, Epoch, FileKey, Incarnation, MountId, Place, Serial, WorkerId};
use crate::ring::Ring;
use crate::secret_text::SecretText;
use crate::status::Failure;
use crate::traffic::MountTraffic;
use core::fmt;
use rkyv::{Archive, Deserialize, Serialize};

/// The most operations in one batch.
pub const OPERATIONS_MAX: usize = 4096;
/// The most entries in one page of a listing.
pub const LIST_PAGE_ENTRIES_MAX: usize = 1000;

/// Operations, done in order. Each succeeds or fails alone.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub struct Batch {
    /// The serial of the first operation; the others count on. A retry repeats the serials of its first try.
    pub first: Serial,
    /// At most [`OPERATIONS_MAX`].
    pub operations: Vec<Operation>,
}

/// One result for each operation, in order.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub struct BatchReply {
    /// The results.
    pub results: Vec<Result<Outcome, Failure>>,
}

impl Request for Batch {
    const KIND: Kind = Kind::Batch;
    type Reply = BatchReply;
}

/// What a client or a worker's agent asks of the namespace. Paths are namespace paths.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// What is at a path. Gives [`Outcome::Info`].
    Stat {
        /// The path.
        path: String,
    },
    /// The right to read a file. Gives [`Outcome::Opened`].
    Open {
        /// The path.
        path: String,
        /// A version that a worker found to be gone from the under-store: if it is what is believed to be there, the
        /// store is asked anew.
        stale: Option<FileKey>,
    },
    /// The right to write a new file. Gives [`Outcome::Created`].
    Create {
        /// The path; its directory exists, unless `parents`.
        path: String,
        /// Whether a file that is there is replaced at close.
        overwrite: bool,
        /// Whether missing directories are made.
        parents: bool,
        /// What close will promise.
        write_type: WriteType,
        /// Block size in bytes; 0 for the default.
        block_bytes: u32,
    },
    /// Keeps the writer lease. Gives [`Outcome::Done`].
    Renew {
        /// The file being written.
        file: FileKey,
    },
    /// Ends the write of a `must-cache` file whose blocks are all sealed. Gives [`Outcome::Done`].
    Complete {
        /// The file being written.
        file: FileKey,
        /// Its length.
        length: u64,
    },
    /// Gives a write up; nothing of it remains. Gives [`Outcome::Done`].
    Abort {
        /// The file being written.
        file: FileKey,
    },
    /// Makes a directory. Gives [`Outcome::Done`].
    Mkdir {
        /// The path.
        path: String,
        /// Whether missing parents are made too, and a directory that is there is no error.
        parents: bool,
    },
    /// Removes a file or a directory. Gives [`Outcome::Done`].
    Delete {
        /// The path.
        path: String,
        /// Whether a directory goes with all that is in it.
        recursive: bool,
    },
    /// Renames a file or a directory. Gives [`Outcome::Done`].
    Rename {
        /// From here.
        from: String,
        /// To here.
        to: String,
        /// Whether a file at `to` is replaced.
        overwrite: bool,
    },
    /// Mounts an under-store. Gives [`Outcome::Mount`].
    MountAdd {
        /// Where; made if it is not there.
        path: String,
        /// What.
        uri: String,
        /// Its options; values may be secrets.
        options: Vec<(String, SecretText)>,
        /// Whether writes are refused.
        read_only: bool,
        /// How long metadata of the under-store is believed: -1 for ever, 0 never, else milliseconds.
        /// `None` for the default of the scheme.
        sync_interval_ms: Option<i64>,
    },
    /// Removes a mount; the under-store keeps its files. Gives [`Outcome::Done`].
    MountRemove {
        /// Where it is.
        path: String,
    },
    /// All mounts, without secrets. Gives [`Outcome::Mounts`].
    MountList,
    /// Health, workers, capacity, traffic. Gives [`Outcome::Cluster`].
    Cluster,
    /// The ring of an epoch; the newest one for epoch 0. Gives [`Outcome::Ring`].
    Ring {
        /// Which.
        epoch: Epoch,
    },
    /// A publisher began to stage: `record` must be cleaned up if it dies. Gives [`Outcome::Done`].
    StageStarted {
        /// The file being written.
        file: FileKey,
        /// The under-store's record of what is staged, opaque here.
        record: Vec<u8>,
    },
    /// A publisher has staged all and is about to make it visible. Gives [`Outcome::Intent`].
    PublishIntent {
        /// The file being written.
        file: FileKey,
        /// Its length.
        length: u64,
        /// The under-store's record of what is staged.
        record: Vec<u8>,
        /// Who publishes.
        worker: WorkerId,
        /// In which life: when that is over, the master settles the intent.
        incarnation: Incarnation,
    },
    /// The file is in the under-store. Gives [`Outcome::Persisted`].
    PublishDone {
        /// The file being written.
        file: FileKey,
        /// Its version there.
        token: Vec<u8>,
    },
    /// Publishing failed for good and left nothing behind. Gives [`Outcome::Done`].
    PublishFailed {
        /// The file being written.
        file: FileKey,
    },
    /// Looks at the under-store of a mount, step by step. Gives [`Outcome::Checkup`].
    MountCheck {
        /// Where it is.
        path: String,
        /// Whether a directory may be made there, used and deleted.
        may_write: bool,
    },
    /// Changes options of a mount, whose under-store stays. Gives [`Outcome::Mount`].
    MountSet {
        /// Where it is.
        path: String,
        /// Options that it has from now on, instead of what they were; values may be secrets.
        options: Vec<(String, SecretText)>,
        /// Options that it has no longer.
        unset: Vec<String>,
    },
}

impl Operation {
    /// Whether it changes anything, and so needs a serial and the log.
    pub const fn is_mutation(&self) -> bool {
        !matches!(
            self,
            Self::Stat { .. }
                | Self::Open { .. }
                | Self::MountList
                | Self::MountCheck { .. }
                | Self::Cluster
                | Self::Ring { .. }
        )
    }
}

/// By name and subject only: options of a mount are secrets, and its URI may hold one.
impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, subject): (&str, &dyn fmt::Debug) = match self {
            Self::Stat { path } => ("Stat", path),
            Self::Open { path, .. } => ("Open", path),
            Self::Create { path, .. } => ("Create", path),
            Self::Renew { file } => ("Renew", file),
            Self::Complete { file, .. } => ("Complete", file),
            Self::Abort { file } => ("Abort", file),
            Self::Mkdir { path, .. } => ("Mkdir", path),
            Self::Delete { path, .. } => ("Delete", path),
            Self::Rename { from, to, .. } => return f.debug_tuple("Rename").field(from).field(to).finish(),
            Self::MountAdd { path, .. } => ("MountAdd", path),
            Self::MountRemove { path } => ("MountRemove", path),
            Self::MountCheck { path, .. } => ("MountCheck", path),
            Self::MountSet { path, .. } => ("MountSet", path),
            Self::MountList => return f.write_str("MountList"),
            Self::Cluster => return f.write_str("Cluster"),
            Self::Ring { epoch } => ("Ring", epoch),
            Self::StageStarted { file, .. } => ("StageStarted", file),
            Self::PublishIntent { file, .. } => ("PublishIntent", file),
            Self::PublishDone { file, .. } => ("PublishDone", file),
            Self::PublishFailed { file } => ("PublishFailed", file),
        };
        f.debug_tuple(name).field(subject).finish()
    }
}

/// What an operation gives.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It is done.
    Done,
    /// What is there.
    Info(FileInfo),
    /// The right to read.
    Opened(Box<Opened>),
    /// The right to write.
    Created(Box<Created>),
    /// One mount.
    Mount(Box<MountInfo>),
    /// All mounts.
    Mounts(Vec<MountInfo>),
    /// The cluster.
    Cluster(Box<ClusterInfo>),
    /// A ring.
    Ring(Box<Ring>),
    /// Publish, on this condition.
    Intent {
        /// The version that it replaces: `Some` of a token, or `None` for "there must be none".
        replaces: Option<Vec<u8>>,
    },
    /// Persisted, under this key.
    Persisted {
        /// The key of the file from now on.
        file: FileKey,
    },
    /// What a mount meets.
    Checkup(Box<MountCheckup>),
}

/// What a name stands for.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[repr(u8)]
pub enum EntryKind {
    /// A file.
    File = 1,
    /// A directory.
    Directory = 2,
}

/// Where the bytes of a file are safe.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[repr(u8)]
pub enum Persistence {
    /// Whole in the under-store.
    Persisted = 1,
    /// In memory only.
    MemoryOnly = 2,
    /// Was in memory only, and every copy is gone.
    Lost = 3,
}

/// A file or directory, as `stat` and `list` show it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its whole path from `stat`, its name from `list`.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file; 0 for a directory.
    pub length: u64,
    /// Last change, in milliseconds since 1970, as the under-store or the log knows it.
    pub modified_ms: u64,
    /// The version of a file; all zero for a directory, and from `list` where the store lists no versions.
    pub version: FileKey,
    /// Where its bytes are safe; a directory is `Persisted`.
    pub persistence: Persistence,
    /// Bytes of its blocks; 0 for a directory.
    pub block_bytes: u32,
    /// The mount it lies in.
    pub mount: MountId,
    /// Whether a mount begins here.
    pub is_mount: bool,
}

/// A file opened for reading.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What it is.
    pub info: FileInfo,
    /// Where its blocks are.
    pub place: Place,
    /// The ring that places them: the newest for a persisted file, the one it was written under for another.
    pub epoch: Epoch,
    /// For the workers.
    pub capability: Vec<u8>,
    /// When the capability ends, in milliseconds since 1970 by the master's clock.
    pub expires_ms: u64,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("info", &self.info)
            .field("place", &self.place)
            .field("epoch", &self.epoch)
            .field("capability", &Hidden(&self.capability))
            .field("expires_ms", &self.expires_ms)
            .finish()
    }
}

/// A file created for writing.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its key until it is persisted.
    pub file: FileKey,
    /// Where its blocks go.
    pub place: Place,
    /// The ring that places them.
    pub epoch: Epoch,
    /// Bytes of its blocks.
    pub block_bytes: u32,
    /// How the write ends.
    pub write_type: WriteType,
    /// For the workers.
    pub capability: Vec<u8>,
    /// When the writer lease ends unless renewed, in milliseconds from now.
    pub lease_ms: u32,
}

impl fmt::Debug for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Created")
            .field("file", &self.file)
            .field("place", &self.place)
            .field("epoch", &self.epoch)
            .field("block_bytes", &self.block_bytes)
            .field("write_type", &self.write_type)
            .field("capability", &Hidden(&self.capability))
            .field("lease_ms", &self.lease_ms)
            .finish()
    }
}

/// A mount, as users see it: no secret in it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Which.
    pub mount: MountId,
    /// Where.
    pub path: String,
    /// What, without user and password.
    pub uri: String,
    /// Its options, secrets replaced.
    pub options: Vec<(String, String)>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How long its metadata is believed; see [`Operation::MountAdd`].
    pub sync_interval_ms: i64,
    /// What all workers and masters read and wrote of it, since each started. Apart, because every outcome of a batch
    /// takes the room of the largest.
    pub traffic: Box<MountTraffic>,
}

/// The cluster, as `citius cluster` shows it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The release of the master.
    pub release: String,
    /// The ring's epoch.
    pub epoch: Epoch,
    /// `HOST:PORT` of the master's metadata RPC.
    pub rpc_address: String,
    /// `HOST:PORT` of its HTTP.
    pub http_address: String,
    /// Milliseconds since the master started.
    pub uptime_ms: u64,
    /// Entries of the log that are applied.
    pub applied_index: u64,
    /// Inodes that only the log knows: unpersisted files, directories, writes under way.
    pub inodes: u64,
    /// Workers, live or lately lost.
    pub workers: Vec<WorkerInfo>,
    /// Mounts.
    pub mounts: Vec<MountInfo>,
    /// What is not as it should be, in words.
    pub warnings: Vec<String>,
}

/// A worker, as `citius cluster` shows it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Which.
    pub worker: WorkerId,
    /// In which life.
    pub incarnation: Incarnation,
    /// `HOST:PORT` of its data listener.
    pub data_address: String,
    /// Its shards.
    pub shards: u16,
    /// What its memory tier is made of.
    pub backing: String,
    /// Whether it is in the ring.
    pub live: bool,
    /// Milliseconds since its last heartbeat.
    pub seen_ms_ago: u64,
    /// What it counted.
    pub counters: Counters,
}

/// Asks for a directory, from the name after `after` on. The answer is a stream of [`ListPage`]s.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub struct List {
    /// The directory.
    pub path: String,
    /// Only names after this one; empty for all.
    pub after: String,
    /// At most so many entries; 0 for all.
    pub limit: u64,
}

/// Entries in name order; [`crate::Flags::MORE`] on the frame says that another page follows.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// At most [`LIST_PAGE_ENTRIES_MAX`].
    pub entries: Vec<FileInfo>,
    /// Names that the store has and Citius cannot carry, so far in this listing.
    pub unnameable: u64,
}

impl Request for List {
    const KIND: Kind = Kind::List;
    type Reply = ListPage;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_mount_and_capabilities_never_print() {
        let mount = Operation::MountAdd {
            path: "/data".into(),
            uri: "s3://me:hunter2@bucket".into(),
            options: vec![("aws_secret_access_key".into(), "hunter2".into())],
            read_only: false,
            sync_interval_ms: None,
        };
        let batch = Batch { first: Serial(1), operations: vec![mount] };
        let printed = format!("{batch:?}");
        assert!(printed.contains("MountAdd(\"/data\")") && !printed.contains("hunter2"), "{printed}");

        let created = Created {
            file: FileKey([1; 16]),
            place: Place(2),
            epoch: Epoch(3),
            block_bytes: 4,
            write_type: WriteType::Through,
            capability: vec![0xee; 9],
            lease_ms: 5,
        };
        let printed = format!("{created:?}");
        assert!(printed.contains("<9 bytes>") && !printed.contains("238"), "{printed}");
    }
}
