//! Locks on paths, in memory: two changes of one name are done one after the other, from their preparation until they
//! are applied.
//!
//! A lock is on one name, or on a name with all below it (for a rename, and for deleting a directory). Two locks meet
//! if they are on the same name, or one is on a tree that holds the other. All that a change needs is taken at once or
//! not at all, so there is no deadlock; who is turned away waits for the lock that was in its way.
//!
//! Readers take no locks. Only a rename makes them wait, because the under-store moves what the name stands for.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use citius_wire::NamespacePath;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// What a change wants for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) path: NamespacePath,
    pub(crate) reach: Reach,
}

/// How far a lock reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// The name alone.
    Name,
    /// The name and all below it.
    Tree,
    /// The same, and readers wait too.
    Rename,
}

#[derive(Default)]
struct Table {
    held: BTreeMap<Arc<str>, Held>,
    /// How many of them reach below their names: most of the time none does, and nothing above a path need be looked at.
    trees: usize,
}

struct Held {
    reach: Reach,
    /// Made when somebody waits for it.
    freed: Option<Arc<Notify>>,
}

/// All locks. Clones are the same locks.
#[derive(Clone, Default)]
pub(crate) struct PathLocks {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    renames: AtomicUsize,
}

/// Locks held until it is dropped.
pub(crate) struct Locked {
    shared: Arc<Shared>,
    paths: Vec<(Arc<str>, Reach)>,
}

impl Want {
    /// Whether both can be held at once.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.path == other.path
            || self.reach >= Reach::Tree && other.path.is_under(&self.path)
            || other.reach >= Reach::Tree && self.path.is_under(&other.path)
    }
}

impl PathLocks {
    /// Takes all of `wants`, none of which meets another, and waits until it can.
    pub(crate) async fn lock(&self, wants: &[impl Borrow<Want>]) -> Locked {
        loop {
            let blocked = match self.try_lock(wants) {
                Ok(locked) => return locked,
                Err(blocked) => blocked,
            };
            blocked.await;
        }
    }

    /// Takes all of `wants`, or gives what will be notified when the lock in the way is freed.
    fn try_lock(&self, wants: &[impl Borrow<Want>]) -> Result<Locked, OwnedNotified> {
        let mut table = self.shared.table.lock();
        for want in wants {
            if let Some(path) = table.in_the_way(want.borrow()) {
                return Err(table.freeing(&path));
            }
        }
        let mut paths = Vec::with_capacity(wants.len());
        for want in wants {
            let want: &Want = want.borrow();
            let path: Arc<str> = Arc::from(want.path.as_str());
            let before = table.held.insert(Arc::clone(&path), Held { reach: want.reach, freed: None });
            assert!(before.is_none(), "the wants of one change do not meet");
            table.trees += usize::from(want.reach >= Reach::Tree);
            if want.reach == Reach::Rename {
                self.shared.renames.fetch_add(1, Ordering::Release);
            }
            paths.push((path, want.reach));
        }
        Ok(Locked { shared: Arc::clone(&self.shared), paths })
    }

    /// Whether no rename is under way that a reader of this path must wait for: one load if there is none at all.
    pub(crate) fn is_readable(&self, path: &str) -> bool {
        self.shared.renames.load(Ordering::Acquire) == 0 || self.shared.table.lock().renaming(path).is_none()
    }

    /// Waits until no rename is under way that holds the path.
    pub(crate) async fn readable(&self, path: &str) {
        while self.shared.renames.load(Ordering::Acquire) > 0 {
            let blocked = {
                let mut table = self.shared.table.lock();
                table.renaming(path).map(|path| table.freeing(&path))
            };
            match blocked {
                Some(blocked) => blocked.await,
                None => return,
            }
        }
    }
}

impl Table {
    /// The path of a lock that meets this want.
    fn in_the_way(&self, want: &Want) -> Option<Arc<str>> {
        let path = want.path.as_str();
        if let Some((path, _)) = self.held.get_key_value(path) {
            return Some(Arc::clone(path));
        }
        if self.trees > 0
            && let Some(path) = self.first_that(above(path), Reach::Tree)
        {
            return Some(path);
        }
        if want.reach == Reach::Name {
            return None;
        }
        let prefix = if want.path.is_root() { "/".to_owned() } else { format!("{path}/") };
        let below = (Bound::Excluded(prefix.as_str()), Bound::Unbounded);
        let (first, _) = self.held.range::<str, _>(below).next()?;
        first.starts_with(&prefix).then(|| Arc::clone(first))
    }

    /// The path of the rename that a reader of this path must wait for.
    fn renaming(&self, path: &str) -> Option<Arc<str>> {
        self.first_that(std::iter::once(path).chain(above(path)), Reach::Rename)
    }

