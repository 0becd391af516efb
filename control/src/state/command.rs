//! Commands: all that can change the state, as they stand in the log.
//!
//! ```text
//! +------------+--------------------------+
//! | version u8 | rkyv archive of Command  |
//! +------------+--------------------------+
//! ```
//!
//! Time comes with the log entry; ids, keys, tokens and places come in the commands; so nothing else enters the state.

use super::files::{AbortReason, Publisher};
use super::intents::IntentId;
use citius_wire::{
    ClientId, ClusterId, Epoch, Failure, FileKey, Incarnation, MacKey, Member, MountId, Place, Ring, SecretText,
    Serial, Status, WorkerId, WriteType,
};
use core::fmt;
use rkyv::{Archive, Deserialize, Serialize, rancor};
use std::sync::Arc;

/// The version of the form of commands.
const COMMAND_VERSION: u8 = 1;

/// One change, and who asks for it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Who gets the same answer if it asks again; `None` if a master asks on its own account.
    pub caller: Option<Caller>,
    /// What.
    pub change: Change,
}

/// A client's operation.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The client.
    pub client: ClientId,
    /// Its number for the operation.
    pub serial: Serial,
}

/// What changes. Paths are namespace paths.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The cluster begins. Gives [`Reply::Done`].
    Init {
        /// Its id.
        cluster: ClusterId,
        /// The keys that sign capabilities, newest first.
        keys: Vec<MacKey>,
        /// What is mounted at `/`.
        root: MountSpec,
    },
    /// An under-store is mounted. Gives [`Reply::Mount`].
    MountAdd {
        /// Where.
        path: String,
        /// What.
        spec: MountSpec,
    },
    /// A mount goes. Gives [`Reply::Done`].
    MountRemove {
        /// Where it is.
        path: String,
    },
    /// A worker joins, or comes back in a new life. Gives [`Reply::Registered`].
    Register {
        /// Who and where.
        member: Member,
        /// What its memory tier is made of, for people.
        backing: String,
        /// Bytes of its memory tier.
        memory_bytes: u64,
    },
    /// A worker left, or was not heard of for too long. Gives [`Reply::Done`].
    WorkerGone {
        /// Which.
        worker: WorkerId,
        /// In which life; another one is not touched.
        incarnation: Incarnation,
    },
    /// A write begins. Gives [`Reply::Created`].
    Create(Create),
    /// The writer lives. Gives [`Reply::Done`].
    Renew {
        /// The file.
        file: FileKey,
        /// How long its lease is from now.
        lease_ms: u32,
    },
    /// A must-cache file is whole. Gives [`Reply::Done`].
    Complete {
        /// The file.
        file: FileKey,
        /// Its length.
        length: u64,
    },
    /// A write is given up. Gives [`Reply::Done`].
    Abort {
        /// The file.
        file: FileKey,
        /// Why. `LeaseExpired` is refused if the lease was renewed.
        reason: AbortReason,
    },
    /// A publisher began to stage. Gives [`Reply::Done`].
    StageStarted {
        /// The file.
        file: FileKey,
        /// The under-store's record of what is staged.
        record: Vec<u8>,
        /// Who stages, if it is known.
        publisher: Option<Publisher>,
    },
    /// A publisher has staged all and is about to make it visible. Gives [`Reply::Condition`].
    PublishIntent {
        /// The file.
        file: FileKey,
        /// Its length.
        length: u64,
        /// The under-store's record of what is staged.
        record: Vec<u8>,
        /// Who publishes.
        publisher: Publisher,
    },
    /// The file is in the under-store. Gives [`Reply::Persisted`].
    PublishDone {
        /// The file.
        file: FileKey,
        /// Its version there.
        token: Vec<u8>,
    },
    /// Publishing failed for good, and nothing of it is left. Gives [`Reply::Done`].
    PublishFailed {
        /// The file.
        file: FileKey,
    },
    /// What an aborted write left is cleaned. Gives [`Reply::Done`].
    RemainsCleaned {
        /// The file that was to be.
        file: FileKey,
    },
    /// Names are about to change in an under-store. Gives [`Reply::Intent`].
    IntentBegin {
        /// The mount of all its paths, as the proposer resolved them.
        mount: MountId,
        /// What is to be done.
        action: Action,
    },
    /// The under-store did it, or refused for good. Gives [`Reply::Done`], and the waiting client `result`.
    IntentDone {
        /// Which.
        intent: IntentId,
        /// What the client is told.
        result: Result<(), Failure>,
    },
    /// A mount has other options from now on. Gives [`Reply::Mount`].
    MountSet {
        /// Where it is.
        path: String,
        /// All of them.
        options: MountOptions,
    },
}

