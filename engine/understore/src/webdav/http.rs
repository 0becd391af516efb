//! Requests to a web server: one client, one way to send, one way to read what is wrong.

use std::time::SystemTime;

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, LOCATION},
};
use reqwest::{Body, Client, ClientBuilder, Response, redirect::Policy};
use url::Url;

use crate::{
    Error, Result,
    error::Source,
    traffic::retry_after,
    tree::ADVICE_UNREACHABLE,
    web::{advice_of_tls, encode_path, header_of},
};

/// Bytes of an error's text that are shown.
const REASON_BYTES_MAX: usize = 300;

/// Where requests go and how they are made. Not printable: it leads to the password.
pub(super) struct Http {
    client: Client,
    /// The mounted folder, without a slash at its end.
    base: Url,
    authorization: Option<HeaderValue>,
}

impl Http {
    /// A client for the folder at `base`. Only what changes nothing may be redirected to elsewhere.
    pub(super) fn new(
        builder: ClientBuilder,
        base: Url,
        authorization: Option<HeaderValue>,
        follows: bool,
    ) -> reqwest::Result<Self> {
        const REDIRECTS_MAX: usize = 5;
        let policy = if follows { Policy::limited(REDIRECTS_MAX) } else { Policy::none() };
        Ok(Self { client: builder.redirect(policy).build()?, base, authorization })
    }

    /// What errors call the server.
    pub(super) fn endpoint(&self) -> &str {
        self.base.as_str()
    }

    /// The URL of a path.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let folder = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{folder}/{}", encode_path(path)));
        url
    }

    /// The path of a path's URL, encoded.
    pub(super) fn url_path(&self, path: &str) -> String {
        self.url(path).path().to_owned()
    }

    /// Sends a request. Whether it is sent again is for the mount's traffic to say.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Body,
    ) -> Result<Response> {
        let mut request = self.client.request(method, self.url(path)).body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.map_err(|error| self.lost(path, error))
    }

    /// The error of a request that had no answer, or half of one.
    pub(super) fn lost(&self, path: &str, error: reqwest::Error) -> Error {
        lost(self.endpoint(), path, error)
    }

    /// The error that an answer's status means, where the call has no better name for it.
    pub(super) async fn refused(&self, path: &str, answer: Response) -> Error {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap_or_default();
        refusal(self.endpoint(), path, status, &headers, &text)
    }
}

/// The error of a request that had no answer, or half of one.
pub(super) fn lost(endpoint: &str, path: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    if error.is_builder() || error.is_redirect() {
        return Error::Store { path: path.to_owned(), source: Source::from(error) };
    }
    let (endpoint, reason) = (endpoint.to_owned(), chain(&error));
    if let Some(advice) = advice_of_tls(&reason).filter(|_| error.is_connect()) {
        return Error::Untrusted { endpoint, reason, advice };
    }
    Error::Unreachable { endpoint, reason, advice: ADVICE_UNREACHABLE }
}

fn refusal(endpoint: &str, path: &str, status: StatusCode, headers: &HeaderMap, text: &str) -> Error {
    let (shown, endpoint) = (path.to_owned(), endpoint.to_owned());
    let reason = format!("HTTP {}", status.as_u16());
    match status.as_u16() {
        401 => Error::WrongKeys { endpoint, reason, advice: "check webdav_user and webdav_password, or webdav_token" },
        403 => Error::PermissionDenied { path: shown, reason },
        404 | 410 => Error::NotFound { path: shown },
        414 => Error::Unnameable { path: shown, reason: "its URL is too long for the server".into() },
        423 => Error::Store { path: shown, source: "it is locked by another client of the server".into() },
        507 => Error::NoSpace { path: shown },
        300..=399 => {
            let to = header_of(headers, LOCATION.as_str()).map(crate::redact);
            let to = to.unwrap_or_else(|| "elsewhere".into());
            Error::Store { path: shown, source: format!("the server redirects to {to}; mount that").into() }
        }
        429 | 503 => Error::Throttled { endpoint, reason, retry_after: retry_after(headers, SystemTime::now()) },
        // These say what is wrong with a request, and would again.
        501 | 505 => Error::Store { path: shown, source: format!("{reason}: {}", plain(text)).into() },
        408 | 500.. => {
            let reason = format!("{reason} {}", plain(text)).trim_end().to_owned();
            Error::Unreachable { endpoint, reason, advice: ADVICE_UNREACHABLE }
        }
        _ => Error::Store { path: shown, source: format!("{reason}: {}", plain(text)).into() },
    }
}

/// An error's text without its markup, cut where it gets long.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut is_markup = false;
    for character in text.chars() {
        match character {
            '<' => is_markup = true,
            '>' => is_markup = false,
            _ if is_markup => {}
            other if other.is_whitespace() || other.is_control() => {
                if !plain.ends_with(' ') {
                    plain.push(' ');
                }
            }
            other => plain.push(other),
        }
        if plain.len() >= REASON_BYTES_MAX {
            break;
        }
    }
    plain.trim().to_owned()
}

/// An error with what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.last().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(base: &str) -> Http {
        Http::new(Client::builder(), Url::parse(base).unwrap(), None, false).unwrap()
    }

    #[test]
    fn names_are_encoded_into_urls_whole() {
        let http = http("http://h:1/a%20b/");
        assert_eq!(http.url("").as_str(), "http://h:1/a%20b/");
        assert_eq!(http.url("ü/100%#?&+;:\\").as_str(), "http://h:1/a%20b/%C3%BC/100%25%23%3F%26%2B%3B%3A%5C");
        assert_eq!(http.url_path("a..b/~x"), "/a%20b/a..b/~x");
    }

    #[test]
    fn refusals_are_taken_for_what_they_mean() {
        let of = |status: u16, text: &str| {
            refusal("http://h", "f", StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), text)
        };
        assert!(matches!(of(401, ""), Error::WrongKeys { .. }));
        assert!(matches!(of(403, ""), Error::PermissionDenied { .. }));
        assert!(matches!(of(404, ""), Error::NotFound { .. }));
        assert!(matches!(of(503, ""), Error::Throttled { .. }) && matches!(of(502, ""), Error::Unreachable { .. }));
        assert!(matches!(of(507, ""), Error::NoSpace { .. }));
        let other = of(500, "<html><p>Broken\n\n inside</p></html>").to_string();
        assert!(other.contains("HTTP 500 Broken inside"), "{other}");
        assert!(plain(&"é".repeat(1000)).len() <= REASON_BYTES_MAX + 1);
    }
}
