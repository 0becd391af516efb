//! What an answer says about its server: the one sorting that limits, retries and the breaker share.

use std::time::Duration;

/// Kinds of [`Failure`].
pub const FAILURES: usize = 6;

/// Why a request got no good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection was made, so the server has seen nothing of the request.
    Unreachable,
    /// No answer came in time; whether the server did what was asked is not known.
    TimedOut,
    /// The connection broke before the whole answer was here; what the server did is not known either.
    Broken,
    /// The server says that it is asked too much: 429, 503, `SlowDown`. It did nothing.
    Throttled,
    /// The server failed by itself: any other 5xx. It may have done what was asked.
    Server,
    /// The server understood and refused. It would again.
    Refused,
}

impl Failure {
    /// Every kind, in the order of [`TrafficTotals::failures`](super::TrafficTotals::failures).
    pub const ALL: [Self; FAILURES] =
        [Self::Unreachable, Self::TimedOut, Self::Broken, Self::Throttled, Self::Server, Self::Refused];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Broken => "broken",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Refused => "refused",
        }
    }

    /// Whether the server was heard of at all.
    pub(super) fn is_silence(self) -> bool {
        matches!(self, Self::Unreachable | Self::TimedOut)
    }

    /// Whether fewer requests at once might have prevented it.
    pub(super) fn is_overload(self) -> bool {
        matches!(self, Self::Throttled | Self::TimedOut)
    }
}

/// What the outcome of one try means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An answer, and be it "there is no such file".
    Good,
    /// A failure of the server or of the way to it.
    Bad {
        /// Which.
        failure: Failure,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
}

impl Verdict {
    /// A failure whose server named no time.
    pub fn bad(failure: Failure) -> Self {
        Self::Bad { failure, retry_after: None }
    }

    pub(super) fn is_good(self) -> bool {
        self == Self::Good
    }
}
