//! Logins by SSH on a real server: by a password in both its forms, by agents, by key files that are encrypted or lie where
//! `ssh` has them; and what is wrong with each, in words.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use citius_understore::{
    Condition, Error, FileId, MountSpec, StorePath, open,
    testing::{
        is_alone, run_alone,
        servers::{Entry, Sftp},
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);

/// A mount that does not say yet who asks.
fn unsigned(server: &Sftp) -> MountSpec {
    let uri = format!("sftp://{}@{}{}", server.user(), server.address(), server.folder().display());
    MountSpec::new(uri).option("sftp_known_hosts", server.known_hosts().display().to_string())
}

/// Writes a file through a mount.
async fn works(way: &str, spec: &MountSpec) {
    let store = open(spec).unwrap();
    store.check().await.unwrap_or_else(|error| panic!("{way}: {error}"));
    let mut staged = store.stage(&StorePath::parse(way).unwrap(), FileId([1; 16]), None).await.unwrap();
    staged.write(Bytes::from(way.to_owned())).await.unwrap();
    staged.publish(&Condition::Any).await.unwrap();
}

/// What the server has of it.
fn is_there(server: &Sftp, way: &str) -> bool {
    fs::read(server.folder().join(way)).is_ok_and(|content| content == way.as_bytes())
}

/// The words in which a login is refused.
async fn refused(spec: &MountSpec) -> String {
    let error = open(spec).unwrap().check().await.unwrap_err();
    assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
    error.to_string()
}

async fn lets_in_by_password(entry: Entry, takes: &str) {
    let server = Sftp::start_with(entry).await.unwrap();
    works("password", &unsigned(&server).option("sftp_password", server.password())).await;
    assert!(is_there(&server, "password"));
    let words = refused(&unsigned(&server).option("sftp_password", "not-the-password")).await;
    assert!(words.contains("root tried the password; it takes") && words.contains(takes), "{words}");
    assert!(words.contains("sftp_password") && !words.contains("not-the-password"), "{words}");
    // A key that it does not take stands in the way of no password.
    let both = unsigned(&server).option("sftp_key_file", server.key_file().display().to_string());
    works("both", &both.clone().option("sftp_password", server.password())).await;
    let words = refused(&both).await;
    assert!(words.contains("root tried a key") && words.contains("sftp_key_file"), "{words}");
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_lets_in() {
    lets_in_by_password(Entry::Password, "password").await;
}

/// Servers whose passwords are PAM's ask for them in a dialogue, and refuse one that is shown as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_answers_a_dialogue() {
    lets_in_by_password(Entry::Dialogue, "keyboard-interactive").await;
}

