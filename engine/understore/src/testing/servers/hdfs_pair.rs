//! HDFS with two name nodes, of which one is active at a time: they share a folder of edits, and who is active is said
//! by hand, as `hdfs haadmin` does it.

use std::{fs, io, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls},
    hadoop::{FOLDER, USER, configure, java, make_folder, says},
    install::{Installed, install},
    ports::Ports,
    server::{Processes, Server},
};

/// What clients call the two together.
const NAME_SERVICE: &str = "citius-pair";
/// What the data node is called: another address of this machine, so that a test can stand between it and clients.
const DATA_NODE_NAME: &str = "127.0.0.2";
const HEAP_MIB_MAX: u32 = 192;

/// One of the two. Clients ask the first before the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameNode {
    /// `a`
    First,
    /// `b`
    Second,
}

impl NameNode {
    const ALL: [Self; 2] = [Self::First, Self::Second];

    /// Its name in the settings.
    fn id(self) -> &'static str {
        match self {
            Self::First => "a",
            Self::Second => "b",
        }
    }
}

/// A running HDFS of two name nodes and one data node, with a folder of one user.
#[derive(Debug)]
pub struct HdfsPair {
    name_nodes: [Guard; 2],
    data_node: Guard,
    folder: TempDir,
    installed: Installed,
    /// Of each name node, of the web server of each, and of the data node.
    ports: Ports<5>,
}

impl HdfsPair {
    /// Starts it, and makes one of the name nodes active. The other is standby.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of a log.
    pub async fn start(active: NameNode) -> io::Result<Self> {
        let installed = install("hdfs").await?;
        let folder = fresh::folder("hdfs-pair")?;
        let ports = Ports::take()?;
        configure(&folder.path().join("conf"), &settings(&folder, &ports))?;
        format(&installed, &folder).await?;
        let name_node = |which| launch_name_node(&installed, &folder, which);
        let name_nodes = [name_node(NameNode::First)?, name_node(NameNode::Second)?];
        let mut command = java(&installed, folder.path(), HEAP_MIB_MAX);
        command.arg("org.apache.hadoop.hdfs.server.datanode.DataNode");
        let data_node = Guard::start(folder.path(), "data", Walls::PROCESSES, &command)?;
        let mut pair = Self { name_nodes, data_node, folder, installed, ports };
        for which in NameNode::ALL {
            pair.stands_by(which).await?;
        }
        pair.activate(active).await?;
        let web = pair.web(active);
        pair.name_nodes[active as usize].ready(async || make_folder(&web).await).await?;
        Ok(pair)
    }

    /// The name service with the folder that was made.
    pub fn uri(&self) -> String {
        format!("hdfs://{NAME_SERVICE}{FOLDER}")
    }

    /// Where `core-site.xml` and `hdfs-site.xml` are, which say what the name service is.
    pub fn conf_dir(&self) -> PathBuf {
        self.folder.path().join("conf")
    }

    /// Where the data node takes content and gives it.
    pub fn data_node(&self) -> String {
        format!("127.0.0.1:{}", self.ports[4])
    }

    /// The same for clients that go by its name (`dfs.client.use.datanode.hostname`), where nobody listens unless a test does.
    pub fn data_node_by_name(&self) -> String {
        format!("{DATA_NODE_NAME}:{}", self.ports[4])
    }

    /// Whose folder it is. Nobody asks for a password.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends a name node by SIGKILL.
    pub fn kill(&mut self, which: NameNode) {
        self.name_nodes[which as usize].end();
    }

    /// Starts a name node that was killed, which then is standby.
    ///
    /// # Errors
    /// As [`HdfsPair::start`].
    pub async fn revive(&mut self, which: NameNode) -> io::Result<()> {
        self.name_nodes[which as usize] = launch_name_node(&self.installed, &self.folder, which)?;
        self.stands_by(which).await
    }

    /// Makes a name node active, and waits until it answers for its data node too. The other must be standby or dead.
    ///
    /// # Errors
    /// When it refuses, with what it says.
    pub async fn activate(&mut self, which: NameNode) -> io::Result<()> {
        let mut command = java(&self.installed, self.folder.path(), HEAP_MIB_MAX);
        command.arg("org.apache.hadoop.hdfs.tools.DFSHAAdmin").args([
            "-ns",
            NAME_SERVICE,
            "-transitionToActive",
            "--forceactive",
            which.id(),
        ]);
        run(command).await?;
        let web = self.web(which);
        let probe = async || {
            says(&web, "NameNodeStatus", "\"State\" : \"active\"").await?;
            says(&web, "NameNodeInfo", "\"Safemode\" : \"\"").await?;
            says(&web, "FSNamesystemState", "\"NumLiveDataNodes\" : 1").await
        };
        self.name_nodes[which as usize].ready(probe).await
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.name_nodes.iter_mut().chain([&mut self.data_node]).try_for_each(Guard::stop)
    }

