//! Whether a server is asked at all: a circuit breaker (Nygard, "Release It!", 2007).
//!
//! ```text
//!            silent for FAILURES_MIN requests and SILENCE_MIN
//!   closed ───────────────────────────────────────────────────▶ open
//!     ▲                                                        │   ▲
//!     │ any answer                          its pause is over  │   │ silent again: twice the pause
//!     │                                                        ▼   │
//!     └───────────────────────────────────────────────────── half-open (one probe)
//! ```
//! Silence is a connection that was not made or an answer that did not come. Both a count and a time are asked for:
//! forty reads that meet a server in the second of its restart are no dead server. An answer is an answer, and be it
//! 503: how much a server is asked is the limiter's affair.

use std::time::{Duration, Instant};

/// Silent requests in a row before the breaker opens.
const FAILURES_MIN: u32 = 5;
/// How long the server must have been silent before the breaker opens.
const SILENCE_MIN: Duration = Duration::from_secs(2);
/// How long the breaker is open the first time.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// How long it is open at most; so long may a server be back unnoticed.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Bytes of a reason that are kept.
const REASON_BYTES_MAX: usize = 256;

/// What users see of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum BreakerState {
    /// Requests pass.
    #[default]
    Closed,
    /// One request is finding out whether the server is back.
    HalfOpen,
    /// Requests are refused without asking.
    Open,
}

/// The right to ask, to be given back with what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// One of many.
    Ordinary,
    /// The one request while the breaker is half-open, by its number: one of an earlier time says nothing about now.
    Probe(u64),
}

/// The server is not asked now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Barred {
    /// When the next request may pass.
    pub(super) wait: Duration,
    /// What the last request met.
    pub(super) reason: String,
}

/// The state and its reason. Pure: time comes in.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    phase: Phase,
    /// What silence was like, while it lasts.
    reason: String,
    /// Probes so far.
    probes: u64,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Silent requests in a row, and the time of the first.
    Closed { failures: u32, silent_since: Option<Instant> },
    /// No request before `until`.
    Open { until: Instant, pause: Duration },
    /// The probe of this number is under way.
    HalfOpen { pause: Duration, probe: u64 },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Closed { failures: 0, silent_since: None }
    }
}

impl Breaker {
    pub(super) fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Why it is not closed; empty when it is.
    pub(super) fn reason(&self) -> &str {
        if self.state() == BreakerState::Closed { "" } else { &self.reason }
    }

