//! CephFS: a cluster with a metadata server, mounted by its FUSE client.

use std::{io, path::PathBuf, process::Command};

use super::{
    ceph::{CephStore, Cluster, Serves},
    guard::{Guard, Network, Walls},
    install::{Installed, install},
    server::{Processes, Server},
};

/// A running CephFS that is mounted. Needs root.
#[derive(Debug)]
pub struct CephFs {
    // The mount ends before its cluster.
    client: Guard,
    cluster: Cluster,
    installed: Installed,
}

impl CephFs {
    /// Starts the cluster and mounts its file system.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start(store: CephStore) -> io::Result<Self> {
        let installed = install("cephfs").await?;
        let cluster = Cluster::start(store, Serves::FileSystem, &[]).await?;
        let mount = mount_of(&cluster);
        std::fs::create_dir(&mount)?;
        let mut command = Command::new("ceph-fuse");
        command.args(["-f", "--id", "admin", "--client_mountpoint=/", "-c"]).arg(cluster.conf()).arg(&mount);
        let walls = Walls { network: Network::Machine, mount: Some(&mount) };
        let mut client = Guard::start(cluster.folder.path(), "client", walls, &command)?;
        client.mounted(&mount).await?;
        Ok(Self { client, cluster, installed })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        mount_of(&self.cluster)
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends every daemon by SIGKILL and starts them again; it stays mounted. Only what is on [`CephStore::Bluestore`] is
    /// there again.
    ///
    /// # Errors
    /// As [`CephFs::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.cluster.restart().await
    }

    /// Unmounts it and ends the cluster.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.client.stop()?;
        self.cluster.stop()
    }
}

impl Server for CephFs {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.cluster.guard])
    }
}

fn mount_of(cluster: &Cluster) -> PathBuf {
    cluster.folder.path().join("mount")
}
