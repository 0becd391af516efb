//! Files that were written through Citius and that the log must remember: those being written, and complete ones that
//! are in no under-store.
//!
//! ```text
//!            StageStarted        PublishIntent          PublishDone
//!  Writing -------------> Staging ------------> Intent ------------> forgotten; the under-store has it
//!     |  \__________________________________/     |
//!     | Complete (must-cache only)                | PublishFailed
//!     v                                           v
//!  Complete                     aborted: forgotten; what was staged is in `Remains` until it is cleaned
//! ```
//!
//! Lease expiry, deletes and renames abort a write in phase Writing or Staging, and only in these: once the log holds
//! the intent, the publisher may be changing the under-store, and whoever wants the name waits until it has settled.

use super::namespace::Inode;
use citius_wire::{ClientId, Epoch, FileKey, Incarnation, MountId, Place, Ring, WorkerId, WriteType, units};
use core::num::NonZeroU32;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// The most bytes of an under-store's record of what is staged.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// The most bytes of a version token.
pub const TOKEN_BYTES_MAX: usize = 4 << 10;
/// The most writes under way and remains to be cleaned, together.
pub const WRITES_MAX: usize = 1 << 20;
/// How many writes are remembered after they ended, to answer those that ask again.
pub const FATES_MAX: usize = 1 << 16;

/// Who publishes a file: a worker, in one life.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// The worker.
    pub worker: WorkerId,
    /// Its life.
    pub incarnation: Incarnation,
}

/// How far a write is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing of it is in the under-store.
    Writing,
    /// Parts of it may be in the under-store, where nobody sees them.
    Staging(Box<Staged>),
    /// Its publisher may make it visible at any moment, or has done so.
    Intent(Box<Intended>),
    /// It is whole in memory, and nowhere else.
    Complete,
}

/// What may be in the under-store, unseen.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The under-store's record of it, opaque here.
    pub record: Vec<u8>,
    /// Who stages, if it was said.
    pub publisher: Option<Publisher>,
}

/// What is about to be visible.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Intended {
    /// The under-store's record of what is staged, opaque here.
    pub record: Vec<u8>,
    /// Who publishes. When its life is over, the master settles the intent.
    pub publisher: Publisher,
}

/// A file that was or is written through Citius and is in no under-store yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its key.
    pub key: FileKey,
    /// Where it hangs in the namespace; [`super::State::path_of`] gives its path.
    pub inode: Inode,
    /// The mount it lies in.
    pub mount: MountId,
    /// Where its blocks are, on the ring of `epoch`.
    pub place: Place,
    /// What close promises.
    pub write_type: WriteType,
    /// Bytes of its blocks.
    pub block_bytes: u32,
    /// Bytes; 0 until it is known.
    pub length: u64,
    /// Who writes it.
    pub client: ClientId,
    /// When its writer counts as dead.
    pub lease_until_ms: u64,
    /// The ring that places its blocks.
    pub epoch: Epoch,
    /// When it was created.
    pub created_ms: u64,
    /// When it was completed.
    pub modified_ms: u64,
    /// Whether it may replace what is there.
    pub overwrite: bool,
    /// The version that the under-store had at its path when it was created; `None` if there was nothing.
    pub replaces: Option<Box<[u8]>>,
    /// How far it is.
    pub phase: Phase,
}

impl WrittenFile {
    /// Whether it is whole, and everyone sees it.
    pub fn is_complete(&self) -> bool {
        self.phase == Phase::Complete
    }

    /// Whether its writer may still lose its lease: not once it is whole or its intent is logged.
    pub fn is_leased(&self) -> bool {
        matches!(self.phase, Phase::Writing | Phase::Staging(_))
    }

    /// Whether its publisher may be changing the under-store.
    pub fn is_unsettled(&self) -> bool {
        matches!(self.phase, Phase::Intent(_))
    }

