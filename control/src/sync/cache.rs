//! The cache: bounded, least recently used out first, negative answers included, one flight for a path at a time.
//!
//! ```text
//!  shard k:  [ (mount, path) -> (answer, when it was asked for) ]  in LRU order      changes: u64
//! ```
//! A name is hashed once: some bits choose its shard, the others its place there.
//!
//! Two things must never happen: that an answer which a store gave *before* a change of ours is kept after it, and that
//! a caller joins a flight which left before such a change. So each shard counts the changes made through it; a flight
//! remembers the count of its start, and is neither kept nor joined when the count has moved on.
//!
//! An entry older than its interval stays until it is pushed out: when the store gives the same version again, its hash
//! is taken from there.

use std::borrow::Borrow;
use std::future::Future;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use citius_wire::{Failure, MountId};
use futures::FutureExt;
use futures::future::{Shared, WeakShared};
use hashbrown::{DefaultHashBuilder, HashMap};
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};

use super::{Found, SyncInterval};

/// Entries that a master keeps unless told otherwise: about 60 MB of them.
pub(crate) const CACHE_ENTRIES_DEFAULT: usize = 256 << 10;
/// Shards, so that the threads that answer `stat` seldom meet.
const SHARDS: usize = 16;

type Answer = Result<Found, Failure>;
type Flight = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The cache of all mounts.
pub(crate) struct MetadataCache {
    shards: Box<[Mutex<Shard>]>,
    hasher: DefaultHashBuilder,
    figures: Figures,
}

struct Shard {
    entries: LruCache<Key, Entry, Hashed>,
    flights: HashMap<Key, Departed, Hashed>,
    /// Changes of ours to paths of this shard.
    changes: u64,
    /// Questions answered from memory.
    hits: u64,
    /// Questions that the store of each mount was spared, by memory or by another's flight.
    spared: Spared,
}

/// Counts by mount. There are few, and one look must be cheap.
#[derive(Default)]
struct Spared(Vec<(MountId, u64)>);

impl Spared {
    fn count(&mut self, mount: MountId) {
        match self.0.iter_mut().find(|(counted, _)| *counted == mount) {
            Some((_, count)) => *count += 1,
            None => self.0.push((mount, 1)),
        }
    }

    fn of(&self, mount: MountId) -> u64 {
        self.0.iter().find(|(counted, _)| *counted == mount).map_or(0, |(_, count)| *count)
    }
}

#[derive(Clone)]
struct Entry {
    found: Found,
    asked_ms: u64,
}

/// A flight under way, as those who may join it find it.
struct Departed {
    asked: Asked,
    flight: WeakShared<Flight>,
}

#[derive(Default)]
struct Figures {
    misses: AtomicU64,
    joined: AtomicU64,
}

/// What the cache did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheFigures {
    /// Questions answered from memory.
    pub(crate) hits: u64,
    /// Questions that went to a store.
    pub(crate) misses: u64,
    /// Questions that shared another's answer.
    pub(crate) joined: u64,
    /// Entries held.
    pub(crate) entries: u64,
}

/// Proof of when a store was asked: an answer is kept only if nothing was changed since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    changes: u64,
    at_ms: u64,
}

/// The same for a listing, whose names lie in every shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedAll {
    changes: [u64; SHARDS],
    at_ms: u64,
}

