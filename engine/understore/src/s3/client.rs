//! Signed requests that `object_store` has no call for, over its own connections and credentials.
//!
//! `object_store` gives streaming reads, puts, parts, bulk deletes and every source of credentials. It lacks: keys
//! that end in a slash (its paths strip them, so a marker `dir/` cannot be told from an object `dir`), listings that
//! survive a key it cannot name, metadata on a multipart upload that several processes share, conditions on completing
//! one, copies that check their source, and the list of uploads under way. These are here, each one request and one
//! small XML document.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::{
    aws::{AwsAuthorizer, AwsCredentialProvider},
    client::{HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;

use crate::{Error, Operation, Repeat, Result, Traffic};

/// Bytes of one XML answer: a thousand keys of 1,024 bytes, encoded threefold, and their tags.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// What AWS calls URI encoding: everything but the unreserved characters.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const STRICT_PATH: &AsciiSet = &STRICT.remove(b'/');

/// Where requests go and how they are signed. Not printable: it leads to the keys.
pub(super) struct Client {
    pub(super) http: HttpClient,
    pub(super) traffic: Traffic,
    /// None where requests are not signed.
    pub(super) credentials: Option<AwsCredentialProvider>,
    pub(super) region: String,
    pub(super) sign_payload: bool,
    pub(super) request_payer: bool,
    pub(super) bucket: String,
    /// URL of the bucket, without a trailing slash.
    pub(super) bucket_url: String,
    /// Whether this is Amazon's own service, whose documented promises can be relied on.
    pub(super) is_amazon: bool,
    /// What errors call the server.
    pub(super) endpoint: String,
}

/// One request: a key (or the bucket, if empty), a query, headers, a body.
#[derive(Debug, Default)]
pub(super) struct Request<'a> {
    pub(super) key: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'static str, &'a str)],
    pub(super) body: Bytes,
}

/// What came back, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The code and message of an S3 error document; also a success may carry one.
    pub(super) fn failure(&self) -> Option<Failure> {
        let document: Option<ErrorDocument> = std::str::from_utf8(&self.body)
            .ok()
            .filter(|text| text.contains("<Error>") || text.contains("<Error "))
            .and_then(|text| quick_xml::de::from_str(text).ok());
        if self.status.is_success() && document.is_none() {
            return None;
        }
        let ErrorDocument { code, message, region } = document.unwrap_or_default();
        let region = region.or_else(|| self.header("x-amz-bucket-region").map(str::to_owned));
        Some(Failure { status: self.status, code, message, region })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The XML document of a success.
    pub(super) fn document<T: for<'de> Deserialize<'de>>(&self, shown: &str) -> Result<T> {
        let text = std::str::from_utf8(&self.body).map_err(|error| store_error(shown, error))?;
        quick_xml::de::from_str(text).map_err(|error| store_error(shown, error))
    }
}

/// An S3 error.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) region: Option<String>,
}

