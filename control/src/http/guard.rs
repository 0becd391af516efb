//! Who may ask: the right host name, and the token.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use citius_wire::Token;
use serde_json::json;

use super::Site;

/// Refuses requests that call this server by a name it does not have.
pub(super) async fn host(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    match host_of(request.headers(), request.uri()) {
        Some(host) if is_ours(host, &site.hosts) => {
            let mut response = next.run(request).await;
            let headers = response.headers_mut();
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Some(_) => {
            let words = "this server is not called by that name: use its address, localhost, or its host name";
            refusal(StatusCode::MISDIRECTED_REQUEST, words)
        }
        None => refusal(StatusCode::BAD_REQUEST, "a request needs a Host header"),
    }
}

/// Refuses requests without the token.
pub(super) async fn token(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    if shows_token(request.headers(), &site.token) {
        return next.run(request).await;
    }
    let words = "this page wants the token: send `Authorization: Bearer <the content of <home>/token>`";
    let mut response = refusal(StatusCode::UNAUTHORIZED, words);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Whether a request carries the token.
pub(super) fn shows_token(headers: &HeaderMap, token: &Token) -> bool {
    let shown = headers.get(header::AUTHORIZATION);
    let shown = shown.and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, digits) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| Token::from_hex(digits)).flatten()
    });
    shown.is_some_and(|shown| token.matches(&shown))
}

/// A refusal, in words that programs can read too.
pub(super) fn refusal(status: StatusCode, words: &str) -> Response {
    let body = json!({ "error": status.canonical_reason().unwrap_or("refused"), "message": words });
    (status, axum::Json(body)).into_response()
}

fn host_of<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let host = uri.authority().map(axum::http::uri::Authority::as_str);
    host.or_else(|| headers.get(header::HOST)?.to_str().ok())
}

fn is_ours(host: &str, hosts: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.split_once(']').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok()),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_refused() {
        let hosts = ["node1".to_owned()];
        for ours in ["127.0.0.1:80", "127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:9", "node1:5"] {
            assert!(is_ours(ours, &hosts), "{ours}");
        }
        for other in ["evil.example", "127.0.0.1.evil.example:80", "[evil]:1", "", "node12", "localhost.evil:1"] {
            assert!(!is_ours(other, &hosts), "{other}");
        }
    }
}
