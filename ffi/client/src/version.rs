//! One version of an open file: what was opened, the right to read it, and its mapped blocks.

use crate::blocks::SlotTable;
use crate::client::Shared;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::routes::Routes;
use crate::stats::add;
use citius_wire::units::{block_count, block_length, is_block_bytes};
use citius_wire::{
    EntryKind, Epoch, FileInfo, FileKey, NamespacePath, Opened, Operation, Outcome, Persistence, Place, Status,
};
use core::sync::atomic::AtomicBool;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

/// A version, and the one that took its place if that happened before a byte of it was returned.
pub(crate) struct Version {
    pub(crate) path: NamespacePath,
    pub(crate) info: FileInfo,
    pub(crate) slots: SlotTable,
    /// Whether bytes of it were returned: from then on the file is this version or an error.
    pub(crate) is_pinned: AtomicBool,
    pub(crate) next: OnceLock<Box<Version>>,
    place: Place,
    right: Mutex<Right>,
}

/// What is renewed when it expires or the file's blocks move.
#[derive(Clone)]
pub(crate) struct Right {
    pub(crate) capability: Arc<[u8]>,
    epoch: Epoch,
    persistence: Persistence,
    /// Counts renewals, so that of many readers who see one expire only one asks.
    generation: u64,
}

impl Version {
    /// Opens a path.
    pub(crate) fn open(client: &Shared, path: &NamespacePath, deadline: Deadline) -> Result<Self, Error> {
        Self::of(client, path, ask(client, path, deadline)?)
    }

    /// What a master gave for a path that it was asked to open.
    pub(crate) fn of(client: &Shared, path: &NamespacePath, opened: Opened) -> Result<Self, Error> {
        let (length, block_bytes) = (opened.info.length, opened.info.block_bytes);
        if opened.info.kind != EntryKind::File {
            return Err(Error::new(Status::IsADirectory, "it is a directory: list it instead").at(path));
        }
        let block_count = is_block_bytes(block_bytes).then(|| block_count(length, block_bytes));
        let Some(block_count) = block_count.and_then(|count| u32::try_from(count).ok()) else {
            return Err(client.unexpected("it opened a file whose blocks make no sense").at(path));
        };
        let right = right_of(&opened, 0);
        Ok(Self {
            path: path.clone(),
            slots: SlotTable::new(opened.info.version, block_count),
            info: opened.info,
            is_pinned: AtomicBool::new(false),
            next: OnceLock::new(),
            place: opened.place,
            right: Mutex::new(right),
        })
    }

    pub(crate) fn key(&self) -> FileKey {
        self.info.version
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn block_count(&self) -> u32 {
        // `open` has judged that it fits.
        block_count(self.info.length, self.info.block_bytes) as u32
    }

    pub(crate) fn block_length(&self, index: u32) -> u32 {
        block_length(self.info.length, self.info.block_bytes, index)
    }

    /// The end, in the file, of the block that holds `offset`.
    pub(crate) fn block_end(&self, offset: u64) -> u64 {
        let block_bytes = u64::from(self.info.block_bytes);
        ((offset / block_bytes + 1) * block_bytes).min(self.info.length)
    }

    pub(crate) fn right(&self) -> Right {
        self.right.lock().clone()
    }

    /// Whether the only copies are in workers' memory: then its blocks are where its epoch put them.
    pub(crate) fn is_in_memory_only(&self) -> bool {
        self.right.lock().persistence != Persistence::Persisted
    }

    /// The ring that leads to its blocks.
    pub(crate) fn routes(&self, client: &Shared, deadline: Deadline) -> Result<Arc<Routes>, Error> {
        let (epoch, persistence) = {
            let right = self.right.lock();
            (right.epoch, right.persistence)
        };
        let routes = match persistence {
            Persistence::Persisted => client.routes_since(epoch, deadline),
            _ => client.routes_of_epoch(epoch, deadline),
        };
        routes.map_err(|error| error.at(&self.path))
    }

    /// Replaces a right that no longer serves, unless another reader has.
    ///
    /// # Errors
    /// `VersionChanged` if the path is another version now; whatever `open` fails with.
    pub(crate) fn renew(&self, client: &Shared, used: &Right, deadline: Deadline) -> Result<(), Error> {
        if self.right.lock().generation != used.generation {
            return Ok(());
        }
        let opened = ask(client, &self.path, deadline)?;
        if opened.info.version != self.key() {
            return Err(changed(&self.path));
        }
        add(&client.stats.reopens, 1);
        let mut right = self.right.lock();
        *right = right_of(&opened, right.generation + 1);
        Ok(())
    }
}

/// The error of a reader whose file is another one now.
pub(crate) fn changed(path: &NamespacePath) -> Error {
    Error::new(Status::VersionChanged, "the file was replaced while it was being read: open it again").at(path)
}

fn right_of(opened: &Opened, generation: u64) -> Right {
    Right {
        capability: opened.capability.as_slice().into(),
        epoch: opened.epoch,
        persistence: opened.info.persistence,
        generation,
    }
}

/// What a master is asked to open a path.
pub(crate) fn question(client: &Shared, path: &NamespacePath) -> Operation {
    Operation::Open { path: path.to_string(), stale: client.gone.of(path) }
}

/// What a master said to [`question`].
pub(crate) fn answer(client: &Shared, path: &NamespacePath, outcome: Result<Outcome, Error>) -> Result<Opened, Error> {
    match outcome.map_err(|error| error.at(path))? {
        Outcome::Opened(opened) => {
            if let Some(stale) = client.gone.of(path).filter(|stale| *stale != opened.info.version) {
                client.gone.forget(path, stale);
            }
            Ok(*opened)
        }
        _ => Err(client.unexpected("it was asked to open a file and gave another thing").at(path)),
    }
}

fn ask(client: &Shared, path: &NamespacePath, deadline: Deadline) -> Result<Opened, Error> {
    answer(client, path, client.operate(question(client, path), deadline))
}