impl Failure {
    pub(super) fn text(&self) -> String {
        match (self.code.as_str(), self.message.as_str()) {
            ("", _) => format!("HTTP {}", self.status.as_u16()),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {message}"),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ErrorDocument {
    code: String,
    message: String,
    region: Option<String>,
}

impl Client {
    /// Sends one request, under the rules of the mount. `repeatable` says that it may be sent again when its answer was
    /// lost on the way.
    pub(super) async fn send(&self, method: Method, request: &Request<'_>, repeatable: bool) -> Result<Answer> {
        let shown = if request.key.is_empty() { self.bucket.as_str() } else { request.key };
        let operation = match method {
            Method::GET => Operation::List,
            Method::HEAD => Operation::Stat,
            Method::POST => Operation::Write,
            _ => Operation::Change,
        };
        let call = self.traffic.call(operation, if repeatable { Repeat::Harmless } else { Repeat::Harmful });
        loop {
            let mut signed = self.signed(method.clone(), request).await?;
            signed.extensions_mut().insert(call.clone());
            // Until here is the answer's head, tries are the client's.
            let head = self.http.execute(signed).await.map_err(|error| self.connection_error(shown, error))?;
            match read_answer(head).await {
                Ok(answer) => return Ok(answer),
                Err(error)
                    if error.kind() != HttpErrorKind::Decode
                        && self.traffic.again(&call, crate::Failure::Broken).await =>
                {
                    tracing::debug!(%error, shown, "the answer broke off, and is asked for again");
                }
                Err(error) => return Err(self.connection_error(shown, error)),
            }
        }
    }

    async fn signed(&self, method: Method, request: &Request<'_>) -> Result<HttpRequest> {
        let mut url = self.bucket_url.clone();
        // The bucket itself is asked without a trailing slash, as the service documents it.
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
        let mut http = http::Request::builder()
            .method(method)
            .uri(url)
            .body(request.body.clone().into())
            .map_err(|error| store_error(request.key, error))?;
        for (name, value) in request.headers {
            let value = HeaderValue::from_str(value).map_err(|error| store_error(request.key, error))?;
            http.headers_mut().insert(HeaderName::from_static(name), value);
        }
        if let Some(credentials) = &self.credentials {
            let credential = credentials
                .get_credential()
                .await
                .map_err(|error| Error::MissingKeys { endpoint: self.endpoint.clone(), reason: chain(&error) })?;
            AwsAuthorizer::new(&credential, "s3", &self.region)
                .with_sign_payload(self.sign_payload)
                .with_request_payer(self.request_payer)
                .try_authorize(&mut http, None)
                .map_err(|error| store_error(request.key, error))?;
        }
        Ok(http)
    }

    fn connection_error(&self, shown: &str, error: HttpError) -> Error {
        match error.kind() {
            HttpErrorKind::Connect | HttpErrorKind::Timeout => {
                Error::Unreachable { endpoint: self.endpoint.clone(), reason: chain(&error) }
            }
            _ => store_error(shown, error),
        }
    }

    /// The error that an S3 failure means, where the call has no better name for it.
    pub(super) fn failed(&self, shown: &str, failure: &Failure) -> Error {
        let endpoint = || self.endpoint.clone();
        let reason = failure.text();
        match (failure.status.as_u16(), failure.code.as_str()) {
            (_, "NoSuchBucket") => Error::MissingBucket { bucket: self.bucket.clone(), endpoint: endpoint() },
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken") | (401, _) => {
                Error::WrongKeys { endpoint: endpoint(), reason }
            }
            (_, "RequestTimeTooSkewed" | "RequestExpired") => Error::ClockSkew { endpoint: endpoint(), reason },
            (301, _)
            | (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
                let reason = match &failure.region {
                    Some(region) => format!("the bucket is in {region}"),
                    None => reason,
                };
                Error::WrongRegion { bucket: self.bucket.clone(), region: self.region.clone(), reason }
            }
            (403, _) => Error::PermissionDenied { path: shown.to_owned(), reason },
            (404, _) => Error::NotFound { path: shown.to_owned() },
            (_, "KeyTooLongError") => Error::Unnameable { path: shown.to_owned(), reason },
            (507, _) | (_, "QuotaExceeded") => Error::NoSpace { path: shown.to_owned() },
            _ => store_error(shown, reason),
        }
    }
}

async fn read_answer(response: HttpResponse) -> Result<Answer, HttpError> {
    use futures::StreamExt;

    let (parts, body) = response.into_parts();
    let mut stream = body.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(HttpError::new(HttpErrorKind::Decode, std::io::Error::other("the answer is too large")));
        }
    }
    Ok(Answer { status: parts.status, headers: parts.headers, body: bytes.into() })
}

/// A failure without a name of its own.
pub(super) fn store_error(path: &str, source: impl Into<crate::error::Source>) -> Error {
    Error::Store { path: path.to_owned(), source: source.into() }
}

/// An error with what caused it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// Percent-encodes a copy source.
pub(super) fn encode_path(key: &str) -> String {
    utf8_percent_encode(key, STRICT_PATH).to_string()
}

/// Undoes `encoding-type=url`; bytes that are no UTF-8 become an error value, not a failure of the list.
pub(super) fn decode_key(encoded: &str) -> std::result::Result<String, String> {
    // Servers write a space as `+`, as forms do, and a plus as `%2B`.
    let spaced = encoded.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(key) => Ok(key.into_owned()),
        Err(_) => Err(percent_decode_str(&spaced).decode_utf8_lossy().into_owned()),
    }
}

/// Milliseconds since 1970 of an RFC 3339 time; zero if it is none.
pub(super) fn time_ms(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).map_or(0, |time| time.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: HeaderMap::new(), body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn errors_are_read_from_any_status() {
        let body = "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>m</Message></Error>";
        assert_eq!(answer(200, body).failure().unwrap().text(), "InternalError: m");
        assert_eq!(answer(500, "").failure().unwrap().text(), "HTTP 500");
        assert!(answer(200, "<Fine/>").failure().is_none());
    }

    #[test]
    fn keys_survive_their_encoding() {
        assert_eq!(decode_key("a+b%2Bc%25").unwrap(), "a b+c%");
        assert_eq!(decode_key("%C3%BC").unwrap(), "ü");
        assert!(decode_key("%FF").is_err());
        assert_eq!(encode_path("a b/ü+%#?"), "a%20b/%C3%BC%2B%25%23%3F");
    }
}
