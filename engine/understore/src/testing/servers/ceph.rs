//! Ceph: a cluster of one monitor and one object store daemon, and its gateway, which speaks S3 and Swift.

use std::{io, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls, is_there},
    http::get,
    install::{Installed, install, scripts},
    ports::Ports,
    s3_bucket::{REGION, S3Bucket},
    server::{Processes, Server},
};
use crate::MountSpec;

const SWIFT_USER: &str = "citius:swift";

/// Where the object store daemon keeps its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CephStore {
    /// In its memory, as long as it runs.
    Memory,
    /// In files, as in earnest.
    Bluestore,
}

/// What a cluster is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Serves {
    Gateway,
    FileSystem,
}

/// The daemons below the gateway or the file system.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) guard: Guard,
    start: Command,
    /// The monitor's, for both of its protocols.
    _ports: Ports<2>,
    pub(super) folder: TempDir,
}

impl Cluster {
    pub(super) async fn start(store: CephStore, serves: Serves, keys: &[(&str, &str)]) -> io::Result<Self> {
        let folder = fresh::folder("ceph")?;
        let ports = Ports::<2>::take()?;
        let mut start = Command::new(scripts().join("ceph"));
        start.arg(folder.path()).args(ports.numbers().map(|port| port.to_string()));
        start.arg(match store {
            CephStore::Memory => "memstore",
            CephStore::Bluestore => "bluestore",
        });
        start.arg(match serves {
            Serves::Gateway => "rgw",
            Serves::FileSystem => "mds",
        });
        start.envs(keys.iter().copied());
        let guard = Guard::start(folder.path(), "cluster", Walls::PROCESSES, &start)?;
        let mut cluster = Self { guard, start, _ports: ports, folder };
        cluster.wait().await?;
        Ok(cluster)
    }

    pub(super) fn conf(&self) -> PathBuf {
        self.folder.path().join("ceph.conf")
    }

    pub(super) async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        std::fs::remove_file(self.folder.path().join("ready"))?;
        self.guard = Guard::start(self.folder.path(), "cluster", Walls::PROCESSES, &self.start)?;
        self.wait().await
    }

    pub(super) fn stop(mut self) -> io::Result<()> {
        self.guard.stop()
    }

    async fn wait(&mut self) -> io::Result<()> {
        let ready = self.folder.path().join("ready");
        self.guard.ready(async || is_there(&ready)).await
    }
}

/// A running Ceph with its gateway, and one bucket, which Swift calls a container.
///
/// With [`CephStore::Memory`] a restart is the gateway's alone; with [`CephStore::Bluestore`] every daemon is killed.
#[derive(Debug)]
pub struct CephGateway {
    // The gateway ends first, and the folder goes last.
    guard: Guard,
    cluster: Cluster,
    store: CephStore,
    installed: Installed,
    ports: Ports<1>,
    bucket: S3Bucket,
    swift_key: String,
}

impl CephGateway {
    /// Starts it, with users of its own.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start(store: CephStore) -> io::Result<Self> {
        let installed = install("ceph").await?;
        let (key, secret, swift_key) = (fresh::key()?, fresh::key()?, fresh::key()?);
        let keys = [
            ("CITIUS_TEST_S3_KEY", key.as_str()),
            ("CITIUS_TEST_S3_SECRET", &secret),
            ("CITIUS_TEST_SWIFT_KEY", &swift_key),
        ];
        let cluster = Cluster::start(store, Serves::Gateway, &keys).await?;
        let ports = Ports::take()?;
        let guard = launch(&cluster, ports[0])?;
        let bucket = S3Bucket { endpoint: format!("http://127.0.0.1:{}", ports[0]), region: REGION, key, secret };
        let mut gateway = Self { guard, cluster, store, installed, ports, bucket, swift_key };
        gateway.wait().await?;
        gateway.bucket.make().await?;
        Ok(gateway)
    }

    /// Its bucket, as S3 clients see it.
    pub fn s3(&self) -> &S3Bucket {
        &self.bucket
    }

    /// Where Swift clients log in, by version 1 of that protocol.
    pub fn swift_auth_url(&self) -> String {
        format!("http://127.0.0.1:{}/auth/v1.0", self.ports[0])
    }

    /// The Swift user and its key.
    pub fn swift_keys(&self) -> (&'static str, &str) {
        (SWIFT_USER, &self.swift_key)
    }

    /// Its bucket, as Swift clients call it.
    pub fn container(&self) -> &'static str {
        self.bucket.name()
    }

    /// A mount of the container, or of a prefix in it, by Swift's protocol.
    pub fn swift_mount(&self, prefix: &str) -> MountSpec {
        let (user, key) = self.swift_keys();
        MountSpec::new(format!("swift://{}/{prefix}", self.container()))
            .option("swift_auth_url", self.swift_auth_url())
            .option("swift_user", user)
            .option("swift_key", key)
            .option("swift_allow_http", "true")
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends it by SIGKILL and starts it again with the same port, keys and data.
    ///
    /// # Errors
    /// As [`CephGateway::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        if self.store == CephStore::Bluestore {
            self.cluster.restart().await?;
        }
        self.guard = launch(&self.cluster, self.ports[0])?;
        self.wait().await
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.guard.stop()?;
        self.cluster.stop()
    }

    async fn wait(&mut self) -> io::Result<()> {
        let endpoint = self.bucket.endpoint();
        self.guard.ready(async || get(endpoint).await).await?;
        Ok(())
    }
}

impl Server for CephGateway {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard, &self.cluster.guard])
    }
}

fn launch(cluster: &Cluster, port: u16) -> io::Result<Guard> {
    let mut command = Command::new("radosgw");
    command.args(["-f", "-n", "client.rgw", "-c"]).arg(cluster.conf());
    command.arg(format!("--rgw-frontends=beast endpoint=127.0.0.1:{port}"));
    command.arg(format!("--log-file={}", cluster.folder.path().join("gateway.log").display()));
    Guard::start(cluster.folder.path(), "gateway", Walls::PROCESSES, &command)
}
