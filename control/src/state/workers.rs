//! Workers, the ring of those that live, and the rings of the past that still place a file.
//!
//! The epoch grows with every change of the live members. A ring of the past is kept as long as a file counts on it.

use super::files::{Publisher, any_owner};
use citius_wire::{Epoch, Failure, Member, Place, Ring, Status, WORKERS_MAX, WorkerId};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A worker that is or was in the ring.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Who and where, and in which life.
    pub member: Member,
    /// What its memory tier is made of, for people.
    pub backing: String,
    /// Bytes of its memory tier.
    pub memory_bytes: u64,
    /// Whether it is in the ring.
    pub live: bool,
    /// When it last joined or left.
    pub changed_ms: u64,
}

/// A ring, and who needs it.
struct Past {
    ring: Arc<Ring>,
    /// Files that it places.
    files: u64,
    /// Which of its members are gone, by their index; empty if none is.
    gone: Vec<bool>,
}

/// All workers and rings.
pub(super) struct Workers {
    workers: BTreeMap<WorkerId, Worker>,
    epoch: Epoch,
    /// Always holds `epoch`.
    rings: BTreeMap<Epoch, Past>,
}

impl Workers {
    /// Nobody, at epoch 0.
    pub(super) fn new() -> Self {
        let past = Past { ring: Arc::new(Ring::default()), files: 0, gone: Vec::new() };
        Self { workers: BTreeMap::new(), epoch: Epoch(0), rings: BTreeMap::from([(Epoch(0), past)]) }
    }

    pub(super) fn ring(&self) -> &Arc<Ring> {
        &self.rings[&self.epoch].ring
    }

