//! OpenStack Swift itself, with logins of version 1 (tempauth).

use std::{io, process::Command};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls},
    http::call,
    install::{Installed, install, scripts},
    ports::Ports,
    server::{Processes, Server},
};
use crate::MountSpec;

const USER: &str = "citius:swift";
const CONTAINER: &str = "citius-test";

/// A running Swift with one container. Needs root.
#[derive(Debug)]
pub struct Swift {
    guard: Guard,
    start: Command,
    folder: TempDir,
    installed: Installed,
    ports: Ports<5>,
    key: String,
}

impl Swift {
    /// Starts it, with a key of its own.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let installed = install("swift").await?;
        let folder = fresh::folder("swift")?;
        let ports = Ports::take()?;
        let key = fresh::key()?;
        let mut start = Command::new(scripts().join("swift"));
        start.arg(folder.path()).args(ports.numbers().map(|port| port.to_string())).env("CITIUS_TEST_SWIFT_KEY", &key);
        let guard = Guard::start(folder.path(), "swift", Walls::PROCESSES, &start)?;
        let mut swift = Self { guard, start, folder, installed, ports, key };
        swift.wait().await?;
        Ok(swift)
    }

    /// Where clients log in.
    pub fn auth_url(&self) -> String {
        format!("http://127.0.0.1:{}/auth/v1.0", self.ports[0])
    }

    /// User and key.
    pub fn keys(&self) -> (&'static str, &str) {
        (USER, &self.key)
    }

    /// The container that was made.
    pub fn container(&self) -> &'static str {
        CONTAINER
    }

    /// A mount of the container, or of a prefix in it.
    pub fn mount(&self, prefix: &str) -> MountSpec {
        let (user, key) = self.keys();
        MountSpec::new(format!("swift://{}/{prefix}", self.container()))
            .option("swift_auth_url", self.auth_url())
            .option("swift_user", user)
            .option("swift_key", key)
            .option("swift_allow_http", "true")
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends it by SIGKILL and starts it again with the same ports, key and data; tokens from before are refused.
    ///
    /// # Errors
    /// As [`Swift::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        self.guard = Guard::start(self.folder.path(), "swift", Walls::PROCESSES, &self.start)?;
        self.wait().await
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.guard.stop()
    }

    /// Waits until it makes a container, for which accounts and containers are needed, and has no such file in it, which
    /// its server of objects alone can say.
    async fn wait(&mut self) -> io::Result<()> {
        let (auth_url, key) = (self.auth_url(), &self.key);
        self.guard
            .ready(async || {
                let login = Request::get(&auth_url).header("x-auth-user", USER).header("x-auth-key", key);
                let answer = call(login.body(Bytes::new()).map_err(io::Error::other)?).await?;
                let said = |name: &str| {
                    let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
                    value.ok_or_else(|| io::Error::other(format!("a login is answered by {}", answer.status())))
                };
                let container = format!("{}/{CONTAINER}", said("x-storage-url")?);
                let ask = async |method: Method, url: &str| {
                    let ask = Request::builder().method(method).uri(url).header("x-auth-token", said("x-auth-token")?);
                    Ok::<_, io::Error>(call(ask.body(Bytes::new()).map_err(io::Error::other)?).await?.status())
                };
                let made = ask(Method::PUT, &container).await?;
                let found = ask(Method::GET, &format!("{container}/nothing")).await?;
                if made.is_success() && found == StatusCode::NOT_FOUND {
                    return Ok(());
                }
                Err(io::Error::other(format!("a container is answered by {made}, what is not in it by {found}")))
            })
            .await
    }
}

impl Server for Swift {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard])
    }
}
