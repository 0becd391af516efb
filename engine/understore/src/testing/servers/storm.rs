//! A proxy before a server of S3 that does to requests and answers whatever a network, a server or a source of keys can do
//! to them, by dice.
//!
//! What it stands before tells no digests of what it sends; so that a flipped bit can be seen, the storm tells that of whole
//! objects to who asks for it, as Amazon S3 does. Where no digest is told, no bit is flipped: nobody could know.
//!
//! Lists of a directory may be stale, those of a whole tree are not: who deletes or moves a tree relies on seeing all of it,
//! as S3 has promised since December 2020.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, RANGE, TRANSFER_ENCODING},
    request::Parts,
};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;

use super::{
    answering::{Answering, Body, refused, whole},
    http::{moved, send},
};
use crate::object::DigestKind;

/// How late an answer is that is only slow.
const SLOW: Duration = Duration::from_millis(400);
/// How long one is held back that nobody is to wait for.
const HELD: Duration = Duration::from_secs(6);
/// Lists that are remembered.
const LISTS_MAX: usize = 1024;
/// Bytes that a wrong length is longer by.
const BYTES_TOO_MANY: u64 = 7;
const CHECKSUM_MODE: &str = "x-amz-checksum-mode";
const CHECKSUM: &str = "x-amz-checksum-crc64nvme";

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HttpFault {
    /// It is not done: 500.
    Failed,
    /// It is done, and 500 is said.
    FailedAfter,
    /// It is not done: 503 `SlowDown`.
    SlowDown,
    /// It is not done: 429.
    TooMany,
    /// It is not done: 403, for the token has expired.
    Expired,
    /// It is not done: the connection is reset.
    Reset,
    /// It is done, and the connection is reset before the answer.
    AnswerLost,
    /// It is done, and no answer comes.
    Held,
    /// It is done, and the first byte of its answer is late.
    Slow,
    /// The connection is reset in the middle of the answer.
    CutOff,
    /// The answer ends early, as if it were whole.
    Truncated,
    /// More bytes are promised than come.
    Overlong,
    /// Another range is said to come than was asked for.
    WrongRange,
    /// A bit is flipped.
    Damaged,
    /// Another version is told than there is.
    OtherVersion,
    /// A list is what it was when it was asked for last.
    Stale,
}

impl HttpFault {
    /// How many kinds there are.
    pub const KINDS: usize = Self::WEIGHTS.len();

    /// Every kind, with how often it is tried for.
    const WEIGHTS: [(Self, u64); 16] = [
        (Self::Failed, 6),
        (Self::FailedAfter, 4),
        (Self::SlowDown, 6),
        (Self::TooMany, 4),
        (Self::Expired, 2),
        (Self::Reset, 5),
        (Self::AnswerLost, 5),
        (Self::Held, 1),
        (Self::Slow, 4),
        (Self::CutOff, 8),
        (Self::Truncated, 8),
        (Self::Overlong, 8),
        (Self::WrongRange, 6),
        (Self::Damaged, 8),
        (Self::OtherVersion, 8),
        (Self::Stale, 40),
    ];

    /// Whether it can happen to such a request.
    fn fits(self, asked: &Asked) -> bool {
        match self {
            Self::CutOff | Self::Truncated => asked.is_content || asked.is_list,
            Self::Overlong => asked.is_content,
            Self::WrongRange => asked.is_content && asked.is_ranged,
            Self::Damaged => asked.is_content && asked.wants_digest,
            Self::OtherVersion => asked.is_content || asked.is_head,
            Self::Stale => asked.is_list && asked.is_delimited,
            _ => true,
        }
    }
}

/// What is asked for, as far as faults depend on it.
#[derive(Debug)]
struct Asked {
    is_content: bool,
    is_ranged: bool,
    wants_digest: bool,
    is_head: bool,
    is_list: bool,
    is_delimited: bool,
}

