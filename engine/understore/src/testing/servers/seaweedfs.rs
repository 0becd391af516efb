//! SeaweedFS: S3 and WebDAV, in one process.

use std::{
    io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

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

/// Go's collector works harder as it nears this, and has the same from all volumes.
const HEAP_MIB_AIMED_AT: u32 = 512;
const PORTS: usize = 9;
const VOLUMES_MAX: u32 = 50;
const VOLUME_MIB_MAX: u32 = 64;
const RECLAIM_PATIENCE: Duration = Duration::from_secs(60);
const RECLAIM_PAUSE: Duration = Duration::from_millis(500);

/// Who may use the S3 port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Who has the keys.
    Keys,
    /// Who signs nothing, too: for a shim that others sign their requests for.
    Anybody,
}

/// A running SeaweedFS with one bucket and fresh keys.
#[derive(Debug)]
pub struct SeaweedFs {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    ports: Ports<PORTS>,
    bucket: S3Bucket,
    guest: (String, String),
}

impl SeaweedFs {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        Self::start_for(Access::Keys).await
    }

    pub(super) async fn start_for(access: Access) -> io::Result<Self> {
        let installed = install("seaweedfs").await?;
        let folder = fresh::folder("seaweedfs")?;
        let ports = Ports::take()?;
        let endpoint = format!("http://127.0.0.1:{}", ports[0]);
        let bucket = S3Bucket { endpoint, region: REGION, key: fresh::key()?, secret: fresh::key()? };
        let guest = (fresh::key()?, fresh::key()?);
        write_keys(&folder, &bucket, &guest, access)?;
        let guard = launch(&installed, &folder, &ports)?;
        let mut seaweedfs = Self { guard, folder, installed, ports, bucket, guest };
        seaweedfs.wait().await?;
        seaweedfs.bucket.make().await?;
        Ok(seaweedfs)
    }

    /// Its bucket.
    pub fn s3(&self) -> &S3Bucket {
        &self.bucket
    }

    /// The key pair of somebody who may list and read the bucket, and not write.
    pub fn guest(&self) -> (&str, &str) {
        (&self.guest.0, &self.guest.1)
    }

    /// The folder that WebDAV clients see, without a slash at the end; nobody asks for keys.
    pub fn webdav(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[8])
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// A process id that ends all of it when it is killed.
    pub fn pid(&self) -> u32 {
        self.guard.pid()
    }

    /// Ends it by SIGKILL and starts it again with the same ports, keys and data.
    ///
    /// # Errors
    /// As [`SeaweedFs::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        self.guard = launch(&self.installed, &self.folder, &self.ports)?;
        self.wait().await?;
        self.bucket.make().await
    }

    /// Gives back the room of what was deleted, of which it has little, and waits until no more than this is held: what is
    /// deleted is forgotten a moment later.
    ///
    /// # Errors
    /// When it does not answer, or keeps more.
    pub async fn reclaim(&self, held_bytes_max: u64) -> io::Result<()> {
        let deadline = Instant::now() + RECLAIM_PATIENCE;
        loop {
            get(&format!("http://127.0.0.1:{}/vol/vacuum?garbageThreshold=0.01", self.ports[1])).await?;
            let held = self.held_bytes()?;
            if held <= held_bytes_max {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("SeaweedFS holds {held} bytes after all was deleted")));
            }
            tokio::time::sleep(RECLAIM_PAUSE).await;
        }
    }

    /// Bytes of all volumes.
    fn held_bytes(&self) -> io::Result<u64> {
        let mut held = 0;
        for entry in std::fs::read_dir(data_of(&self.folder))? {
            match entry?.metadata() {
                Ok(metadata) if metadata.is_file() => held += metadata.len(),
                // A volume that is being vacuumed is renamed.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(held)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.guard.stop()
    }

    async fn wait(&mut self) -> io::Result<()> {
        let (s3, webdav) = (self.bucket.endpoint(), self.webdav());
        self.guard
            .ready(async || {
                get(s3).await?;
                get(&webdav).await
            })
            .await?;
        Ok(())
    }
}

impl Server for SeaweedFs {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard])
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        // It puts these beside everybody else's temporary files and leaves them there.
        for (part, port) in [("master", 2), ("volume", 4), ("filer", 6), ("s3", 7)] {
            let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{part}-grpc-{}.sock", self.ports[port]));
        }
    }
}

fn data_of(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}

fn keys_of(folder: &TempDir) -> PathBuf {
    folder.path().join("s3.json")
}

/// The folder is its owner's alone, and so is what lies in it.
fn write_keys(folder: &TempDir, bucket: &S3Bucket, guest: &(String, String), access: Access) -> io::Result<()> {
    const ACTIONS: &str = r#""actions": ["Admin", "Read", "Write", "List", "Tagging"]"#;
    let (key, secret) = bucket.keys();
    let identity = |name, key: &str, secret: &str, actions| {
        format!(
            r#"{{"name": "{name}", "credentials": [{{"accessKey": "{key}", "secretKey": "{secret}"}}], {actions}}}"#
        )
    };
    let keys = identity("citius", key, secret, ACTIONS);
    let guest = identity("guest", &guest.0, &guest.1, r#""actions": ["Read", "List"]"#);
    let anybody = format!(r#", {{"name": "anonymous", {ACTIONS}}}"#);
    let anybody = if access == Access::Anybody { anybody.as_str() } else { "" };
    std::fs::DirBuilder::new().mode(0o700).create(data_of(folder))?;
    std::fs::write(keys_of(folder), format!(r#"{{"identities": [{keys}, {guest}{anybody}]}}"#))
}

fn launch(installed: &Installed, folder: &TempDir, ports: &Ports<PORTS>) -> io::Result<Guard> {
    const FLAGS: [&str; PORTS] = [
        "s3.port",
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
        "webdav.port",
    ];
    let mut command = Command::new(installed.folder.join("weed"));
    command
        .arg(format!("-logdir={}", folder.path().display()))
        .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-webdav"])
        .args(["-master.telemetry=false", "-master.electionTimeout=1s", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"])
        // Relative names: the working folder is the server's, and a socket's name is short.
        .args(["-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock", "-webdav.cacheDir=."])
        .arg(format!("-master.volumeSizeLimitMB={VOLUME_MIB_MAX}"))
        .arg(format!("-volume.max={VOLUMES_MAX}"))
        .arg(format!("-dir={}", data_of(folder).display()))
        .arg(format!("-s3.config={}", keys_of(folder).display()))
        .args(FLAGS.iter().zip(ports.numbers()).map(|(flag, port)| format!("-{flag}={port}")))
        .env("GOMEMLIMIT", format!("{HEAP_MIB_AIMED_AT}MiB"));
    Guard::start(folder.path(), "seaweedfs", Walls::PROCESSES, &command)
}
