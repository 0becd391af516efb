//! Real servers for tests and measurements, from the scripts in `ci/servers`.
//!
//! A server binds 127.0.0.1 only, has a temporary folder for all it keeps, and ends when its [`Server`] is dropped; a
//! watcher in the script ends it when this process is killed instead.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{MountSpec, s3};

/// The first start may have to install the server.
const START_SECONDS_MAX: u64 = 300;
/// A free port may be taken by somebody else between our look and the server's.
const START_ATTEMPTS_MAX: usize = 3;
/// The S3 port answers before the volumes behind it do.
const BUCKET_SECONDS_MAX: u64 = 30;
const S3_PORTS: usize = 8;
const BUCKET: &str = "citius-test";

/// A server process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    data: TempDir,
    sockets: Vec<PathBuf>,
    endpoint: String,
    key: String,
    secret: String,
}

impl Server {
    /// Starts an S3 server (SeaweedFS) with one bucket and fresh keys.
    pub async fn s3() -> std::io::Result<Self> {
        let server = tokio::task::spawn_blocking(start_s3).await.map_err(std::io::Error::other)??;
        let deadline = Instant::now() + Duration::from_secs(BUCKET_SECONDS_MAX);
        loop {
            match server.make_ready().await {
                Ok(()) => return Ok(server),
                Err(error) if Instant::now() > deadline => return Err(std::io::Error::other(error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its key pair: id and secret.
    pub fn keys(&self) -> (&str, &str) {
        (&self.key, &self.secret)
    }

    /// Its bucket.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// Its process id, for tests that kill it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A mount of its bucket, or of a prefix in it.
    pub fn mount(&self, prefix: &str) -> MountSpec {
        let uri = if prefix.is_empty() { format!("s3://{BUCKET}") } else { format!("s3://{BUCKET}/{prefix}") };
        MountSpec::new(uri)
            .option("aws_endpoint", &self.endpoint)
            .option("aws_access_key_id", &self.key)
            .option("aws_secret_access_key", &self.secret)
            .option("aws_region", "us-east-1")
            .option("aws_allow_http", "true")
    }

    /// Makes the bucket and proves that it takes a write.
    async fn make_ready(&self) -> crate::Result<()> {
        let spec = self.mount("");
        let (bucket, _) = s3::connect(&spec.uri, &spec.options, Arc::default())?;
        bucket.create_bucket().await?;
        let store = crate::open(&spec)?;
        let path = crate::StorePath::parse("ready")?;
        let mut staged = store.stage(&path, crate::FileId([0; 16]), None).await?;
        staged.write(bytes::Bytes::from_static(b"ready")).await?;
        staged.publish(&crate::Condition::Any).await?;
        store.delete_file(&path).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Neither can fail for a child that was not waited for; if it did, there would be nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for socket in &self.sockets {
            let _ = std::fs::remove_file(socket);
        }
    }
}

fn start_s3() -> std::io::Result<Server> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/servers/s3");
    let mut last = std::io::Error::other("the server was never tried");
    for _ in 0..START_ATTEMPTS_MAX {
        let data = tempfile::Builder::new().prefix("citius-s3-").tempdir()?;
        let ports = free_ports(S3_PORTS)?;
        let (key, secret) = (random_hex(10)?, random_hex(20)?);
        let mut child = Command::new(&script)
            .arg(data.path())
            .args(ports.iter().map(u16::to_string))
            .env("CITIUS_TEST_S3_KEY", &key)
            .env("CITIUS_TEST_S3_SECRET", &secret)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // SeaweedFS puts these beside everybody else's temporary files and leaves them there.
        let sockets = ["master", "volume", "filer", "s3"]
            .iter()
            .zip([ports[2], ports[4], ports[6], ports[7]])
            .map(|(part, port)| PathBuf::from(format!("/tmp/seaweedfs-{part}-grpc-{port}.sock")))
            .collect();
        let ready = wait_ready(&mut child);
        let mut server = Server { child, data, sockets, endpoint: String::new(), key, secret };
        match ready {
            Ok(endpoint) => {
                server.endpoint = endpoint;
                return Ok(server);
            }
            Err(error) => last = std::io::Error::other(format!("{error}; {}", tail(server.data.path()))),
        }
    }
    Err(last)
}

/// The endpoint of the READY line, or why there is none.
fn wait_ready(child: &mut Child) -> std::io::Result<String> {
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let (tell, told) = mpsc::channel();
    // The threads end when the script's ends of the pipes are closed: at READY, or at its death.
    std::thread::spawn(move || {
        let line = BufReader::new(stdout).lines().map_while(Result::ok).find(|line| line.starts_with("READY "));
        let _ = tell.send(line);
    });
    let (say, said) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = say.send(std::io::read_to_string(stderr));
    });
    match told.recv_timeout(Duration::from_secs(START_SECONDS_MAX)) {
        Ok(Some(line)) => Ok(line["READY ".len()..].trim().to_owned()),
        Ok(None) => {
            let text = said.recv_timeout(Duration::from_secs(5)).ok().and_then(Result::ok).unwrap_or_default();
            Err(std::io::Error::other(format!("ci/servers/s3 ended before it was ready: {}", text.trim())))
        }
        Err(_) => Err(std::io::Error::other(format!("ci/servers/s3 was not ready in {START_SECONDS_MAX} s"))),
    }
}

fn tail(data: &Path) -> String {
    const LINES: usize = 5;
    let log = std::fs::read_to_string(data.join("log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

/// Ports that nobody listens on, all different because they are held together.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn random_hex(bytes: usize) -> std::io::Result<String> {
    use std::io::Read;

    let mut random = vec![0; bytes];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
