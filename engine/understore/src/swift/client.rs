//! The requests of Swift: to an object or to a container, and what their failures mean.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;

use super::login::Login;
use crate::{
    Advice, Call, Error, Operation, Repeat, Result,
    object::store_error,
    web::{self, Answer, Opened, STRICT, STRICT_PATH, Web},
};

/// Where the parts of large objects are, as Swift's own client has it: a container beside the objects'.
const SEGMENTS_SUFFIX: &str = "_segments";

/// A container that requests go to, and the one of its segments.
pub(super) struct Client {
    pub(super) web: Web,
    pub(super) login: Arc<Login>,
    pub(super) container: String,
}

/// Which container a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Objects,
    Segments,
}

/// One request: a key (or the container, if empty), a query, headers, a body. All are sent again when their answers are
/// lost: what that may do is seen by the caller.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    pub(super) method: Method,
    pub(super) place: Place,
    pub(super) key: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'static str, &'a str)],
    pub(super) content: Vec<Bytes>,
}

impl<'a> Request<'a> {
    /// A request for an object without query, headers and body.
    pub(super) fn new(operation: Operation, method: Method, key: &'a str) -> Self {
        Self { operation, method, place: Place::Objects, key, query: &[], headers: &[], content: Vec::new() }
    }

    /// The same for a segment.
    pub(super) fn segment(operation: Operation, method: Method, key: &'a str) -> Self {
        Self { place: Place::Segments, ..Self::new(operation, method, key) }
    }

    /// Whether a proxy looks at account and container first, and answers 404 where it cannot: all requests but reads of
    /// objects.
    fn needs_container(&self) -> bool {
        self.key.is_empty() || !matches!(self.method, Method::GET | Method::HEAD)
    }

    fn makes_container(&self) -> bool {
        self.key.is_empty() && self.method == Method::PUT
    }
}

/// What Swift says of a request that it did not do.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    message: String,
    /// See [`Answer::is_final_refusal`].
    pub(super) is_final: bool,
}

impl Failure {
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        if answer.status.is_success() {
            return None;
        }
        let message = plain(answer.text().unwrap_or_default());
        Some(Self { status: answer.status, message, is_final: answer.is_final_refusal() })
    }

    pub(super) fn text(&self) -> String {
        format!("HTTP {} {}", self.status.as_u16(), self.message).trim_end().to_owned()
    }
}

