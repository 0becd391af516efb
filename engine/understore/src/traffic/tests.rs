//! The parts together, on stopped time, against servers that are closures.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU32, AtomicUsize},
};

use ::http::Response;
use bytes::Bytes;
use futures::StreamExt;
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use tokio::time::{Instant as TokioInstant, sleep};

use super::*;

/// What a server of these tests says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Refused(Refused),
    Failed(Failure),
}

impl From<Refused> for Said {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

fn judge<T>(outcome: &Result<T, Said>) -> Verdict {
    match outcome {
        Ok(_) => Verdict::Good,
        Err(Said::Failed(failure)) => Verdict::bad(*failure),
        Err(Said::Refused(_)) => Verdict::bad(Failure::TimedOut),
    }
}

/// A good answer that takes its time.
async fn after(time: Duration) -> Result<(), Said> {
    sleep(time).await;
    Ok(())
}

/// Asks a server that answers from a list, and says how often it was asked.
async fn ask(traffic: &Traffic, repeat: Repeat, answers: &[Result<u32, Failure>]) -> (Result<u32, Said>, u32) {
    let asked = AtomicU32::new(0);
    let send = || {
        let answer = answers[asked.fetch_add(1, Relaxed) as usize];
        async move { answer.map_err(Said::Failed) }
    };
    let answer = traffic.run(&traffic.call(Operation::Stat, repeat), send, judge).await;
    (answer, asked.load(Relaxed))
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_on_until_it_is_answered_or_may_not() {
    use Failure::*;

    let settings = TrafficSettings { retries_max: 3, ..TrafficSettings::default() };
    let it = Traffic::new(settings);
    let (harmless, harmful) = (Repeat::Harmless, Repeat::Harmful);
    assert_eq!(ask(&it, harmless, &[Err(Server), Err(Broken), Err(Throttled), Ok(7)]).await, (Ok(7), 4));
    assert_eq!(ask(&it, harmless, &[Err(Server); 4]).await, (Err(Said::Failed(Server)), 4), "patience ends");
    assert_eq!(ask(&it, harmful, &[Err(Throttled), Err(Broken)]).await, (Err(Said::Failed(Broken)), 2));
    assert_eq!(ask(&it, harmless, &[Err(Refused)]).await, (Err(Said::Failed(Refused)), 1));
    let totals = it.totals();
    assert_eq!((totals.requests, totals.retries, totals.in_flight), (11, 7, 0));
    assert_eq!(totals.failures, [0, 0, 2, 2, 5, 1]);
}

/// Ten thousand calls to a server that fails each: what it is asked on top is bounded by the mount's budget.
#[tokio::test(start_paused = true)]
async fn a_dead_server_is_not_hammered() {
    const CALLS: u64 = 10_000;
    let it = Traffic::new(TrafficSettings { retries_max: 100, ..TrafficSettings::default() });
    let start = TokioInstant::now();
    let calls = futures::stream::iter(0..CALLS).for_each_concurrent(500, |_| {
        let it = it.clone();
        async move {
            let call = it.call(Operation::Read, Repeat::Harmless);
            let send = || async {
                sleep(Duration::from_millis(5)).await;
                Err::<(), _>(Said::Failed(Failure::Server))
            };
            it.run(&call, send, judge).await.unwrap_err();
        }
    });
    calls.await;
    let totals = it.totals();
    let most = CALLS / 5 + 100 + start.elapsed().as_secs() + 1;
    assert!(totals.retries <= most, "{} retries in {:?}, at most {most}", totals.retries, start.elapsed());
    assert_eq!(totals.requests, CALLS + totals.retries);
    assert!(totals.retries_denied > 0 && totals.in_flight == 0);
}

/// A server that serves twenty at a time and throttles the others: the mount finds that out, and gets its work done.
#[tokio::test(start_paused = true)]
async fn a_saturated_server_is_asked_as_much_as_it_can_do() {
    const CAPACITY: usize = 20;
    let it = Traffic::new(TrafficSettings {
        retries_max: 100,
        retry_timeout: Duration::from_secs(600),
        ..TrafficSettings::default()
    });
    let (busy, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let calls = futures::stream::iter(0..20_000).for_each_concurrent(200, |_| async {
        let call = it.call(Operation::Read, Repeat::Harmless);
        let send = || async {
            let answer = if busy.fetch_add(1, Relaxed) < CAPACITY {
                sleep(Duration::from_millis(10)).await;
                served.fetch_add(1, Relaxed);
                Ok(())
            } else {
                sleep(Duration::from_millis(1)).await;
                Err(Said::Failed(Failure::Throttled))
            };
            busy.fetch_sub(1, Relaxed);
            answer
        };
        // What the budget does not repeat is the caller's to see.
        let _ = it.run(&call, send, judge).await;
    });
    calls.await;
    let totals = it.totals();
    assert!(
        (CAPACITY / 2..=CAPACITY + 1).contains(&(totals.concurrency_limit as usize)),
        "{}",
        totals.concurrency_limit
    );
    let throttled = totals.failures[Failure::Throttled as usize];
    assert!(served.into_inner() > 19_000 && throttled < totals.requests / 10, "{throttled} of {}", totals.requests);
}

#[tokio::test(start_paused = true)]
async fn silence_opens_the_breaker_and_one_probe_closes_it() {
    let it = Traffic::new(TrafficSettings {
        retries_max: 0,
        request_timeout: Duration::from_secs(1),
        ..TrafficSettings::default()
    });
    let call = || it.call(Operation::Stat, Repeat::Harmless);
    let never = || std::future::pending::<Result<(), Said>>();
    for _ in 0..5 {
        let timed_out = Refused::TimedOut { limit: Duration::from_secs(1) };
        assert_eq!(it.run(&call(), never, judge).await, Err(Said::Refused(timed_out)));
    }
    let totals = it.totals();
    assert_eq!((totals.breaker, totals.requests), (BreakerState::Open, 5));
    assert!(totals.breaker_reason.contains("TimedOut"), "{}", totals.breaker_reason);
    let refused = it.run(&call(), never, judge).await.unwrap_err();
    assert!(matches!(refused, Said::Refused(Refused::Barred { .. })), "{refused:?}");
    sleep(Duration::from_secs(2)).await;
    // Of a hundred that come when the pause is over, one is sent; it is dropped, and the next hundred send one as well.
    for _ in 0..2 {
        let asked = AtomicU32::new(0);
        let send = || async {
            asked.fetch_add(1, Relaxed);
            sleep(Duration::from_millis(900)).await;
            Ok(())
        };
        let calls: FuturesUnordered<_> = (0..100).map(|_| async { it.run(&call(), send, judge).await }).collect();
        let all = calls.collect::<Vec<_>>();
        assert!(tokio::time::timeout(Duration::from_millis(500), all).await.is_err(), "the probe is still under way");
        assert_eq!((asked.into_inner(), it.totals().breaker), (1, BreakerState::Open));
    }
    it.run(&call(), || async { Ok(()) }, judge).await.unwrap();
    let totals = it.totals();
    assert_eq!((totals.breaker, totals.barred, totals.in_flight), (BreakerState::Closed, 1 + 2 * 99, 0));
    assert_eq!(totals.breaker_reason, "");
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_for_a_turn_is_told_why() {
    let settings =
        TrafficSettings { max_concurrency: 1, retry_timeout: Duration::from_secs(3), ..TrafficSettings::default() };
    let it = Traffic::new(settings);
    let call = || it.call(Operation::Write, Repeat::Harmless);
    let (slow, other) = (call(), call());
    let slow = it.run(&slow, || after(Duration::from_secs(10)), judge);
    let other = it.run(&other, || async { Ok::<_, Said>(()) }, judge);
    let (slow, other) = tokio::join!(slow, other);
    assert_eq!((slow, other), (Ok(()), Err(Said::Refused(Refused::Crowded { in_flight: 1 }))));
}

#[tokio::test(start_paused = true)]
async fn the_slow_tail_is_asked_twice_and_the_load_stays() {
    let it = Traffic::new(TrafficSettings { hedge: true, ..TrafficSettings::default() });
    let asked = AtomicU32::new(0);
    let mut slowest = Duration::ZERO;
    for i in 0..4000 {
        let (call, first) = (it.call(Operation::Read, Repeat::Harmless), AtomicU32::new(0));
        let send = || {
            asked.fetch_add(1, Relaxed);
            // One first request in fifty is stuck.
            let stuck = first.fetch_add(1, Relaxed) == 0 && i % 50 == 0;
            after(Duration::from_millis(if stuck { 2000 } else { 3 }))
        };
        let start = TokioInstant::now();
        it.run(&call, send, judge).await.unwrap();
        if i > 1000 {
            slowest = slowest.max(start.elapsed());
        }
    }
    assert!(slowest < Duration::from_millis(20), "{slowest:?}");
    let totals = it.totals();
    assert_eq!(u64::from(asked.into_inner()), 4000 + totals.hedges);
    assert!((60..=200).contains(&totals.hedges) && totals.in_flight == 0, "{}", totals.hedges);
    // The server says no to all second requests: the first one's answer counts.
    let (call, first) = (it.call(Operation::Read, Repeat::Harmless), AtomicU32::new(0));
    let send = || {
        let first = first.fetch_add(1, Relaxed) == 0;
        async move {
            sleep(Duration::from_millis(if first { 500 } else { 1 })).await;
            if first { Ok(1) } else { Err(Said::Failed(Failure::Throttled)) }
        }
    };
    assert_eq!(it.run(&call, send, judge).await, Ok(1));
}

/// An HTTP server from a list of answers, each a status, headers, and pieces of a body.
#[derive(Debug, Default)]
struct Scripted {
    answers: Mutex<VecDeque<(u16, Vec<Piece>)>>,
    asked: AtomicU32,
}

#[derive(Debug, Clone)]
enum Piece {
    Bytes(&'static [u8]),
    Many(usize),
    Break,
    Silence,
}

#[async_trait::async_trait]
impl HttpService for Scripted {
    async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.asked.fetch_add(1, Relaxed);
        let Some((status, pieces)) = self.answers.lock().pop_front() else {
            return Err(HttpError::new(HttpErrorKind::Connect, std::io::Error::other("nobody listens")));
        };
        let pieces = futures::stream::iter(pieces).then(|piece| async move {
            match piece {
                Piece::Bytes(bytes) => Ok(http_body::Frame::data(Bytes::from_static(bytes))),
                Piece::Many(len) => Ok(http_body::Frame::data(Bytes::from(vec![0; len]))),
                Piece::Break => Err(HttpError::new(HttpErrorKind::Interrupted, std::io::Error::other("reset"))),
                Piece::Silence => std::future::pending().await,
            }
        });
        let response = Response::builder().status(status).header("retry-after", "30");
        Ok(response.body(HttpResponseBody::new(Pieces(Box::pin(pieces)))).unwrap())
    }
}

type Frames = dyn futures::Stream<Item = Result<http_body::Frame<Bytes>, HttpError>> + Send + Sync;

struct Pieces(std::pin::Pin<Box<Frames>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, HttpError>>> {
        self.0.as_mut().poll_next(cx)
    }
}

fn governed(it: &Traffic, answers: Vec<(u16, Vec<Piece>)>) -> HttpClient {
    let scripted = Scripted { answers: Mutex::new(answers.into()), asked: AtomicU32::new(0) };
    HttpClient::new(Governed::new(HttpClient::new(scripted), it.clone()))
}

fn ranged() -> HttpRequest {
    ::http::Request::get("http://x/y").header("range", "bytes=0-9").body(Bytes::new().into()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_turn_lasts_as_long_as_its_body() {
    let it = Traffic::new(TrafficSettings::default());
    let client =
        governed(&it, vec![(206, vec![Piece::Bytes(b"ab"), Piece::Bytes(b"c")]), (404, vec![]), (206, vec![])]);
    let response = client.execute(ranged()).await.unwrap();
    assert_eq!(it.totals().in_flight, 1);
    assert_eq!(&response.into_body().bytes().await.unwrap()[..], b"abc");
    assert_eq!(it.totals().in_flight, 0);
    assert_eq!(client.execute(ranged()).await.unwrap().status(), 404);
    drop(client.execute(ranged()).await.unwrap());
    let totals = it.totals();
    assert_eq!((totals.in_flight, totals.requests, totals.reads, totals.failures), (0, 3, 3, [0; FAILURES]));
    assert_eq!(totals.latencies[Operation::Read as usize].count(), 3);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_out() {
    let it = Traffic::new(TrafficSettings::default());
    let client = governed(&it, vec![(503, vec![]), (206, vec![])]);
    let start = TokioInstant::now();
    assert_eq!(client.execute(ranged()).await.unwrap().status(), 206);
    assert!((30..32).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    // Longer than the call has: the answer is given as it is, at once.
    let it = Traffic::new(TrafficSettings { retry_timeout: Duration::from_secs(10), ..TrafficSettings::default() });
    let client = governed(&it, vec![(503, vec![]), (206, vec![])]);
    let start = TokioInstant::now();
    assert_eq!(client.execute(ranged()).await.unwrap().status(), 503);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_or_stalls_is_a_failure() {
    let it = Traffic::new(TrafficSettings { request_timeout: Duration::from_secs(4), ..TrafficSettings::default() });
    let broken = vec![(206, vec![Piece::Bytes(b"ab"), Piece::Break]), (206, vec![Piece::Bytes(b"ab"), Piece::Silence])];
    let client = governed(&it, broken);
    let error = client.execute(ranged()).await.unwrap().into_body().bytes().await.unwrap_err();
    assert_eq!(error.kind(), HttpErrorKind::Interrupted);
    let response = client.execute(ranged()).await.unwrap();
    let start = TokioInstant::now();
    // A reader that is slow itself is not the server's fault.
    sleep(Duration::from_secs(60)).await;
    let error = response.into_body().bytes().await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed().as_secs()), (HttpErrorKind::Timeout, 64));
    let totals = it.totals();
    assert_eq!((totals.failures, totals.in_flight), ([0, 1, 1, 0, 0, 0], 0));
}

#[tokio::test(start_paused = true)]
async fn bytes_flow_no_faster_than_the_mount_may() {
    let settings = TrafficSettings {
        read_bytes_per_second: Some(1 << 20),
        write_bytes_per_second: Some(2 << 20),
        ..TrafficSettings::default()
    };
    let it = Traffic::new(settings);
    let client = governed(&it, vec![(206, vec![Piece::Many(1 << 20); 10]), (200, vec![])]);
    let start = TokioInstant::now();
    assert_eq!(client.execute(ranged()).await.unwrap().into_body().bytes().await.unwrap().len(), 10 << 20);
    assert!((9.5..=10.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    let put = ::http::Request::put("http://x/y").body(Bytes::from(vec![0; 8 << 20]).into()).unwrap();
    let start = TokioInstant::now();
    assert_eq!(client.execute(put).await.unwrap().status(), 200);
    assert!((3.5..=4.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
}

/// What a store's condition refuses must not be taken for the refusal of the first try's own work.
#[tokio::test(start_paused = true)]
async fn a_conditional_put_of_unknown_fate_is_sent_once() {
    for (condition, tries) in [(None, 2), (Some("*"), 1)] {
        let it = Traffic::new(TrafficSettings { retries_max: 1, ..TrafficSettings::default() });
        let client = governed(&it, vec![(500, vec![]), (200, vec![])]);
        let mut put = ::http::Request::put("http://x/y");
        if let Some(condition) = condition {
            put = put.header("if-none-match", condition);
        }
        client.execute(put.body(Bytes::from_static(b"x").into()).unwrap()).await.unwrap();
        assert_eq!(it.totals().requests, tries, "{condition:?}");
    }
}
