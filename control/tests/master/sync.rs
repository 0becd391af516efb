//! How long metadata of an under-store is believed, counted in requests to the store.

use crate::rig::{Rig, store_path};
use citius_understore::{Condition, FileId, MountSpec, UnderStore};
use std::sync::Arc;

struct Watched {
    rig: Rig,
    store: Arc<dyn UnderStore>,
}

impl Watched {
    /// A store in memory with one file, mounted at `/m`.
    fn new(name: &str, interval: i64) -> Self {
        let rig = Rig::new();
        let uri = format!("memory://sync-{name}");
        let store = citius_understore::open(&MountSpec::new(&uri)).unwrap();
        let watched = Self { rig, store };
        watched.put("a", 1, b"first");
        watched.rig.client().mount("/m", &uri, Some(interval)).unwrap();
        watched
    }

    fn put(&self, path: &str, id: u8, content: &'static [u8]) {
        self.rig.runtime.as_ref().unwrap().block_on(async {
            let mut staged = self.store.stage(&store_path(path), FileId([id; 16]), None).await.unwrap();
            staged.write(content.into()).await.unwrap();
            staged.seal().await.unwrap();
            staged.publish(&Condition::Any).await.unwrap();
        });
    }

    fn requests(&self) -> u64 {
        self.store.traffic().totals().requests
    }
}

#[test]
fn minus_one_asks_once() {
    let watched = Watched::new("for-ever", -1);
    let mut client = watched.rig.client();
    let first = client.stat("/m/a").unwrap();
    let requests = watched.requests();
    watched.put("a", 2, b"second one");
    let of_put = watched.requests() - requests;
    assert_eq!(client.stat("/m/a").unwrap(), first, "believed for ever");
    assert_eq!(client.open("/m/a").unwrap().info, first);
    assert_eq!(watched.requests(), requests + of_put, "and not asked again");
    // That nothing is there is believed too, until we make something there.
    assert!(!client.is_there("/m/d") && !client.is_there("/m/d"));
    assert_eq!(watched.requests(), requests + of_put + 1);
    client.mkdir("/m/d", false).unwrap();
    assert!(client.is_there("/m/d"));
    client.delete("/m/d", false).unwrap();
    assert!(!client.is_there("/m/d"));
    client.rename("/m/a", "/m/b", false).unwrap();
    assert_eq!((client.is_there("/m/a"), client.stat("/m/b").unwrap().length), (false, 10));
}

#[test]
fn zero_always_asks() {
    let watched = Watched::new("never", 0);
    let mut client = watched.rig.client();
    let requests = watched.requests();
    let first = client.stat("/m/a").unwrap();
    client.stat("/m/a").unwrap();
    assert_eq!(watched.requests(), requests + 2);
    watched.put("a", 2, b"other");
    let second = client.stat("/m/a").unwrap();
    assert_eq!(second.length, first.length);
    assert_ne!(second.version, first.version);
}

#[test]
fn a_listing_answers_the_stats_that_follow() {
    let watched = Watched::new("listing", 60_000);
    watched.put("b", 2, b"b");
    let mut client = watched.rig.client();
    let entries = client.list("/m").unwrap();
    let requests = watched.requests();
    for entry in &entries {
        assert_eq!(client.stat(&format!("/m/{}", entry.path)).unwrap().version, entry.version);
    }
    assert_eq!((entries.len(), watched.requests()), (2, requests));
}

#[test]
fn a_time_passes() {
    let watched = Watched::new("time", 150);
    let mut client = watched.rig.client();
    let first = client.stat("/m/a").unwrap();
    watched.put("a", 2, b"second");
    crate::rig::eventually("the new version is seen", || client.stat("/m/a").unwrap().version != first.version);
}
