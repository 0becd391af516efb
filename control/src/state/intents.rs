//! Intents: changes of names that an under-store must make, logged before it is asked, so that the next leader resumes
//! what this one began.
//!
//! An intent claims the names it is about. Until it is done nobody else changes them, nor, under a delete or a rename,
//! anything below them; such changes are refused with `Unavailable`, which clients retry.

use super::command::{Action, Caller};
use citius_wire::MountId;
use core::num::NonZeroU64;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most intents at a time.
pub const INTENTS_MAX: usize = 1 << 16;

/// Names an intent; never used again.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntentId(pub NonZeroU64);

/// A change of names that is under way.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Which.
    pub id: IntentId,
    /// Who waits for it, if a client does.
    pub caller: Option<Caller>,
    /// The mount.
    pub mount: MountId,
    /// What is to be done.
    pub action: Action,
    /// The path of the mkdir, the delete, or the rename's source, in the mount's under-store.
    pub store_path: String,
    /// The rename's target, in the mount's under-store; empty for other actions.
    pub store_path_to: String,
    /// Of a rename: what moves is a file that only the log knows. The under-store has nothing to rename then, but an
    /// older version at the source, if it has one, must go, or the rename would uncover it.
    pub moves_overlay_file: bool,
}

/// What an intent claims a name for.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Mkdir,
    Delete,
    Rename,
}

/// A name that an intent has for itself.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) intent: IntentId,
    pub(super) purpose: Purpose,
}

impl Claim {
    /// Whether it holds all below the name too.
    pub(super) fn is_deep(self) -> bool {
        self.purpose != Purpose::Mkdir
    }

    /// Whether the name, and all below it, is gone for every reader.
    pub(super) fn hides(self) -> bool {
        self.purpose == Purpose::Delete
    }
}

/// All intents, in the order they were logged.
pub(super) struct Intents {
    pub(super) next: IntentId,
    pub(super) by_id: BTreeMap<IntentId, Intent>,
}

impl Intents {
    pub(super) fn new() -> Self {
        Self { next: IntentId(NonZeroU64::MIN), by_id: BTreeMap::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.by_id.len() == INTENTS_MAX
    }

    /// Takes the next id.
    pub(super) fn mint(&mut self) -> IntentId {
        let id = self.next;
        self.next = IntentId(id.0.checked_add(1).expect("2^64 intents outlast any cluster"));
        id
    }

    pub(super) fn validate(&self) {
        assert!(self.by_id.len() <= INTENTS_MAX);
        assert!(self.by_id.iter().all(|(id, intent)| *id == intent.id && *id < self.next));
    }
}