    /// The first of these paths that is locked so far at least.
    fn first_that<'a>(&self, mut paths: impl Iterator<Item = &'a str>, reach: Reach) -> Option<Arc<str>> {
        paths.find_map(|path| {
            self.held.get_key_value(path).filter(|(_, held)| held.reach >= reach).map(|(path, _)| Arc::clone(path))
        })
    }

    /// What will be notified when the lock on a path is freed: made under the table's lock, it cannot miss the freeing.
    fn freeing(&mut self, path: &str) -> OwnedNotified {
        let held = self.held.get_mut(path).expect("the path is locked");
        Arc::clone(held.freed.get_or_insert_default()).notified_owned()
    }
}

/// The paths above a path, nearest first.
fn above(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if rest.len() <= 1 {
            return None;
        }
        let slash = rest.rfind('/')?;
        rest = if slash == 0 { "/" } else { &rest[..slash] };
        Some(rest)
    })
}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut table = self.shared.table.lock();
        for (path, reach) in &self.paths {
            let held = table.held.remove(path).expect("a lock is freed once");
            table.trees -= usize::from(*reach >= Reach::Tree);
            if *reach == Reach::Rename {
                self.shared.renames.fetch_sub(1, Ordering::Release);
            }
            if let Some(freed) = held.freed {
                freed.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn want(path: &str, reach: Reach) -> Want {
        Want { path: NamespacePath::parse(path).unwrap(), reach }
    }

    fn is_free(locks: &PathLocks, path: &str, reach: Reach) -> bool {
        locks.try_lock(&[want(path, reach)]).is_ok()
    }

    #[test]
    fn names_and_trees_meet_where_they_overlap() {
        let locks = PathLocks::default();
        let name = locks.try_lock(&[want("/a/b", Reach::Name)]).ok().unwrap();
        assert!(!is_free(&locks, "/a/b", Reach::Name));
        assert!(is_free(&locks, "/a", Reach::Name) && is_free(&locks, "/a/b/c", Reach::Tree));
        assert!(!is_free(&locks, "/a", Reach::Tree) && !is_free(&locks, "/", Reach::Tree));
        assert!(is_free(&locks, "/a!", Reach::Tree) && is_free(&locks, "/a/bc", Reach::Tree));
        drop(name);
        let _tree = locks.try_lock(&[want("/a", Reach::Tree)]).ok().unwrap();
        assert!(!is_free(&locks, "/a/b/c", Reach::Name) && !is_free(&locks, "/a", Reach::Name));
        assert!(is_free(&locks, "/ab", Reach::Name) && is_free(&locks, "/", Reach::Name));
    }

    #[test]
    fn all_or_nothing() {
        let locks = PathLocks::default();
        let _held = locks.try_lock(&[want("/b", Reach::Name)]).ok().unwrap();
        assert!(locks.try_lock(&[want("/a", Reach::Name), want("/b", Reach::Name)]).is_err());
        assert!(is_free(&locks, "/a", Reach::Name));
    }

    #[tokio::test]
    async fn the_next_one_is_woken_and_readers_wait_for_renames_only() {
        let locks = PathLocks::default();
        let name = locks.lock(&[want("/a", Reach::Name)]).await;
        assert!(locks.is_readable("/a"));
        let next = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock(&[want("/a", Reach::Rename), want("/c", Reach::Rename)]).await }
        });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(name);
        let rename = next.await.unwrap();
        assert!(!locks.is_readable("/a/x") && !locks.is_readable("/c") && locks.is_readable("/b"));
        let reader = tokio::spawn({
            let locks = locks.clone();
            async move { locks.readable("/c/y").await }
        });
        tokio::task::yield_now().await;
        assert!(!reader.is_finished());
        drop(rename);
        reader.await.unwrap();
        let table = locks.shared.table.lock();
        assert!(locks.is_readable("/a") && table.held.is_empty() && table.trees == 0);
    }

    fn any_want() -> impl Strategy<Value = Want> {
        let reach = prop_oneof![Just(Reach::Name), Just(Reach::Tree), Just(Reach::Rename)];
        ("(/[ab!]){0,4}", reach).prop_map(|(path, reach)| want(if path.is_empty() { "/" } else { &path }, reach))
    }

    proptest! {
        /// The table agrees with the definition: a lock is granted exactly if it meets none that is held.
        #[test]
        fn granted_as_defined(wants in prop::collection::vec(any_want(), 1..12)) {
            let locks = PathLocks::default();
            let mut held: Vec<(Want, Locked)> = Vec::new();
            for want in wants {
                let free = held.iter().all(|(other, _)| !want.meets(other));
                match locks.try_lock(std::slice::from_ref(&want)) {
                    Ok(locked) => {
                        prop_assert!(free, "{want:?} was granted");
                        held.push((want, locked));
                    }
                    Err(_) => prop_assert!(!free, "{want:?} was refused"),
                }
            }
        }
    }
}
