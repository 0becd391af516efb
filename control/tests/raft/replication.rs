//! What a running log promises its callers.

use bytes::Bytes;
use citius_control::raft::{Config, Error, Raft};

use crate::ledger::{Ledger, POISON, command, fingerprint, open, small, write};

/// Concurrent callers each get their own reply, in their own order, and a reader with a reply sees
/// the write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_proposals_get_their_own_replies() {
    let dir = tempfile::tempdir().unwrap();
    let raft = open(dir.path(), small()).await;
    raft.read_lease().unwrap();
    let mut callers = Vec::new();
    for client in 0..32 {
        let raft = raft.clone();
        callers.push(tokio::spawn(async move {
            for serial in 1..=20 {
                let receipt = raft.propose(command(client, serial, 30)).await.unwrap();
                assert_eq!(receipt.serial_before, serial - 1);
                assert_eq!(raft.with_state(|ledger| ledger.clients[&client]), serial);
            }
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let metrics = raft.metrics();
    assert!(metrics.leads);
    assert_eq!(raft.with_state(|ledger| ledger.applied), 640);
    // The membership and the leader's first entry make two; group commit makes the rest fewer.
    assert!(metrics.next_index <= 642, "{metrics:?}");
    assert_eq!(metrics.applied_next_index, metrics.next_index);
    assert!(metrics.syncs > 0 && metrics.log_bytes > 640 * 46, "{metrics:?}");
    raft.shutdown().await;
}

/// A batch is one entry: consecutive slots of one index, replies in order.
#[tokio::test]
async fn a_batch_is_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let raft = open(dir.path(), small()).await;
    let batch: Vec<Bytes> = (1..=64).map(|serial| command(9, serial, 0).into()).collect();
    let before = raft.metrics().next_index;
    let receipts = raft.propose_batch(batch).await.unwrap();
    assert_eq!(raft.metrics().next_index, before + 1);
    for (slot, receipt) in receipts.iter().enumerate() {
        assert_eq!((receipt.at.index, receipt.at.slot as usize), (before, slot));
        assert_eq!(receipt.serial_before, slot as u64);
    }
    assert!(raft.propose_batch(Vec::new()).await.unwrap().is_empty());
    raft.shutdown().await;
}

/// At the bound of an entry and past it.
#[tokio::test]
async fn an_entry_has_a_size_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let raft = open(dir.path(), Config::default()).await;
    let (head, len, most) = (16, 4, 16 << 20);
    raft.propose(command(1, 1, most - head - len - 16)).await.unwrap();
    let refused = raft.propose(command(1, 2, most - head - len - 15)).await;
    assert!(matches!(refused, Err(Error::TooLarge { bytes_max, .. }) if bytes_max == most));
    let halves = vec![Bytes::from(vec![0; most / 2]); 2];
    assert!(matches!(raft.propose_batch(halves).await, Err(Error::TooLarge { .. })));
    write(&raft, 1, 1, 0).await;
    let written = fingerprint(&raft);
    raft.shutdown().await;
    let raft = open(dir.path(), Config::default()).await;
    assert_eq!(fingerprint(&raft), written);
    raft.shutdown().await;
}

/// The same state after each reopening, terms growing, and the log goes on where it ended.
#[tokio::test]
async fn reopening_gives_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = None;
    for round in 0..4 {
        let raft = open(dir.path(), small()).await;
        if let Some(written) = written {
            assert_eq!(fingerprint(&raft), written, "round {round}");
        }
        // Files of 32 KiB: rotation is crossed, and the replay reads entries the cache dropped.
        write(&raft, 1, 60, 2000).await;
        written = Some(fingerprint(&raft));
        raft.shutdown().await;
    }
}

/// After shutdown every call says so, and what was queued before it was carried out.
#[tokio::test]
async fn shutdown_is_orderly() {
    let dir = tempfile::tempdir().unwrap();
    let raft = open(dir.path(), small()).await;
    let queued: Vec<_> = (1..=50).map(|serial| raft.propose(command(1, serial, 0))).collect();
    // Polled once, in order, so that all are queued before the shutdown is asked for.
    let (results, ()) = tokio::join!(futures::future::join_all(queued), raft.shutdown());
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!(matches!(raft.propose(command(1, 51, 0)).await, Err(Error::Closed)));
    assert!(matches!(raft.read_lease(), Err(Error::NotLeader { .. })));
    raft.shutdown().await;
    let again = open(dir.path(), small()).await;
    assert_eq!(again.with_state(|ledger| ledger.clients[&1]), 50);
    again.shutdown().await;
}

/// Dropping the last handle closes the log too, in the background.
#[tokio::test]
async fn dropping_the_handle_closes_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let raft = open(dir.path(), small()).await;
    write(&raft, 1, 3, 0).await;
    drop(raft);
    let again = loop {
        match Raft::open(dir.path(), small(), Ledger::default()).await {
            Ok(raft) => break raft,
            Err(Error::InUse { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(again.with_state(|ledger| ledger.clients[&1]), 3);
    again.shutdown().await;
}

/// One process, or one handle, at a time.
#[tokio::test]
async fn a_log_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let raft = open(dir.path(), small()).await;
    let second = Raft::open(dir.path(), small(), Ledger::default()).await;
    assert!(matches!(second, Err(Error::InUse { .. })));
    write(&raft, 1, 1, 0).await;
    raft.shutdown().await;
}

/// A machine that panics is not read from again, and the log says why.
#[tokio::test]
async fn a_panicking_machine_stops_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let raft = open(dir.path(), small()).await;
    write(&raft, 1, 1, 0).await;
    let Err(Error::Failed { why, .. }) = raft.propose(POISON).await else { panic!("it applied") };
    assert!(why.contains("panicked"), "{why}");
    assert!(matches!(raft.read_lease(), Err(Error::Failed { .. })));
    assert!(matches!(raft.propose(command(1, 2, 0)).await, Err(Error::Failed { .. })));
    raft.shutdown().await;
}
