//! The bridge never blocks its caller, keeps its bounds, and answers every job once.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use citius_understore::{
    Bridge, Condition, Error, FetchJob, FileId, Landing, MemoryStore, QUEUED_MAX, Result, StorePath, UnderStore,
    VersionToken,
    testing::{Fault, FaultyStore, Operation},
};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(30);

async fn with_file(content: &'static [u8]) -> (Arc<dyn UnderStore>, StorePath, VersionToken) {
    let store = MemoryStore::new("memory://bridge");
    let path = StorePath::parse("f").unwrap();
    let mut staged = store.stage(&path, FileId([1; 16]), None).await.unwrap();
    staged.write(Bytes::from_static(content)).await.unwrap();
    let token = staged.publish(&Condition::Any).await.unwrap();
    (Arc::new(store), path, token)
}

/// Tells when it is dropped, and what landed until then.
struct Told {
    landed: Vec<u8>,
    tell: mpsc::Sender<Event>,
}

#[derive(Debug)]
enum Event {
    Dropped(Vec<u8>),
    Done(Result<()>),
}

impl Landing for Told {
    fn land(&mut self, _: u64, bytes: &[u8]) {
        self.landed.extend_from_slice(bytes);
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.tell.send(Event::Dropped(std::mem::take(&mut self.landed)));
    }
}

fn job(
    store: &Arc<dyn UnderStore>,
    path: &StorePath,
    token: &VersionToken,
    len: u64,
) -> (FetchJob, mpsc::Receiver<Event>) {
    let (tell, told) = mpsc::channel();
    let done = tell.clone();
    let job = FetchJob {
        store: Arc::clone(store),
        path: path.clone(),
        token: token.clone(),
        range: 0..len,
        is_whole: false,
        landing: Box::new(Told { landed: Vec::new(), tell }),
        done: Box::new(move |result| done.send(Event::Done(result)).unwrap()),
    };
    (job, told)
}

#[test]
fn bytes_land_and_the_landing_goes_before_the_answer() {
    let runtime = Runtime::new().unwrap();
    let (store, path, token) = runtime.block_on(with_file(b"content"));
    let bridge = Bridge::new(runtime.handle(), 2);
    let (job, told) = job(&store, &path, &token, 7);
    // This thread is no tokio thread, as a shard's is none.
    bridge.fetch(job).unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Event::Dropped(bytes)) if bytes == b"content"));
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Event::Done(Ok(())))));
    assert!(told.recv_timeout(PATIENCE).is_err(), "it was answered twice");
}

#[test]
fn bounds_are_kept_and_past_them_the_job_comes_back() {
    const IN_FLIGHT_MAX: usize = 3;
    let runtime = Runtime::new().unwrap();
    let (store, path, token) = runtime.block_on(with_file(b"content"));
    let running = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&running);
    let gate: Arc<dyn UnderStore> = Arc::new(FaultyStore::new(store, move |operation, _| {
        assert_eq!(operation, Operation::Read);
        counted.fetch_add(1, SeqCst);
        Fault::Delay(Duration::from_secs(3600))
    }));
    let bridge = Bridge::new(runtime.handle(), IN_FLIGHT_MAX);
    // Some run, one is in the dispatcher's hand, and the queue is full behind them.
    let mut waiting = Vec::new();
    let rejected = loop {
        let (job, told) = job(&gate, &path, &token, 7);
        match bridge.fetch(job) {
            Ok(()) => waiting.push(told),
            Err(rejected) if waiting.len() > IN_FLIGHT_MAX + QUEUED_MAX => break rejected,
            // The dispatcher has not taken up the first ones yet.
            Err(_) => std::thread::yield_now(),
        }
        assert!(waiting.len() <= IN_FLIGHT_MAX + 1 + QUEUED_MAX);
    };
    assert!(matches!(rejected.error, Error::Busy { limit: QUEUED_MAX, .. }));
    assert_eq!(rejected.job.range, 0..7);
    assert_eq!(running.load(SeqCst), IN_FLIGHT_MAX);
    // The runtime ends with all of them open: each is answered, none with success.
    runtime.shutdown_timeout(PATIENCE);
    for told in waiting {
        assert!(matches!(told.recv_timeout(PATIENCE), Ok(Event::Dropped(bytes)) if bytes.is_empty()));
        assert!(matches!(told.recv_timeout(PATIENCE), Ok(Event::Done(Err(Error::Cancelled { .. })))));
    }
    let (job, _told) = job(&gate, &path, &token, 7);
    assert!(matches!(bridge.fetch(job).unwrap_err().error, Error::Cancelled { .. }));
}

/// A store whose server was away took every place there was, and files of all other mounts waited with its own.
#[test]
fn a_store_that_is_away_keeps_nobody_from_another() {
    let runtime = Runtime::new().unwrap();
    let (store, path, token) = runtime.block_on(with_file(b"content"));
    let away: Arc<dyn UnderStore> =
        Arc::new(FaultyStore::new(Arc::clone(&store), |_, _| Fault::Delay(Duration::from_secs(3600))));
    let bridge = Bridge::new(runtime.handle(), 1);
    let hand_over = |_| {
        let (job, told) = job(&away, &path, &token, 7);
        bridge.fetch(job).unwrap();
        told
    };
    let waiting: Vec<_> = (0..QUEUED_MAX / 2).map(hand_over).collect();
    let (job, told) = job(&store, &path, &token, 7);
    bridge.fetch(job).unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Event::Dropped(bytes)) if bytes == b"content"));
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Event::Done(Ok(())))));
    assert!(waiting.iter().all(|told| told.try_recv().is_err()));
    // Each is answered, and to somebody, when the runtime ends.
    drop(runtime);
}

#[test]
fn a_landing_that_panics_is_still_answered_and_frees_its_slot() {
    let runtime = Runtime::new().unwrap();
    let (store, path, token) = runtime.block_on(with_file(b"content"));
    let bridge = Bridge::new(runtime.handle(), 1);
    for _ in 0..3 {
        let (tell, told) = mpsc::channel();
        let (mut job, _) = job(&store, &path, &token, 7);
        job.landing = Box::new(|_: u64, _: &[u8]| panic!("a landing of a test panics"));
        job.done = Box::new(move |result| tell.send(result).unwrap());
        bridge.fetch(job).unwrap();
        assert!(matches!(told.recv_timeout(PATIENCE), Ok(Err(Error::Cancelled { .. }))));
    }
    let (job, told) = job(&store, &path, &token, 7);
    bridge.fetch(job).unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Event::Dropped(bytes)) if bytes == b"content"));
}

#[test]
fn a_body_that_breaks_off_is_an_error() {
    let runtime = Runtime::new().unwrap();
    let (store, path, token) = runtime.block_on(with_file(b"content"));
    let cut: Arc<dyn UnderStore> = Arc::new(FaultyStore::new(store, |_, _| Fault::CutAfter(3)));
    let (job, told) = job(&cut, &path, &token, 7);
    Bridge::new(runtime.handle(), 1).fetch(job).unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Event::Dropped(bytes)) if bytes == b"con"));
    let done = told.recv_timeout(PATIENCE);
    assert!(matches!(done, Ok(Event::Done(Err(Error::WrongLength { expected: 7, got: 3, .. })))), "{done:?}");
}