    fn web(&self, which: NameNode) -> String {
        format!("http://127.0.0.1:{}", self.ports[2 + which as usize])
    }

    async fn stands_by(&mut self, which: NameNode) -> io::Result<()> {
        let web = self.web(which);
        let probe = async || says(&web, "NameNodeStatus", "\"State\" : \"standby\"").await;
        self.name_nodes[which as usize].ready(probe).await
    }
}

impl Server for HdfsPair {
    fn processes(&self) -> Processes<'_> {
        Processes(self.name_nodes.iter().chain([&self.data_node]).collect())
    }
}

fn settings(folder: &TempDir, ports: &Ports<5>) -> Vec<(&'static str, String)> {
    let at = |port: usize| format!("127.0.0.1:{}", ports[port]);
    let dir = |name: &str| format!("file://{}/{name}", folder.path().display());
    let any_port = || "127.0.0.1:0".to_owned();
    vec![
        ("fs.defaultFS", format!("hdfs://{NAME_SERVICE}")),
        ("dfs.nameservices", NAME_SERVICE.into()),
        ("dfs.ha.namenodes.citius-pair", "a,b".into()),
        ("dfs.namenode.rpc-address.citius-pair.a", at(0)),
        ("dfs.namenode.rpc-address.citius-pair.b", at(1)),
        ("dfs.namenode.http-address.citius-pair.a", at(2)),
        ("dfs.namenode.http-address.citius-pair.b", at(3)),
        ("dfs.namenode.name.dir.citius-pair.a", dir("a")),
        ("dfs.namenode.name.dir.citius-pair.b", dir("b")),
        ("dfs.namenode.shared.edits.dir", dir("edits")),
        ("dfs.datanode.data.dir", dir("blocks")),
        ("dfs.datanode.address", at(4)),
        ("dfs.datanode.hostname", DATA_NODE_NAME.into()),
        ("dfs.datanode.http.address", any_port()),
        ("dfs.datanode.ipc.address", any_port()),
        (
            "dfs.client.failover.proxy.provider.citius-pair",
            "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider".into(),
        ),
        ("dfs.replication", "1".into()),
        // Checkpoints would be written for a restart that no test waits for.
        ("dfs.ha.standby.checkpoints", "false".into()),
        ("dfs.namenode.safemode.extension", "0".into()),
        // A name node that has just become active hears of its data node at once.
        ("dfs.heartbeat.interval", "1s".into()),
    ]
}

/// Makes the first name node's state, and a copy of it for the second.
async fn format(installed: &Installed, folder: &TempDir) -> io::Result<()> {
    let mut command = name_node(installed, folder, NameNode::First);
    command.args(["-format", "-nonInteractive"]);
    run(command).await?;
    let [first, second] = NameNode::ALL.map(|which| folder.path().join(which.id()).join("current"));
    fs::create_dir_all(&second)?;
    for file in fs::read_dir(first)? {
        let file = file?;
        fs::copy(file.path(), second.join(file.file_name()))?;
    }
    Ok(())
}

fn name_node(installed: &Installed, folder: &TempDir, which: NameNode) -> Command {
    let mut command = java(installed, folder.path(), HEAP_MIB_MAX);
    command
        .arg("org.apache.hadoop.hdfs.server.namenode.NameNode")
        // Both have the same address, by which it else finds out.
        .arg(format!("-Ddfs.ha.namenode.id={}", which.id()));
    command
}

fn launch_name_node(installed: &Installed, folder: &TempDir, which: NameNode) -> io::Result<Guard> {
    Guard::start(folder.path(), which.id(), Walls::PROCESSES, &name_node(installed, folder, which))
}

/// Runs what ends by itself.
async fn run(mut command: Command) -> io::Result<()> {
    let ended = tokio::task::spawn_blocking(move || fresh::made_by(&mut command).map(drop));
    ended.await.map_err(io::Error::other)?
}