    /// Blocks of a file of `length` bytes, if a file of such blocks can be so long.
    pub(super) fn block_count(&self, length: u64) -> Option<u32> {
        u32::try_from(units::block_count(length, self.block_bytes)).ok()
    }
}

/// What an aborted write may have left in the under-store.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// The mount.
    pub mount: MountId,
    /// The path that was to be written, in the mount's under-store.
    pub store_path: String,
    /// The under-store's record of what was staged.
    pub record: Vec<u8>,
    /// Who staged it, if it was said: it may still be at it as long as it lives.
    pub publisher: Option<Publisher>,
}

/// Why a write was given up.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// The writer said so.
    Writer,
    /// The writer did not renew its lease.
    LeaseExpired,
    /// The path was deleted.
    Deleted,
    /// The path was renamed, or another was renamed to it.
    Renamed,
    /// The worker that was to publish it is gone.
    WorkerLost,
    /// The under-store refused it.
    PublishFailed,
}

impl AbortReason {
    /// What happened, to follow "the write was given up: ".
    pub const fn text(self) -> &'static str {
        match self {
            Self::Writer => "its writer gave it up",
            Self::LeaseExpired => "its writer was not heard of for the time of its lease",
            Self::Deleted => "its path was deleted meanwhile",
            Self::Renamed => "its path was renamed, or renamed over, meanwhile",
            Self::WorkerLost => "the worker that held its first block is gone",
            Self::PublishFailed => "the under-store did not take it",
        }
    }
}

/// How a write ended.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in the under-store, under this key.
    Persisted(FileKey),
    /// It was given up.
    Aborted(AbortReason),
}

/// Where a file is in the table; never 0, so that an optional one takes four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSlot(NonZeroU32);

