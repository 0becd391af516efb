//! Traffic over real connections, by a real clock: connections are used again, the slow tail of reads is asked twice where
//! that is wanted, and bytes flow no faster than they may.
//!
//! What is measured is held only against bounds that a slow machine cannot break.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use citius_understore::{
    Condition, FileId, MountSpec, StorePath, UnderStore, VersionToken, open, testing::servers::CountingBucket,
};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(120);
/// The least cap that may be set.
const RATE_BYTES_PER_SECOND: usize = 1 << 20;
/// What flows at once after a rest, as a part of a second of the rate (`traffic/bandwidth.rs`).
const BURST: f64 = 0.25;

fn path() -> StorePath {
    StorePath::parse("file").unwrap()
}

fn content(len: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(31) >> 3) as u8).collect::<Vec<u8>>().into()
}

async fn token(store: &Arc<dyn UnderStore>) -> VersionToken {
    store.stat(&path()).await.unwrap().token
}

async fn read(store: &Arc<dyn UnderStore>, token: &VersionToken, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut landing = |_: u64, part: &[u8]| bytes.extend_from_slice(part);
    let path = path();
    let reading = store.read(&path, token, 0..len as u64, &mut landing);
    tokio::time::timeout(PATIENCE, reading).await.expect("the read hangs").unwrap();
    bytes
}

/// Who asks again at once may find the connection not yet handed back, and begins one more.
fn connections_max(readers: u64) -> u64 {
    2 * readers + 8
}

/// A connection for each request would cost a round trip each, with TLS three, and run out of ports.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again() {
    const READS: u64 = 200;
    const READERS: u64 = 8;
    const BYTES: usize = 5000;
    let content = content(BYTES);
    for scheme in ["s3", "http"] {
        let bucket = CountingBucket::start(content.clone()).unwrap();
        let spec = match scheme {
            "s3" => bucket.mount(),
            _ => MountSpec::new(bucket.endpoint()),
        };
        let store = open(&spec).unwrap();
        let token = token(&store).await;
        for _ in 0..READS {
            assert!(read(&store, &token, BYTES).await == content);
        }
        let alone = bucket.connections();
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let (store, token, content) = (Arc::clone(&store), token.clone(), content.clone());
            readers.spawn(async move {
                for _ in 0..READS / READERS {
                    assert!(read(&store, &token, BYTES).await == content);
                }
            });
        }
        while let Some(ended) = readers.join_next().await {
            ended.unwrap();
        }
        println!("{scheme}: {} gets, {alone} and {} connections", bucket.gets(), bucket.connections());
        assert!(bucket.gets() >= 2 * READS);
        assert!(alone <= connections_max(1), "{scheme}: {alone} connections of one reader");
        assert!(
            bucket.connections() <= connections_max(READERS),
            "{scheme}: {} connections of {READERS}",
            bucket.connections()
        );
    }
}

/// The first requests teach what is usual; then one has no answer, and another is asked beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_without_an_answer_is_won_by_a_second_request() {
    /// Reads before the first second request (`traffic/hedge.rs`).
    const SAMPLES: u64 = 100;
    const BYTES: usize = 5000;
    let (content, bucket) = (content(BYTES), CountingBucket::start(content(BYTES)).unwrap());
    // The request that has no answer may wait for longer than the test.
    let spec = bucket.mount().option("hedge", "on").option("request_timeout", "10m");
    let store = open(&spec).unwrap();
    let token = token(&store).await;
    for _ in 0..SAMPLES {
        assert!(read(&store, &token, BYTES).await == content);
    }
    assert_eq!((store.traffic().totals().hedges, bucket.gets()), (0, SAMPLES));
    bucket.be_silent_once();
    assert!(read(&store, &token, BYTES).await == content);
    let totals = store.traffic().totals();
    assert_eq!((totals.hedges, totals.retries, totals.reads), (1, 0, SAMPLES + 2));
    assert_eq!((bucket.gets(), totals.in_flight), (SAMPLES + 2, 0));
    let deadline = Instant::now() + PATIENCE;
    while bucket.given_up() == 0 {
        assert!(Instant::now() < deadline, "the request that lost is still under way");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Without the option nobody is asked twice: the time limit of the request ends the wait.
#[tokio::test(flavor = "multi_thread")]
async fn unless_it_is_wanted_nothing_is_asked_twice() {
    const BYTES: usize = 5000;
    let (content, bucket) = (content(BYTES), CountingBucket::start(content(BYTES)).unwrap());
    let store = open(&bucket.mount().option("request_timeout", "1s")).unwrap();
    let token = token(&store).await;
    for _ in 0..110 {
        assert!(read(&store, &token, BYTES).await == content);
    }
    bucket.be_silent_once();
    assert!(read(&store, &token, BYTES).await == content);
    let totals = store.traffic().totals();
    assert_eq!(totals.hedges, 0);
    assert!(totals.retries >= 1, "{totals:?}");
}

/// The cap is the mount's, however many read.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_read_no_faster_than_the_mount_may() {
    const READERS: usize = 4;
    const BYTES: usize = 1 << 20;
    /// What may be there already when its pause begins.
    const PIECE_BYTES: usize = 512 << 10;
    let bucket = CountingBucket::start(content(BYTES)).unwrap();
    let store = open(&bucket.mount().option("read_bytes_per_second", RATE_BYTES_PER_SECOND.to_string())).unwrap();
    let token = token(&store).await;
    let start = Instant::now();
    let reads = (0..READERS).map(|_| read(&store, &token, BYTES));
    let got: usize = futures::future::join_all(reads).await.iter().map(Vec::len).sum();
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(got, READERS * BYTES);
    assert_eq!(store.traffic().totals().bytes_read, got as u64);
    let most = RATE_BYTES_PER_SECOND as f64 * (seconds + BURST) + (READERS * PIECE_BYTES) as f64;
    assert!((got as f64) <= most, "{got} bytes in {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_written_no_faster_than_the_mount_may() {
    const WRITES: usize = 4;
    const BYTES: usize = 1 << 20;
    let bucket = CountingBucket::start(Bytes::new()).unwrap();
    let store = open(&bucket.mount().option("write_bytes_per_second", RATE_BYTES_PER_SECOND.to_string())).unwrap();
    let start = Instant::now();
    for number in 0..WRITES {
        let id = FileId([number as u8 + 1; 16]);
        let mut staged = store.stage(&path(), id, Some(BYTES as u64)).await.unwrap();
        staged.write(content(BYTES)).await.unwrap();
        staged.publish(&Condition::Any).await.unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(bucket.bytes_put(), (WRITES * BYTES) as u64);
    // A write of any size passes; those after it wait for what it took.
    let most = RATE_BYTES_PER_SECOND as f64 * (seconds + BURST) + BYTES as f64;
    assert!((WRITES * BYTES) as f64 <= most, "{} bytes in {seconds} s", WRITES * BYTES);
}
