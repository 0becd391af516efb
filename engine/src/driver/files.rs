//! Descriptors of files of near under-stores, for the ring to read: opened once a version, kept while they are used.

use citius_understore::{StorePath, UnderStore, VersionToken};
use citius_wire::{Failure, FileKey};
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::failure;

/// A file of exactly one version, open.
pub(crate) struct OpenFile {
    pub(crate) store: Arc<dyn UnderStore>,
    pub(crate) path: StorePath,
    pub(crate) token: VersionToken,
    pub(crate) descriptor: Rc<OwnedFd>,
}

impl OpenFile {
    /// Whether the descriptor still shows the version, asked after reading and before the bytes are believed.
    ///
    /// # Errors
    /// `VersionChanged`.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let local = self.store.local().expect("only a near store gave the descriptor");
        local
            .check_local(&self.path, &self.descriptor, &self.token)
            .map_err(|error| failure::of_store("reading", self.path.as_str(), &error))
    }
}

/// The open files of a shard, the least recently used of which is closed for another.
pub(crate) struct OpenFiles {
    max: usize,
    clock: RefCell<u64>,
    files: RefCell<HashMap<FileKey, (Rc<OpenFile>, u64)>>,
}

impl OpenFiles {
    /// Room for `max` files.
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(1), clock: RefCell::new(0), files: RefCell::default() }
    }

    /// A file that is open.
    pub(crate) fn get(&self, key: FileKey) -> Option<Rc<OpenFile>> {
        let mut clock = self.clock.borrow_mut();
        *clock += 1;
        let mut files = self.files.borrow_mut();
        let (file, used) = files.get_mut(&key)?;
        *used = *clock;
        Some(Rc::clone(file))
    }

    /// Keeps a file open.
    pub(crate) fn keep(&self, key: FileKey, file: Rc<OpenFile>) {
        let mut files = self.files.borrow_mut();
        if files.len() >= self.max && !files.contains_key(&key) {
            // Linear, but only at a miss that opens a file when all places are taken.
            let oldest = files.iter().min_by_key(|(_, (_, used))| *used).map(|(&key, _)| key);
            oldest.and_then(|oldest| files.remove(&oldest));
        }
        files.insert(key, (file, *self.clock.borrow()));
    }

    /// Closes a file: it is gone, or no longer of its version.
    pub(crate) fn forget(&self, key: FileKey) {
        self.files.borrow_mut().remove(&key);
    }
}