/// `ssh-keygen` and its like, without a terminal.
fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn make_key(file: &Path, kind: &str, passphrase: &str) {
    run(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", passphrase, "-f"]).arg(file));
}

/// Makes it one that the server lets in.
fn admit(server: &Sftp, key: &Path) {
    let known = server.key_file().with_extension("pub");
    let more = fs::read_to_string(key.with_extension("pub")).unwrap();
    fs::write(&known, fs::read_to_string(&known).unwrap() + &more).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn key_files_let_in_with_their_passphrases() {
    let server = Sftp::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("encrypted");
    make_key(&file, "ed25519", "the-passphrase");
    admit(&server, &file);
    let spec = unsigned(&server).option("sftp_key_file", file.display().to_string());
    works("passphrase", &spec.clone().option("sftp_key_passphrase", "the-passphrase")).await;
    assert!(is_there(&server, "passphrase"));
    let invalid = |spec: &MountSpec| match open(spec).err().unwrap() {
        error @ Error::InvalidOption { .. } => error.to_string(),
        other => panic!("{other:?}"),
    };
    let words = invalid(&spec);
    assert!(words.contains("is encrypted; set sftp_key_passphrase"), "{words}");
    let words = invalid(&spec.option("sftp_key_passphrase", "another-one"));
    assert!(words.contains("sftp_key_passphrase does not open it") && !words.contains("another-one"), "{words}");
    for kind in ["ecdsa", "rsa"] {
        let file = folder.path().join(kind);
        make_key(&file, kind, "");
        admit(&server, &file);
        let spec = unsigned(&server).option("sftp_key_file", file.display().to_string());
        match kind {
            "rsa" => {
                let words = invalid(&spec);
                assert!(words.contains("of the kind RSA") && words.contains("agent"), "{words}");
            }
            _ => works(kind, &spec).await,
        }
    }
    server.stop().unwrap();
}

/// An agent of the test's own.
struct Agent {
    process: Child,
    folder: TempDir,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a"]).arg(folder.path().join("socket")).stdin(Stdio::null()).stdout(Stdio::null());
        let agent = Self { process: command.spawn().unwrap(), folder };
        let began = Instant::now();
        while !agent.socket().exists() {
            assert!(began.elapsed() < PATIENCE, "the agent makes no socket");
            std::thread::sleep(Duration::from_millis(20));
        }
        agent
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn add(&self, key: &Path) {
        run(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", self.socket()));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What processes are told, and what the mount of one of them comes to: it works, or its words hold these.
struct Told<'a> {
    server: &'a Sftp,
    test: &'a str,
    home: &'a Path,
}

impl Told<'_> {
    fn run(&self, socket: &Path, expected: &str) {
        let variables = [
            ("HOME", self.home.display().to_string()),
            ("SSH_AUTH_SOCK", socket.display().to_string()),
            ("TEST_URI", unsigned(self.server).uri),
            ("TEST_EXPECTED", expected.to_owned()),
        ];
        run_alone(self.test, &variables);
    }

    /// In such a process: a mount of which nothing is said but where it is.
    fn try_mount() {
        let told = |name: &str| std::env::var(name).unwrap();
        let (spec, expected) = (MountSpec::new(told("TEST_URI")), told("TEST_EXPECTED"));
        Runtime::new().unwrap().block_on(async {
            if expected.starts_with("works") {
                return works(&expected, &spec).await;
            }
            let words = refused(&spec).await;
            assert!(words.contains(&expected), "{words} has no {expected}");
        });
    }
}

/// A home of which `ssh` would know the server.
fn home_that_knows(server: &Sftp) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".ssh")).unwrap();
    fs::copy(server.known_hosts(), home.path().join(".ssh/known_hosts")).unwrap();
    home
}

#[test]
fn the_agent_lets_in() {
    const THIS: &str = "the_agent_lets_in";
    if is_alone(THIS) {
        return Told::try_mount();
    }
    let server = Runtime::new().unwrap().block_on(Sftp::start()).unwrap();
    let home = home_that_knows(&server);
    let told = Told { server: &server, test: THIS, home: home.path() };
    let keys = tempfile::tempdir().unwrap();
    let [stranger, rsa] = ["stranger", "rsa"].map(|name| keys.path().join(name));
    make_key(&stranger, "ed25519", "");
    make_key(&rsa, "rsa", "");

    let agent = Agent::start();
    told.run(&agent.socket(), &format!("root tried the agent at {}, which has no key", agent.socket().display()));
    agent.add(&stranger);
    told.run(&agent.socket(), "root tried the agent's keys (1)");
    agent.add(&server.key_file());
    told.run(&agent.socket(), "works by the second key");
    assert!(is_there(&server, "works by the second key"));

    // An agent's RSA keys are as good: it signs, and nothing here has to.
    let agent = Agent::start();
    agent.add(&rsa);
    admit(&server, &rsa);
    told.run(&agent.socket(), "works by RSA");
    let socket = agent.socket();
    drop(agent);
    told.run(&socket, &format!("root tried the agent at {}, which fails: ", socket.display()));
    server.stop().unwrap();
}

#[test]
fn the_usual_key_of_a_home_lets_in() {
    const THIS: &str = "the_usual_key_of_a_home_lets_in";
    if is_alone(THIS) {
        return Told::try_mount();
    }
    let server = Runtime::new().unwrap().block_on(Sftp::start()).unwrap();
    let home = home_that_knows(&server);
    let told = Told { server: &server, test: THIS, home: home.path() };
    // Nobody's: an agent is not asked where a key is good.
    let socket = home.path().join("no-agent");
    let key = home.path().join(".ssh/id_ecdsa");
    make_key(&key, "ecdsa", "");
    told.run(&socket, "root tried a key, the agent at");
    admit(&server, &key);
    told.run(&socket, "works by its own key");
    assert!(is_there(&server, "works by its own key"));
    server.stop().unwrap();
}
