//! A bucket whose every key holds the same bytes, behind a server that counts its connections and what it is asked, and
//! can be told to leave one question without an answer, or to answer several only together. Its objects can be read by
//! plain HTTP, too.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_RANGE, ETAG, LAST_MODIFIED, RANGE},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::{sync::Barrier, time::timeout};

use super::answering::{Answering, Body, said};
use crate::MountSpec;

const BUCKET: &str = "counting";
/// How long questions that are answered together wait for each other.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server with one bucket.
#[derive(Debug)]
pub struct CountingBucket {
    server: Answering,
    shelf: Arc<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    content: Bytes,
    gets: AtomicU64,
    bytes_put: AtomicU64,
    /// The number of the get that has no answer; none is number 0.
    silent_get: AtomicU64,
    given_up: AtomicU64,
    together: Mutex<Option<Arc<Barrier>>>,
    lonely: AtomicU64,
}

impl CountingBucket {
    /// Answers for a bucket of objects with this content.
    ///
    /// # Errors
    /// Without a port or a thread.
    pub fn start(content: Bytes) -> io::Result<Self> {
        let (gets, bytes_put, silent_get, given_up) = Default::default();
        let (together, lonely) = Default::default();
        let shelf = Arc::new(Shelf { content, gets, bytes_put, silent_get, given_up, together, lonely });
        let serving = Arc::clone(&shelf);
        let server = Answering::start(move |request| {
            let shelf = Arc::clone(&serving);
            async move { shelf.answer(request).await }
        })?;
        Ok(Self { server, shelf })
    }

    /// A mount of the bucket.
    pub fn mount(&self) -> MountSpec {
        MountSpec::new(format!("s3://{BUCKET}"))
            .option("aws_endpoint", self.endpoint())
            .option("aws_region", "us-east-1")
            .option("aws_allow_http", "true")
            .option("aws_skip_signature", "true")
    }

    /// Where it listens, as a plain web server too.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }

    /// Questions for content so far.
    pub fn gets(&self) -> u64 {
        self.shelf.gets.load(Relaxed)
    }

    /// Bytes that were put so far.
    pub fn bytes_put(&self) -> u64 {
        self.shelf.bytes_put.load(Relaxed)
    }

    /// Leaves the next question for content without an answer; those after it are answered.
    pub fn be_silent_once(&self) {
        self.shelf.silent_get.store(self.gets() + 1, Relaxed);
    }

    /// Answers questions for content from now on only when so many of them wait; they do not wait for ever.
    pub fn answer_together(&self, count: usize) {
        *self.shelf.together.lock() = Some(Arc::new(Barrier::new(count)));
    }

    /// Questions that waited in vain for others.
    pub fn lonely(&self) -> u64 {
        self.shelf.lonely.load(Relaxed)
    }

    /// Questions without an answer that were given up: their connection was closed.
    pub fn given_up(&self) -> u64 {
        self.shelf.given_up.load(Relaxed)
    }
}

/// A question that waits for an answer; it goes with its connection.
struct Waiting(Arc<Shelf>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.given_up.fetch_add(1, Relaxed);
    }
}

impl Shelf {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        match *request.method() {
            Method::HEAD => answer(StatusCode::OK, self.content.clone()),
            // Its keys are as many as can be thought of: none is listed.
            Method::GET if request.uri().query().is_some_and(|query| query.contains("list-type=")) => {
                answer(StatusCode::OK, Bytes::from_static(b"<ListBucketResult/>"))
            }
            Method::GET => {
                if self.gets.fetch_add(1, Relaxed) + 1 == self.silent_get.load(Relaxed) {
                    let _waiting = Waiting(Arc::clone(&self));
                    return std::future::pending().await;
                }
                let together = self.together.lock().clone();
                if let Some(together) = together
                    && timeout(PATIENCE, together.wait()).await.is_err()
                {
                    self.lonely.fetch_add(1, Relaxed);
                }
                self.part(&request)
            }
            Method::PUT => {
                let bytes = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
                self.bytes_put.fetch_add(bytes as u64, Relaxed);
                answer(StatusCode::OK, Bytes::new())
            }
            _ => answer(StatusCode::NOT_IMPLEMENTED, Bytes::new()),
        }
    }

    fn part(&self, request: &Request<Incoming>) -> Response<Body> {
        let asked = request.headers().get(RANGE).and_then(|value| value.to_str().ok());
        let bounds = asked.and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
        let Some((start, end)) = bounds else { return answer(StatusCode::OK, self.content.clone()) };
        let (Ok(start), Ok(last)) = (start.parse::<usize>(), end.parse::<usize>()) else {
            return answer(StatusCode::NOT_IMPLEMENTED, Bytes::new());
        };
        let end = self.content.len().min(last + 1);
        if start >= end {
            return answer(StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new());
        }
        let mut answer = answer(StatusCode::PARTIAL_CONTENT, self.content.slice(start..end));
        let range = format!("bytes {start}-{}/{}", end - 1, self.content.len());
        answer.headers_mut().insert(CONTENT_RANGE, range.parse().expect("digits are a header's value"));
        answer
    }
}

fn answer(status: StatusCode, content: Bytes) -> Response<Body> {
    let mut answer = said(status, content);
    if status.is_success() {
        let time = HeaderValue::from_static("Tue, 02 Jan 2024 03:04:05 GMT");
        answer.headers_mut().insert(LAST_MODIFIED, time);
        answer.headers_mut().insert(ETAG, HeaderValue::from_static("\"x\""));
    }
    answer
}
