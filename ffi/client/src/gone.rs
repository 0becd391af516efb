//! Versions of which a worker said that their under-store has them no more.
//!
//! A master believes what it knows of an object store for a while. Who was told better by a worker says so when it opens
//! the path again, so that the master looks anew and nobody waits for that while.

use citius_wire::{FileKey, NamespacePath};
use parking_lot::Mutex;
use std::collections::HashMap;

/// Paths that are remembered; past that all are forgotten, and who opens one waits as long as anybody.
const PATHS_MAX: usize = 1024;

/// The last version of each path that was found to be gone.
#[derive(Default)]
pub(crate) struct GoneVersions(Mutex<HashMap<NamespacePath, FileKey>>);

impl GoneVersions {
    /// Remembers a version.
    pub(crate) fn note(&self, path: &NamespacePath, version: FileKey) {
        let mut gone = self.0.lock();
        if gone.len() >= PATHS_MAX && !gone.contains_key(path) {
            gone.clear();
        }
        gone.insert(path.clone(), version);
    }

    /// Forgets a version that the master does not believe in any more: to be told of it would keep it from answering at
    /// once.
    pub(crate) fn forget(&self, path: &NamespacePath, version: FileKey) {
        let mut gone = self.0.lock();
        if gone.get(path) == Some(&version) {
            gone.remove(path);
        }
    }

    /// The version of a path that is gone, if one is known.
    pub(crate) fn of(&self, path: &NamespacePath) -> Option<FileKey> {
        self.0.lock().get(path).copied()
    }
}
