//! Workers: they register, they are heard of, they leave or fall silent.

use std::time::{Duration, Instant};

use citius_wire::{
    ClusterView, DIRTY_FILES_MAX, Failure, FileKey, Heartbeat, HeartbeatReply, MountSecret, Register, Registered, Ring,
    Status, Work,
};

use super::Service;
use super::roster::TASK_NUMBER_MAX;
use crate::state::{Change, Fate, Publisher, State};

impl Service {
    /// A worker joins, or comes back in a new life.
    pub(crate) async fn register(&self, register: Register) -> Result<Registered, Failure> {
        self.check_lease()?;
        let Register { member, backing, memory_bytes } = register;
        let (worker, incarnation) = (member.worker, member.incarnation);
        if worker.0 == 0 {
            let words = "worker 0 is what masters call themselves: give the worker another id";
            return Err(Failure::new(Status::InvalidArgument, words));
        }
        // It is heard of from now on, so that the time of its registration does not count as silence.
        self.roster.enter(worker, incarnation, Instant::now());
        self.propose(None, Change::Register { member, backing, memory_bytes }).await?;
        self.chores.notify_one();
        tracing::info!(%worker, %incarnation, "a worker is in the ring");
        Ok(Registered { view: self.view(), heartbeat_ms: self.conduct.heartbeat_ms })
    }

    /// A worker says how it is, and gets what is new and what is to do.
    pub(crate) async fn heartbeat(&self, beat: Heartbeat) -> Result<HeartbeatReply, Failure> {
        self.check_lease()?;
        if beat.task_done > TASK_NUMBER_MAX || beat.dirty.len() > DIRTY_FILES_MAX {
            let words = format!("a heartbeat names at most {DIRTY_FILES_MAX} files and no task that cannot be");
            return Err(Failure::new(Status::InvalidArgument, words));
        }
        let publisher = Publisher { worker: beat.worker, incarnation: beat.incarnation };
        if !self.state(|state| state.is_live(publisher)) {
            let words = format!("worker {} is not in the ring in this life: register", beat.worker);
            return Err(Failure::new(Status::NotFound, words));
        }
        if beat.leaving {
            self.lose(publisher).await?;
            return Ok(HeartbeatReply { view: None, tasks: Vec::new() });
        }
        let works: Vec<Work> =
            self.state(|state| beat.dirty.iter().filter_map(|key| answer_dirty(state, *key)).collect());
        let tasks = self.roster.hear(&beat, works.into_iter(), Instant::now());
        let is_behind = self.state(|state| state.view_version() != beat.view_version);
        Ok(HeartbeatReply { view: is_behind.then(|| Box::new(self.view())), tasks })
    }

    /// Takes a worker out of the ring.
    async fn lose(&self, gone: Publisher) -> Result<(), Failure> {
        let Publisher { worker, incarnation } = gone;
        self.propose(None, Change::WorkerGone { worker, incarnation }).await?;
        self.chores.notify_one();
        tracing::info!(%worker, %incarnation, "a worker left the ring");
        Ok(())
    }

    /// Takes out of the ring who was not heard of for too long. A master that is new gives everybody time to find it.
    pub(crate) async fn lose_the_silent(&self) {
        let now = Instant::now();
        let patience =
            Duration::from_millis(u64::from(self.conduct.heartbeat_ms) * u64::from(self.conduct.heartbeats_missed_max));
        let live: Vec<Publisher> = self.state(|state| {
            let live = state.workers().filter(|worker| worker.live).map(|worker| &worker.member);
            live.map(|member| Publisher { worker: member.worker, incarnation: member.incarnation }).collect()
        });
        for worker in live {
            let heard = self.roster.last_heard(worker.worker, worker.incarnation, now);
            let silent = heard.map_or(now - self.started, |heard| heard.ago);
            if silent > patience {
                tracing::warn!(worker = %worker.worker, ?silent, "a worker was not heard of for too long");
                if let Err(failure) = self.lose(worker).await {
                    tracing::warn!(%failure, "a silent worker could not be taken out of the ring");
                }
            }
        }
        let known: hashbrown::HashSet<_> =
            self.state(|state| state.workers().map(|worker| worker.member.worker).collect());
        self.roster.retain(|worker| known.contains(&worker), now, patience);
    }

    /// What a worker must know to serve alone. It holds secrets, and goes to nobody else.
    fn view(&self) -> ClusterView {
        self.state(|state| ClusterView {
            version: state.view_version(),
            ring: Ring::clone(state.ring()),
            mounts: state
                .mounts()
                .map(|mount| MountSecret {
                    mount: mount.id,
                    uri: mount.uri.clone(),
                    options: mount.options.0.clone(),
                    read_only: mount.read_only,
                })
                .collect(),
            keys: state.keys().to_vec(),
        })
    }
}

/// What a worker is to do with an unpersisted file that it has held for long; nothing if the file is still what it was.
fn answer_dirty(state: &State, file: FileKey) -> Option<Work> {
    if state.file(file).is_some() {
        return None;
    }
    Some(match state.fate(file) {
        Some(Fate::Persisted(to)) => Work::Rekey { from: file, to },
        Some(Fate::Aborted(_)) | None => Work::Drop { file },
    })
}
