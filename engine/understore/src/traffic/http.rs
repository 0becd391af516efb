//! HTTP under the rules of a mount: what goes below `object_store` and below requests that we sign ourselves.
//!
//! [`Governor`] makes [`Governed`] clients; with `RetryConfig::max_retries` 0 above it, its retries are the only ones. A
//! request is one try after another until its head is here; its turn lasts until its body is read or dropped. So no
//! caller may wait for a second request while it holds the unread body of a first: at a limit of one it would wait for
//! itself.
//!
//! Who knows more of a request than its method says puts the [`Call`] into its extensions (`GetOptions::extensions`, …).

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body::{Body, Frame, SizeHint};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
        ReqwestConnector,
    },
};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::{Call, Failure, Operation, Refused, Repeat, Traffic, Turn, Verdict};
use crate::web::{advice_of_tls, chain};

/// The longest pause that a server may ask for and get.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Gives `object_store` its HTTP clients, each under rules of its own, all counted for the same mount.
#[derive(Debug, Clone)]
pub struct Governor {
    traffic: Traffic,
    /// How many clients there are; the last one is the store's own.
    made: Arc<AtomicUsize>,
    last: Arc<Mutex<Option<(HttpClient, Traffic)>>>,
}

impl Governor {
    /// A maker of clients for the mount whose traffic this is.
    pub fn new(traffic: Traffic) -> Self {
        Self { traffic, made: Arc::default(), last: Arc::default() }
    }

    /// The client that was made last, and its traffic. `object_store`'s builders make those for credentials first, the
    /// store's own last.
    pub fn last(&self) -> Option<(HttpClient, Traffic)> {
        self.last.lock().clone()
    }
}

impl HttpConnector for Governor {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        let traffic = self.traffic.beside();
        let number = self.made.fetch_add(1, Relaxed) + 1;
        let governed = Governed { inner, traffic: traffic.clone(), made: Arc::clone(&self.made), number };
        let client = HttpClient::new(governed);
        *self.last.lock() = Some((client.clone(), traffic));
        Ok(client)
    }
}

/// An HTTP client whose every request keeps the rules of a mount.
pub struct Governed {
    inner: HttpClient,
    traffic: Traffic,
    made: Arc<AtomicUsize>,
    number: usize,
}

impl Governed {
    /// Puts `inner`, which talks to the store itself, under the rules of `traffic`.
    pub fn new(inner: HttpClient, traffic: Traffic) -> Self {
        Self { inner, traffic, made: Arc::new(AtomicUsize::new(1)), number: 1 }
    }

    /// What a request is, where nobody said it.
    fn guess(&self, request: &HttpRequest) -> Call {
        let headers = request.headers();
        let conditional = headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_NONE_MATCH);
        let (operation, harmless) = match *request.method() {
            Method::GET if headers.contains_key(header::RANGE) => (Operation::Read, true),
            Method::GET => (Operation::List, true),
            Method::HEAD => (Operation::Stat, true),
            Method::PUT if headers.contains_key("x-amz-copy-source") => (Operation::Change, !conditional),
            Method::PUT => (Operation::Write, !conditional),
            Method::DELETE => (Operation::Change, !conditional),
            _ => (Operation::Write, false),
        };
        // A source of credentials gives a second token as gladly as the first, whatever the method.
        let for_credentials = self.number != self.made.load(Relaxed);
        let (operation, harmless) = if for_credentials { (Operation::Stat, true) } else { (operation, harmless) };
        self.traffic.call(operation, if harmless { Repeat::Harmless } else { Repeat::Harmful })
    }
}

/// By hand: the client below would print its default headers.
impl fmt::Debug for Governed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Governed")
    }
}

#[async_trait::async_trait]
impl HttpService for Governed {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let call = request.extensions().get::<Call>().cloned().unwrap_or_else(|| self.guess(&request));
        let sends = request.body().content_length() as u64;
        let send = || self.inner.execute(request.clone());
        let limit = self.traffic.settings().request_timeout;
        let (response, turn) = self.traffic.begin(&call, sends, limit, send, judge).await?;
        let is_content = call.0.operation == Operation::Read;
        Ok(response.map(|body| HttpResponseBody::new(Metered::new(body, turn, is_content))))
    }
}

/// What an HTTP answer, or its lack, says about the server.
fn judge(outcome: &Result<HttpResponse, HttpError>) -> Verdict {
    let response = match outcome {
        Ok(response) => response,
        Err(error) => return Verdict::bad(failure_of(error)),
    };
    let failure = match response.status().as_u16() {
        429 | 503 => Failure::Throttled,
        // These say that the server has no such thing or no room, and will not have it in a moment.
        501 | 505 | 507 => Failure::Refused,
        408 | 500.. => Failure::Server,
        // Answers to questions that were asked: is it there, is it still this version, may it be so.
        304 | 404 | 409 | 412 | 416 => return Verdict::Good,
        300.. => Failure::Refused,
        _ => return Verdict::Good,
    };
    Verdict::Bad { failure, retry_after: retry_after(response.headers(), SystemTime::now()) }
}

