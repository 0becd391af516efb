//! Azurite: Azure Blob storage.

use std::{io, process::Command};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use object_store::{
    azure::{AzureAccessKey, AzureAuthorizer, AzureCredential},
    client::HttpRequestBody,
};
use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls},
    http::{call, get},
    install::{Installed, install},
    ports::Ports,
};
use crate::MountSpec;

const ACCOUNT: &str = "citius";
const CONTAINER: &str = "citius-test";
const HEAP_MIB_MAX: u32 = 384;

/// A running Azurite with one account and one container.
///
/// It writes its index every five seconds, so what it acknowledged less than that before [`Azurite::restart`] may be gone;
/// the container is there in any case.
#[derive(Debug)]
pub struct Azurite {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    ports: Ports<1>,
    key: String,
}

impl Azurite {
    /// Starts it, with a key of its own.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let installed = install("azurite").await?;
        let folder = fresh::folder("azurite")?;
        let ports = Ports::take()?;
        let key = fresh::key()?;
        let guard = launch(&installed, &folder, &ports, &key)?;
        let mut azurite = Self { guard, folder, installed, ports, key };
        azurite.wait().await?;
        azurite.make_container().await?;
        Ok(azurite)
    }

    /// The account's URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.ports[0])
    }

    /// The account's name.
    pub fn account(&self) -> &'static str {
        ACCOUNT
    }

    /// The account's key, in base 64.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The container that was made.
    pub fn container(&self) -> &'static str {
        CONTAINER
    }

    /// A mount of the container, or of a prefix in it.
    pub fn mount(&self, prefix: &str) -> MountSpec {
        MountSpec::new(format!("az://{CONTAINER}/{prefix}"))
            .option("azure_storage_account_name", ACCOUNT)
            .option("azure_storage_account_key", &self.key)
            .option("azure_storage_endpoint", self.endpoint())
            .option("azure_allow_http", "true")
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends it by SIGKILL and starts it again with the same port, key and data.
    ///
    /// # Errors
    /// As [`Azurite::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        self.guard = launch(&self.installed, &self.folder, &self.ports, &self.key)?;
        self.wait().await?;
        self.make_container().await
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.guard.stop()
    }

    async fn wait(&mut self) -> io::Result<()> {
        let endpoint = self.endpoint();
        // It answers who has no key too, with a refusal.
        self.guard.ready(async || get(&endpoint).await).await?;
        Ok(())
    }

    async fn make_container(&self) -> io::Result<()> {
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(&self.key).map_err(io::Error::other)?);
        let mut request = Request::builder()
            .method(Method::PUT)
            .uri(format!("{}/{CONTAINER}?restype=container", self.endpoint()))
            .header(http::header::CONTENT_LENGTH, 0)
            .body(HttpRequestBody::empty())
            .map_err(io::Error::other)?;
        AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request).map_err(io::Error::other)?;
        let answer = call(request.map(|_| Bytes::new())).await?;
        if matches!(answer.status(), StatusCode::CREATED | StatusCode::CONFLICT) {
            return Ok(());
        }
        let why = String::from_utf8_lossy(answer.body()).into_owned();
        Err(io::Error::other(format!("the container cannot be made: {} {why}", answer.status())))
    }
}

fn launch(installed: &Installed, folder: &TempDir, ports: &Ports<1>, key: &str) -> io::Result<Guard> {
    let mut command = Command::new(installed.folder.join("node_modules/.bin/azurite-blob"));
    command
        .args(["--blobHost", "127.0.0.1", "--blobPort", &ports[0].to_string(), "--silent"])
        .args(["--skipApiVersionCheck", "--disableTelemetry", "--location"])
        .arg(folder.path().join("data"))
        .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{key}"))
        .env("NODE_OPTIONS", format!("--max-old-space-size={HEAP_MIB_MAX}"));
    Guard::start(folder.path(), "azurite", Walls::PROCESSES, &command)
}