impl Asked {
    fn of(parts: &Parts) -> Self {
        let (query, is_get) = (parts.uri.query().unwrap_or_default(), parts.method == Method::GET);
        let is_list = is_get && query.contains("list-type=2");
        Self {
            is_content: is_get && query.is_empty(),
            is_ranged: parts.headers.contains_key(RANGE),
            wants_digest: parts.headers.contains_key(CHECKSUM_MODE),
            is_head: parts.method == Method::HEAD,
            is_list,
            is_delimited: is_list && query.contains("delimiter="),
        }
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Storm {
    proxy: Answering,
    weather: Arc<Weather>,
}

#[derive(Debug)]
struct Weather {
    upstream: String,
    /// Faults of a hundred requests.
    share: AtomicU64,
    dice: AtomicU64,
    requests: AtomicU64,
    met: Mutex<BTreeMap<HttpFault, u64>>,
    /// Lists, by what they were asked with.
    lists: Mutex<HashMap<String, Bytes>>,
}

impl Storm {
    /// Starts one before the server at `upstream`, a host and a port. It is calm at first.
    ///
    /// # Errors
    /// Without a port or a thread.
    pub fn before(upstream: &str, seed: u64) -> io::Result<Self> {
        let weather = Arc::new(Weather {
            upstream: upstream.to_owned(),
            share: AtomicU64::new(0),
            dice: AtomicU64::new(seed),
            requests: AtomicU64::new(0),
            met: Mutex::default(),
            lists: Mutex::default(),
        });
        let serving = Arc::clone(&weather);
        let proxy = Answering::start(move |request| {
            let weather = Arc::clone(&serving);
            async move { weather.answer(request).await }
        })?;
        Ok(Self { proxy, weather })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.proxy.address)
    }

    /// So many of a hundred requests meet a fault from now on.
    pub fn rage(&self, share: u64) {
        self.weather.share.store(share, Relaxed);
    }

    /// Those that have met one by now.
    pub fn met(&self) -> BTreeMap<HttpFault, u64> {
        self.weather.met.lock().clone()
    }

    /// All that came by now.
    pub fn requests(&self) -> u64 {
        self.weather.requests.load(Relaxed)
    }
}

impl Weather {
    /// The next number below `sides`: SplitMix64 (Steele, Lea and Flood 2014).
    fn roll(&self, sides: u64) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.dice.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % sides
    }

    /// What such a request meets, if anything.
    fn fault(&self, asked: &Asked) -> Option<HttpFault> {
        if self.roll(100) >= self.share.load(Relaxed) {
            return None;
        }
        let fitting: Vec<_> = HttpFault::WEIGHTS.into_iter().filter(|(fault, _)| fault.fits(asked)).collect();
        let mut left = self.roll(fitting.iter().map(|(_, weight)| weight).sum());
        let drawn = fitting.into_iter().find(|(_, weight)| {
            let is_it = left < *weight;
            left = left.saturating_sub(*weight);
            is_it
        });
        drawn.map(|(fault, _)| fault)
    }

