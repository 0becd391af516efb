//! OpenSSH's SFTP server, for one user with a key.

use std::{io, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls},
    install::{Installed, install},
    ports::Ports,
    server::{Processes, Server},
};

/// A running OpenSSH with one folder. Needs root.
///
/// Its users are the machine's, so who logs in is root; the key is this server's alone.
#[derive(Debug)]
pub struct Sftp {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    ports: Ports<1>,
}

impl Sftp {
    /// Starts it, with keys of its own.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let installed = install("sftp").await?;
        let folder = fresh::folder("sftp")?;
        let ports = Ports::take()?;
        configure(&folder, ports[0])?;
        let guard = launch(&folder)?;
        let mut sftp = Self { guard, folder, installed, ports };
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

fn configure(folder: &TempDir, port: u16) -> io::Result<()> {
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
    let folder = folder.path().display();
    // StrictModes would look at the folders above, which are not this server's.
    let conf = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\nPidFile none\n\
         AuthorizedKeysFile {folder}/user_key.pub\nStrictModes no\nPermitRootLogin prohibit-password\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n\
         Subsystem sftp internal-sftp\nForceCommand internal-sftp\n"
    );
    std::fs::write(format!("{folder}/sshd.conf"), conf)
}

fn launch(folder: &TempDir) -> io::Result<Guard> {
    // Its folder in /run is made by whatever starts services at boot, and here nobody does.
    const SCRIPT: &str =
        r#"mount -t tmpfs -o size=1m tmpfs /run && mkdir -m 0755 /run/sshd && exec "$(command -v sshd)" -D -e -f "$0""#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).arg(folder.path().join("sshd.conf"));
    Guard::start(folder.path(), "sshd", Walls::PROCESSES, &command)
}
