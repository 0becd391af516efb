//! A process of a server, and everything that it starts.
//!
//! It runs in a process namespace of its own under `ci/servers/guard`, which holds the other end of a socket. Dropping the
//! [`Guard`] ends all of it, with SIGKILL; so does the death of this process, which closes the socket. A parent-death
//! signal would not do: it is sent when the *thread* that started the server ends.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::MetadataExt,
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use super::install::scripts;

/// Every process under a guard has this in its environment, with the guard's log for a value.
const MARK: &str = "CITIUS_TEST_SERVER";
/// Of a machine that does much else at the same time; a server that ends is told at once.
const READY_PATIENCE: Duration = Duration::from_secs(240);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// A probe may hang in a server that accepts and does not answer yet.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
const END_PATIENCE: Duration = Duration::from_secs(20);
const LOG_LINES_SHOWN: usize = 20;

/// The network that a server sees.
#[derive(Debug, Clone, Copy)]
pub(super) enum Network {
    /// That of this machine.
    Machine,
    /// A loopback interface of its own, for servers whose ports are fixed.
    Own,
    /// That of another server, by its process id.
    Of(u32),
}

/// How a process is kept apart from the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walls<'a> {
    pub(super) network: Network,
    /// Where it mounts a file system for others. All other servers have mounts of their own, with the `/proc` of their
    /// namespace: that of the machine knows their threads by other numbers, which ends Ceph's gateway.
    pub(super) mount: Option<&'a Path>,
}

impl Walls<'_> {
    /// Processes and mounts are its own, the network is the machine's.
    pub(super) const PROCESSES: Self = Walls { network: Network::Machine, mount: None };
}

/// A running process of a server.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    /// To `ci/servers/guard`, until it ends.
    orders: Option<UnixStream>,
    log: PathBuf,
}

impl Guard {
    /// Starts a command whose output goes to `NAME.log` in the folder.
    pub(super) fn start(folder: &Path, name: &str, walls: Walls<'_>, command: &Command) -> io::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut guarded = entering(walls.network);
        if !rustix::process::geteuid().is_root() {
            // Namespaces are root's, or of a user namespace of one's own.
            guarded.args(["--user", "--map-current-user"]);
        }
        if walls.mount.is_none() {
            guarded.arg("--mount-proc");
        }
        let (orders, ear) = UnixStream::pair()?;
        orders.set_read_timeout(Some(ANSWER_PATIENCE))?;
        guarded
            .args(["--fork", "--pid", "--kill-child", "--"])
            .arg(scripts().join("guard"))
            .arg(folder)
            .arg(walls.mount.unwrap_or(Path::new("")))
            .arg(command.get_program())
            .args(command.get_args())
            .env(MARK, &log)
            // A signal to the test's group, as an interrupt from a terminal is one, would end the server by itself, whose
            // folder is then its owner's to remove, and the owner has ended too.
            .process_group(0)
            .stdin(OwnedFd::from(ear))
            .stdout(output.try_clone()?)
            .stderr(output)
            .current_dir(folder);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(name, value),
                None => guarded.env_remove(name),
            };
        }
        let child = guarded.spawn()?;
        Ok(Self { child, orders: Some(orders), log })
    }

    /// The process id that ends all of it when it is killed.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Probes until the probe succeeds, the server ends or patience does.
    pub(super) async fn ready<T>(&mut self, mut probe: impl AsyncFnMut() -> io::Result<T>) -> io::Result<T> {
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            let error = match tokio::time::timeout(PROBE_PATIENCE, probe()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => io::Error::other("it does not answer"),
            };
            if let Some(status) = self.child.try_wait()? {
                let how = status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}"));
                return Err(io::Error::other(format!("the server ended with {how}; its log:\n{}", self.log_tail())));
            }
            if Instant::now() > deadline {
                let text = format!("the server is not ready: {error}; its log:\n{}", self.log_tail());
                return Err(io::Error::other(text));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Waits until it has mounted a file system here.
    pub(super) async fn mounted(&mut self, mount: &Path) -> io::Result<()> {
        let above = fs::metadata(mount.parent().unwrap_or(Path::new("/")))?.dev();
        let mount = mount.to_owned();
        self.ready(async || match tokio::fs::metadata(&mount).await {
            Ok(here) if here.dev() != above => Ok(()),
            Ok(_) => Err(io::Error::other("nothing is mounted yet")),
            Err(error) => Err(error),
        })
        .await
    }

    /// Stops all of its processes where they are, with SIGSTOP.
    pub(super) fn pause(&self) -> io::Result<()> {
        self.order("pause")
    }

    /// Lets paused processes go on.
    pub(super) fn resume(&self) -> io::Result<()> {
        self.order("resume")
    }

    fn order(&self, word: &str) -> io::Result<()> {
        let mut orders = self.orders.as_ref().ok_or_else(|| io::Error::other("the server has ended"))?;
        orders.write_all(format!("{word}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(orders).read_line(&mut answer)?;
        if answer == "done\n" { Ok(()) } else { Err(io::Error::other(format!("the guard answers {answer:?}"))) }
    }

    /// Ends it, and looks for what is left.
    ///
    /// # Errors
    /// When some process of it is still there.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        self.end();
        let left = processes_of(&self.log)?;
        if left.is_empty() { Ok(()) } else { Err(io::Error::other(format!("these processes outlive it: {left:?}"))) }
    }

    /// Ends it as `kill -9` would.
    pub(super) fn end(&mut self) {
        let Some(mut orders) = self.orders.take() else { return };
        // The guard may have ended with its server, and is not there to read.
        let _ = orders.write_all(b"keep\n");
        drop(orders);
        let deadline = Instant::now() + END_PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Shows the end of its log to whoever reads of a test that failed.
    fn show_log(&self) {
        eprintln!("the end of {}:\n{}", self.log.display(), self.log_tail());
    }

    fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_log();
        }
        self.end();
    }
}

