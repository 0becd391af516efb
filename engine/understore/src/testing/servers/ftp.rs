//! FTP: pyftpdlib on a folder, for one user with a password.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{
    fresh,
    guard::{Guard, Walls},
    install::{Installed, install},
    ports::Ports,
    server::{Processes, Server},
};

const USER: &str = "citius";
/// What a server says first when it is ready.
const GREETING: &[u8; 4] = b"220 ";

/// A running FTP server with one folder.
#[derive(Debug)]
pub struct Ftp {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    ports: Ports<1>,
    password: String,
}

impl Ftp {
    /// Starts it, with a password of its own.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let installed = install("ftp").await?;
        let folder = fresh::folder("ftp")?;
        let ports = Ports::take()?;
        let password = fresh::key()?;
        std::fs::create_dir(served_in(&folder))?;
        let guard = launch(&installed, &folder, ports[0], &password)?;
        let mut ftp = Self { guard, folder, installed, ports, password };
        ftp.wait().await?;
        Ok(ftp)
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// User and password.
    pub fn keys(&self) -> (&'static str, &str) {
        (USER, &self.password)
    }

    /// The folder that is served, on this machine.
    pub fn folder(&self) -> PathBuf {
        served_in(&self.folder)
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
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
        self.guard
            .ready(async || {
                let mut said = [0; GREETING.len()];
                TcpStream::connect(&address).await?.read_exact(&mut said).await?;
                if said == *GREETING { Ok(()) } else { Err(io::Error::other("it does not greet as FTP does")) }
            })
            .await
    }
}

impl Server for Ftp {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard])
    }
}

fn served_in(folder: &TempDir) -> PathBuf {
    Path::new(folder.path()).join("served")
}

fn launch(installed: &Installed, folder: &TempDir, port: u16, password: &str) -> io::Result<Guard> {
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", installed.folder.join("wheel"))
        .args(["-m", "pyftpdlib", "-i", "127.0.0.1", "-p", &port.to_string(), "-u", USER, "-P", password, "-d"])
        .arg(served_in(folder));
    Guard::start(folder.path(), "ftp", Walls::PROCESSES, &command)
}