impl MetadataCache {
    /// An empty cache of at most `entries_max` entries (at least one for each shard).
    pub(crate) fn new(entries_max: usize) -> Self {
        let each = NonZeroUsize::new(entries_max / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let shard = || {
            // Grown as needed: a cache with room for all would take its memory at start.
            let mut entries = LruCache::unbounded_with_hasher(Hashed::default());
            entries.resize(each);
            Mutex::new(Shard { entries, flights: HashMap::default(), changes: 0, hits: 0, spared: Spared::default() })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: DefaultHashBuilder::default(),
            figures: Figures::default(),
        }
    }

    /// What is known of a path and still believed.
    pub(crate) fn fresh(&self, mount: MountId, path: &str, interval: SyncInterval, now_ms: u64) -> Option<Found> {
        self.read_fresh(mount, path, interval, now_ms, Found::clone)
    }

    /// The same, for who needs a part of it: `read` looks at it under the shard's lock.
    pub(crate) fn read_fresh<T>(
        &self,
        mount: MountId,
        path: &str,
        interval: SyncInterval,
        now_ms: u64,
        read: impl FnOnce(&Found) -> T,
    ) -> Option<T> {
        if interval == SyncInterval::Never {
            return None;
        }
        let (view, mut shard) = self.locate(mount, path);
        let Shard { entries, hits, spared, .. } = &mut *shard;
        let entry = entries.get(&view as &dyn Named).filter(|entry| interval.believes(entry.asked_ms, now_ms))?;
        *hits += 1;
        spared.count(mount);
        Some(read(&entry.found))
    }

    /// What was last known of a path, however old. Its age makes it useless but for its version's hash.
    pub(crate) fn last(&self, mount: MountId, path: &str) -> Option<Found> {
        let (view, shard) = self.locate(mount, path);
        shard.entries.peek(&view as &dyn Named).map(|entry| entry.found.clone())
    }

    /// To be called before a store is asked.
    pub(crate) fn asking(&self, mount: MountId, path: &str, now_ms: u64) -> Asked {
        Asked { changes: self.locate(mount, path).1.changes, at_ms: now_ms }
    }

    /// To be called before a store is asked for a directory.
    pub(crate) fn asking_all(&self, now_ms: u64) -> AskedAll {
        AskedAll { changes: std::array::from_fn(|i| self.shards[i].lock().changes), at_ms: now_ms }
    }

    /// Keeps what a listing said of one name, as [`MetadataCache::keep`] does.
    pub(crate) fn keep_listed(&self, asked: &AskedAll, mount: MountId, path: &str, found: Found) {
        let changes = asked.changes[self.view(mount, path).shard()];
        self.keep(Asked { changes, at_ms: asked.at_ms }, mount, path, found);
    }

    /// Keeps a store's answer, unless we changed something since it was asked.
    pub(crate) fn keep(&self, asked: Asked, mount: MountId, path: &str, found: Found) {
        let (view, mut shard) = self.locate(mount, path);
        if shard.changes == asked.changes {
            let entry = Entry { found, asked_ms: asked.at_ms };
            if let Some(known) = shard.entries.get_mut(&view as &dyn Named) {
                *known = entry;
            } else {
                shard.entries.put(view.to_key(), entry);
            }
        }
    }

    /// Answers from what is believed, by joining a flight, or by asking the store with `ask`.
    ///
    /// A mount that is always asked shares no flights: one that left before the question came might not have seen what
    /// its caller knows to be there.
    pub(crate) async fn get(
        &self,
        mount: MountId,
        path: &str,
        interval: SyncInterval,
        now_ms: u64,
        ask: impl Future<Output = Answer> + Send + 'static,
    ) -> Answer {
        if let Some(found) = self.fresh(mount, path, interval, now_ms) {
            return Ok(found);
        }
        let asked = self.asking(mount, path, now_ms);
        if interval == SyncInterval::Never {
            self.figures.misses.fetch_add(1, Relaxed);
            let answer = ask.await;
            if let Ok(found) = &answer {
                self.keep(asked, mount, path, found.clone());
            }
            return answer;
        }
        // Who joins got an answer to a question as old as the flight.
        let (asked, flight) = self.board(asked, mount, path, ask);
        let answer = flight.await;
        let (view, mut shard) = self.locate(mount, path);
        shard.land(&view);
        drop(shard);
        if let Ok(found) = &answer {
            self.keep(asked, mount, path, found.clone());
        }
        answer
    }

    /// Joins the flight for a path or starts it.
    fn board(
        &self,
        asked: Asked,
        mount: MountId,
        path: &str,
        ask: impl Future<Output = Answer> + Send + 'static,
    ) -> (Asked, Shared<Flight>) {
        let (view, mut shard) = self.locate(mount, path);
        let departed = shard.flights.get(&view as &dyn Named);
        let same = departed.filter(|departed| departed.asked.changes == asked.changes);
        if let Some((asked, flight)) = same.and_then(|it| Some((it.asked, it.flight.upgrade()?))) {
            self.figures.joined.fetch_add(1, Relaxed);
            shard.spared.count(mount);
            return (asked, flight);
        }
        self.figures.misses.fetch_add(1, Relaxed);
        let flight: Shared<Flight> = (Box::pin(ask) as Flight).shared();
        if let Some(weak) = flight.downgrade() {
            shard.flights.insert(view.to_key(), Departed { asked, flight: weak });
        }
        (asked, flight)
    }

    /// Records what a change of ours made of a path: `None` if only the store can say.
    pub(crate) fn changed(&self, mount: MountId, path: &str, found: Option<Found>, now_ms: u64) {
        let (view, mut shard) = self.locate(mount, path);
        shard.changes += 1;
        match found {
            Some(found) => {
                shard.entries.put(view.to_key(), Entry { found, asked_ms: now_ms });
            }
            None => {
                shard.entries.pop(&view as &dyn Named);
            }
        }
    }

    /// Records that anything at or under a path may have changed. It looks at every entry: for what is as rare and as
    /// dear as renaming or deleting a directory.
    pub(crate) fn changed_under(&self, mount: MountId, path: &str) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.changes += 1;
            if path.is_empty() {
                // The mount itself has gone, or is as new.
                shard.spared.0.retain(|(counted, _)| *counted != mount);
            }
            let gone: Vec<Key> = shard
                .entries
                .iter()
                .map(|(key, _)| key)
                .filter(|key| key.mount == mount && is_under(&key.path, path))
                .cloned()
                .collect();
            for key in gone {
                shard.entries.pop(&key);
            }
        }
    }

    /// Questions that the store of a mount was spared.
    pub(crate) fn spared(&self, mount: MountId) -> u64 {
        self.shards.iter().map(|shard| shard.lock().spared.of(mount)).sum()
    }

    /// Figures for the metrics.
    pub(crate) fn figures(&self) -> CacheFigures {
        let Figures { misses, joined } = &self.figures;
        let figures = CacheFigures { misses: misses.load(Relaxed), joined: joined.load(Relaxed), ..Default::default() };
        self.shards.iter().map(|shard| shard.lock()).fold(figures, |figures, shard| CacheFigures {
            hits: figures.hits + shard.hits,
            entries: figures.entries + shard.entries.len() as u64,
            ..figures
        })
    }

    fn locate<'a>(&self, mount: MountId, path: &'a str) -> (View<'a>, MutexGuard<'_, Shard>) {
        let view = self.view(mount, path);
        let shard = self.shards[view.shard()].lock();
        (view, shard)
    }

    fn view<'a>(&self, mount: MountId, path: &'a str) -> View<'a> {
        View { hash: self.hasher.hash_one((mount, path)), mount, path }
    }
}

