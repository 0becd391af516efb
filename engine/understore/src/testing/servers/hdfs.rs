//! HDFS: a name node and a data node in one process, Hadoop's own `MiniDFSCluster`. With Kerberos, if that is
//! asked for.

use std::{
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls, is_there},
    hadoop::{FOLDER, USER, configure, java, make_folder},
    install::{Installed, install},
    kdc::Kdc,
    ports::Ports,
    server::{Processes, Server},
};

/// As whom name node and data node are known to Kerberos.
const SERVICE: &str = "hdfs/localhost";
const HEAP_MIB_MAX: u32 = 384;

/// What a cluster with Kerberos does with its calls and with the content of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// It knows who sends them.
    Authentication,
    /// And that nobody has changed them.
    Integrity,
    /// And that nobody else reads them.
    Privacy,
}

/// A running HDFS with one data node, and a folder of one user.
#[derive(Debug)]
pub struct Hdfs {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    /// The name node's, and its web server's.
    ports: Ports<2>,
    /// The file that names the Kerberos realm whose tickets it wants.
    realm: Option<PathBuf>,
}

impl Hdfs {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let installed = install("hdfs").await?;
        let folder = fresh::folder("hdfs")?;
        configure(&conf_of(&folder), &[])?;
        Self::launch_first(installed, folder, None).await
    }

    /// Starts one that wants tickets of a Kerberos realm.
    ///
    /// # Errors
    /// As [`Hdfs::start`].
    pub async fn start_secure(kdc: &Kdc, protection: Protection) -> io::Result<Self> {
        let installed = install("hdfs").await?;
        let folder = fresh::folder("hdfs")?;
        let (server, keytab) = (kdc.principal(SERVICE), kdc.keytab(SERVICE)?.display().to_string());
        let protection = match protection {
            Protection::Authentication => "authentication",
            Protection::Integrity => "integrity",
            Protection::Privacy => "privacy",
        };
        let settings = [
            ("hadoop.security.authentication", "kerberos"),
            ("hadoop.rpc.protection", protection),
            ("dfs.data.transfer.protection", protection),
            ("dfs.block.access.token.enable", "true"),
            ("dfs.namenode.kerberos.principal", &server),
            ("dfs.namenode.keytab.file", &keytab),
            ("dfs.datanode.kerberos.principal", &server),
            ("dfs.datanode.keytab.file", &keytab),
            // Else a data node must listen where only root may, or have certificates.
            ("ignore.secure.ports.for.testing", "true"),
        ];
        configure(&conf_of(&folder), &settings.map(|(name, value)| (name, value.to_owned())))?;
        Self::launch_first(installed, folder, Some(kdc.config())).await
    }

    async fn launch_first(installed: Installed, folder: TempDir, realm: Option<PathBuf>) -> io::Result<Self> {
        let ports = Ports::take()?;
        let guard = launch(&installed, &folder, &ports, realm.as_deref(), true)?;
        let mut hdfs = Self { guard, folder, installed, ports, realm };
        hdfs.wait().await?;
        Ok(hdfs)
    }

    /// Where `core-site.xml` and `hdfs-site.xml` are.
    pub fn conf_dir(&self) -> PathBuf {
        conf_of(&self.folder)
    }

    /// The name node, for clients of Hadoop's own protocol.
    pub fn name_node(&self) -> String {
        format!("hdfs://127.0.0.1:{}", self.ports[0])
    }

    /// The name node, for WebHDFS: a path and its query follow.
    pub fn web(&self) -> String {
        format!("http://127.0.0.1:{}/webhdfs/v1", self.ports[1])
    }

    /// The folder that was made; an absolute path.
    pub fn folder(&self) -> &'static str {
        FOLDER
    }

    /// Whose folder it is. Nobody asks for a password.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends it by SIGKILL and starts it again with the same data and the name node's same ports.
    ///
    /// # Errors
    /// As [`Hdfs::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        self.guard = launch(&self.installed, &self.folder, &self.ports, self.realm.as_deref(), false)?;
        self.wait().await
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.guard.stop()
    }

    /// Waits until it changes its names: a name node that has just started is in safe mode.
    async fn wait(&mut self) -> io::Result<()> {
        let details = details_of(&self.folder);
        let web = format!("http://127.0.0.1:{}", self.ports[1]);
        self.guard
            .ready(async || {
                is_there(&details)?;
                make_folder(&web).await
            })
            .await
    }
}

impl Server for Hdfs {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard])
    }
}

/// Written when all of the cluster is up.
fn details_of(folder: &TempDir) -> PathBuf {
    folder.path().join("details.json")
}

fn conf_of(folder: &TempDir) -> PathBuf {
    folder.path().join("conf")
}

fn launch(
    installed: &Installed,
    folder: &TempDir,
    ports: &Ports<2>,
    realm: Option<&Path>,
    format: bool,
) -> io::Result<Guard> {
    let [name_port, web_port] = ports.numbers().map(|port| port.to_string());
    let details = details_of(folder);
    match std::fs::remove_file(&details) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let data = folder.path().join("data");
    let mut command = java(installed, folder.path(), HEAP_MIB_MAX);
    if let Some(realm) = realm {
        command.arg(format!("-Djava.security.krb5.conf={}", realm.display()));
    }
    command
        .arg("org.apache.hadoop.test.MiniDFSClusterManager")
        .arg(format!("-Dhdfs.minidfs.basedir={}", data.display()))
        .args(["-datanodes", "1", "-nnport", &name_port, "-httpport", &web_port, "-writeDetails"])
        .arg(details);
    if format {
        command.arg("-format");
    }
    Guard::start(folder.path(), "hdfs", Walls::PROCESSES, &command)
}
