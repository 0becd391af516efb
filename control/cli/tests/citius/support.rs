//! Real `citius` processes for black-box tests: started on free ports with homes of their own, ended with the test.

use citius_understore::MountSpec;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a process may take to be ready or to end. Far more than it needs, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A small memory tier, so that several fit any machine.
pub(crate) const MEMORY: &str = "512MiB";

/// A `citius` command that never finds a cluster of the user who runs the tests.
pub(crate) fn citius() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_citius"));
    for name in ["CITIUS_HOME", "CITIUS_MASTER", "CITIUS_TOKEN_FILE", "CITIUS_LOG"] {
        command.env_remove(name);
    }
    command.env("XDG_DATA_HOME", "/nonexistent/citius-tests").stdin(Stdio::null());
    command
}

/// How the options of a mount are given to a command.
pub(crate) fn flags(spec: &MountSpec) -> Vec<String> {
    let pairs = spec.options.iter().map(|(name, value)| format!("{name}={}", value.expose()));
    let options = pairs.flat_map(|pair| ["--option".to_owned(), pair]);
    options.chain(spec.read_only.then(|| "--read-only".to_owned())).collect()
}

/// The same command, in a process that is not ended by a write past its limits: the write fails, as on a full disk.
fn limited(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(command.get_program()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// A serving process with its home.
pub(crate) struct Process {
    pub(crate) home: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    /// Whether a write past the limit of file sizes is an error, and not the end of the process.
    is_limited: bool,
    child: Option<Child>,
    log: PathBuf,
    /// Kept until the process has ended.
    dir: Option<TempDir>,
}

impl Process {
    /// Starts `citius local` in a fresh home; waits until it is ready.
    pub(crate) fn local(arguments: &[&str]) -> Self {
        let mut all = vec!["local", "--listen", "127.0.0.1:0", "--memory", MEMORY, "--shards", "1"];
        all.extend_from_slice(arguments);
        Self::start(&all)
    }

    /// As [`Process::local`], with this mounted at `/data`.
    pub(crate) fn mounting(spec: &MountSpec) -> Self {
        let arguments = [vec!["--mount".to_owned(), format!("/data={}", spec.uri)], flags(spec)].concat();
        Self::local(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts any serving command in a fresh home; waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(&[], arguments)
    }

    /// As [`Process::local`], for a test that limits the sizes of its files while it runs.
    pub(crate) fn local_limited() -> Self {
        let arguments = ["local", "--listen", "127.0.0.1:0", "--memory", MEMORY, "--shards", "1"];
        let mut process = Self::prepare(&[], &arguments);
        process.is_limited = true;
        process.restart();
        process
    }

    /// As [`Process::start`], with more in its environment.
    pub(crate) fn start_in(environment: &[(&'static str, &'static str)], arguments: &[&str]) -> Self {
        let mut process = Self::prepare(environment, arguments);
        process.restart();
        process
    }

    fn prepare(environment: &[(&'static str, &'static str)], arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            home: dir.path().join("home"),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: environment.to_vec(),
            is_limited: false,
            child: None,
            log: dir.path().join("log"),
            dir: Some(dir),
        }
    }

    /// Starts it again in the same home, with the same arguments; waits until it is ready.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = if self.is_limited { limited(&citius()) } else { citius() };
        let child = command
            .args(&self.arguments)
            .envs(self.environment.iter().copied())
            .arg("--home")
            .arg(&self.home)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let endpoint = self.home.join("endpoint");
        let deadline = Instant::now() + PATIENCE;
        // The file of a killed predecessor is removed early in the start, and written only when all is ready.
        let own = |child: &Child| {
            std::fs::read_to_string(self.home.join("lock")).is_ok_and(|pid| pid.trim() == child.id().to_string())
        };
        loop {
            let child = self.child.as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("citius ended with {status} instead of getting ready:\n{}", self.log());
            }
            if own(child) && endpoint.exists() {
                return;
            }
            assert!(Instant::now() < deadline, "citius is not ready after {PATIENCE:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it said on standard error, over all its lives.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `HOST:PORT` of its master.
    pub(crate) fn endpoint(&self) -> String {
        std::fs::read_to_string(self.home.join("endpoint")).unwrap().trim().to_owned()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to end (SIGTERM) and gives its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let status = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
        assert!(status.success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("citius did not end within {PATIENCE:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A command against this cluster.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = citius();
        command.arg("--home").arg(&self.home).args(arguments);
        command
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub(crate) fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.try_run(arguments);
        assert!(
            output.status.success(),
            "citius {arguments:?} failed with {:?}:\n{}\nserver:\n{}",
            output.status.code(),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        output.stdout
    }

    /// As [`Process::run`], as text.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run(arguments)).unwrap()
    }

    /// As [`Process::run`] with `--json`, as one value.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.text(&[&["--json"], arguments].concat())).unwrap()
    }

    /// What `mount ls` tells of the traffic of a mount.
    pub(crate) fn under_store(&self, mount: &str) -> serde_json::Value {
        let mounts = self.text(&["--json", "mount", "ls"]);
        let mut mounts = mounts.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        mounts.find(|told| told["path"] == mount).unwrap()["under_store"].take()
    }

    /// Runs a command that may fail.
    pub(crate) fn try_run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must fail with an exit code, and gives what it said.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "citius {arguments:?} said: {said}");
        said
    }

    /// Requests to the store of a mount so far, of content and others, when two looks agree: workers tell theirs by heartbeats.
    pub(crate) fn requests(&self, path: &str) -> (u64, u64) {
        const HEARTBEATS: Duration = Duration::from_millis(2500);
        let look = || {
            let told = self.under_store(path);
            let count = |name: &str| told[name].as_u64().unwrap();
            (count("read_requests"), count("other_requests"))
        };
        let mut last = look();
        loop {
            std::thread::sleep(HEARTBEATS);
            let now = look();
            if now == last {
                return now;
            }
            last = now;
        }
    }

    /// A client of this cluster.
    pub(crate) fn client(&self) -> citius_client::Client {
        self.client_with(citius_client::Config::default())
    }

    /// A client of this cluster with its own ways.
    pub(crate) fn client_with(&self, config: citius_client::Config) -> citius_client::Client {
        citius_client::Client::connect(citius_client::Endpoint::from_home(&self.home).unwrap(), config).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of citius in {}\n{}", self.home.display(), self.log());
        }
        drop(self.dir.take());
    }
}

/// Bytes that look random, do not compress, and are the same in every run.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes a file of a test, with the folders above it.
pub(crate) fn put(path: impl AsRef<Path>, bytes: &[u8]) {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

/// The next of a row of numbers that look random; `state` must not be 0.
pub(crate) fn dice(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
}

/// All files below a folder.
pub(crate) fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        // A folder that goes while it is looked at has nothing in it.
        if path.is_dir() { found.extend(below(&path)) } else { found.push(path) }
    }
    found
}

/// Waits until a condition holds; fails with what it last said when [`PATIENCE`] is over.
pub(crate) fn poll<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match condition() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
