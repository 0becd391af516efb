//! Requests over HTTP that adapters make themselves.
//!
//! ```text
//!  adapter ── Request ──▶ Web: signs ──▶ Governed (limits, retries, counts) ──▶ connections of object_store
//!             Answer  ◀── a whole body, bounded            Opened ◀── a head, and content piece by piece
//! ```
//! `object_store` gives connections, and the tokens of Google and Azure. Its own requests lack what a namespace needs: keys
//! that end in a slash, listings that survive a name it cannot parse, metadata on uploads that several processes share,
//! conditions on completing one, copies that check their source, lists of uploads under way.
//!
//! `answer.rs` is what comes back; `text.rs` encodes and decodes what stands in URLs and headers; `trust.rs` is whom
//! connections trust, and what is wrong where they do not.

mod answer;
mod text;
mod trust;

use std::{fmt, sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header::CONTENT_LENGTH};
use object_store::{
    PutPayload,
    client::{HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse},
};

pub(crate) use self::{
    answer::{Answer, Document, Opened, header_of},
    text::{STRICT, STRICT_PATH, chain, encode_path, http_time_ms, rfc3339_ms},
    trust::{CA_FILE, advice_of_tls, certificates, connections, trusting},
};
use crate::{Advice, Call, Error, Failure, Operation, Repeat, Result, Traffic, object::store_error};

/// Proves who asks.
#[async_trait]
pub(crate) trait Signer: Send + Sync {
    /// Signs a request whose body is `content`, or gives it a token.
    async fn sign(&self, request: &mut HttpRequest, content: &[Bytes]) -> Result<()>;

    /// Finds out whether there are keys.
    async fn find_keys(&self) -> Result<()>;

    /// Whether an answer refuses a request for want of good keys.
    fn is_refused(&self, answer: &Answer) -> bool {
        answer.status == 401
    }

    /// Told that a request, which was signed by this time, was refused for want of good keys. Whether there are others now,
    /// and it is to be sent again.
    async fn renew(&self, signed: Instant) -> Result<bool> {
        let _ = signed;
        Ok(false)
    }
}

/// A server that an adapter sends its requests to. Not printable: it leads to the keys.
pub(crate) struct Web {
    http: HttpClient,
    pub(crate) traffic: Traffic,
    /// What errors call the server.
    pub(crate) endpoint: String,
    /// What errors tell to do.
    pub(crate) advice: &'static Advice,
    /// None where requests are not signed.
    signer: Option<Arc<dyn Signer>>,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// Encoded, query and all.
    pub(crate) url: String,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) content: Vec<Bytes>,
    /// What errors call that which is asked for.
    pub(crate) shown: &'a str,
    pub(crate) operation: Operation,
    /// Whether it may be sent again when its answer was lost on the way.
    pub(crate) repeat: Repeat,
}

impl Web {
    /// The server that `http` leads to, whose traffic is `traffic`.
    pub(crate) fn new(
        http: HttpClient,
        traffic: Traffic,
        endpoint: String,
        advice: &'static Advice,
        signer: Option<Arc<dyn Signer>>,
    ) -> Self {
        Self { http, traffic, endpoint, advice, signer }
    }

