//! Changes of names that wait for their under-store, and why: for who waits for one of them.
//!
//! This is of the master that carries them out, and not of the log: another master learns it by its own first try.

use std::collections::BTreeMap;

use citius_wire::{Failure, NamespacePath};
use parking_lot::Mutex;

use crate::state::{Intent, IntentId};

/// What each intent met that is to be tried again. At most as many as there are intents.
#[derive(Default)]
pub(super) struct Postponed(Mutex<BTreeMap<IntentId, Wait>>);

struct Wait {
    paths: Vec<NamespacePath>,
    failure: Failure,
}

impl Postponed {
    /// The store could not tell; it is asked again.
    pub(super) fn put(&self, intent: &Intent, failure: Failure) {
        let paths = intent.action.paths().filter_map(|path| NamespacePath::parse(path).ok()).collect();
        self.0.lock().insert(intent.id, Wait { paths, failure });
    }

    /// It is over.
    pub(super) fn end(&self, id: IntentId) {
        self.0.lock().remove(&id);
    }

    /// Why a path is still being changed, or what is above or below it.
    pub(super) fn why(&self, path: &NamespacePath) -> Option<Failure> {
        let meets = |other: &NamespacePath| other == path || other.is_under(path) || path.is_under(other);
        let waits = self.0.lock();
        waits.values().find(|wait| wait.paths.iter().any(meets)).map(|wait| wait.failure.clone())
    }
}