impl Shard {
    /// Forgets the flight for a path once nobody waits for it any more.
    fn land(&mut self, view: &View<'_>) {
        let name = view as &dyn Named;
        if self.flights.get(name).is_some_and(|it| it.flight.upgrade().is_none_or(|flight| flight.peek().is_some())) {
            self.flights.remove(name);
        }
    }
}

fn is_under(path: &str, base: &str) -> bool {
    base.is_empty() || path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An owned name of a path. [`View`] is the same without its own copy; [`Named`] lets one find the other in a table.
#[derive(Clone)]
struct Key {
    hash: u64,
    mount: MountId,
    path: Arc<str>,
}

struct View<'a> {
    hash: u64,
    mount: MountId,
    path: &'a str,
}

impl View<'_> {
    /// By bits that the tables inside do not use: those take the lowest and the seven highest.
    fn shard(&self) -> usize {
        (self.hash >> 48) as usize % SHARDS
    }

    fn to_key(&self) -> Key {
        Key { hash: self.hash, mount: self.mount, path: Arc::from(self.path) }
    }
}

trait Named {
    fn parts(&self) -> (u64, MountId, &str);
}

impl Named for Key {
    fn parts(&self) -> (u64, MountId, &str) {
        (self.hash, self.mount, &self.path)
    }
}

impl Named for View<'_> {
    fn parts(&self) -> (u64, MountId, &str) {
        (self.hash, self.mount, self.path)
    }
}

impl Hash for dyn Named + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.parts().0);
    }
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Named + '_ {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Key {}

impl<'a> Borrow<dyn Named + 'a> for Key {
    fn borrow(&self) -> &(dyn Named + 'a) {
        self
    }
}

/// The hasher of names that are hashed already.
type Hashed = BuildHasherDefault<Given>;

/// Gives the hash that it was given.
#[derive(Default)]
struct Given(u64);

impl Hasher for Given {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a name gives its hash, and nothing else is hashed here");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use citius_wire::Status;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::Notify;

    const MOUNT: MountId = MountId(1);
    const MINUTE: SyncInterval = SyncInterval::Millis(60_000);

    fn directory(modified_ms: u64) -> Found {
        Found::Directory { modified_ms }
    }

    async fn ask(
        cache: &MetadataCache,
        path: &str,
        interval: SyncInterval,
        now_ms: u64,
        count: &Arc<AtomicUsize>,
    ) -> Found {
        let count = Arc::clone(count);
        let store = async move { Ok(directory(count.fetch_add(1, Relaxed) as u64)) };
        cache.get(MOUNT, path, interval, now_ms, store).await.unwrap()
    }

    /// The clock is the caller's: at the interval's end the store is asked again, before it not.
    #[tokio::test]
    async fn answers_are_believed_for_their_interval() {
        let (cache, asked) = (MetadataCache::new(1024), Arc::new(AtomicUsize::new(0)));
        assert_eq!(ask(&cache, "a", MINUTE, 1_000, &asked).await, directory(0));
        assert_eq!(ask(&cache, "a", MINUTE, 60_999, &asked).await, directory(0));
        assert_eq!(ask(&cache, "a", MINUTE, 61_000, &asked).await, directory(1));
        assert_eq!(ask(&cache, "a", SyncInterval::Never, 61_000, &asked).await, directory(2));
        assert_eq!(ask(&cache, "a", SyncInterval::ForEver, u64::MAX, &asked).await, directory(2));
        assert_eq!(asked.load(Relaxed), 3);
    }