fn failure_of(error: &HttpError) -> Failure {
    match error.kind() {
        // Somebody is there, who is not trusted, and will not be in a moment.
        HttpErrorKind::Connect if advice_of_tls(&chain(error)).is_some() => Failure::Refused,
        HttpErrorKind::Connect => Failure::Unreachable,
        HttpErrorKind::Timeout => Failure::TimedOut,
        // Closed before the answer was whole; the request may have been seen.
        HttpErrorKind::Request | HttpErrorKind::Interrupted => Failure::Broken,
        _ => Failure::Refused,
    }
}

/// Retry-After, in seconds or as a date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = SystemTime::from(chrono::DateTime::parse_from_rfc2822(text).ok()?);
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

impl From<Refused> for HttpError {
    fn from(refused: Refused) -> Self {
        let kind = match refused {
            Refused::TimedOut { .. } => HttpErrorKind::Timeout,
            _ => HttpErrorKind::Connect,
        };
        Self::new(kind, refused)
    }
}

/// The body of an answer, whose end is the end of the turn. It fails when it pauses for longer than an answer may be
/// awaited, and flows no faster than the mount may.
struct Metered {
    body: HttpResponseBody,
    /// None once the body has ended.
    turn: Option<Turn>,
    traffic: Traffic,
    is_content: bool,
    /// The pause that the rate asks for before the next piece.
    pause: Option<Pin<Box<Sleep>>>,
    /// Since when the next piece is waited for; none while nobody waits.
    waits_since: Option<Instant>,
    /// Wakes whoever waits, at the earliest moment at which that has been too long.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    fn new(body: HttpResponseBody, turn: Turn, is_content: bool) -> Self {
        let traffic = turn.traffic.clone();
        let mut metered =
            Self { body, turn: Some(turn), traffic, is_content, pause: None, waits_since: None, alarm: None };
        metered.end_if_over();
        metered
    }

    fn end_if_over(&mut self) {
        if self.body.is_end_stream() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(mut turn) = self.turn.take() {
            turn.finish();
        }
    }

    fn fail(&mut self, error: HttpError) -> HttpError {
        if let Some(mut turn) = self.turn.take() {
            turn.fail(failure_of(&error));
        }
        error
    }

    /// Whether the server has been waited for too long. The alarm is set anew only when it rings: pieces come by the
    /// thousand, and it rings once in a limit.
    fn is_stalled(&mut self, limit: Duration, cx: &mut Context<'_>) -> bool {
        let due = *self.waits_since.get_or_insert_with(Instant::now) + limit;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        while alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return true;
            }
            alarm.as_mut().reset(due);
        }
        false
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let limit = self.traffic.settings().request_timeout;
                if !self.is_stalled(limit, cx) {
                    return Poll::Pending;
                }
                Some(Err(Refused::TimedOut { limit }.into()))
            }
        };
        self.waits_since = None;
        Poll::Ready(match frame {
            None => {
                self.finish();
                None
            }
            Some(Err(error)) => Some(Err(self.fail(error))),
            Some(Ok(frame)) => {
                if let (true, Some(bytes)) = (self.is_content, frame.data_ref()) {
                    let pause = self.traffic.0.reads.take(bytes.len() as u64);
                    self.pause = pause.map(|pause| Box::pin(tokio::time::sleep(pause)));
                }
                self.end_if_over();
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, after: &str) -> Result<HttpResponse, HttpError> {
        let response = http::Response::builder().status(status).header("retry-after", after);
        Ok(response.body(Bytes::new().into()).unwrap())
    }

    #[test]
    fn answers_are_told_from_failures() {
        let failure = |status| match judge(&answer(status, "x")) {
            Verdict::Good => None,
            Verdict::Bad { failure, .. } => Some(failure),
        };
        assert!([200, 204, 206, 304, 404, 409, 412, 416].into_iter().all(|status| failure(status).is_none()));
        assert!([429, 503].into_iter().all(|status| failure(status) == Some(Failure::Throttled)));
        assert!([408, 500, 502, 504, 599].into_iter().all(|status| failure(status) == Some(Failure::Server)));
        assert!(
            [301, 307, 400, 401, 403, 405, 501, 507]
                .into_iter()
                .all(|status| failure(status) == Some(Failure::Refused))
        );
    }

    /// Each once took as long as a server that is away.
    #[test]
    fn who_is_not_trusted_is_not_asked_again() {
        let failure = |words| failure_of(&HttpError::new(HttpErrorKind::Connect, std::io::Error::other(words)));
        assert_eq!(failure("invalid peer certificate: UnknownIssuer"), Failure::Refused);
        assert_eq!(failure("received corrupt message of type InvalidContentType"), Failure::Refused);
        assert_eq!(failure("Connection refused (os error 111)"), Failure::Unreachable);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let after = |text| match judge(&answer(503, text)) {
            Verdict::Bad { retry_after, .. } => retry_after,
            Verdict::Good => None,
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO), "it is over");
        assert_eq!((after("-1"), after("soon"), after("")), (None, None, None));
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT".parse().unwrap());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_450);
        assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(30)));
    }
}
