//! A proxy that damages what goes through it: one bit in the middle of a body, of which neither its length nor TCP tells.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_LENGTH};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    answering::{Answering, Body, away, passed, whole},
    http::{moved, send},
};
use crate::{MountSpec, Secret};

/// Bytes of the smallest body that is damaged: documents are shorter.
const BODY_BYTES_MIN: u64 = 4096;

/// Which bodies are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Those of requests.
    There,
    /// Those of answers.
    Back,
}

/// A running proxy before a server of HTTP.
#[derive(Debug)]
pub struct Flipping {
    proxy: Answering,
    upstream: String,
    damages: Arc<[Damages; 2]>,
}

#[derive(Debug, Default)]
struct Damages {
    due: AtomicU64,
    done: AtomicU64,
}

impl Damages {
    /// Whether a body of this length is to be damaged; it is counted then.
    fn strikes(&self, len: Option<u64>) -> bool {
        let strikes = len.is_some_and(|len| len >= BODY_BYTES_MIN)
            && self.due.fetch_update(Relaxed, Relaxed, |due| due.checked_sub(1)).is_ok();
        if strikes {
            self.done.fetch_add(1, Relaxed);
        }
        strikes
    }
}

impl Flipping {
    /// Starts one before the server at `upstream`, a host and a port.
    ///
    /// # Errors
    /// Without a port or a thread.
    pub fn before(upstream: &str) -> io::Result<Self> {
        let damages: Arc<[Damages; 2]> = Arc::default();
        let (serving, to) = (Arc::clone(&damages), upstream.to_owned());
        let proxy = Answering::start(move |request| {
            let (damages, to) = (Arc::clone(&serving), to.clone());
            async move { forward(&damages, &to, request).await.unwrap_or_else(|error| away(&error)) }
        })?;
        Ok(Self { proxy, upstream: upstream.to_owned(), damages })
    }

    /// A mount of the server, through here.
    #[must_use]
    pub fn mount(&self, mut spec: MountSpec) -> MountSpec {
        let here = self.proxy.address.to_string();
        spec.uri = spec.uri.replace(&self.upstream, &here);
        for value in spec.options.values_mut() {
            *value = Secret::new(value.expose().replace(&self.upstream, &here));
        }
        spec
    }

    /// Damages so many of the bodies that come next.
    pub fn flip(&self, way: Way, count: u64) {
        self.damages[way as usize].due.store(count, Relaxed);
    }

    /// How many bodies were damaged.
    pub fn flipped(&self, way: Way) -> u64 {
        self.damages[way as usize].done.load(Relaxed)
    }
}

async fn forward(damages: &[Damages; 2], upstream: &str, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (mut parts, body) = request.into_parts();
    parts.uri = moved(&parts.uri, &format!("http://{upstream}"))?;
    let len = length(&parts.headers);
    let body = if damages[Way::There as usize].strikes(len) { flipped(body).await? } else { passed(body) };
    let is_get = parts.method == http::Method::GET;
    let answer = send(Request::from_parts(parts, body)).await?;
    let is_content = is_get && answer.status().is_success();
    if !is_content || !damages[Way::Back as usize].strikes(length(answer.headers())) {
        return Ok(answer.map(passed));
    }
    let (parts, body) = answer.into_parts();
    Ok(Response::from_parts(parts, flipped(body).await?))
}

fn length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn flipped(body: Incoming) -> io::Result<Body> {
    let mut bytes = Vec::from(body.collect().await.map_err(io::Error::other)?.to_bytes());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(whole(Bytes::from(bytes)))
}
