//! OpenStack Swift itself, with logins of version 1 (tempauth); and its daemons, whoever logs in.

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
pub(super) const CONTAINER: &str = "citius-test";

/// The running daemons of a Swift. Need root.
#[derive(Debug)]
pub(super) struct Daemons {
    guard: Guard,
    start: Command,
    folder: TempDir,
    installed: Installed,
    ports: Ports<5>,
}

impl Daemons {
    /// Starts them. What is in their environment says whose tokens they take.
    pub(super) async fn start(environment: &[(&str, String)]) -> io::Result<Self> {
        let installed = install("swift").await?;
        let folder = fresh::folder("swift")?;
        let ports = Ports::take()?;
        let mut start = Command::new(scripts().join("swift"));
        start.arg(folder.path()).args(ports.numbers().map(|port| port.to_string()));
        start.envs(environment.iter().map(|(name, value)| (name, value)));
        let guard = Guard::start(folder.path(), "swift", Walls::PROCESSES, &start)?;
        Ok(Self { guard, start, folder, installed, ports })
    }

    /// Waits until they make a container for who logs in, for which accounts and containers are needed, and have no such file
    /// in it, which the server of objects alone can say. A login gives the URL of its account, and a token.
    pub(super) async fn wait(&mut self, log_in: impl AsyncFn() -> io::Result<(String, String)>) -> io::Result<()> {
        self.guard
            .ready(async || {
                let (account, token) = log_in().await?;
                let container = format!("{account}/{CONTAINER}");
                let ask = async |method: Method, url: &str| {
                    let ask = Request::builder().method(method).uri(url).header("x-auth-token", &token);
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

    /// Ends them by SIGKILL and starts them again with the same ports and data.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        self.guard = Guard::start(self.folder.path(), "swift", Walls::PROCESSES, &self.start)?;
        Ok(())
    }

    pub(super) fn stop(&mut self) -> io::Result<()> {
        self.guard.stop()
    }

    /// A URL of the proxy, whose path begins with a slash.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[0])
    }

    pub(super) fn version(&self) -> &str {
        &self.installed.version
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }
}

/// A running Swift with one container. Needs root.
#[derive(Debug)]
pub struct Swift {
    daemons: Daemons,
    key: String,
}

impl Swift {
    /// Starts it, with a key of its own.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let key = fresh::key()?;
        let daemons = Daemons::start(&[("CITIUS_TEST_SWIFT_KEY", key.clone())]).await?;
        let mut swift = Self { daemons, key };
        swift.wait().await?;
        Ok(swift)
    }

    /// Where clients log in.
    pub fn auth_url(&self) -> String {
        self.daemons.url("/auth/v1.0")
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
        self.daemons.version()
    }

    /// Ends it by SIGKILL and starts it again with the same ports, key and data; tokens from before are refused.
    ///
    /// # Errors
    /// As [`Swift::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.daemons.restart()?;
        self.wait().await
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.daemons.stop()
    }

    async fn wait(&mut self) -> io::Result<()> {
        let (auth_url, key) = (self.auth_url(), &self.key);
        self.daemons
            .wait(async || {
                let login = Request::get(&auth_url).header("x-auth-user", USER).header("x-auth-key", key);
                let answer = call(login.body(Bytes::new()).map_err(io::Error::other)?).await?;
                let said = |name: &str| {
                    let value = answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
                    value.ok_or_else(|| io::Error::other(format!("a login is answered by {}", answer.status())))
                };
                Ok((said("x-storage-url")?, said("x-auth-token")?))
            })
            .await
    }
}

impl Server for Swift {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![self.daemons.guard()])
    }
}
