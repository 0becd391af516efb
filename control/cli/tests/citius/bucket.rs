//! A prefix of a real S3 server's bucket, written and looked at past Citius.

use crate::support::Process;
use citius_understore::testing::servers::{Gate, Pass, SeaweedFs};
use citius_understore::{Condition, FileId, Remnant, StorePath, UnderStore};
use futures::{TryStreamExt, stream};
use std::sync::{Arc, Mutex, Weak};
use tokio::runtime::Runtime;

/// Objects on their way to the server at once.
const PUTS_IN_FLIGHT_MAX: usize = 64;

/// A server that tests share while any of them runs.
struct Shared {
    server: SeaweedFs,
    runtime: Runtime,
}

/// A prefix of the shared server's bucket.
pub(crate) struct Prefix {
    shared: Arc<Shared>,
    name: String,
    store: Arc<dyn UnderStore>,
}

impl Shared {
    fn get() -> Arc<Self> {
        // Weak, because a static is never dropped and the server would be left to its watcher.
        static NOW: Mutex<Weak<Shared>> = Mutex::new(Weak::new());
        let mut now = NOW.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        now.upgrade().unwrap_or_else(|| {
            let runtime = Runtime::new().unwrap();
            let server = runtime.block_on(SeaweedFs::start()).unwrap();
            let shared = Arc::new(Self { server, runtime });
            *now = Arc::downgrade(&shared);
            shared
        })
    }
}

impl Prefix {
    pub(crate) fn new(name: &str) -> Self {
        let shared = Shared::get();
        let store = citius_understore::open(&shared.server.s3().mount(name)).unwrap();
        Self { shared, name: name.to_owned(), store }
    }

    pub(crate) fn uri(&self) -> String {
        format!("s3://{}/{}", self.shared.server.s3().name(), self.name)
    }

    pub(crate) fn options(&self) -> Vec<String> {
        self.options_at(self.endpoint())
    }

    /// Where the server listens.
    pub(crate) fn endpoint(&self) -> &str {
        self.shared.server.s3().endpoint()
    }

    fn options_at(&self, endpoint: &str) -> Vec<String> {
        let (key, secret) = self.shared.server.s3().keys();
        [
            format!("aws_endpoint={endpoint}"),
            format!("aws_access_key_id={key}"),
            format!("aws_secret_access_key={secret}"),
            "aws_region=us-east-1".to_owned(),
            "aws_allow_http=true".to_owned(),
        ]
        .into_iter()
        .flat_map(|option| ["--option".to_owned(), option])
        .collect()
    }

    /// A gate before the server, which lets in nobody yet but who has the server's own keys.
    pub(crate) fn gate(&self) -> Gate {
        let bucket = self.shared.server.s3();
        let (id, secret) = bucket.keys();
        let gate = Gate::before_s3(bucket).unwrap();
        gate.admit(Pass::keys(id, secret, None));
        gate
    }

    /// The keys of somebody who may not write.
    pub(crate) fn guest(&self) -> (&str, &str) {
        self.shared.server.guest()
    }

    /// Starts `citius local` with this prefix at `/data`.
    pub(crate) fn local(&self) -> Process {
        self.local_at(self.endpoint())
    }

    /// The same, over another way to the server.
    pub(crate) fn local_at(&self, endpoint: &str) -> Process {
        let mount = vec!["--mount".to_owned(), format!("/data={}", self.uri())];
        let arguments = [mount, self.options_at(endpoint)].concat();
        Process::local(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Mounts this prefix, with a sync interval of its own.
    pub(crate) fn mount_at(&self, master: &Process, path: &str, sync_interval: &str) {
        self.mount_through(self.endpoint(), master, path, &["--sync-interval", sync_interval]);
    }

    /// Mounts this prefix, over another way to the server and with more arguments.
    pub(crate) fn mount_through(&self, endpoint: &str, master: &Process, path: &str, more: &[&str]) {
        let (uri, options) = (self.uri(), self.options_at(endpoint));
        let mut arguments = vec!["mount", "add", path, &uri];
        arguments.extend(more.iter().copied().chain(options.iter().map(String::as_str)));
        master.run(&arguments);
    }

    /// Writes an object whole.
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) {
        self.put_pieces(name, bytes.len() as u64, [bytes]);
    }

    /// Writes an object of `length` bytes piece by piece, so that it is never in memory whole.
    pub(crate) fn put_pieces(&self, name: &str, length: u64, pieces: impl IntoIterator<Item = Vec<u8>>) {
        self.shared.runtime.block_on(put(&*self.store, name, length, pieces)).unwrap();
    }

    /// Writes many small objects, by name and content.
    pub(crate) fn put_all(&self, objects: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let objects = stream::iter(objects.into_iter().map(Ok));
        let puts = objects.try_for_each_concurrent(PUTS_IN_FLIGHT_MAX, |(name, bytes)| {
            let store = Arc::clone(&self.store);
            async move {
                let put = tokio::spawn(async move { put(&*store, &name, bytes.len() as u64, [bytes]).await });
                put.await.unwrap()
            }
        });
        self.shared.runtime.block_on(puts).unwrap();
    }

    /// The paths of uploads that were begun and neither completed nor aborted.
    pub(crate) fn uploads(&self) -> Vec<String> {
        let found = Mutex::new(Vec::new());
        let look = |remnant: &Remnant| {
            if let Remnant::Upload { path, .. } = remnant {
                found.lock().unwrap().push(path.to_string());
            }
            false
        };
        self.shared.runtime.block_on(self.store.sweep(&look)).unwrap();
        found.into_inner().unwrap()
    }

    /// The bytes of an object; `None` if there is none.
    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.try_get(name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The same, of an object that may be replaced meanwhile.
    pub(crate) fn try_get(&self, name: &str) -> citius_understore::Result<Option<Vec<u8>>> {
        let path = StorePath::parse(name).unwrap();
        self.shared.runtime.block_on(async {
            let stat = match self.store.stat(&path).await {
                Ok(stat) => stat,
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            };
            let mut bytes = Vec::new();
            let mut landing = |_: u64, part: &[u8]| bytes.extend_from_slice(part);
            if stat.len > 0 {
                self.store.read(&path, &stat.token, 0..stat.len, &mut landing).await?;
            }
            Ok(Some(bytes))
        })
    }

    /// Whether a file or a directory is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        let path = StorePath::parse(name).unwrap();
        match self.shared.runtime.block_on(self.store.stat(&path)) {
            Err(error) if error.is_not_found() => false,
            found => found.map(|_| true).unwrap(),
        }
    }

    /// The names in a directory, and which of them are directories.
    pub(crate) fn entries(&self, dir: &str) -> Vec<(String, bool)> {
        let dir = StorePath::parse(dir).unwrap();
        let listed = self.shared.runtime.block_on(self.store.list(&dir, "").try_collect::<Vec<_>>());
        let pages = match listed {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed.unwrap(),
        };
        let entries = pages.into_iter().flat_map(|page| page.entries);
        entries.map(|entry| (entry.name, !entry.stat.is_file())).collect()
    }
}

async fn put(
    store: &dyn UnderStore,
    name: &str,
    length: u64,
    pieces: impl IntoIterator<Item = Vec<u8>>,
) -> citius_understore::Result<()> {
    let path = StorePath::parse(name)?;
    let mut staged = store.stage(&path, FileId([7; 16]), Some(length)).await?;
    for piece in pieces {
        staged.write(piece.into()).await?;
    }
    staged.publish(&Condition::Any).await?;
    Ok(())
}
