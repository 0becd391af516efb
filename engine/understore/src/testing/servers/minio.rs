//! MinIO: S3. Beside 127.0.0.1 it listens at `::1`, whatever it is told.

use std::{io, process::Command};

use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls},
    http::get,
    install::{Installed, install},
    ports::Ports,
    s3_bucket::{REGION, S3Bucket},
    server::{Processes, Server},
};

/// Go's collector works harder as it nears this.
const HEAP_MIB_AIMED_AT: u32 = 512;

/// A running MinIO on one drive, with one bucket and fresh keys.
#[derive(Debug)]
pub struct Minio {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    bucket: S3Bucket,
    ports: Ports<1>,
}

impl Minio {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        Self::start_in(REGION).await
    }

    /// Starts it in a region. It takes signatures for that one alone.
    ///
    /// # Errors
    /// As [`Minio::start`].
    pub async fn start_in(region: &'static str) -> io::Result<Self> {
        let installed = install("minio").await?;
        let folder = fresh::folder("minio")?;
        let ports = Ports::take()?;
        let endpoint = format!("http://127.0.0.1:{}", ports[0]);
        let bucket = S3Bucket { endpoint, region, key: fresh::key()?, secret: fresh::key()? };
        let guard = launch(&installed, &folder, &ports, &bucket)?;
        let mut minio = Self { guard, folder, installed, bucket, ports };
        minio.wait().await?;
        Ok(minio)
    }

    /// Its bucket.
    pub fn s3(&self) -> &S3Bucket {
        &self.bucket
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends it by SIGKILL and starts it again with the same port, keys and data.
    ///
    /// # Errors
    /// As [`Minio::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        self.guard = launch(&self.installed, &self.folder, &self.ports, &self.bucket)?;
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
        let endpoint = self.bucket.endpoint();
        self.guard.ready(async || get(endpoint).await).await?;
        self.bucket.make().await
    }
}

impl Server for Minio {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard])
    }
}

fn launch(installed: &Installed, folder: &TempDir, ports: &Ports<1>, bucket: &S3Bucket) -> io::Result<Guard> {
    let (key, secret) = bucket.keys();
    let mut command = Command::new(installed.folder.join("minio"));
    command
        .args(["server", "--quiet", "--address", &format!("127.0.0.1:{}", ports[0]), "--certs-dir"])
        .arg(folder.path().join("certs"))
        .arg(folder.path().join("data"))
        .env("MINIO_ROOT_USER", key)
        .env("MINIO_ROOT_PASSWORD", secret)
        .env("MINIO_SITE_REGION", bucket.region)
        // No console, and no question whether there is a newer one.
        .env("MINIO_BROWSER", "off")
        .env("MINIO_UPDATE", "off")
        .env("GOMEMLIMIT", format!("{HEAP_MIB_AIMED_AT}MiB"));
    Guard::start(folder.path(), "minio", Walls::PROCESSES, &command)
}
