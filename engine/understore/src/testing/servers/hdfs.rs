//! HDFS: a name node and a data node in one process, Hadoop's own `MiniDFSCluster`.

use std::{io, path::PathBuf, process::Command};

use bytes::Bytes;
use http::Request;
use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls, is_there},
    http::call,
    install::{Installed, install},
    ports::Ports,
    server::{Processes, Server},
};

const FOLDER: &str = "/citius-test";
const USER: &str = "citius";
/// Who the name node runs as, whose folder all others lie in.
const SUPERUSER: &str = "hdfs";
const HEAP_MIB_MAX: u32 = 384;

/// A running HDFS with one data node, and a folder of one user.
#[derive(Debug)]
pub struct Hdfs {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    /// The name node's, and its web server's.
    ports: Ports<2>,
}

impl Hdfs {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let installed = install("hdfs").await?;
        let folder = fresh::folder("hdfs")?;
        let ports = Ports::take()?;
        let guard = launch(&installed, &folder, &ports, true)?;
        let mut hdfs = Self { guard, folder, installed, ports };
        hdfs.wait().await?;
        Ok(hdfs)
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
        self.guard = launch(&self.installed, &self.folder, &self.ports, false)?;
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
        let make = format!("{}{FOLDER}?op=MKDIRS&user.name={SUPERUSER}", self.web());
        let give = format!("{}{FOLDER}?op=SETOWNER&owner={USER}&user.name={SUPERUSER}", self.web());
        self.guard
            .ready(async || {
                is_there(&details)?;
                put(&make).await?;
                put(&give).await
            })
            .await
    }
}

impl Server for Hdfs {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard])
    }
}

async fn put(uri: &str) -> io::Result<()> {
    let answer = call(Request::put(uri).body(Bytes::new()).map_err(io::Error::other)?).await?;
    if answer.status().is_success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(answer.body()).into_owned();
    Err(io::Error::other(format!("{uri} is answered by {}: {why}", answer.status())))
}

/// Written when all of the cluster is up.
fn details_of(folder: &TempDir) -> PathBuf {
    folder.path().join("details.json")
}

fn launch(installed: &Installed, folder: &TempDir, ports: &Ports<2>, format: bool) -> io::Result<Guard> {
    let [name_port, web_port] = ports.numbers().map(|port| port.to_string());
    let details = details_of(folder);
    match std::fs::remove_file(&details) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let data = folder.path().join("data");
    let mut command = Command::new("java");
    command
        .arg(format!("-Xmx{HEAP_MIB_MAX}m"))
        // Its life is shorter than what the second compiler's work would save.
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"])
        // WebHDFS reaches into what Java 17 has closed; Hadoop's own scripts open it too.
        .args(["--add-opens", "java.base/java.lang=ALL-UNNAMED"])
        .arg(format!("-Dlog4j.configuration=file:{}", installed.folder.join("log4j.properties").display()))
        // Else its web servers, and Java itself, leave folders beside everybody's temporary files.
        .args([format!("-Djava.io.tmpdir={}", folder.path().display()), "-XX:-UsePerfData".to_owned()])
        .arg(format!("-DHADOOP_USER_NAME={SUPERUSER}"))
        .arg("-cp")
        .arg(installed.folder.join("jars/*"))
        .arg("org.apache.hadoop.test.MiniDFSClusterManager")
        .arg(format!("-Dhdfs.minidfs.basedir={}", data.display()))
        .args(["-datanodes", "1", "-nnport", &name_port, "-httpport", &web_port, "-writeDetails"])
        .arg(details);
    if format {
        command.arg("-format");
    }
    Guard::start(folder.path(), "hdfs", Walls::PROCESSES, &command)
}
