//! Snapshots: taken by bytes of log, the log purged after, restarts from both.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use citius_control::raft::{Config, Error, Raft};

use crate::ledger::{Ledger, fingerprint, open, small, write};

fn snapshotting() -> Config {
    Config { snapshot_log_bytes: 64 << 10, ..small() }
}

fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(part)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Writes until a snapshot newer than `after` exists and the log was purged up to some snapshot.
async fn write_past_a_snapshot(raft: &Raft<Ledger>, after: u64) {
    // Ten times the log that calls for a snapshot is enough for any.
    for _ in 0..640 {
        write(raft, 1, 10, 1000).await;
        if raft.metrics().snapshot_next_index > after && raft.metrics().log_bytes <= 512 << 10 {
            return;
        }
    }
    panic!("no snapshot, or no purge: {:?}", raft.metrics());
}

/// The log does not grow without bound, there is one snapshot, and both together restore the state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_purge_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut snapshot_before = 0;
    for _ in 0..3 {
        let raft = open(dir.path(), snapshotting()).await;
        write_past_a_snapshot(&raft, snapshot_before).await;
        write(&raft, 2, 5, 10).await;
        let metrics = raft.metrics();
        assert!(metrics.snapshot_next_index > snapshot_before && metrics.snapshot_bytes > 0);
        snapshot_before = metrics.snapshot_next_index;
        let written = fingerprint(&raft);
        raft.shutdown().await;
        assert_eq!(files(dir.path(), "snapshots").len(), 1);

        let raft = open(dir.path(), snapshotting()).await;
        assert_eq!(fingerprint(&raft), written);
        assert_eq!(raft.metrics().snapshot_next_index, snapshot_before);
        raft.shutdown().await;
    }
    let first_chunk = files(dir.path(), "log").into_iter().filter(|path| path.extension().is_some()).min();
    assert!(!first_chunk.unwrap().ends_with("r-00_000_000_000_000_000_000.wal"), "the log was never purged");
}

/// A snapshot that cannot be written (a full disk) costs nothing but log: no write fails, and the
/// next one succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_snapshot_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Ledger::default();
    let fail = machine.fail_snapshots.clone();
    fail.store(true, Ordering::SeqCst);
    let raft = Raft::open(dir.path(), snapshotting(), machine).await.unwrap();
    write(&raft, 1, 200, 1000).await;
    assert_eq!(raft.metrics().snapshot_next_index, 0);
    fail.store(false, Ordering::SeqCst);
    write_past_a_snapshot(&raft, 0).await;
    let written = fingerprint(&raft);
    raft.shutdown().await;
    assert!(files(dir.path(), "snapshots").iter().all(|path| path.extension().unwrap() == "snapshot"));
    let raft = open(dir.path(), snapshotting()).await;
    assert_eq!(fingerprint(&raft), written);
    raft.shutdown().await;
}

/// Any byte of a snapshot damaged: a clear error that names the file, and nothing changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let raft = open(dir.path(), snapshotting()).await;
    write_past_a_snapshot(&raft, 0).await;
    let written = fingerprint(&raft);
    raft.shutdown().await;
    let path = files(dir.path(), "snapshots").remove(0);
    let whole = fs::read(&path).unwrap();
    let refused = async |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        match Raft::open(dir.path(), snapshotting(), Ledger::default()).await {
            Err(Error::Corrupt { path: named, .. }) => assert_eq!(named, path),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("opened a damaged snapshot"),
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&bytes).await;
    }
    refused(&whole[..whole.len() - 1]).await;
    refused(&whole[..20]).await;
    refused(&[]).await;
    // Gone altogether, the log no longer reaches back to its beginning.
    fs::remove_file(&path).unwrap();
    let missing = Raft::open(dir.path(), snapshotting(), Ledger::default()).await;
    assert!(matches!(missing, Err(Error::Corrupt { .. })));
    fs::write(&path, &whole).unwrap();
    let raft = open(dir.path(), snapshotting()).await;
    assert_eq!(fingerprint(&raft), written);
    raft.shutdown().await;
}

/// What a crash leaves of a snapshot being written is removed.
#[tokio::test]
async fn a_temporary_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), small()).await.shutdown().await;
    let leftover = dir.path().join("snapshots/00000000000000000001-00000000000000000009.tmp");
    fs::write(&leftover, b"half").unwrap();
    open(dir.path(), small()).await.shutdown().await;
    assert!(!leftover.exists());
}
