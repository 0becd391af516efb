//! The traffic between a mount and its under-store: counted, limited, repeated, and stopped where it is in vain.
//!
//! A store owns one [`Traffic`]. Adapters over HTTP put [`Governed`] under `object_store` and do nothing else; others
//! hand each request to [`Traffic::run`].
//!
//! ```text
//!  call ──▶ limiter ──▶ breaker ──▶ the request, with its time limit ──▶ verdict ──▶ answer
//!             ▲         (refused     └─ hedge: a second one                 │
//!             │          at once)                                           ▼ bad
//!             └──────────────── pause, if the call's patience and the mount's budget allow
//! ```
//! | file | what it decides |
//! |---|---|
//! | `failure.rs` | what an outcome says about its server |
//! | `limiter.rs` | how many requests at once |
//! | `retry.rs` | whether and when to try again |
//! | `breaker.rs` | whether to ask at all |
//! | `hedge.rs` | whether to ask twice |
//! | `bandwidth.rs` | how fast bytes flow |
//! | `settings.rs` | what users may set of all this |
//! | `totals.rs`, `latency.rs` | nothing: they count |
//! | `http.rs` | how HTTP answers are judged, and how bodies count |
//!
//! What decides is pure: time and chance are parameters. None of it is on the path of a warm read, which makes no request.

mod bandwidth;
mod breaker;
mod failure;
mod hedge;
mod http;
mod latency;
mod limiter;
mod retry;
mod settings;
#[cfg(test)]
mod tests;
mod totals;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;

pub(crate) use self::http::retry_after;
use self::{
    bandwidth::Pace,
    breaker::{Breaker, Pass},
    hedge::Hedger,
    limiter::{Entry, Full, Gate, Load, WAITING_MAX},
    retry::{Budget, Dice, Patience, may_repeat},
    totals::Totals,
};
pub use self::{
    breaker::BreakerState,
    failure::{FAILURES, Failure, Verdict},
    http::{Governed, Governor},
    latency::{LATENCY_BUCKETS, Latencies},
    retry::Repeat,
    settings::TrafficSettings,
    totals::{OPERATIONS, Operation, TrafficTotals},
};

/// Bytes a second of the slowest line that a request's time limit allows for, on top of the time for its answer.
const SENDING_BYTES_PER_SECOND_MIN: u64 = 256 << 10;

/// The traffic of one store. Clones are the same traffic.
#[derive(Debug, Clone)]
pub struct Traffic(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: TrafficSettings,
    totals: Arc<Totals>,
    gate: Arc<Gate>,
    breaker: Mutex<Breaker>,
    budget: Mutex<Budget>,
    hedger: Mutex<Hedger>,
    dice: Dice,
    reads: Pace,
    writes: Pace,
}

/// Why a request was not sent, or given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The server has been silent, and is not asked now.
    #[error("it has not answered for a while, the last time with: {reason}; it is asked again in {} s", wait.as_secs_f32().ceil())]
    Barred {
        /// What the last request met.
        reason: String,
        /// When it is asked again.
        wait: Duration,
    },
    /// No answer came within `request_timeout`.
    #[error("no answer came within {limit:?}")]
    TimedOut {
        /// The time limit.
        limit: Duration,
    },
    /// The call waited for its turn until `retry_timeout` was over.
    #[error(
        "{in_flight} requests are under way, and none ended in time; see whether the server is slow, or raise max_concurrency"
    )]
    Crowded {
        /// Requests under way.
        in_flight: usize,
    },
    /// More wait than may.
    #[error("{WAITING_MAX} requests wait for this server already; try again shortly")]
    Full,
}

/// One thing that a caller wants of a store, over all tries of it. Clones are the same call: an adapter that makes
/// several requests for one read hands the same call to all, so that their retries are counted together.
#[derive(Debug, Clone)]
pub struct Call(Arc<CallState>);

#[derive(Debug)]
struct CallState {
    operation: Operation,
    repeat: Repeat,
    patience: Mutex<Patience>,
}