    #[tokio::test]
    async fn what_is_not_there_is_remembered_and_a_failure_is_not() {
        let cache = MetadataCache::new(1024);
        cache.get(MOUNT, "a", MINUTE, 0, async { Ok(Found::Nothing) }).await.unwrap();
        assert_eq!(cache.fresh(MOUNT, "a", MINUTE, 1), Some(Found::Nothing));
        let failure = async { Err(Failure::new(Status::Unavailable, "down")) };
        cache.get(MOUNT, "b", MINUTE, 0, failure).await.unwrap_err();
        assert_eq!(cache.fresh(MOUNT, "b", MINUTE, 1), None);
    }

    #[tokio::test]
    async fn it_is_bounded() {
        let cache = MetadataCache::new(64);
        for i in 0..10_000_u64 {
            cache.changed(MOUNT, &format!("f{i}"), Some(directory(i)), 0);
        }
        assert!(cache.figures().entries <= 64, "{:?}", cache.figures());
        assert_eq!(cache.fresh(MOUNT, "f9999", MINUTE, 0), Some(directory(9_999)), "the last one is there");
    }

    /// A hundred callers, one request; and when it is over, nothing is left of it.
    #[tokio::test]
    async fn one_flight_for_many() {
        let cache = Arc::new(MetadataCache::new(1024));
        let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut callers = Vec::new();
        for _ in 0..100 {
            let (cache, asked, gate) = (Arc::clone(&cache), Arc::clone(&asked), Arc::clone(&gate));
            callers.push(tokio::spawn(async move {
                let store = async move {
                    asked.fetch_add(1, Relaxed);
                    gate.notified().await;
                    Ok(directory(7))
                };
                cache.get(MOUNT, "a", MINUTE, 0, store).await
            }));
        }
        while cache.figures().joined < 99 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Ok(directory(7)));
        }
        assert_eq!(asked.load(Relaxed), 1);
        assert_eq!(cache.spared(MOUNT), 99, "one store was asked for a hundred");
        assert!(cache.fresh(MOUNT, "a", MINUTE, 1).is_some());
        assert_eq!((cache.spared(MOUNT), cache.spared(MountId(MOUNT.0 + 1))), (100, 0));
        cache.changed_under(MOUNT, "");
        assert_eq!(cache.spared(MOUNT), 0);
        assert!(cache.shards.iter().all(|shard| shard.lock().flights.is_empty()));
    }

    /// A store asked before we deleted the file answers after it: that answer is neither kept nor joined.
    #[tokio::test]
    async fn an_answer_older_than_a_change_is_dropped() {
        let cache = Arc::new(MetadataCache::new(1024));
        let gate = Arc::new(Notify::new());
        let slow = {
            let (cache, gate) = (Arc::clone(&cache), Arc::clone(&gate));
            tokio::spawn(async move {
                let store = async move {
                    gate.notified().await;
                    Ok(directory(1))
                };
                cache.get(MOUNT, "a", MINUTE, 0, store).await
            })
        };
        while cache.figures().misses < 1 {
            tokio::task::yield_now().await;
        }
        cache.changed(MOUNT, "a", None, 5);
        let count = Arc::new(AtomicUsize::new(40));
        assert_eq!(ask(&cache, "a", MINUTE, 6, &count).await, directory(40), "a new flight left");
        gate.notify_one();
        assert_eq!(slow.await.unwrap(), Ok(directory(1)));
        assert_eq!(cache.fresh(MOUNT, "a", MINUTE, 7), Some(directory(40)));
    }

    #[tokio::test]
    async fn a_subtree_is_forgotten_and_its_neighbours_are_not() {
        let cache = MetadataCache::new(1024);
        for path in ["d", "d/a", "d/a/b", "dx", "e"] {
            cache.changed(MOUNT, path, Some(directory(1)), 0);
        }
        cache.changed(MountId(2), "d/a", Some(directory(1)), 0);
        cache.changed_under(MOUNT, "d");
        let kept = |mount, path| cache.fresh(mount, path, MINUTE, 0).is_some();
        assert!(!kept(MOUNT, "d") && !kept(MOUNT, "d/a") && !kept(MOUNT, "d/a/b"));
        assert!(kept(MOUNT, "dx") && kept(MOUNT, "e") && kept(MountId(2), "d/a"));
    }
}