/// How a write begins.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Where.
    pub path: String,
    /// The mount of the path, as the proposer resolved it.
    pub mount: MountId,
    /// Where its blocks go.
    pub place: Place,
    /// Its key, minted by the proposer.
    pub file: FileKey,
    /// What close promises.
    pub write_type: WriteType,
    /// Bytes of its blocks.
    pub block_bytes: u32,
    /// Whether it may replace what is there.
    pub overwrite: bool,
    /// The version that the under-store has at the path; `None` if there is nothing.
    pub replaces: Option<Vec<u8>>,
    /// How long its lease is from now.
    pub lease_ms: u32,
}

/// A change of names. Paths are namespace paths.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a directory.
    Mkdir {
        /// The path.
        path: String,
        /// Whether missing parents are made too, and a directory that is there is no error.
        parents: bool,
    },
    /// Remove a file or a directory.
    Delete {
        /// The path.
        path: String,
        /// Whether a directory goes with all that is in it.
        recursive: bool,
    },
    /// Rename a file or a directory.
    Rename {
        /// From here.
        from: String,
        /// To here.
        to: String,
        /// Whether a file at `to` is replaced.
        overwrite: bool,
    },
}

/// What is mounted, and how.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// The under-store.
    pub uri: String,
    /// How to reach it.
    pub options: MountOptions,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How long its metadata is believed: -1 for ever, 0 never, else milliseconds.
    pub sync_interval_ms: i64,
}

/// Options of a mount: names and values. Values may be secrets: they never print, and are wiped when they are dropped.
#[derive(Archive, Serialize, Deserialize, Clone, Default, PartialEq, Eq)]
pub struct MountOptions(pub Vec<(String, SecretText)>);

impl fmt::Debug for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// What a command gives to who asked.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// The mount has this id.
    Mount(MountId),
    /// The worker is in the ring of this epoch.
    Registered(Epoch),
    /// The write has begun.
    Created {
        /// Its key.
        file: FileKey,
        /// The ring that places its blocks.
        epoch: Epoch,
    },
    /// Publish on the condition that the under-store has this version; `None`: that it has none.
    Condition {
        /// The version that is replaced.
        replaces: Option<Vec<u8>>,
    },
    /// The file is in the under-store, under this key.
    Persisted(FileKey),
    /// The intent is logged: do it, then log that it is done.
    Intent(IntentId),
}

/// What others must learn or do because of a change. Not part of the state: a leader that dies loses them, and the
/// next one finds what is still to do in the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The blocks of a file are garbage, on any worker of this ring.
    Forget {
        /// The file.
        file: FileKey,
        /// The ring that placed them.
        ring: Arc<Ring>,
    },
    /// The blocks of a file are clean now, under a new key, on any worker of this ring.
    Rekey {
        /// As written.
        from: FileKey,
        /// As persisted.
        to: FileKey,
        /// The ring that placed them.
        ring: Arc<Ring>,
    },
    /// A write was given up, and its writer may not know yet.
    Aborted {
        /// The file.
        file: FileKey,
        /// Why.
        reason: AbortReason,
    },
    /// There is something to clean in an under-store; see [`super::State::remains`].
    Remains(FileKey),
    /// Ring or mounts changed; see [`super::State::view_version`].
    View,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// For who asked.
    pub reply: Reply,
    /// For the others. None if the command was applied before and this is its first answer again.
    pub effects: Vec<Effect>,
}

impl Command {
    /// The bytes that stand in the log.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_behind(Vec::new())
    }

    /// Puts the bytes that stand in the log behind others.
    #[must_use]
    pub fn encode_behind(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.push(COMMAND_VERSION);
        rkyv::api::high::to_bytes_in::<_, rancor::Error>(self, bytes)
            .expect("archiving into memory fails only when memory does")
    }

    /// Reads what [`Command::encode`] wrote.
    ///
    /// # Errors
    /// `Unsupported` for another version, `Corrupt` for bytes that are no command.
    pub fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        match bytes.split_first() {
            Some((&COMMAND_VERSION, archive)) => rkyv::from_bytes::<Self, rancor::Error>(archive)
                .map_err(|_| Failure::new(Status::Corrupt, "an entry of the log is no command")),
            Some((version, _)) => Err(Failure::new(
                Status::Unsupported,
                format!(
                    "the log holds a command of version {version}, and this release reads {COMMAND_VERSION}: run the \
                     release that wrote it"
                ),
            )),
            None => Err(Failure::new(Status::Corrupt, "an entry of the log is empty")),
        }
    }
}
