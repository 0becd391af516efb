//! Stand-ins for Google Cloud Storage and Alibaba OSS, which have no server of their own: SeaweedFS's S3 behind a proxy
//! that renames headers.
//!
//! | GCS | OSS | S3 |
//! |---|---|---|
//! | `x-goog-copy-source` | `x-oss-copy-source` | `x-amz-copy-source` |
//! | `x-goog-if-generation-match: 0` | `x-oss-forbid-overwrite: true` | `If-None-Match: *` |
//! | `x-goog-if-generation-match: N` | | `If-Match`, with the etag that N was made of |
//! | `x-goog-meta-…` | `x-oss-meta-…` | `x-amz-meta-…` |
//! | `x-goog-generation`, in answers | | `ETag` |
//! | 412 | 409, after `x-oss-forbid-overwrite` | 412 |
//!
//! A header of theirs that is not in the table is refused with 501: SeaweedFS would not know it, and would do something
//! else than was asked (of a copy it makes an empty object). Signatures are not looked at: the store is open to anybody on
//! 127.0.0.1 who knows the port.

use std::{collections::HashMap, convert::Infallible, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, ETAG, IF_MATCH, IF_NONE_MATCH},
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

use super::{
    http::send,
    seaweedfs::{Access, SeaweedFs},
    server::{Processes, Server},
};

/// Generations that are remembered; who conditions on an older one is told that it is not the object's.
const GENERATIONS_MAX: usize = 1 << 16;
const CONNECTIONS_MAX: usize = 256;

/// Whose headers are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Google Cloud Storage's XML API.
    Gcs,
    /// Alibaba OSS.
    Oss,
}

impl Dialect {
    fn prefix(self) -> &'static str {
        match self {
            Self::Gcs => "x-goog-",
            Self::Oss => "x-oss-",
        }
    }
}

/// A running stand-in with one bucket.
#[derive(Debug)]
pub struct StandIn {
    seaweedfs: SeaweedFs,
    address: SocketAddr,
    /// The proxy ends when this goes.
    _proxy: oneshot::Sender<()>,
}

impl StandIn {
    /// Starts SeaweedFS and the proxy before it.
    ///
    /// # Errors
    /// As [`SeaweedFs::start`].
    pub async fn start(dialect: Dialect) -> io::Result<Self> {
        let seaweedfs = SeaweedFs::start_for(Access::Anybody).await?;
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shim = Shim { dialect, upstream: seaweedfs.s3().endpoint().to_owned(), generations: Mutex::default() };
        let (proxy, ended) = oneshot::channel::<()>();
        // A thread of its own: the runtime here may be one test's, and the stand-in several tests'.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("stand-in".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = serve(listener, Arc::new(shim)) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { seaweedfs, address, _proxy: proxy })
    }

    /// Where clients connect to; buckets are the first part of the path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bucket that was made.
    pub fn bucket(&self) -> &'static str {
        self.seaweedfs.s3().name()
    }

    /// The version of SeaweedFS.
    pub fn version(&self) -> &str {
        self.seaweedfs.version()
    }

    /// Ends SeaweedFS by SIGKILL and starts it again with the same data; the proxy answers 502 meanwhile.
    ///
    /// # Errors
    /// As [`StandIn::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.seaweedfs.restart().await
    }

    /// Ends both.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(self) -> io::Result<()> {
        self.seaweedfs.stop()
    }
}

impl Server for StandIn {
    /// The proxy is a thread of the test's own and waits for a paused SeaweedFS as its clients do.
    fn processes(&self) -> Processes<'_> {
        self.seaweedfs.processes()
    }
}

