//! The requests of Azure Blob storage: to a blob or to the container, and what their failures mean.

use http::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;

use super::sign::Sas;
use crate::{
    Advice, Call, Error, Operation, Repeat, Result,
    object::store_error,
    web::{self, Answer, Opened, STRICT, STRICT_PATH, Web},
};

/// The version of the service that requests are written for, which every region has had for years.
const API_VERSION: &str = "2023-11-03";

/// A container that requests go to.
pub(super) struct Client {
    pub(super) web: Web,
    pub(super) container: String,
    /// URL of the container, without a trailing slash.
    pub(super) container_url: String,
    /// What a URL of ours needs that the service is to follow by itself.
    pub(super) sas: Option<Sas>,
}

/// One request: a key (or the container, if empty), a query, headers, a body. All are sent again when their answers are
/// lost: what that may do is seen by the caller.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    pub(super) method: Method,
    pub(super) key: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'static str, &'a str)],
    pub(super) content: Vec<bytes::Bytes>,
    /// The version of the service that understands it.
    pub(super) version: &'static str,
}

impl<'a> Request<'a> {
    /// A request without query, headers and body.
    pub(super) fn new(operation: Operation, method: Method, key: &'a str) -> Self {
        Self { operation, method, key, query: &[], headers: &[], content: Vec::new(), version: API_VERSION }
    }
}

/// What Azure says of a request that it did not do.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) code: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ErrorDocument {
    code: String,
    message: String,
    authentication_error_detail: String,
}

impl Failure {
    /// What an answer says, if it is not that of a success. Answers to HEAD have no document, only a header.
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        if answer.status.is_success() {
            return None;
        }
        let text = answer.text().map(|text| text.trim_start_matches('\u{feff}'));
        let document: ErrorDocument = text.and_then(|text| quick_xml::de::from_str(text).ok()).unwrap_or_default();
        let code = answer.header("x-ms-error-code").map_or(document.code, str::to_owned);
        // The request's id and time follow on lines of their own; the detail names what the message leaves out.
        let first_line = |text: &str| text.lines().next().unwrap_or_default().trim().to_owned();
        let message = match document.authentication_error_detail.as_str() {
            "" => first_line(&document.message),
            detail => first_line(detail),
        };
        Some(Self { status: answer.status, code, message })
    }

    pub(super) fn text(&self) -> String {
        match (self.code.as_str(), self.message.as_str()) {
            ("", _) => format!("HTTP {}", self.status.as_u16()),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {message}"),
        }
    }

    /// Whether a key was not found, rather than what it would be in.
    pub(super) fn is_no_blob(&self) -> bool {
        self.status == 404 && !matches!(self.code.as_str(), "ContainerNotFound" | "FilesystemNotFound")
    }
}

impl Client {
    /// Sends a request and takes the whole answer, whatever its status.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Answer> {
        let headers = headers_of(request);
        self.web.send(&self.to_web(request, &headers)).await
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
        let headers = headers_of(request);
        self.web.open(&self.to_web(request, &headers), call).await
    }

    /// The URL of a key, as the service itself may follow it.
    pub(super) fn source_url(&self, key: &str) -> String {
        let url = self.url(key);
        match &self.sas {
            Some(sas) => sas.added_to(&url),
            None => url,
        }
    }

    fn url(&self, key: &str) -> String {
        let mut url = self.container_url.clone();
        if !key.is_empty() {
            url.push('/');
            url.extend(utf8_percent_encode(key, STRICT_PATH));
        }
        url
    }

    fn to_web<'a>(&'a self, request: &Request<'a>, headers: &'a [(&'static str, &'a str)]) -> web::Request<'a> {
        let mut url = self.url(request.key);
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
            shown: if request.key.is_empty() { &self.container } else { request.key },
            operation: request.operation,
            repeat: Repeat::Harmless,
        }
    }

    pub(super) fn missing_container(&self) -> Error {
        let Advice { bucket: kind, missing_bucket: advice, .. } = *self.web.advice;
        Error::MissingBucket { kind, bucket: self.container.clone(), endpoint: self.web.endpoint.clone(), advice }
    }

    /// The error that a failure means, where the call has no better name for it.
    pub(super) fn failed(&self, shown: &str, failure: &Failure) -> Error {
        let endpoint = || self.web.endpoint.clone();
        let path = || shown.to_owned();
        let reason = failure.text();
        let wrong_keys = |reason| Error::WrongKeys { endpoint: endpoint(), reason, advice: self.web.advice.wrong_keys };
        let denied = |why: &str| Error::PermissionDenied { path: path(), reason: format!("{reason}; {why}") };
        match (failure.status.as_u16(), failure.code.as_str()) {
            (_, "ContainerNotFound" | "FilesystemNotFound" | "ContainerBeingDeleted") => self.missing_container(),
            (_, "AuthenticationFailed") if says_of_time(&failure.message) => {
                Error::ClockSkew { endpoint: endpoint(), reason }
            }
            // Azurite's code for it is that of a firewall.
            (_, "AuthorizationFailure") if failure.message.contains("failed to authenticate") => wrong_keys(reason),
            (_, "AuthenticationFailed" | "InvalidAuthenticationInfo" | "AccountIsDisabled") => {
                wrong_keys(explained(reason, &failure.message))
            }
            (_, "NoAuthenticationInformation" | "PublicAccessNotPermitted") => denied("it is not open to the public"),
            (401, _) => wrong_keys(reason),
            (_, "LeaseIdMissing" | "LeaseIdMismatchWithBlobOperation" | "LeaseAlreadyPresent") => {
                denied("another program holds a lease on it, which must end or be broken first")
            }
            (_, "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold") => denied("a policy of the container"),
            (_, "AuthorizationSourceIPMismatch") | (403, "AuthorizationFailure") => {
                denied("the account's firewall may not know this machine")
            }
            (403, _) => Error::PermissionDenied { path: path(), reason },
            (404, _) => Error::NotFound { path: path() },
            (400, "InvalidResourceName" | "InvalidUri" | "OutOfRangeInput") => {
                Error::Unnameable { path: path(), reason }
            }
            (400 | 409, "InvalidBlobOrBlock" | "BlockCountExceedsLimit") => store_error(
                shown,
                format!(
                    "{reason}; another program has sent blocks for it that it never committed: Azure drops them after a week"
                ),
            ),
            (507, _) => Error::NoSpace { path: path() },
            (429, _) | (_, "ServerBusy") => Error::Throttled { endpoint: endpoint(), reason, retry_after: None },
            (502..=504, _) => Error::Unreachable { endpoint: endpoint(), reason, advice: self.web.advice.unreachable },
            _ => store_error(shown, reason),
        }
    }
}