/// The words of a page, up to a line's length.
fn plain(page: &str) -> String {
    const CHARS_MAX: usize = 200;

    let mut words = String::new();
    let mut is_tag = false;
    for c in page.chars() {
        match c {
            '<' => is_tag = true,
            '>' => {
                is_tag = false;
                words.push(' ');
            }
            c if !is_tag => words.push(if c.is_control() { ' ' } else { c }),
            _ => {}
        }
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(CHARS_MAX).collect()
}

impl Client {
    /// Sends a request and takes the whole answer, whatever its status.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Answer> {
        let answer = self.web.send(&self.to_web(request).await?).await?;
        let is_doubtful = answer.status == StatusCode::NOT_FOUND && request.needs_container();
        if is_doubtful && self.has_place_for(request).await? {
            return Ok(self.web.send(&self.to_web(request).await?).await?.of_several());
        }
        Ok(answer)
    }

    /// Whether account and container of a request are there, after an answer that they are not. A proxy says so too where no
    /// server of accounts or containers answers it (`account_info` and `container_info` in Swift's
    /// `proxy/controllers/base.py`), but not to whoever asks for account and container themselves. It keeps what it finds,
    /// so the request is answered by that when it is sent again.
    async fn has_place_for(&self, request: &Request<'_>) -> Result<bool> {
        // Who has a container of somebody else's may not look at the account.
        let has_account = self.is_found(self.login.storage_url().await?).await?;
        if request.makes_container() { Ok(has_account) } else { self.is_found(self.url_of(request.place).await?).await }
    }

    async fn is_found(&self, url: String) -> Result<bool> {
        let head = web::Request {
            method: Method::HEAD,
            url,
            headers: &[],
            content: Vec::new(),
            shown: &self.container,
            operation: Operation::Stat,
            repeat: Repeat::Harmless,
        };
        match Failure::of(&self.web.send(&head).await?) {
            None => Ok(true),
            Some(failure) if failure.status.is_client_error() => Ok(false),
            Some(failure) => Err(self.failed(&self.container, &failure)),
        }
    }

    /// Sends a request, and takes a failure for what it means.
    pub(super) async fn ask(&self, request: &Request<'_>) -> Result<Answer> {
        let answer = self.send(request).await?;
        match Failure::of(&answer) {
            None => Ok(answer),
            Some(failure) => Err(self.failed(request.key, &failure)),
        }
    }

    /// Sends a request of a call, and takes the head of its answer.
    pub(super) async fn open(&self, request: &Request<'_>, call: &Call) -> Result<Opened> {
        self.web.open(&self.to_web(request).await?, call).await
    }

    /// The name of a container.
    pub(super) fn container_of(&self, place: Place) -> String {
        match place {
            Place::Objects => self.container.clone(),
            Place::Segments => format!("{}{SEGMENTS_SUFFIX}", self.container),
        }
    }

    async fn url_of(&self, place: Place) -> Result<String> {
        let mut url = self.login.storage_url().await?;
        url.push('/');
        url.extend(utf8_percent_encode(&self.container_of(place), STRICT));
        Ok(url)
    }

    async fn to_web<'a>(&'a self, request: &Request<'a>) -> Result<web::Request<'a>> {
        let mut url = self.url_of(request.place).await?;
        if !request.key.is_empty() {
            url.push('/');
            url.extend(utf8_percent_encode(request.key, STRICT_PATH));
        }
        for (at, (name, value)) in request.query.iter().enumerate() {
            url.push(if at == 0 { '?' } else { '&' });
            url.extend(utf8_percent_encode(name, STRICT));
            url.push('=');
            url.extend(utf8_percent_encode(value, STRICT));
        }
        Ok(web::Request {
            method: request.method.clone(),
            url,
            headers: request.headers,
            content: request.content.clone(),
            shown: if request.key.is_empty() { &self.container } else { request.key },
            operation: request.operation,
            repeat: Repeat::Harmless,
        })
    }

    /// What is said to be gone is there.
    pub(super) fn without_servers(&self) -> Error {
        let (endpoint, advice) = (self.web.endpoint.clone(), self.web.advice.unreachable);
        Error::Unreachable { endpoint, reason: "no server of accounts or containers answers it".into(), advice }
    }

    pub(super) fn missing_container(&self) -> Error {
        let Advice { bucket: kind, missing_bucket: advice, .. } = *self.web.advice;
        Error::MissingBucket { kind, bucket: self.container.clone(), endpoint: self.web.endpoint.clone(), advice }
    }

    /// The error that a failure means, where the call has no better name for it.
    pub(super) fn failed(&self, shown: &str, failure: &Failure) -> Error {
        let (path, reason) = (shown.to_owned(), failure.text());
        match failure.status.as_u16() {
            401 => {
                let (endpoint, advice) = (self.web.endpoint.clone(), self.web.advice.wrong_keys);
                Error::WrongKeys { endpoint, reason: format!("the token was refused: {reason}"), advice }
            }
            403 => Error::PermissionDenied { path, reason },
            404 => Error::NotFound { path },
            413 if failure.message.to_ascii_lowercase().contains("quota") => Error::NoSpace { path },
            507 => Error::NoSpace { path },
            // The first is what its rate limits say, and the second what they said before.
            429 | 498 => Error::Throttled { endpoint: self.web.endpoint.clone(), reason, retry_after: None },
            502..=504 => {
                let (endpoint, advice) = (self.web.endpoint.clone(), self.web.advice.unreachable);
                Error::Unreachable { endpoint, reason, advice }
            }
            _ => store_error(shown, reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_told_in_their_words() {
        assert_eq!(
            plain("<html><h1>Not Found</h1><p>The resource\ncould not be found.</p></html>"),
            "Not Found The resource could not be found."
        );
        assert_eq!(plain(""), "");
        assert_eq!(plain(&"x".repeat(1000)).len(), 200);
    }
}
