//! Which connection leads to a block: rings by epoch, and the peers of their members.

use crate::config::{Local, RINGS_MAX};
use crate::peer::{Peer, Peers};
use crate::stream::Address;
use citius_wire::{Epoch, Member, Owner, Place, Ring, WorkerId};
use core::sync::atomic::{AtomicBool, Ordering};
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// One ring, with the way to each of its shards.
#[derive(Debug)]
pub(crate) struct Routes {
    ring: Ring,
    members: Vec<MemberRoutes>,
}

#[derive(Debug)]
struct MemberRoutes {
    /// Whether its Unix socket is to be used. Turned off for good when nobody listens there.
    is_local: AtomicBool,
    /// Whether a socket that cannot be reached may be replaced by TCP.
    may_go_remote: bool,
    unix: Box<[OnceLock<Arc<Peer>>]>,
    tcp: Box<[OnceLock<Arc<Peer>>]>,
}

impl Routes {
    pub(crate) fn new(ring: Ring, local: Local, host: &str) -> Self {
        let members = ring
            .members
            .iter()
            .map(|member| MemberRoutes {
                is_local: AtomicBool::new(match local {
                    Local::Never => false,
                    Local::Always => true,
                    Local::Auto => member.host == host && !member.socket_path.is_empty(),
                }),
                may_go_remote: local == Local::Auto,
                unix: shards_of(member),
                tcp: shards_of(member),
            })
            .collect();
        Self { ring, members }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.ring.epoch
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Who owns a block, or `None` if nobody lives.
    pub(crate) fn owner(&self, place: Place, index: u32) -> Option<Owner> {
        self.ring.owner(place, index)
    }

    /// A shard of a worker, if both are in this ring.
    pub(crate) fn shard(&self, worker: WorkerId, shard: u16) -> Option<Owner> {
        let member = self.ring.members.iter().position(|member| member.worker == worker)?;
        (shard < self.ring.members[member].shards).then_some(Owner { member, shard })
    }

    /// Every shard.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (WorkerId, u16)> + '_ {
        self.ring.members.iter().flat_map(|member| (0..member.shards).map(|shard| (member.worker, shard)))
    }

    /// Whether the owner is reached by its Unix socket.
    pub(crate) fn is_local(&self, owner: Owner) -> bool {
        self.members[owner.member].is_local.load(Ordering::Relaxed)
    }

    /// Where the owner listens.
    pub(crate) fn peer(&self, owner: Owner, peers: &Peers) -> Arc<Peer> {
        let (member, routes) = (&self.ring.members[owner.member], &self.members[owner.member]);
        let shard = usize::from(owner.shard);
        if self.is_local(owner) {
            let address = || peers.get(Address::Unix(member.socket_path.clone()), owner.shard);
            routes.unix[shard].get_or_init(address).clone()
        } else {
            let address = || peers.get(Address::Tcp(member.data_address.clone()), owner.shard);
            routes.tcp[shard].get_or_init(address).clone()
        }
    }

    /// Says that nobody listens on the owner's Unix socket. Whether there is another way.
    pub(crate) fn go_remote(&self, owner: Owner) -> bool {
        let member = &self.members[owner.member];
        member.may_go_remote && member.is_local.swap(false, Ordering::Relaxed)
    }
}

fn shards_of(member: &Member) -> Box<[OnceLock<Arc<Peer>>]> {
    (0..member.shards.max(1)).map(|_| OnceLock::new()).collect()
}

/// The newest ring, and those of past epochs that unpersisted files still name.
#[derive(Default)]
pub(crate) struct Rings {
    known: RwLock<VecDeque<Arc<Routes>>>,
}

impl Rings {
    /// The newest, if any is known.
    pub(crate) fn newest(&self) -> Option<Arc<Routes>> {
        self.known.read().back().cloned()
    }

    /// The ring of an epoch, if it is known.
    pub(crate) fn of_epoch(&self, epoch: Epoch) -> Option<Arc<Routes>> {
        self.known.read().iter().rev().find(|routes| routes.epoch() == epoch).cloned()
    }

    /// Adds a ring; at most [`RINGS_MAX`] are kept, and of each epoch the first, whose peers are known.
    pub(crate) fn adopt(&self, routes: Routes) -> Arc<Routes> {
        let mut known = self.known.write();
        match known.binary_search_by_key(&routes.epoch(), |routes| routes.epoch()) {
            Ok(at) => known[at].clone(),
            Err(at) => {
                let routes = Arc::new(routes);
                known.insert(at, routes.clone());
                if known.len() > RINGS_MAX {
                    known.pop_front();
                }
                routes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use citius_wire::Incarnation;

    fn ring(epoch: u64, host: &str, socket_path: &str) -> Ring {
        Ring {
            epoch: Epoch(epoch),
            members: vec![Member {
                worker: WorkerId(1),
                incarnation: Incarnation(1),
                data_address: "127.0.0.1:1".into(),
                socket_path: socket_path.into(),
                host: host.into(),
                shards: 2,
                weight: 1,
            }],
        }
    }

    #[test]
    fn who_is_local() {
        let owner = Owner { member: 0, shard: 1 };
        let peers = Peers::default();
        let local = |routes: &Routes| routes.peer(owner, &peers).is_unix();
        assert!(local(&Routes::new(ring(1, "here", "/s"), Local::Auto, "here")));
        assert!(!local(&Routes::new(ring(1, "there", "/s"), Local::Auto, "here")));
        assert!(!local(&Routes::new(ring(1, "here", ""), Local::Auto, "here")));
        assert!(!local(&Routes::new(ring(1, "here", "/s"), Local::Never, "here")));
        let always = Routes::new(ring(1, "there", "/s"), Local::Always, "here");
        assert!(local(&always) && !always.go_remote(owner) && local(&always));
        let auto = Routes::new(ring(1, "here", "/s"), Local::Auto, "here");
        assert!(auto.go_remote(owner) && !local(&auto));
    }

    #[test]
    fn rings_are_ordered_and_bounded() {
        let rings = Rings::default();
        for epoch in [5, 3, 9, 4] {
            rings.adopt(Routes::new(ring(epoch, "", ""), Local::Never, ""));
        }
        assert_eq!(rings.newest().unwrap().epoch(), Epoch(9));
        assert_eq!(rings.of_epoch(Epoch(4)).unwrap().epoch(), Epoch(4));
        assert!(rings.of_epoch(Epoch(7)).is_none());
        for epoch in 10..10 + RINGS_MAX as u64 {
            rings.adopt(Routes::new(ring(epoch, "", ""), Local::Never, ""));
        }
        assert!(rings.of_epoch(Epoch(9)).is_none());
        assert_eq!(rings.known.read().len(), RINGS_MAX);
    }
}