fn headers_of<'a>(request: &Request<'a>) -> Vec<(&'static str, &'a str)> {
    request.headers.iter().copied().chain([("x-ms-version", request.version)]).collect()
}

/// Whether a refusal is of the time that a request bears.
fn says_of_time(message: &str) -> bool {
    message.contains("Request date header")
}

/// What else there is to say of a refused signature or token.
fn explained(reason: String, message: &str) -> String {
    let why = if message.contains("Signature not valid in the specified time frame") {
        "the SAS token has expired, or is not valid yet"
    } else if message.contains("Lifetime validation failed") || message.contains("token is expired") {
        "the token has expired"
    } else {
        return reason;
    };
    format!("{why}: {reason}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::azure::connect::connect_anonymously;

    fn failure(status: u16, code: Option<&str>, body: &str) -> Option<Failure> {
        let mut headers = HeaderMap::new();
        if let Some(code) = code {
            headers.insert("x-ms-error-code", code.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        Failure::of(&Answer::new(status, headers, Bytes::copy_from_slice(body.as_bytes())))
    }

    fn document(code: &str, message: &str, detail: &str) -> String {
        format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}\n\
             RequestId:1\nTime:2</Message><AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail></Error>"
        )
    }

    #[test]
    fn failures_are_read_from_documents_and_headers() {
        let body = document("BlobNotFound", "The specified blob does not exist.", "");
        let read = failure(404, None, &body).unwrap();
        assert_eq!(read.text(), "BlobNotFound: The specified blob does not exist.");
        assert!(read.is_no_blob());
        assert!(!failure(404, Some("ContainerNotFound"), "").unwrap().is_no_blob());
        assert_eq!(failure(500, None, "").unwrap().text(), "HTTP 500");
        assert!(failure(206, None, &body).is_none());
    }

    /// The documents are those of the service.
    #[test]
    fn what_is_wrong_with_a_mount_is_told_apart() {
        let client = connect_anonymously();
        let error = |status, code: &str, message: &str, detail: &str| {
            client.failed("f", &failure(status, None, &document(code, message, detail)).unwrap())
        };
        let refused = "Server failed to authenticate the request.";
        let skewed =
            error(403, "AuthenticationFailed", refused, "Request date header too old: 'Wed, 21 Oct 2015 07:28:00 GMT'");
        assert!(matches!(skewed, Error::ClockSkew { .. }), "{skewed:?}");
        let wrong =
            error(403, "AuthenticationFailed", refused, "The MAC signature found in the HTTP request 'x=' is not");
        assert!(matches!(wrong, Error::WrongKeys { .. }), "{wrong:?}");
        let detail = "Signature not valid in the specified time frame: Start [a] - Expiry [b] - Current [c]";
        let expired = error(403, "AuthenticationFailed", refused, detail);
        assert!(matches!(&expired, Error::WrongKeys { reason, .. } if reason.contains("has expired")), "{expired:?}");
        let detail = "Lifetime validation failed. The token is expired.";
        let stale = error(401, "InvalidAuthenticationInfo", refused, detail);
        assert!(matches!(&stale, Error::WrongKeys { reason, .. } if reason.contains("token has expired")), "{stale:?}");
        let denied = error(403, "AuthorizationPermissionMismatch", "This request is not authorized.", "");
        assert!(matches!(denied, Error::PermissionDenied { .. }), "{denied:?}");
        let leased = error(412, "LeaseIdMissing", "There is currently a lease on the blob.", "");
        assert!(matches!(&leased, Error::PermissionDenied { reason, .. } if reason.contains("lease")), "{leased:?}");
        let missing = error(404, "ContainerNotFound", "The specified container does not exist.", "");
        assert!(matches!(missing, Error::MissingBucket { .. }), "{missing:?}");
        assert!(matches!(error(404, "BlobNotFound", "", ""), Error::NotFound { .. }));
    }
}