    pub(super) fn ring_of(&self, epoch: Epoch) -> Option<&Arc<Ring>> {
        self.rings.get(&epoch).map(|past| &past.ring)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// Whether this life of the worker goes on.
    pub(super) fn is_live(&self, publisher: Publisher) -> bool {
        self.workers
            .get(&publisher.worker)
            .is_some_and(|worker| worker.live && worker.member.incarnation == publisher.incarnation)
    }

    /// Enters a worker, or the next life of one. Gives the life that this ends, if it does, and whether the ring
    /// changed.
    ///
    /// # Errors
    /// `InvalidArgument` for a worker without shards, `NoSpace` if the ring is full of live ones.
    pub(super) fn register(&mut self, mut worker: Worker) -> Result<(Option<Publisher>, bool), Failure> {
        assert!(worker.live, "who registers lives");
        let member = &worker.member;
        if member.shards == 0 {
            let text = format!("worker {} has no shards: start it with at least one", member.worker);
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        let before = self.workers.get(&member.worker);
        if before.is_none() && self.workers.len() == WORKERS_MAX {
            let gone = self.workers.values().filter(|worker| !worker.live);
            let Some(longest) = gone.min_by_key(|worker| (worker.changed_ms, worker.member.worker)) else {
                let text =
                    format!("the ring holds {WORKERS_MAX} workers, and no more: stop one before you add another");
                return Err(Failure::new(Status::NoSpace, text));
            };
            let longest = longest.member.worker;
            self.workers.remove(&longest);
        }
        let before = self.workers.get(&member.worker);
        let ended = before
            .filter(|worker| worker.live && worker.member.incarnation != member.incarnation)
            .map(|worker| Publisher { worker: member.worker, incarnation: worker.member.incarnation });
        let is_same = before.is_some_and(|worker| worker.live && worker.member == *member);
        if let Some(before) = before.filter(|_| is_same) {
            worker.changed_ms = before.changed_ms;
        }
        self.workers.insert(member.worker, worker);
        if !is_same {
            self.turn();
        }
        Ok((ended, !is_same))
    }

    /// Takes a worker out of the ring, if it is still in this life.
    pub(super) fn leave(&mut self, publisher: Publisher, now_ms: u64) -> bool {
        if !self.is_live(publisher) {
            return false;
        }
        if let Some(worker) = self.workers.get_mut(&publisher.worker) {
            worker.live = false;
            worker.changed_ms = now_ms;
        }
        self.turn();
        true
    }

    /// Counts a file on the present ring.
    pub(super) fn hold(&mut self) -> Epoch {
        self.rings.get_mut(&self.epoch).expect("the present ring is kept").files += 1;
        self.epoch
    }

    /// The file is gone.
    pub(super) fn release(&mut self, epoch: Epoch) {
        let past = self.rings.get_mut(&epoch).expect("a file's ring is kept");
        past.files -= 1;
        if past.files == 0 && epoch != self.epoch {
            self.rings.remove(&epoch);
        }
    }

    /// Whether a worker that owns one of the first `blocks` blocks is gone.
    pub(super) fn is_any_owner_gone(&self, epoch: Epoch, place: Place, blocks: u32) -> bool {
        let past = &self.rings[&epoch];
        !past.gone.is_empty() && any_owner(&past.ring, place, blocks, |member| past.gone[member])
    }

    /// Whether this life of a worker owns block 0, and so publishes the file.
    pub(super) fn is_publisher(&self, epoch: Epoch, place: Place, publisher: Publisher) -> bool {
        let ring = &self.rings[&epoch].ring;
        let owner = ring.owner(place, 0).map(|owner| &ring.members[owner.member]);
        owner.is_some_and(|member| member.worker == publisher.worker && member.incarnation == publisher.incarnation)
    }

    /// The next epoch.
    fn turn(&mut self) {
        let last = self.epoch;
        self.epoch = Epoch(last.0 + 1);
        let members = self.workers.values().filter(|worker| worker.live).map(|worker| worker.member.clone()).collect();
        let ring = Arc::new(Ring { epoch: self.epoch, members });
        self.rings.insert(self.epoch, Past { ring, files: 0, gone: Vec::new() });
        if self.rings[&last].files == 0 {
            self.rings.remove(&last);
        }
        self.mark_gone();
    }

    fn mark_gone(&mut self) {
        let mut rings = std::mem::take(&mut self.rings);
        for past in rings.values_mut() {
            past.gone = self.gone_of(&past.ring);
        }
        self.rings = rings;
    }

    fn gone_of(&self, ring: &Ring) -> Vec<bool> {
        let gone: Vec<bool> = ring
            .members
            .iter()
            .map(|member| !self.is_live(Publisher { worker: member.worker, incarnation: member.incarnation }))
            .collect();
        if gone.contains(&true) { gone } else { Vec::new() }
    }

    /// Rings with the number of files each places, oldest first.
    pub(super) fn rings(&self) -> impl Iterator<Item = (&Arc<Ring>, u64)> {
        self.rings.values().map(|past| (&past.ring, past.files))
    }

    /// Builds what was stored; files are counted as they come. `None` if it contradicts itself.
    pub(super) fn restore(workers: Vec<Worker>, rings: Vec<Ring>) -> Option<Self> {
        let epoch = rings.iter().map(|ring| ring.epoch).max()?;
        let past = |ring: Ring| (ring.epoch, Past { ring: Arc::new(ring), files: 0, gone: Vec::new() });
        let mut restored = Self {
            workers: workers.into_iter().map(|worker| (worker.member.worker, worker)).collect(),
            epoch,
            rings: rings.into_iter().map(past).collect(),
        };
        restored.mark_gone();
        Some(restored)
    }

    /// Counts a restored file on its ring; whether there is one.
    pub(super) fn hold_at(&mut self, epoch: Epoch) -> bool {
        match self.rings.get_mut(&epoch) {
            Some(past) => {
                past.files += 1;
                true
            }
            None => false,
        }
    }

    /// Checks that rings and workers agree.
    pub(super) fn validate(&self) {
        assert!(self.workers.len() <= WORKERS_MAX);
        assert_eq!(self.rings.last_key_value().map(|(epoch, _)| *epoch), Some(self.epoch), "the present is the last");
        let live = self.workers.values().filter(|worker| worker.live).map(|worker| &worker.member);
        assert!(self.ring().members.iter().eq(live), "the ring is of the live workers, by id");
        for (epoch, past) in &self.rings {
            assert_eq!(past.ring.epoch, *epoch);
            assert!(past.files > 0 || *epoch == self.epoch, "a ring that places nothing is forgotten");
            assert_eq!(past.gone, self.gone_of(&past.ring));
        }
    }
}
