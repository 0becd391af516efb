//! The requests of S3: to a key or to the bucket, and what their failures mean.

use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use serde::Deserialize;

use super::dialect::Dialect;
use crate::{
    Advice, Call, Error, Operation, Repeat, Result,
    object::store_error,
    web::{self, Answer, Opened, STRICT, STRICT_PATH, Web},
};

/// A bucket that requests go to.
pub(super) struct Client {
    pub(super) web: Web,
    pub(super) dialect: &'static Dialect,
    /// Empty where the store has none.
    pub(super) region: String,
    pub(super) bucket: String,
    /// URL of the bucket, without a trailing slash.
    pub(super) bucket_url: String,
    /// What the header says that tells who pays for requests, if it is sent.
    pub(super) payer: Option<String>,
}

/// One request: a key (or the bucket, if empty), a query, headers, a body. All are sent again when their answers are lost:
/// what that may do is seen by the caller.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    pub(super) method: Method,
    pub(super) key: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) content: Vec<Bytes>,
}

impl<'a> Request<'a> {
    /// A request without query, headers and body.
    pub(super) fn new(operation: Operation, method: Method, key: &'a str) -> Self {
        Self { operation, method, key, query: &[], headers: &[], content: Vec::new() }
    }
}

/// An S3 error.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) message: String,
    /// Where the bucket is: a region, or an endpoint.
    pub(super) place: Option<String>,
}

impl Failure {
    /// What an answer says, if that is an error document; also a success may carry one.
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        let document: Option<ErrorDocument> = answer
            .text()
            .filter(|text| text.contains("<Error>") || text.contains("<Error "))
            .and_then(|text| quick_xml::de::from_str(text).ok());
        if answer.status.is_success() && document.is_none() {
            return None;
        }
        let ErrorDocument { code, message, region, endpoint } = document.unwrap_or_default();
        let place = region.or(endpoint).or_else(|| answer.header("x-amz-bucket-region").map(str::to_owned));
        Some(Self { status: answer.status, code, message, place })
    }

    /// Whether the store refuses the keys, so that others of the same source might be good. The answer to a HEAD has no
    /// document that could say so.
    pub(super) fn refuses_keys(&self) -> bool {
        match self.code.as_str() {
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => true,
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidSecurity" | "AuthenticationRequired" => true,
            "InvalidSecurityToken" | "SecurityTokenExpired" | "UserDisable" => true,
            "" => matches!(self.status.as_u16(), 400 | 401 | 403),
            _ => self.status == 401,
        }
    }

    /// Whether the store does not take a header of a request.
    pub(super) fn refuses_header(&self, name: &str) -> bool {
        matches!(self.status.as_u16(), 400 | 501)
            && (self.code == "NotImplemented" || self.message.to_ascii_lowercase().contains(name))
    }

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
    endpoint: Option<String>,
}