impl Call {
    pub(crate) fn operation(&self) -> Operation {
        self.0.operation
    }

    pub(crate) fn repeat(&self) -> Repeat {
        self.0.repeat
    }

    /// Whether no request of it was repeated because one before it failed.
    pub(crate) fn is_first_try(&self) -> bool {
        self.0.patience.lock().is_fresh()
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self::new(TrafficSettings::default())
    }
}

impl Traffic {
    /// The traffic of a mount with such settings.
    pub fn new(settings: TrafficSettings) -> Self {
        Self::counting_into(settings, Arc::default())
    }

    /// The traffic with another server of the same mount, such as a source of credentials: it is limited and broken
    /// off by itself, and counted with this.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self::counting_into(self.0.settings.clone(), Arc::clone(&self.0.totals))
    }

    fn counting_into(settings: TrafficSettings, totals: Arc<Totals>) -> Self {
        let now = now();
        Self(Arc::new(Shared {
            gate: Arc::new(Gate::new(settings.max_concurrency)),
            breaker: Mutex::default(),
            budget: Mutex::new(Budget::new(now)),
            hedger: Mutex::default(),
            dice: Dice::new(),
            reads: Pace::new(settings.read_bytes_per_second, now),
            writes: Pace::new(settings.write_bytes_per_second, now),
            settings,
            totals,
        }))
    }

    /// What the mount's owner set.
    pub fn settings(&self) -> &TrafficSettings {
        &self.0.settings
    }

    /// The totals so far, and how things are now.
    pub fn totals(&self) -> TrafficTotals {
        let (limit, in_flight) = self.0.gate.figures();
        let breaker = self.0.breaker.lock();
        TrafficTotals {
            concurrency_limit: limit as u64,
            in_flight: in_flight as u64,
            breaker: breaker.state(),
            breaker_reason: breaker.reason().to_owned(),
            ..self.0.totals.snapshot()
        }
    }

    /// Counts one request that is not made through [`Self::run`].
    pub fn count_request(&self) {
        self.0.totals.requests.fetch_add(1, Relaxed);
    }

    /// Says that a request, which is counted as one already, was for content.
    pub fn count_content(&self) {
        self.0.totals.reads.fetch_add(1, Relaxed);
    }

    /// Counts content received; the engine's ring calls it for what it reads through a descriptor.
    pub fn count_read(&self, bytes: u64) {
        self.0.totals.bytes_read.fetch_add(bytes, Relaxed);
    }

    /// Counts content sent.
    pub fn count_written(&self, bytes: u64) {
        self.0.totals.bytes_written.fetch_add(bytes, Relaxed);
    }

    /// Counts requests that were not needed, because a cache or another's request had the answer.
    pub fn count_saved(&self, requests: u64) {
        self.0.totals.saved.fetch_add(requests, Relaxed);
    }

    /// Waits until bytes that were received are within the mount's rate.
    pub async fn pace_read(&self, bytes: u64) {
        if let Some(pause) = self.0.reads.take(bytes) {
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits until bytes may be sent within the mount's rate.
    pub async fn pace_write(&self, bytes: u64) {
        if let Some(pause) = self.0.writes.take(bytes) {
            tokio::time::sleep(pause).await;
        }
    }

    /// Begins a call: its patience runs from now.
    pub fn call(&self, operation: Operation, repeat: Repeat) -> Call {
        let settings = self.settings();
        let patience = Patience::new(settings.retries_max, now() + settings.retry_timeout);
        Call(Arc::new(CallState { operation, repeat, patience: Mutex::new(patience) }))
    }

    /// Makes a request: waits for its turn, sends it, and sends it again for as long as `judge` calls the outcome bad
    /// and that may help. Gives the last outcome, or why nothing was sent. Content that is sent is for the caller to
    /// [pace](Self::pace_write).
    pub async fn run<T, E, F>(
        &self,
        call: &Call,
        send: impl Fn() -> F,
        judge: impl Fn(&Result<T, E>) -> Verdict,
    ) -> Result<T, E>
    where
        E: From<Refused> + fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let (answer, mut turn) = self.begin(call, 0, self.settings().request_timeout, send, judge).await?;
        turn.finish();
        Ok(answer)
    }

    /// As [`Self::run`], for answers that go on after their head: the turn ends with the last of them. Each try carries
    /// `sends` bytes, and its head may take as long as `limit`, and as they take.
    pub(crate) async fn begin<T, E, F>(
        &self,
        call: &Call,
        sends: u64,
        limit: Duration,
        send: impl Fn() -> F,
        judge: impl Fn(&Result<T, E>) -> Verdict,
    ) -> Result<(T, Turn), E>
    where
        E: From<Refused> + fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        self.0.budget.lock().deposit();
        let limit = limit + Duration::from_secs(sends / SENDING_BYTES_PER_SECOND_MIN);
        loop {
            if sends > 0 {
                self.pace_write(sends).await;
            }
            let turn = self.turn(call).await?;
            let Tried { outcome, verdict, turn } = self.attempt(call, turn, limit, &send, &judge).await;
            let pause = match verdict {
                Verdict::Good => None,
                Verdict::Bad { failure, retry_after } => self.next_pause(call, failure, retry_after),
            };
            let Some(pause) = pause else { return outcome.map(|answer| (answer, turn)) };
            // Who pauses holds nobody up.
            drop((outcome, turn));
            tokio::time::sleep(pause).await;
        }
    }

    /// Pauses before the next try of a call that failed; false if there is to be none. For failures that are seen
    /// outside [`Self::run`], such as a body that breaks off.
    pub async fn again(&self, call: &Call, failure: Failure) -> bool {
        match self.next_pause(call, failure, None) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            None => false,
        }
    }

    fn next_pause(&self, call: &Call, failure: Failure, retry_after: Option<Duration>) -> Option<Duration> {
        if !may_repeat(failure, call.0.repeat) {
            return None;
        }
        let now = now();
        let pause = call.0.patience.lock().next(retry_after, now, self.0.dice.roll())?;
        if !self.0.budget.lock().withdraw(now) {
            self.0.totals.retries_denied.fetch_add(1, Relaxed);
            return None;
        }
        self.0.totals.retries.fetch_add(1, Relaxed);
        Some(pause)
    }

    /// Waits for the limiter, then asks the breaker.
    async fn turn(&self, call: &Call) -> Result<Turn, Refused> {
        let entry = match self.0.gate.try_enter() {
            Some(entry) => entry,
            None => {
                let deadline = call.0.patience.lock().deadline();
                match tokio::time::timeout_at(deadline.into(), self.0.gate.enter()).await {
                    Ok(Ok(entry)) => entry,
                    Ok(Err(Full)) => return Err(Refused::Full),
                    Err(_) => return Err(Refused::Crowded { in_flight: self.0.gate.figures().1 }),
                }
            }
        };
        self.admit(entry)
    }

    fn admit(&self, entry: Entry) -> Result<Turn, Refused> {
        match self.0.breaker.lock().admit(now()) {
            Ok(pass) => Ok(Turn { traffic: self.clone(), entry, pass: Some(pass), served: false }),
            Err(barred) => {
                self.0.totals.barred.fetch_add(1, Relaxed);
                Err(Refused::Barred { reason: barred.reason, wait: barred.wait })
            }
        }
    }

    /// One try, and perhaps a second request beside it.
    async fn attempt<T, E, F>(
        &self,
        call: &Call,
        turn: Turn,
        limit: Duration,
        send: &impl Fn() -> F,
        judge: &impl Fn(&Result<T, E>) -> Verdict,
    ) -> Tried<T, E>
    where
        E: From<Refused> + fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let hedges = self.0.settings.hedge && call.0.operation == Operation::Read && call.0.repeat == Repeat::Harmless;
        let delay = if hedges { self.0.hedger.lock().begin() } else { None };
        let Some(delay) = delay else { return self.one(call, turn, limit, send(), judge).await };
        let mut racing = FuturesUnordered::new();
        racing.push(self.one(call, turn, limit, send(), judge));
        if let Ok(Some(tried)) = tokio::time::timeout(delay, racing.next()).await {
            return tried;
        }
        // The second one takes nobody's place: no free turn, no second request.
        if let Some(turn) = self.0.gate.try_enter().and_then(|entry| self.admit(entry).ok())
            && self.0.hedger.lock().may_send()
        {
            self.0.totals.hedges.fetch_add(1, Relaxed);
            racing.push(self.one(call, turn, limit, send(), judge));
        }
        loop {
            let tried = racing.next().await.expect("every request ends, by its time limit at the latest");
            if tried.verdict.is_good() || racing.is_empty() {
                return tried;
            }
        }
    }

    /// Sends one request and learns from what comes of it.
    async fn one<T, E, F>(
        &self,
        call: &Call,
        mut turn: Turn,
        limit: Duration,
        request: F,
        judge: &impl Fn(&Result<T, E>) -> Verdict,
    ) -> Tried<T, E>
    where
        E: From<Refused> + fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let operation = call.0.operation;
        self.count_request();
        if operation == Operation::Read {
            self.count_content();
        }
        let start = now();
        let (outcome, verdict) = match tokio::time::timeout(limit, request).await {
            Ok(outcome) => {
                let verdict = judge(&outcome);
                (outcome, verdict)
            }
            Err(_) => (Err(Refused::TimedOut { limit }.into()), Verdict::bad(Failure::TimedOut)),
        };
        let latency = now().saturating_duration_since(start);
        self.0.totals.time(operation, latency);
        if operation == Operation::Read && self.0.settings.hedge && verdict.is_good() {
            self.0.hedger.lock().record(latency);
        }
        turn.learn(verdict, outcome.as_ref().err().map(|error| error as &dyn fmt::Display));
        Tried { outcome, verdict, turn }
    }
}