    /// Sends a request and takes the whole answer, whatever its status.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Answer> {
        let call = self.traffic.call(request.operation, request.repeat);
        let mut may_renew = true;
        loop {
            // Until here is the answer's head, tries are the client's.
            let (head, signed) = self.execute(request, &call).await?;
            match Answer::read(head).await {
                Ok(answer) if may_renew && self.renews_after(&answer, signed).await? => may_renew = false,
                Ok(answer)
                    if request.repeat == Repeat::Harmless
                        && answer.says_damaged()
                        && self.traffic.again(&call, Failure::Broken).await =>
                {
                    tracing::warn!(shown = request.shown, "what was sent arrived damaged, and is sent again");
                }
                Ok(answer) => return Ok(Answer { is_only: call.is_first_try(), ..answer }),
                Err(error)
                    if request.repeat == Repeat::Harmless
                        && error.kind() != HttpErrorKind::Decode
                        && self.traffic.again(&call, Failure::Broken).await =>
                {
                    tracing::debug!(%error, shown = request.shown, "the answer broke off, and is asked for again");
                }
                Err(error) => return Err(self.connection_error(request.shown, error)),
            }
        }
    }

    /// Sends a request of a call and takes the head of its answer. A failure has its whole body with it.
    pub(crate) async fn open(&self, request: &Request<'_>, call: &Call) -> Result<Opened> {
        let (mut head, mut signed) = self.execute(request, call).await?;
        let mut may_renew = true;
        while !head.status().is_success() {
            let answer = Answer::read(head).await.map_err(|error| self.connection_error(request.shown, error))?;
            if !may_renew || !self.renews_after(&answer, signed).await? {
                return Ok(Opened::Failed(answer));
            }
            may_renew = false;
            (head, signed) = self.execute(request, call).await?;
        }
        Opened::flowing(head, self.endpoint.clone(), self.advice, request.shown)
    }

    /// Finds out whether there are keys to sign with.
    pub(crate) async fn find_keys(&self) -> Result<()> {
        match &self.signer {
            Some(signer) => signer.find_keys().await,
            None => Ok(()),
        }
    }

    /// Whether there are new keys after an answer that refused the old ones.
    async fn renews_after(&self, answer: &Answer, signed: Instant) -> Result<bool> {
        match &self.signer {
            Some(signer) if !answer.status.is_success() && signer.is_refused(answer) => signer.renew(signed).await,
            _ => Ok(false),
        }
    }

    /// Sends a request. With its answer comes a time by which it was signed.
    async fn execute(&self, request: &Request<'_>, call: &Call) -> Result<(HttpResponse, Instant)> {
        let mut http = self.prepared(request).await?;
        let signed = Instant::now();
        http.extensions_mut().insert(call.clone());
        let answered = self.http.execute(http).await;
        Ok((answered.map_err(|error| self.connection_error(request.shown, error))?, signed))
    }

    async fn prepared(&self, request: &Request<'_>) -> Result<HttpRequest> {
        let bad = |error: http::Error| store_error(request.shown, error);
        let body = match request.content.as_slice() {
            [] => HttpRequestBody::empty(),
            [whole] => whole.clone().into(),
            pieces => PutPayload::from_iter(pieces.iter().cloned()).into(),
        };
        let mut http =
            http::Request::builder().method(request.method.clone()).uri(&request.url).body(body).map_err(bad)?;
        // An empty body would go without its length, which Ceph refuses, and one of pieces in chunks, which S3 does.
        if matches!(*http.method(), Method::PUT | Method::POST) || !request.content.is_empty() {
            let length: usize = request.content.iter().map(Bytes::len).sum();
            http.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        for (name, value) in request.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| bad(error.into()))?;
            let value = HeaderValue::from_str(value).map_err(|error| bad(error.into()))?;
            http.headers_mut().insert(name, value);
        }
        if let Some(signer) = &self.signer {
            signer.sign(&mut http, &request.content).await?;
        }
        Ok(http)
    }

    fn connection_error(&self, shown: &str, error: HttpError) -> Error {
        connection_error(&self.endpoint, self.advice, shown, error)
    }
}

/// By hand: what it leads to would print keys.
impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// What the lack of an answer means.
fn connection_error(endpoint: &str, advice: &Advice, shown: &str, error: HttpError) -> Error {
    let (endpoint, reason) = (endpoint.to_owned(), chain(&error));
    match (error.kind(), advice_of_tls(&reason)) {
        (HttpErrorKind::Connect, Some(advice)) => Error::Untrusted { endpoint, reason, advice },
        (HttpErrorKind::Decode | HttpErrorKind::Unknown, _) => store_error(shown, error),
        _ => Error::Unreachable { endpoint, reason, advice: advice.unreachable },
    }
}