/// A probe for the file that a script makes when its server is ready.
pub(super) fn is_there(path: &Path) -> io::Result<()> {
    fs::metadata(path).map(drop)
}

fn entering(network: Network) -> Command {
    let mut unshare = Command::new("unshare");
    match network {
        Network::Machine => unshare,
        Network::Own => {
            unshare.arg("--net");
            unshare
        }
        Network::Of(pid) => {
            let mut enter = Command::new("nsenter");
            enter.arg(format!("--net=/proc/{pid}/ns/net")).args(["--", "unshare"]);
            enter
        }
    }
}

/// Processes that were started under the guard with this log, daemons too, by the mark in their environment.
fn processes_of(log: &Path) -> io::Result<Vec<u32>> {
    let mark = [MARK.as_bytes(), b"=", log.as_os_str().as_encoded_bytes()].concat();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may end while we look, or be another user's.
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark) {
            found.push(pid);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Stdio;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Starts a daemon, which is nobody's child, and stays.
    const DAEMONS: &str = "setsid -f sleep 1000; sleep 1000";

    fn daemons() -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", DAEMONS]);
        command
    }

    fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_stop_ends_daemons_and_keeps_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut guard = Guard::start(folder.path(), "daemons", Walls::PROCESSES, &daemons()).unwrap();
        let log = guard.log.clone();
        // `unshare`, the guard and its reader, the shell and two sleeps.
        wait_for("the daemon never started", || processes_of(&log).unwrap().len() == 6);
        guard.stop().unwrap();
        assert!(folder.path().exists());
    }

    /// A test's process that is killed runs no destructor: what is left of it is a socket whose other end is closed.
    #[test]
    fn a_killed_owner_leaves_neither_processes_nor_files() {
        let folder = tempfile::tempdir().unwrap();
        let (owner, ear) = UnixStream::pair().unwrap();
        let mut guard = Guard::start(folder.path(), "daemons", Walls::PROCESSES, &daemons()).unwrap();
        let log = folder.path().join("orphans.log");
        let mut orphans = entering(Network::Machine);
        orphans.args(["--fork", "--pid", "--kill-child", "--"]).arg(scripts().join("guard")).arg(folder.path());
        orphans.args(["", "sh", "-c", DAEMONS]).env(MARK, &log).stdin(OwnedFd::from(ear)).stderr(Stdio::null());
        let mut orphans = orphans.spawn().unwrap();
        wait_for("the daemon never started", || processes_of(&log).unwrap().len() == 6);
        guard.end();
        assert!(folder.path().exists(), "one guard's end takes the folder from another");
        drop(owner);
        wait_for("processes outlive their owner", || processes_of(&log).unwrap().is_empty());
        orphans.wait().unwrap();
        assert!(!folder.path().exists());
    }

    /// Runs, or waits for what may come at any time.
    fn is_running(pid: u32) -> bool {
        let status = fs::read_to_string(format!("/proc/{pid}/stat"));
        // A name may hold anything, parentheses too.
        status.is_ok_and(|status| status.rsplit(") ").next().is_some_and(|state| state.starts_with(['R', 'S'])))
    }

    /// Its guard must hear its owner's end all the same.
    #[test]
    fn a_pause_stops_all_processes_but_the_guard_s() {
        let folder = tempfile::tempdir().unwrap();
        let mut guard = Guard::start(folder.path(), "daemons", Walls::PROCESSES, &daemons()).unwrap();
        let log = guard.log.clone();
        wait_for("the daemon never started", || processes_of(&log).unwrap().len() == 6);
        let running = || processes_of(&log).unwrap().into_iter().filter(|pid| is_running(*pid)).count();
        guard.pause().unwrap();
        assert_eq!(running(), 3, "only `unshare`, the guard and its reader do");
        guard.resume().unwrap();
        wait_for("some are stopped still", || running() == 6);
        guard.pause().unwrap();
        guard.stop().unwrap();
        assert!(guard.pause().is_err());
    }

    #[tokio::test]
    async fn a_server_that_ends_is_told_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such option; exit 3"]);
        let mut guard = Guard::start(folder.path(), "short", Walls::PROCESSES, &command).unwrap();
        let error = guard.ready(async || Err::<(), _>(io::Error::other("nobody listens"))).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("no such option"), "{text}");
    }
}
