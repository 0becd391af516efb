//! Bytes that are damaged between the under-store and a worker: read again, or an error, and never cached.

use crate::support::{Process, noise};
use citius_client::Config;
use citius_understore::testing::servers::{Dialect, Flipping, StandIn, Way};
use citius_understore::{Condition, FileId, StorePath, open};
use std::time::Duration;
use tokio::runtime::Runtime;

const BYTES: usize = 300_001;
/// More bodies than are sent here.
const ALWAYS: u64 = 1000;

#[test]
fn damaged_bytes_are_read_again_and_never_cached() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(StandIn::start(Dialect::Gcs)).unwrap();
    let proxy = Flipping::before(server.endpoint().strip_prefix("http://").unwrap()).unwrap();
    let spec = proxy.mount(server.mount("p").option("retries_max", "2"));
    let [once, always, written] = [1, 2, 3].map(|seed| noise(BYTES, seed));
    let store = runtime.block_on(async { open(&spec) }).unwrap();
    runtime.block_on(async {
        for (name, bytes) in [("once", &once), ("always", &always)] {
            let mut staged = store.stage(&StorePath::parse(name).unwrap(), FileId([9; 16]), None).await.unwrap();
            staged.write(bytes.clone().into()).await.unwrap();
            staged.publish(&Condition::Any).await.unwrap();
        }
    });
    let local = Process::mounting(&spec);
    // Whole files: what is mapped is completed as a block at once.
    let client = local.client_with(Config { timeout: Duration::from_secs(20), ..Config::default() });
    let read = |path: &str| {
        let mut bytes = vec![0; BYTES];
        client.open(path).and_then(|file| file.read_at(&mut bytes, 0)).map(|_| bytes)
    };

    proxy.flip(Way::Back, 1);
    assert!(read("/data/once").unwrap() == once, "it was read again");
    assert_eq!(proxy.flipped(Way::Back), 1);

    proxy.flip(Way::Back, ALWAYS);
    let said = read("/data/always").unwrap_err().to_string();
    for words in ["/data/always", "reading", "does not match the digest (CRC32C)"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(proxy.flipped(Way::Back), 4, "one try and two more");
    assert!(read("/data/once").unwrap() == once, "what is cached is as it was");
    proxy.flip(Way::Back, 0);
    assert!(read("/data/always").unwrap() == always, "nothing that was damaged was kept");

    // The other way: what arrives damaged is refused and sent again, and if it always does, nothing is published.
    proxy.flip(Way::There, 1);
    let source = tempfile::tempdir().unwrap();
    let file = source.path().join("f");
    std::fs::write(&file, &written).unwrap();
    let from = format!("file:{}", file.display());
    local.run(&["cp", &from, "/data/written"]);
    assert_eq!(proxy.flipped(Way::There), 1);
    assert!(local.run(&["cat", "/data/written"]) == written);
    proxy.flip(Way::There, ALWAYS);
    let output = local.try_run(&["cp", &from, "/data/never"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    for words in ["/data/never", "publishing", "BadDigest"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    proxy.flip(Way::There, 0);
    local.fails(3, &["stat", "/data/never"]);
    let there = runtime.block_on(store.stat(&StorePath::parse("never").unwrap()));
    assert!(there.unwrap_err().is_not_found());
    server.stop().unwrap();
}