async fn serve(listener: TcpListener, shim: Arc<Shim>) {
    // Dropped, and with it all connections, when the stand-in is.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let Ok((stream, _)) = accepted else { return };
                let shim = Arc::clone(&shim);
                let service = service_fn(move |request| {
                    let shim = Arc::clone(&shim);
                    async move { Ok::<_, Infallible>(shim.answer(request).await) }
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

#[derive(Debug)]
struct Shim {
    dialect: Dialect,
    upstream: String,
    generations: Mutex<Generations>,
}

impl Shim {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let forbids = match self.request_to_s3(request.headers_mut()) {
            Ok(forbids) => forbids,
            Err((status, why)) => return plain(status, why),
        };
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        match format!("{}{target}", self.upstream).parse::<Uri>() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return plain(StatusCode::BAD_REQUEST, error.to_string()),
        }
        match send(request).await {
            Ok(mut answer) => {
                self.answer_of_s3(answer.headers_mut());
                if forbids && answer.status() == StatusCode::PRECONDITION_FAILED {
                    *answer.status_mut() = StatusCode::CONFLICT;
                }
                answer.map(BodyExt::boxed)
            }
            Err(error) => plain(StatusCode::BAD_GATEWAY, error.to_string()),
        }
    }

    /// Renames the headers of a request; whether it has OSS forbid overwriting.
    fn request_to_s3(&self, headers: &mut HeaderMap) -> Result<bool, (StatusCode, String)> {
        let mut forbids = false;
        headers.remove(AUTHORIZATION);
        for (name, value) in theirs(headers, self.dialect.prefix()) {
            let rest = &name.as_str()[self.dialect.prefix().len()..];
            match (self.dialect, rest) {
                (_, "copy-source") => rename(headers, &name, "x-amz-copy-source"),
                (_, meta) if meta.starts_with("meta-") => rename(headers, &name, &format!("x-amz-{meta}")),
                (Dialect::Gcs, "if-generation-match") => {
                    headers.remove(&name);
                    if value == "0" {
                        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
                    } else {
                        let unknown =
                            || (StatusCode::PRECONDITION_FAILED, "this generation is not the object's".to_owned());
                        let etag = self.generations.lock().etag(&value).ok_or_else(unknown)?;
                        headers.insert(IF_MATCH, etag);
                    }
                }
                (Dialect::Oss, "forbid-overwrite") => {
                    headers.remove(&name);
                    if value == "true" {
                        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
                        forbids = true;
                    }
                }
                // Parts of signatures.
                (Dialect::Oss, "date" | "content-sha256") => drop(headers.remove(&name)),
                _ => {
                    return Err((StatusCode::NOT_IMPLEMENTED, format!("the stand-in does not know the header {name}")));
                }
            }
        }
        Ok(forbids)
    }

    /// Renames the headers of an answer.
    fn answer_of_s3(&self, headers: &mut HeaderMap) {
        for (name, _) in theirs(headers, "x-amz-meta-") {
            let renamed = name.as_str().replacen("x-amz-", self.dialect.prefix(), 1);
            rename(headers, &name, &renamed);
        }
        if self.dialect == Dialect::Gcs
            && let Some(etag) = headers.get(ETAG).cloned()
        {
            let generation = self.generations.lock().of(etag);
            headers.insert(HeaderName::from_static("x-goog-generation"), generation);
        }
    }
}

fn theirs(headers: &HeaderMap, prefix: &str) -> Vec<(HeaderName, HeaderValue)> {
    let theirs = headers.iter().filter(|(name, _)| name.as_str().starts_with(prefix));
    theirs.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn rename(headers: &mut HeaderMap, from: &HeaderName, to: &str) {
    let to: HeaderName = to.parse().expect("a part of a header's name is one");
    if let Some(value) = headers.remove(from) {
        headers.insert(to, value);
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Which number stands for which etag.
#[derive(Debug, Default)]
struct Generations {
    numbers: HashMap<HeaderValue, u64>,
    etags: HashMap<u64, HeaderValue>,
    newest: u64,
}

impl Generations {
    fn of(&mut self, etag: HeaderValue) -> HeaderValue {
        if let Some(number) = self.numbers.get(&etag) {
            return HeaderValue::from(*number);
        }
        self.newest += 1;
        if let Some(forgotten) = self.newest.checked_sub(GENERATIONS_MAX as u64)
            && let Some(etag) = self.etags.remove(&forgotten)
        {
            self.numbers.remove(&etag);
        }
        self.numbers.insert(etag.clone(), self.newest);
        self.etags.insert(self.newest, etag);
        HeaderValue::from(self.newest)
    }

    fn etag(&self, number: &HeaderValue) -> Option<HeaderValue> {
        self.etags.get(&number.to_str().ok()?.parse().ok()?).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A client that conditions on what was forgotten must be refused, never matched with another object's etag.
    #[test]
    fn generations_are_bounded_and_never_reused() {
        let mut generations = Generations::default();
        let etag = |number: usize| HeaderValue::from_str(&format!("\"{number}\"")).unwrap();
        let first = generations.of(etag(0));
        assert_eq!(generations.of(etag(0)), first);
        for number in 1..GENERATIONS_MAX {
            generations.of(etag(number));
        }
        assert_eq!(generations.etag(&first), Some(etag(0)));
        generations.of(etag(GENERATIONS_MAX));
        assert_eq!(generations.etag(&first), None);
        assert_eq!(generations.etags.len(), GENERATIONS_MAX);
        assert_eq!(generations.numbers.len(), GENERATIONS_MAX);
        assert_ne!(generations.of(etag(0)), first);
    }
}