    /// Whether a request may be sent.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Pass, Barred> {
        match self.phase {
            Phase::Closed { .. } => Ok(Pass::Ordinary),
            Phase::Open { until, pause } if now >= until => {
                self.probes += 1;
                self.phase = Phase::HalfOpen { pause, probe: self.probes };
                Ok(Pass::Probe(self.probes))
            }
            Phase::Open { until, .. } => Err(Barred { wait: until - now, reason: self.reason.clone() }),
            Phase::HalfOpen { .. } => Err(Barred { wait: Duration::ZERO, reason: self.reason.clone() }),
        }
    }

    /// The server answered something. Whoever heard it, it is there.
    pub(super) fn answered(&mut self) {
        self.phase = Phase::default();
        self.reason.clear();
    }

    /// A request that held `pass` met silence.
    pub(super) fn silent(&mut self, pass: Pass, reason: &str, now: Instant) {
        self.phase = match (self.phase, pass) {
            (Phase::HalfOpen { pause, probe }, Pass::Probe(number)) if probe == number => {
                let pause = (pause * 2).min(PAUSE_MAX);
                Phase::Open { until: now + pause, pause }
            }
            (Phase::Closed { failures, silent_since }, _) => {
                let (failures, since) = (failures.saturating_add(1), silent_since.unwrap_or(now));
                if failures >= FAILURES_MIN && now.saturating_duration_since(since) >= SILENCE_MIN {
                    Phase::Open { until: now + PAUSE_FIRST, pause: PAUSE_FIRST }
                } else {
                    Phase::Closed { failures, silent_since: Some(since) }
                }
            }
            // Requests from before it opened say what is known already.
            (other, _) => other,
        };
        let ends = reason.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = ends.take_while(|end| *end <= REASON_BYTES_MAX).last().unwrap_or(0);
        reason[..end].clone_into(&mut self.reason);
    }

    /// A request that held `pass` was dropped before anything was heard: the next one may be the probe.
    pub(super) fn abandoned(&mut self, pass: Pass, now: Instant) {
        if let (Phase::HalfOpen { pause, probe }, Pass::Probe(number)) = (self.phase, pass)
            && probe == number
        {
            self.phase = Phase::Open { until: now, pause };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opened(start: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for i in 0..FAILURES_MIN {
            breaker.silent(Pass::Ordinary, "connection refused", start + i * SILENCE_MIN);
        }
        assert_eq!((breaker.state(), breaker.reason()), (BreakerState::Open, "connection refused"));
        breaker
    }

    #[test]
    fn many_failures_of_one_moment_do_not_open_it() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        (0..1000).for_each(|_| breaker.silent(Pass::Ordinary, "x", start));
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.silent(Pass::Ordinary, "x", start + SILENCE_MIN);
        assert_eq!(breaker.state(), BreakerState::Open);
        // One answer in between, and the count begins anew.
        let mut breaker = Breaker::default();
        (0..1000).for_each(|_| breaker.silent(Pass::Ordinary, "x", start));
        breaker.answered();
        breaker.silent(Pass::Ordinary, "x", start + SILENCE_MIN);
        assert_eq!((breaker.state(), breaker.reason()), (BreakerState::Closed, ""));
    }

    #[test]
    fn pauses_double_to_their_bound_and_an_answer_ends_them() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let wait = loop {
                match breaker.admit(now) {
                    Err(barred) => now += barred.wait,
                    Ok(pass) => {
                        breaker.silent(pass, "still", now);
                        break breaker.admit(now).unwrap_err().wait;
                    }
                }
            };
            pauses.push(wait.as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 15, 15, 15, 15]);
        breaker.answered();
        assert_eq!(breaker.admit(now), Ok(Pass::Ordinary));
    }

    #[test]
    fn a_dropped_probe_does_not_lock_the_server_out() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let later = start + Duration::from_secs(60);
        let probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err());
        breaker.abandoned(probe, later);
        assert_eq!(breaker.admit(later), Ok(Pass::Probe(2)));
    }

    proptest! {
        /// Whatever happens in whatever order: while it is half-open exactly one request is finding out, and no other
        /// one's end is taken for its.
        #[test]
        fn never_more_than_one_probe(steps in prop::collection::vec((0_u8..6, 0_u64..3000, 0_usize..8), 0..300)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            let mut under_way: Vec<Pass> = Vec::new();
            for (step, ms, which) in steps {
                now += Duration::from_millis(ms);
                let ended = (step > 2 && !under_way.is_empty()).then(|| under_way.swap_remove(which % under_way.len()));
                match (step, ended) {
                    (_, None) => under_way.extend(breaker.admit(now)),
                    (3, Some(pass)) => breaker.abandoned(pass, now),
                    (4, Some(_)) => breaker.answered(),
                    (_, Some(pass)) => breaker.silent(pass, "silence", now),
                }
                let asking = under_way.iter().filter(|pass| **pass == Pass::Probe(breaker.probes)).count();
                if breaker.state() == BreakerState::HalfOpen {
                    prop_assert_eq!(asking, 1);
                }
            }
        }
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let mut breaker = Breaker::default();
        breaker.silent(Pass::Ordinary, &"ü".repeat(1000), Instant::now());
        breaker.silent(Pass::Ordinary, &format!("x{}", "ü".repeat(1000)), Instant::now());
        assert!(breaker.reason.len() <= REASON_BYTES_MAX && breaker.reason.starts_with("xü"));
    }
}
