//! A bucket of any number of objects that lie nowhere: pages of its one directory are made as they are asked for, unless a
//! test wants to see what comes of the first few.

use std::{
    fmt::Write as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{Method, Request, Response, StatusCode, header::ETAG};
use tokio::sync::watch;

use super::answering::{Answering, Body, refused, said};
use crate::MountSpec;

/// As many as S3 gives.
const PAGE_KEYS_MAX: u64 = 1000;
const BUCKET: &str = "endless";
/// What each object is.
const CONTENT: &[u8] = b"x";

/// A running server with one bucket.
#[derive(Debug)]
pub struct EndlessBucket {
    server: Answering,
    shelf: Arc<Shelf>,
}

impl EndlessBucket {
    /// Answers for a bucket of so many objects.
    ///
    /// # Errors
    /// Without a port or a thread.
    pub fn start(objects: u64) -> io::Result<Self> {
        let shelf = Arc::new(Shelf { objects, pages: AtomicU64::new(0), pages_max: watch::Sender::new(u64::MAX) });
        let serving = Arc::clone(&shelf);
        let server = Answering::start(move |request| {
            let (shelf, request) = (Arc::clone(&serving), request.map(drop));
            async move { shelf.answer(&request).await }
        })?;
        Ok(Self { server, shelf })
    }

    /// A mount of the bucket.
    pub fn mount(&self) -> MountSpec {
        MountSpec::new(format!("s3://{BUCKET}"))
            .option("aws_endpoint", format!("http://{}", self.server.address))
            .option("aws_region", "us-east-1")
            .option("aws_allow_http", "true")
            .option("aws_skip_signature", "true")
    }

    /// The pages of keys that it was asked for and gave.
    pub fn pages(&self) -> u64 {
        self.shelf.pages.load(Relaxed)
    }

    /// Gives so many pages more, and lets wait who asks for another.
    pub fn give(&self, pages: u64) {
        self.shelf.pages_max.send_replace(self.pages().saturating_add(pages));
    }

    /// The key of an object; keys are in the order of their numbers.
    pub fn key(number: u64) -> String {
        format!("o{number:012}")
    }
}

#[derive(Debug)]
struct Shelf {
    objects: u64,
    pages: AtomicU64,
    /// How many pages are given at all.
    pages_max: watch::Sender<u64>,
}

impl Shelf {
    async fn answer(&self, request: &Request<()>) -> Response<Body> {
        let query: Vec<(String, String)> =
            url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
        let of = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let key = request.uri().path().strip_prefix(&format!("/{BUCKET}")).map(|key| key.trim_start_matches('/'));
        let mut answer = match (request.method(), key) {
            (_, None) => error(StatusCode::NOT_FOUND, "NoSuchBucket"),
            (&Method::GET, Some("")) if of("list-type").is_some() => {
                if of("prefix").is_none_or(str::is_empty) {
                    // It does not end before its sender does, which is here.
                    let _ = self.pages_max.subscribe().wait_for(|max| self.pages.load(Relaxed) < *max).await;
                }
                said(StatusCode::OK, self.page(of))
            }
            (&Method::GET | &Method::HEAD, Some(key)) if self.number(key).is_some() => said(StatusCode::OK, CONTENT),
            (&Method::GET | &Method::HEAD, Some(key)) if !key.is_empty() => error(StatusCode::NOT_FOUND, "NoSuchKey"),
            _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
        };
        if answer.status() == StatusCode::OK {
            answer.headers_mut().insert(ETAG, http::HeaderValue::from_static("\"x\""));
        }
        answer
    }

    /// One page; no key has a slash or goes on behind another, so all prefixes but the bucket's own have none.
    fn page<'a>(&self, of: impl Fn(&str) -> Option<&'a str>) -> String {
        let first = match (of("prefix"), of("continuation-token"), of("start-after")) {
            (Some(prefix), ..) if !prefix.is_empty() => self.objects,
            (_, Some(token), _) => token.parse().unwrap_or(self.objects),
            (.., Some(after)) => self.above(after),
            _ => 0,
        };
        let count_max = of("max-keys").and_then(|count| count.parse().ok()).unwrap_or(PAGE_KEYS_MAX).min(PAGE_KEYS_MAX);
        let end = (first + count_max).min(self.objects);
        let mut text = String::from("<ListBucketResult><EncodingType>url</EncodingType>");
        for number in first..end {
            let (key, len) = (EndlessBucket::key(number), CONTENT.len());
            let _ = write!(
                text,
                "<Contents><Key>{key}</Key><Size>{len}</Size><ETag>\"x\"</ETag>\
                 <LastModified>2024-01-02T03:04:05.000Z</LastModified></Contents>"
            );
        }
        if end < self.objects {
            let _ = write!(text, "<IsTruncated>true</IsTruncated><NextContinuationToken>{end}</NextContinuationToken>");
        }
        text.push_str("</ListBucketResult>");
        if first < end {
            self.pages.fetch_add(1, Relaxed);
        }
        text
    }

    fn number(&self, key: &str) -> Option<u64> {
        let number = key.strip_prefix('o')?.parse().ok()?;
        (number < self.objects && EndlessBucket::key(number) == key).then_some(number)
    }

    /// The first number whose key is above a text.
    fn above(&self, after: &str) -> u64 {
        let (mut low, mut high) = (0, self.objects);
        while low < high {
            let middle = low + (high - low) / 2;
            if EndlessBucket::key(middle).as_str() > after {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    refused(status, code, code)
}