    /// None is a connection that is reset.
    async fn answer(&self, request: Request<Incoming>) -> Option<Response<Body>> {
        let number = self.requests.fetch_add(1, Relaxed);
        let (parts, body) = request.into_parts();
        let asked = Asked::of(&parts);
        let fault = self.fault(&asked);
        let target = parts.uri.to_string();
        // All of it, so that whoever sends it hears the answer.
        let content = body.collect().await.ok()?.to_bytes();
        let refused = match fault {
            Some(HttpFault::Failed) => Some(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            Some(HttpFault::SlowDown) => Some(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
            Some(HttpFault::TooMany) => Some(refusal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests")),
            Some(HttpFault::Expired) => Some(refusal(StatusCode::FORBIDDEN, "ExpiredToken")),
            _ => None,
        };
        if refused.is_some() || fault == Some(HttpFault::Reset) {
            self.count(fault);
            return refused;
        }
        let (head, mut content) = match self.ask(parts, content).await {
            Ok(answer) => answer.into_parts(),
            Err(error) => {
                tracing::error!(%error, list = target, "the server behind the storm gave no answer");
                return None;
            }
        };
        let mut answer = Response::from_parts(head, ());
        // It is here whole, however it came.
        answer.headers_mut().remove(TRANSFER_ENCODING);
        if asked.is_content && asked.wants_digest && answer.status() == StatusCode::OK {
            let digest = DigestKind::Crc64Nvme.of(std::slice::from_ref(&content)).await.to_base64();
            answer.headers_mut().insert(CHECKSUM, HeaderValue::from_str(&digest).ok()?);
        }
        if asked.is_delimited && answer.status().is_success() {
            content = self.list(fault, target, content);
            answer.headers_mut().remove(CONTENT_LENGTH);
        }
        match fault {
            None | Some(HttpFault::Stale) => {}
            Some(HttpFault::AnswerLost) => {
                self.count(fault);
                return None;
            }
            Some(HttpFault::Held) => {
                self.count(fault);
                tokio::time::sleep(HELD).await;
                return None;
            }
            Some(HttpFault::Slow) => {
                self.count(fault);
                tokio::time::sleep(SLOW).await;
            }
            Some(HttpFault::FailedAfter) => {
                self.count(fault);
                return Some(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"));
            }
            Some(fault) if answer.status().is_success() => {
                self.count(Some(fault));
                return Some(garbled(fault, number, answer, content));
            }
            // There is nothing in a refusal that could be garbled.
            Some(_) => {}
        }
        Some(with_body(answer, content))
    }

    fn count(&self, fault: Option<HttpFault>) {
        if let Some(fault) = fault {
            *self.met.lock().entry(fault).or_insert(0) += 1;
        }
    }

    /// The list that is shown: this one, or that which it was last.
    fn list(&self, fault: Option<HttpFault>, target: String, now: Bytes) -> Bytes {
        let mut lists = self.lists.lock();
        if lists.len() == LISTS_MAX {
            lists.clear();
        }
        let before = lists.insert(target, now.clone());
        match before.filter(|before| fault == Some(HttpFault::Stale) && *before != now) {
            Some(before) => {
                self.count(fault);
                before
            }
            None => now,
        }
    }

    /// Asks the server, and takes its whole answer.
    async fn ask(&self, mut parts: Parts, content: Bytes) -> io::Result<Response<Bytes>> {
        parts.uri = moved(&parts.uri, &format!("http://{}", self.upstream))?;
        let (head, body) = send(Request::from_parts(parts, whole(content))).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await.map_err(io::Error::other)?.to_bytes()))
    }
}

/// The answer to a HEAD has a length and no body.
fn with_body(answer: Response<()>, content: Bytes) -> Response<Body> {
    answer.map(|()| whole(content))
}

/// A body of which nobody but its head says how long it is.
fn in_pieces(pieces: Vec<Result<Bytes, Box<dyn Error + Send + Sync>>>) -> Body {
    StreamBody::new(stream::iter(pieces.into_iter().map(|piece| piece.map(Frame::data)))).boxed()
}

/// A success, but for this. No two numbers give the same version.
fn garbled(fault: HttpFault, number: u64, mut answer: Response<()>, content: Bytes) -> Response<Body> {
    let (len, headers) = (content.len(), answer.headers_mut());
    match fault {
        HttpFault::CutOff => {
            let broken = Err("the connection is reset, by a test's wish".into());
            return answer.map(|()| in_pieces(vec![Ok(content.slice(..len / 2)), broken]));
        }
        HttpFault::Truncated => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(len / 2));
            return with_body(answer, content.slice(..len / 2));
        }
        HttpFault::Overlong => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(len as u64 + BYTES_TOO_MANY));
            return answer.map(|()| in_pieces(vec![Ok(content)]));
        }
        HttpFault::WrongRange => shift_range(headers),
        HttpFault::OtherVersion => {
            let another = HeaderValue::from_str(&format!("\"another-{number}\""));
            headers.insert(ETAG, another.expect("these are a header's characters"));
        }
        HttpFault::Damaged => {
            let mut bytes = Vec::from(content);
            if let Some(byte) = bytes.get_mut(len / 2) {
                *byte ^= 1;
            }
            return with_body(answer, bytes.into());
        }
        other => unreachable!("{other:?} garbles no answer"),
    }
    with_body(answer, content)
}

/// The same number of bytes, one further.
fn shift_range(headers: &mut HeaderMap) {
    let numbers = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).and_then(|range| {
        let (first, rest) = range.strip_prefix("bytes ")?.split_once('-')?;
        let (last, total) = rest.split_once('/')?;
        Some((first.parse::<u64>().ok()? + 1, last.parse::<u64>().ok()? + 1, total.to_owned()))
    });
    if let Some((first, last, total)) = numbers
        && let Ok(shifted) = HeaderValue::from_str(&format!("bytes {first}-{last}/{total}"))
    {
        headers.insert(CONTENT_RANGE, shifted);
    }
}

fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    refused(status, code, "by a test's wish")
}
