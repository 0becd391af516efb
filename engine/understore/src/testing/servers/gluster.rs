//! GlusterFS: one volume, mounted by its FUSE client.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Network, Walls, is_there},
    install::{Installed, install, scripts},
    server::{Processes, Server},
};

const REACHED_PATIENCE: Duration = Duration::from_secs(240);
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A running volume that is mounted. Needs root.
#[derive(Debug)]
pub struct Gluster {
    // The mount ends before its server, and the folder goes last.
    client: Guard,
    server: Guard,
    folder: TempDir,
    installed: Installed,
}

impl Gluster {
    /// Starts the server in a network of its own, because its ports are fixed, and mounts the volume from there.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let installed = install("gluster").await?;
        let folder = fresh::folder("gluster")?;
        let server = serve(folder.path(), Network::Own).await?;
        std::fs::create_dir(mount_of(&folder))?;
        let client = mount(&folder, &server).await?;
        let gluster = Self { client, server, folder, installed };
        gluster.reached().await?;
        Ok(gluster)
    }

    /// Where the volume is mounted.
    pub fn path(&self) -> PathBuf {
        mount_of(&self.folder)
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends the server by SIGKILL and starts it again with the same data; the volume stays mounted.
    ///
    /// # Errors
    /// As [`Gluster::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.server.end();
        self.server = serve(self.folder.path(), Network::Of(self.client.pid())).await?;
        self.reached().await
    }

    /// Ends the client that the volume is mounted by, by SIGKILL, and mounts it again.
    ///
    /// # Errors
    /// As [`Gluster::start`].
    pub async fn mount_again(&mut self) -> io::Result<()> {
        self.client.end();
        self.client = mount(&self.folder, &self.server).await?;
        self.reached().await
    }

    /// Unmounts the volume and ends the server.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.client.stop()?;
        self.server.stop()
    }

    /// Waits until the mount has found its server.
    async fn reached(&self) -> io::Result<()> {
        let deadline = Instant::now() + REACHED_PATIENCE;
        loop {
            let Err(error) = tokio::fs::read_dir(self.path()).await else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(error);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

impl Server for Gluster {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.server])
    }
}

fn mount_of(folder: &TempDir) -> PathBuf {
    folder.path().join("mount")
}

async fn mount(folder: &TempDir, server: &Guard) -> io::Result<Guard> {
    let mount = mount_of(folder);
    let mut command = Command::new("glusterfs");
    command.args(["--no-daemon", "--volfile-server=127.0.0.1", "--volfile-id=/citius", "--log-level=WARNING"]);
    command.arg(format!("--log-file={}", folder.path().join("client.log").display())).arg(&mount);
    let walls = Walls { network: Network::Of(server.pid()), mount: Some(&mount) };
    let mut client = Guard::start(folder.path(), "client", walls, &command)?;
    client.mounted(&mount).await?;
    Ok(client)
}

async fn serve(folder: &Path, network: Network) -> io::Result<Guard> {
    let mut command = Command::new(scripts().join("gluster"));
    command.arg(folder);
    let ready = folder.join("ready");
    match std::fs::remove_file(&ready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut server = Guard::start(folder, "server", Walls { network, mount: None }, &command)?;
    server.ready(async || is_there(&ready)).await?;
    Ok(server)
}