impl FileSlot {
    pub(super) fn of_index(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("INODES_MAX bounds the files"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// All written files, found by slot, by key, by lease, and by intent.
#[derive(Default)]
pub(super) struct Files {
    slots: Vec<Option<WrittenFile>>,
    free: Vec<FileSlot>,
    by_key: HashTable<FileSlot>,
    hasher: DefaultHashBuilder,
    /// Leased files, the next to expire first.
    leases: BTreeSet<(u64, FileKey)>,
    /// Files with a logged intent.
    unsettled: BTreeSet<FileKey>,
}

impl Files {
    pub(super) fn get(&self, slot: FileSlot) -> &WrittenFile {
        self.slots[slot.index()].as_ref().expect("a link leads to a file")
    }

    pub(super) fn find(&self, key: FileKey) -> Option<FileSlot> {
        let hash = core::hash::BuildHasher::hash_one(&self.hasher, key);
        self.by_key.find(hash, |slot| self.get(*slot).key == key).copied()
    }

    pub(super) fn by_key(&self, key: FileKey) -> Option<&WrittenFile> {
        self.find(key).map(|slot| self.get(slot))
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &WrittenFile> {
        self.slots.iter().flatten()
    }

    /// Files that are not complete.
    pub(super) fn writes_count(&self) -> usize {
        self.leases.len() + self.unsettled.len()
    }

    /// Leased files, the next to expire first.
    pub(super) fn leased(&self) -> impl Iterator<Item = &WrittenFile> {
        self.leases.iter().map(|(_, key)| self.by_key(*key).expect("a lease is of a file"))
    }

    /// Files with a logged intent, by key.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = &WrittenFile> {
        self.unsettled.iter().map(|key| self.by_key(*key).expect("an intent is of a file"))
    }

    /// Adds a file whose key is new.
    pub(super) fn insert(&mut self, file: WrittenFile) -> FileSlot {
        assert!(self.find(file.key).is_none(), "keys are never used again");
        self.index(&file);
        let hash = core::hash::BuildHasher::hash_one(&self.hasher, file.key);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot.index()] = Some(file);
                slot
            }
            None => {
                self.slots.push(Some(file));
                FileSlot::of_index(self.slots.len() - 1)
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_key.insert_unique(hash, slot, |slot| {
            let file = slots[slot.index()].as_ref().expect("the table holds files");
            core::hash::BuildHasher::hash_one(hasher, file.key)
        });
        slot
    }

    /// Changes a file, its key and slot apart.
    pub(super) fn change(&mut self, slot: FileSlot, change: impl FnOnce(&mut WrittenFile)) {
        let mut file = self.slots[slot.index()].take().expect("a slot leads to a file");
        self.unindex(&file);
        let key = file.key;
        change(&mut file);
        assert_eq!(file.key, key);
        self.index(&file);
        self.slots[slot.index()] = Some(file);
    }

    /// Takes a file out.
    pub(super) fn remove(&mut self, slot: FileSlot) -> WrittenFile {
        let key = self.get(slot).key;
        let hash = core::hash::BuildHasher::hash_one(&self.hasher, key);
        self.by_key.find_entry(hash, |other| *other == slot).expect("every file is in the table").remove();
        let file = self.slots[slot.index()].take().expect("a slot leads to a file");
        self.unindex(&file);
        self.free.push(slot);
        file
    }

    fn index(&mut self, file: &WrittenFile) {
        if file.is_leased() {
            self.leases.insert((file.lease_until_ms, file.key));
        } else if file.is_unsettled() {
            self.unsettled.insert(file.key);
        }
    }

    fn unindex(&mut self, file: &WrittenFile) {
        if file.is_leased() {
            self.leases.remove(&(file.lease_until_ms, file.key));
        } else if file.is_unsettled() {
            self.unsettled.remove(&file.key);
        }
    }

    /// Checks that every index agrees with the files.
    pub(super) fn validate(&self) {
        assert_eq!(self.by_key.len(), self.len());
        let (mut leased, mut unsettled) = (0, 0);
        for (i, file) in self.slots.iter().enumerate() {
            let Some(file) = file else {
                assert!(self.free.contains(&FileSlot::of_index(i)), "an empty slot is free");
                continue;
            };
            assert_eq!(self.find(file.key), Some(FileSlot::of_index(i)));
            assert_eq!(file.is_leased(), self.leases.contains(&(file.lease_until_ms, file.key)));
            assert_eq!(file.is_unsettled(), self.unsettled.contains(&file.key));
            leased += usize::from(file.is_leased());
            unsettled += usize::from(file.is_unsettled());
            let must_cache = file.write_type == WriteType::MustCache;
            assert!(must_cache || !file.is_complete(), "a complete file of the log is in memory only");
            assert!(!must_cache || file.is_complete() || file.phase == Phase::Writing, "must-cache is not published");
        }
        assert_eq!((leased, unsettled), (self.leases.len(), self.unsettled.len()));
    }
}

/// How the last [`FATES_MAX`] writes ended, so that whoever asks again gets the answer it missed.
#[derive(Default)]
pub(super) struct Fates {
    by_key: HashMap<FileKey, Fate>,
    /// Oldest first.
    order: VecDeque<FileKey>,
}

impl Fates {
    pub(super) fn get(&self, key: FileKey) -> Option<Fate> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn record(&mut self, key: FileKey, fate: Fate) {
        let before = self.by_key.insert(key, fate);
        assert!(before.is_none(), "a write ends once");
        self.order.push_back(key);
        if self.order.len() > FATES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FileKey, Fate)> {
        self.order.iter().map(|key| (*key, self.by_key[key]))
    }

    pub(super) fn validate(&self) {
        assert!(self.order.len() <= FATES_MAX && self.order.len() == self.by_key.len());
        assert!(self.order.iter().all(|key| self.by_key.contains_key(key)));
    }
}

/// Whether a block of a file of `blocks` blocks lies with a member of `ring` for which `is_gone` holds.
pub(super) fn any_owner(ring: &Ring, place: Place, blocks: u32, is_gone: impl Fn(usize) -> bool) -> bool {
    (0..blocks).any(|index| ring.owner(place, index).is_none_or(|owner| is_gone(owner.member)))
}
