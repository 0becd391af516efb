//! OpenSSH's SFTP server, for one user with a key or a password.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls},
    install::{Installed, install},
    ports::Ports,
    server::{Processes, Server},
};

/// How it lets its user in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// By the key.
    Key,
    /// By the password.
    Password,
    /// By a dialogue of PAM's, which asks for the password: what most servers do that take one.
    Dialogue,
}

/// A running OpenSSH with one folder. Needs root.
///
/// Its users are the machine's, so who logs in is root; the key and the password are this server's alone: it has
/// mounts of its own, in which other files say what passwords are and how they are asked for.
#[derive(Debug)]
pub struct Sftp {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    ports: Ports<1>,
    password: String,
}

impl Sftp {
    /// Starts it, with keys of its own.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(Entry::Key).await
    }

    /// Starts one that lets its user in by this and nothing else.
    ///
    /// # Errors
    /// As [`Sftp::start`].
    pub async fn start_with(entry: Entry) -> io::Result<Self> {
        let installed = install("sftp").await?;
        let folder = fresh::folder("sftp")?;
        let ports = Ports::take()?;
        let password = fresh::key()?;
        configure(&folder, ports[0], entry, &password)?;
        let guard = launch(&folder)?;
        let mut sftp = Self { guard, folder, installed, ports, password };
        sftp.wait().await?;
        Ok(sftp)
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// Who logs in.
    pub fn user(&self) -> &'static str {
        "root"
    }

    /// The file of the private key that logs in.
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("user_key")
    }

    /// The password that logs in, if one does.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The file of the server's public key, in the format of `known_hosts`.
    pub fn known_hosts(&self) -> PathBuf {
        self.folder.path().join("known_hosts")
    }

    /// The folder that was made; an absolute path on the server.
    pub fn folder(&self) -> PathBuf {
        served_of(&self.folder)
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends it by SIGKILL and starts it again with the same port, keys and data.
    ///
    /// # Errors
    /// As [`Sftp::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        self.guard = launch(&self.folder)?;
        self.wait().await
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.guard.stop()
    }

    async fn wait(&mut self) -> io::Result<()> {
        let address = self.address();
        self.guard.ready(async || tokio::net::TcpStream::connect(&address).await.map(drop)).await
    }
}

impl Server for Sftp {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard])
    }
}

fn served_of(folder: &TempDir) -> PathBuf {
    folder.path().join("served")
}

fn configure(folder: &TempDir, port: u16, entry: Entry, password: &str) -> io::Result<()> {
    std::fs::create_dir(served_of(folder))?;
    for key in ["host_key", "user_key"] {
        let mut command = Command::new("ssh-keygen");
        let status = command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.path().join(key)).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("ssh-keygen ended with {status}")));
        }
    }
    let host_key = std::fs::read_to_string(folder.path().join("host_key.pub"))?;
    std::fs::write(folder.path().join("known_hosts"), format!("[127.0.0.1]:{port} {host_key}"))?;
    std::fs::write(folder.path().join("shadow"), format!("root:{}:20000:0:99999:7:::\n", digest_of(password)?))?;
    std::fs::write(folder.path().join("pam"), "auth required pam_unix.so\naccount required pam_unix.so\n")?;
    let folder = folder.path().display();
    let answer = |is_taken| if is_taken { "yes" } else { "no" };
    let [key, word, dialogue] = [Entry::Key, Entry::Password, Entry::Dialogue].map(|way| answer(way == entry));
    // StrictModes would look at the folders above, which are not this server's.
    let conf = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\nPidFile none\n\
         AuthorizedKeysFile {folder}/user_key.pub\nStrictModes no\nPermitRootLogin yes\n\
         PubkeyAuthentication {key}\nPasswordAuthentication {word}\n\
         KbdInteractiveAuthentication {dialogue}\nUsePAM {dialogue}\n\
         Subsystem sftp internal-sftp\nForceCommand internal-sftp\n"
    );
    std::fs::write(format!("{folder}/sshd.conf"), conf)
}

/// What `/etc/shadow` has of a password.
fn digest_of(password: &str) -> io::Result<String> {
    let mut command = Command::new("openssl");
    let mut openssl = command.args(["passwd", "-6", "-stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // Closed at once, or it would wait for more.
    openssl.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(password.as_bytes()))?;
    let output = openssl.wait_with_output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("openssl ended with {}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn launch(folder: &TempDir) -> io::Result<Guard> {
    // Its folder in /run is made by whatever starts services at boot, and here nobody does.
    const SCRIPT: &str = r#"mount -t tmpfs -o size=1m tmpfs /run && mkdir -m 0755 /run/sshd && \
        mount --bind "$0/shadow" /etc/shadow && mount --bind "$0/pam" /etc/pam.d/sshd && \
        exec "$(command -v sshd)" -D -e -f "$0/sshd.conf""#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).arg(folder.path());
    Guard::start(folder.path(), "sshd", Walls::PROCESSES, &command)
}
