//! A proxy that counts what goes through it, and refuses what a test wants refused: what Citius says of its traffic is
//! compared with what a server saw.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::{
    answering::{Answering, Body, away, passed, said},
    http::{moved, send},
};

/// A running proxy before a server of HTTP.
#[derive(Debug)]
pub struct Witness {
    proxy: Answering,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: AtomicU64,
    refused: AtomicU64,
    refusals: Mutex<Vec<Refusal>>,
}

#[derive(Debug)]
struct Refusal {
    path_end: String,
    status: StatusCode,
    times: u64,
}

impl Seen {
    /// The status with which content is not to be given, if that is so. It is counted then.
    fn refuses<B>(&self, request: &Request<B>) -> Option<StatusCode> {
        let mut refusals = self.refusals.lock();
        let wanted = |refusal: &&mut Refusal| refusal.times > 0 && request.uri().path().ends_with(&refusal.path_end);
        let refusal = refusals.iter_mut().find(wanted).filter(|_| *request.method() == Method::GET)?;
        refusal.times -= 1;
        self.refused.fetch_add(1, Relaxed);
        Some(refusal.status)
    }
}

impl Witness {
    /// Starts one before the server at `upstream`, a host and a port.
    ///
    /// # Errors
    /// Without a port or a thread.
    pub fn before(upstream: &str) -> io::Result<Self> {
        let seen: Arc<Seen> = Arc::default();
        let (serving, to) = (Arc::clone(&seen), upstream.to_owned());
        let proxy = Answering::start(move |request| {
            let (seen, to) = (Arc::clone(&serving), to.clone());
            async move {
                seen.requests.fetch_add(1, Relaxed);
                match seen.refuses(&request) {
                    Some(status) => said(status, ""),
                    None => forward(&to, request).await.unwrap_or_else(|error| away(&error)),
                }
            }
        })?;
        Ok(Self { proxy, seen })
    }

    /// Where clients connect to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.proxy.address)
    }

    /// Refuses the content of what has this at the end of its path, so many times.
    ///
    /// # Panics
    /// If that is no status of HTTP.
    pub fn refuse(&self, path_end: &str, status: u16, times: u64) {
        let status = StatusCode::from_u16(status).expect("a status");
        self.seen.refusals.lock().push(Refusal { path_end: path_end.to_owned(), status, times });
    }

    /// Requests so far, refused ones among them.
    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Relaxed)
    }

    /// Requests that were refused here.
    pub fn refused(&self) -> u64 {
        self.seen.refused.load(Relaxed)
    }
}

async fn forward(upstream: &str, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (mut parts, body) = request.into_parts();
    parts.uri = moved(&parts.uri, &format!("http://{upstream}"))?;
    Ok(send(Request::from_parts(parts, body)).await?.map(passed))
}