impl Client {
    /// Sends a request and takes the whole answer, whatever its status.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Answer> {
        self.web.send(&self.to_web(request, &self.headers(request))).await
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
        self.web.open(&self.to_web(request, &self.headers(request)), call).await
    }

    fn headers<'a>(&'a self, request: &Request<'a>) -> Vec<(&'a str, &'a str)> {
        let payer = self.payer.as_deref().map(|payer| (self.dialect.payer, payer));
        request.headers.iter().copied().chain(payer).collect()
    }

    fn to_web<'a>(&'a self, request: &Request<'a>, headers: &'a [(&'a str, &'a str)]) -> web::Request<'a> {
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
        web::Request {
            method: request.method.clone(),
            url,
            headers,
            content: request.content.clone(),
            shown: if request.key.is_empty() { &self.bucket } else { request.key },
            operation: request.operation,
            repeat: Repeat::Harmless,
        }
    }

    pub(super) fn missing_bucket(&self) -> Error {
        let Advice { bucket: kind, missing_bucket: advice, .. } = *self.web.advice;
        Error::MissingBucket { kind, bucket: self.bucket.clone(), endpoint: self.web.endpoint.clone(), advice }
    }

    /// The error that a failure means, where the call has no better name for it.
    pub(super) fn failed(&self, shown: &str, failure: &Failure) -> Error {
        let (endpoint, advice, reason) = (self.web.endpoint.clone(), self.web.advice, failure.text());
        match (failure.status.as_u16(), failure.code.as_str()) {
            (_, "NoSuchBucket" | "InvalidBucketName") => self.missing_bucket(),
            (_, "RequestTimeTooSkewed" | "RequestExpired") => Error::ClockSkew { endpoint, reason },
            _ if is_elsewhere(failure) => {
                let reason = match &failure.place {
                    Some(place) => format!("the bucket is in {place}"),
                    None => reason,
                };
                let (bucket, region) = (self.bucket.clone(), self.region.clone());
                Error::WrongRegion { bucket, region, reason, advice: advice.wrong_region }
            }
            _ if !failure.code.is_empty() && failure.refuses_keys() || failure.status == 401 => {
                Error::WrongKeys { endpoint, reason, advice: advice.wrong_keys }
            }
            (_, "UserProjectMissing") => {
                let reason = format!("{reason}; name the project that pays as google_user_project");
                Error::PermissionDenied { path: shown.to_owned(), reason }
            }
            (_, "SecondLevelDomainForbidden") => {
                let reason = format!("{reason}; leave oss_addressing_style out");
                Error::PermissionDenied { path: shown.to_owned(), reason }
            }
            (403, _) => Error::PermissionDenied { path: shown.to_owned(), reason },
            (404, _) => Error::NotFound { path: shown.to_owned() },
            (_, "KeyTooLongError" | "KeyTooLong" | "InvalidObjectName" | "XMinioInvalidObjectName") => {
                Error::Unnameable { path: shown.to_owned(), reason }
            }
            (507, _) | (_, "QuotaExceeded") => Error::NoSpace { path: shown.to_owned() },
            (status, code) if status == 429 || code.starts_with("SlowDown") || code.ends_with("LimitExceeded") => {
                Error::Throttled { endpoint, reason, retry_after: None }
            }
            (502..=504, _) => Error::Unreachable { endpoint, reason, advice: self.web.advice.unreachable },
            _ => store_error(shown, reason),
        }
    }
}

/// Whether the bucket is asked for, or signed for, at another place than where it is. OSS says so in words only.
fn is_elsewhere(failure: &Failure) -> bool {
    match failure.code.as_str() {
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => true,
        "AccessDenied" => failure.message.contains("specified endpoint"),
        "InvalidArgument" => failure.message.contains("signing region"),
        _ => failure.status == 301,
    }
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

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::web::encode_path;

    fn failure(status: u16, body: &str) -> Option<Failure> {
        let status = StatusCode::from_u16(status).unwrap();
        Failure::of(&Answer::new(status, HeaderMap::new(), Bytes::copy_from_slice(body.as_bytes())))
    }

    #[test]
    fn errors_are_read_from_any_status() {
        let body = "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>m</Message></Error>";
        assert_eq!(failure(200, body).unwrap().text(), "InternalError: m");
        assert_eq!(failure(500, "").unwrap().text(), "HTTP 500");
        assert!(failure(200, "<Fine/>").is_none());
    }

    #[test]
    fn who_is_asked_too_much_is_told_from_who_is_not_there() {
        let keys = [("aws_access_key_id", "k"), ("aws_secret_access_key", "s")];
        let options = keys.map(|(name, value)| (name.to_owned(), crate::Secret::new(value))).into();
        let client = crate::s3::aws::connect("s3://b", &options).unwrap().0.client;
        let of = |status: u16, code: &str| {
            let failure = failure(status, &format!("<Error><Code>{code}</Code></Error>")).unwrap();
            client.failed("k", &failure)
        };
        for (status, code) in
            [(503, "SlowDown"), (200, "SlowDown"), (503, "SlowDownRead"), (429, ""), (503, "QpsLimitExceeded")]
        {
            assert!(matches!(of(status, code), Error::Throttled { .. }), "{status} {code}");
        }
        for (status, code) in [(503, "ServiceUnavailable"), (503, ""), (502, ""), (504, "")] {
            let error = of(status, code);
            assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{status} {code}: {error}");
        }
    }

    #[test]
    fn keys_survive_their_encoding() {
        assert_eq!(decode_key("a+b%2Bc%25").unwrap(), "a b+c%");
        assert_eq!(decode_key("%C3%BC").unwrap(), "ü");
        assert!(decode_key("%FF").is_err());
    }

    proptest! {
        /// What a server decodes from our requests, and we from its encoded answers. A name that reads back as another
        /// one would be another file.
        #[test]
        fn keys_are_sent_and_listed_as_they_are(key in "\\PC{1,60}") {
            prop_assert_eq!(decode_key(&encode_path(&key)).unwrap(), key);
        }
    }
}
