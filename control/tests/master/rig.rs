//! A master in a home of its own, that can be stopped, killed and started again.

use crate::client::Client;
use citius_control::{Error, Master, MasterConfig};
use citius_understore::{MountSpec, StorePath, UnderStore};
use citius_wire::{Heartbeat, Incarnation, Member, Register, Registered, Token, WorkerId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const TOKEN: Token = Token([7; 32]);

pub(crate) struct Rig {
    pub(crate) home: TempDir,
    pub(crate) runtime: Option<Runtime>,
    pub(crate) master: Option<Master>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(configure: impl FnOnce(&mut MasterConfig)) -> Self {
        let mut rig = Self { home: tempfile::tempdir().unwrap(), runtime: None, master: None };
        rig.start(configure);
        rig
    }

    pub(crate) fn start(&mut self, configure: impl FnOnce(&mut MasterConfig)) {
        self.try_start(configure).unwrap();
    }

    /// Starts the master; a log that the last one has not let go of yet is waited for.
    pub(crate) fn try_start(&mut self, configure: impl FnOnce(&mut MasterConfig)) -> Result<(), Error> {
        let mut config = MasterConfig::new(self.home.path(), TOKEN);
        // The workers of most tests send no heartbeats, and machines that run tests are slow.
        config.heartbeats_missed_max = 3_600;
        configure(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let master = loop {
            match runtime.block_on(Master::start(config.clone())) {
                Err(Error::Log(citius_control::raft::Error::InUse { .. })) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => break other?,
            }
        };
        assert!(master.ready());
        (self.runtime, self.master) = (Some(runtime), Some(master));
        Ok(())
    }

    /// Stops as SIGTERM would.
    pub(crate) fn stop(&mut self) {
        let (runtime, master) = (self.runtime.take().unwrap(), self.master.take().unwrap());
        runtime.block_on(master.shutdown());
    }

    /// Stops as near to a crash as one process allows: nothing is finished, nobody is told.
    pub(crate) fn crash(&mut self) {
        drop(self.master.take());
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start(|_| {});
    }

    pub(crate) fn master(&self) -> &Master {
        self.master.as_ref().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        self.client_as(1)
    }

    pub(crate) fn client_as(&self, id: u8) -> Client {
        Client::connect(self.master().rpc_address(), &TOKEN, id).unwrap()
    }

    /// The folder that is mounted at `/`.
    pub(crate) fn root(&self) -> PathBuf {
        self.home.path().join("root")
    }

    /// The store that is mounted at `/`, for tests that play the worker.
    pub(crate) fn root_store(&self) -> Arc<dyn UnderStore> {
        citius_understore::open(&MountSpec::new(self.root().to_str().unwrap())).unwrap()
    }

    /// Names in the root folder that no listing shows.
    pub(crate) fn temporaries(&self) -> Vec<String> {
        let Ok(folder) = std::fs::read_dir(self.root().join(".citius-staging")) else { return Vec::new() };
        folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.runtime.is_some() {
            self.crash();
        }
    }
}

pub(crate) fn member(worker: u64, incarnation: u64) -> Member {
    Member {
        worker: WorkerId(worker),
        incarnation: Incarnation(incarnation),
        data_address: "127.0.0.1:1".into(),
        socket_path: String::new(),
        host: "here".into(),
        shards: 2,
        weight: 1 << 30,
    }
}

pub(crate) fn register(client: &mut Client, worker: u64, incarnation: u64) -> Registered {
    let member = member(worker, incarnation);
    client.ask(&Register { member, backing: "small".into(), memory_bytes: 1 << 30 }).unwrap()
}

pub(crate) fn beat(worker: u64, incarnation: u64) -> Heartbeat {
    Heartbeat {
        worker: WorkerId(worker),
        incarnation: Incarnation(incarnation),
        view_version: 0,
        task_done: 0,
        counters: Default::default(),
        traffic: vec![],
        dirty: vec![],
        leaving: false,
    }
}

/// Waits for something that another thread does; the bound is only there so that a failing test ends.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn store_path(path: &str) -> StorePath {
    StorePath::parse(path).unwrap()
}