/// What came of one try.
struct Tried<T, E> {
    outcome: Result<T, E>,
    verdict: Verdict,
    turn: Turn,
}

/// A request under way. Dropping it ends it, whatever became of it.
#[derive(Debug)]
pub(crate) struct Turn {
    traffic: Traffic,
    entry: Entry,
    /// None once the breaker knows what came of it.
    pass: Option<Pass>,
    /// Whether its answer began well.
    served: bool,
}

impl Turn {
    /// Takes in what the head of the answer says.
    fn learn(&mut self, verdict: Verdict, error: Option<&dyn fmt::Display>) {
        let shared = &self.traffic.0;
        let failure = match verdict {
            Verdict::Good => None,
            Verdict::Bad { failure, .. } => Some(failure),
        };
        self.served = failure.is_none();
        if let Some(failure) = failure {
            shared.totals.fail(failure);
            if failure.is_overload() {
                self.entry.note(Load::Overloaded);
            }
        }
        let Some(pass) = self.pass.take() else { return };
        let mut breaker = shared.breaker.lock();
        match (failure, error) {
            (Some(failure), Some(error)) if failure.is_silence() => breaker.silent(pass, &error.to_string(), now()),
            // A connection that broke says neither that the server is there nor that it is not.
            (Some(Failure::Broken), _) => breaker.abandoned(pass, now()),
            _ => breaker.answered(),
        }
    }

    /// The whole answer is here.
    pub(crate) fn finish(&mut self) {
        if self.served {
            self.entry.note(Load::Served);
        }
    }

    /// The body of the answer failed.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.traffic.0.totals.fail(failure);
        self.entry.note(if failure.is_overload() { Load::Overloaded } else { Load::Unknown });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.traffic.0.breaker.lock().abandoned(pass, now());
        }
    }
}

/// The clock of the edge: tokio's, so that tests can stop it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
