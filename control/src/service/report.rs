//! What people are shown: the cluster and its mounts, without secrets.

use std::time::Instant;

use citius_wire::{
    BreakerState, ClusterId, ClusterInfo, Counters, Failure, MountId, MountInfo, MountTraffic, Status, WorkerInfo,
};

use super::mounts::Mounted;
use super::{RELEASE, Service, traffic};
use crate::sync::CacheFigures;

/// The URI of a mount without what must not be shown.
pub(crate) fn redacted_uri(uri: &str) -> String {
    citius_understore::redact(uri)
}

impl Service {
    /// All mounts.
    pub(crate) fn mount_infos(&self) -> Vec<MountInfo> {
        let traffic = self.roster.traffic();
        self.mounts.all().iter().map(|mounted| self.describe(mounted, traffic.get(&mounted.id))).collect()
    }

    /// One mount.
    pub(super) fn mount_info(&self, id: MountId) -> Result<MountInfo, Failure> {
        let mounted = self
            .mounts
            .get(id)
            .ok_or_else(|| Failure::new(Status::NotFound, format!("mount {id} was removed again")))?;
        Ok(self.describe(&mounted, self.roster.traffic().get(&id)))
    }

    /// The cluster.
    pub(crate) fn cluster_info(&self) -> ClusterInfo {
        let (cluster, epoch, inodes, workers) = self.state(|state| {
            let cluster = state.cluster().unwrap_or(ClusterId([0; 16]));
            (cluster, state.ring().epoch, state.inode_count() as u64, state.workers().cloned().collect::<Vec<_>>())
        });
        let now = Instant::now();
        let workers: Vec<WorkerInfo> = workers
            .into_iter()
            .map(|worker| {
                let (id, incarnation) = (worker.member.worker, worker.member.incarnation);
                let heard = self.roster.last_heard(id, incarnation, now);
                let seen = heard.map_or(now - self.started, |heard| heard.ago);
                let mut counters = heard.map_or_else(Counters::default, |heard| heard.counters);
                // Until its first heartbeat, what it registered with is all that is known.
                if counters.memory_capacity_bytes == 0 {
                    counters.memory_capacity_bytes = worker.memory_bytes;
                }
                WorkerInfo {
                    worker: id,
                    incarnation,
                    data_address: worker.member.data_address,
                    shards: worker.member.shards,
                    backing: worker.backing,
                    live: worker.live,
                    seen_ms_ago: millis(seen),
                    counters,
                }
            })
            .collect();
        let mounts = self.mount_infos();
        ClusterInfo {
            cluster,
            release: RELEASE.to_owned(),
            epoch,
            rpc_address: self.addresses.rpc.clone(),
            http_address: self.addresses.http.clone(),
            uptime_ms: millis(self.started.elapsed()),
            applied_index: self.raft.metrics().applied_next_index,
            inodes,
            warnings: self.warnings(&workers, &mounts),
            workers,
            mounts,
        }
    }

    fn warnings(&self, workers: &[WorkerInfo], mounts: &[MountInfo]) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Err(failure) = self.check_lease() {
            warnings.push(failure.message);
        }
        if !workers.iter().any(|worker| worker.live) {
            warnings.push("no worker is in the ring: nothing can be read or written; start `citius worker`".to_owned());
        }
        for mounted in self.mounts.all() {
            if mounted.open().is_none() {
                let reason = mounted.problem().unwrap_or_else(|| "it is being opened".to_owned());
                warnings.push(format!("the mount at {} is degraded, and is tried again: {reason}", mounted.path));
            }
        }
        for MountInfo { path, uri, traffic, .. } in mounts {
            if traffic.breaker != BreakerState::Closed {
                warnings.push(format!(
                    "the under-store of {path} ({uri}) does not answer and is asked only now and then, the last time with: \
                     {}; see whether it is up and can be reached",
                    traffic.breaker_reason
                ));
            }
        }
        let (intents, unsettled, remains) =
            self.state(|state| (state.intents().count(), state.unsettled().count(), state.remains().count()));
        if intents > 0 {
            warnings.push(format!("{intents} changes of names wait for their under-stores"));
        }
        if unsettled > 0 {
            warnings.push(format!("{unsettled} files are being published"));
        }
        if remains > 0 {
            warnings.push(format!("what {remains} aborted writes left in under-stores is still to be cleaned"));
        }
        warnings
    }

    /// Figures of the metadata cache.
    pub(crate) fn cache_figures(&self) -> CacheFigures {
        self.cache.figures()
    }

    /// Tasks that wait for workers.
    pub(crate) fn tasks_waiting(&self) -> u64 {
        self.roster.tasks_waiting()
    }

    fn describe(&self, mounted: &Mounted, of_workers: Option<&MountTraffic>) -> MountInfo {
        let mut traffic = match mounted.open() {
            Some(store) => traffic::of_mount(mounted.id, store.traffic().totals()),
            None => MountTraffic { mount: mounted.id, ..MountTraffic::default() },
        };
        traffic.saved_requests += self.cache.spared(mounted.id);
        if let Some(of_workers) = of_workers {
            traffic.add(of_workers);
        }
        MountInfo {
            mount: mounted.id,
            path: mounted.path.as_str().to_owned(),
            uri: mounted.uri_shown.clone(),
            options: mounted.options_shown.clone(),
            read_only: mounted.read_only,
            sync_interval_ms: mounted.sync_interval_ms,
            traffic: Box::new(traffic),
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
