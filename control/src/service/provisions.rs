//! What the operations of a run share while they are prepared: looks at the directories of their names, and keys for
//! their files.
//!
//! A run holds the locks of all its names, and whoever deletes or renames a directory above one of them through this
//! master waits for these locks. So one look at a directory holds for the whole run; what others do to an under-store
//! themselves may come right after any look.

use std::sync::Arc;

use citius_understore::LocalDirectory;
use citius_wire::{Failure, FileKey, MountId, NamespacePath, Status};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// A directory that names of a run lie in.
pub(super) struct Directory {
    /// Whether it is there.
    pub(super) is_there: Result<(), Failure>,
    /// The same, in the under-store of its mount, if that is a local one.
    pub(super) opened: Option<(MountId, LocalDirectory)>,
}

/// The look at a directory; empty until the first one has looked, for whom the others wait.
type Look = Arc<OnceCell<Arc<Directory>>>;

/// What a run shares.
pub(super) struct Provisions {
    directories: Mutex<HashMap<NamespacePath, Look>>,
    keys: Mutex<Vec<[u8; 16]>>,
    keys_at_once: usize,
}

impl Provisions {
    /// For a run of so many operations.
    pub(super) fn for_run_of(operations_count: usize) -> Self {
        Self { directories: Mutex::default(), keys: Mutex::default(), keys_at_once: operations_count }
    }

    /// A directory, as the first one of the run that asks finds it with `look`.
    pub(super) async fn directory(
        &self,
        path: &NamespacePath,
        look: impl Future<Output = Directory>,
    ) -> Arc<Directory> {
        let cell: Look = Arc::clone(self.directories.lock().entry_ref(path).or_default());
        Arc::clone(cell.get_or_init(|| async { Arc::new(look.await) }).await)
    }

    /// Records that a directory was made, so that it is looked at again.
    pub(super) fn made(&self, directory: &NamespacePath) {
        self.directories.lock().remove(directory);
    }

    /// A key that nobody else will draw. The kernel is asked for those of the whole run at once: asking for each costs
    /// as much as logging it.
    pub(super) fn key(&self) -> Result<FileKey, Failure> {
        let mut keys = self.keys.lock();
        if keys.is_empty() {
            let mut drawn = vec![[0; 16]; self.keys_at_once.max(1)];
            getrandom::fill(drawn.as_flattened_mut()).map_err(|error| {
                let words = format!("this machine gives no random bytes for a file's id: {error}");
                Failure::new(Status::Unavailable, words)
            })?;
            *keys = drawn;
        }
        Ok(FileKey(keys.pop().expect("some were drawn")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hashbrown::HashSet;

    /// A run that draws more keys than it said, or said none, still gets new ones.
    #[test]
    fn no_key_is_drawn_twice() {
        for count in [0, 1, 7] {
            let provisions = Provisions::for_run_of(count);
            let keys: HashSet<FileKey> = (0..20).map(|_| provisions.key().unwrap()).collect();
            assert_eq!(keys.len(), 20);
            assert!(!keys.contains(&FileKey([0; 16])));
        }
    }

    #[tokio::test]
    async fn a_directory_is_looked_at_once_until_it_is_made() {
        let provisions = Provisions::for_run_of(1);
        let path = NamespacePath::parse("/d").unwrap();
        let missing = || Err(Failure::new(Status::NotFound, "/d"));
        let seen = async |is_there| {
            let directory = Directory { is_there, opened: None };
            provisions.directory(&path, std::future::ready(directory)).await.is_there.clone()
        };
        assert_eq!(seen(missing()).await, missing());
        assert_eq!(seen(Ok(())).await, missing());
        provisions.made(&path);
        assert_eq!(seen(Ok(())).await, Ok(()));
    }
}
