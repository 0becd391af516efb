//! Mounts: under-stores at paths. Ids are never used again.

use super::command::MountOptions;
use citius_wire::{MountId, NamespacePath};
use std::collections::BTreeMap;

/// The most mounts at a time.
pub const MOUNTS_MAX: usize = 4096;

/// An under-store at a path. Its options hold secrets; they never print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which.
    pub id: MountId,
    /// Where.
    pub path: NamespacePath,
    /// What. It may hold a password.
    pub uri: String,
    /// How to reach it.
    pub options: MountOptions,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How long its metadata is believed: -1 for ever, 0 never, else milliseconds.
    pub sync_interval_ms: i64,
}

/// All mounts.
pub(super) struct Mounts {
    pub(super) next: MountId,
    pub(super) by_id: BTreeMap<MountId, Mount>,
}

impl Mounts {
    pub(super) fn new() -> Self {
        Self { next: MountId(1), by_id: BTreeMap::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.by_id.len() == MOUNTS_MAX
    }

    /// Takes the next id.
    pub(super) fn mint(&mut self) -> MountId {
        let id = self.next;
        self.next = MountId(id.0.checked_add(1).expect("2^32 mounts outlast any cluster"));
        id
    }

    pub(super) fn validate(&self) {
        assert!(self.by_id.len() <= MOUNTS_MAX);
        assert!(self.by_id.iter().all(|(id, mount)| *id == mount.id && *id < self.next));
    }
}
