//! Who asks: logins by version 1 of Swift's own protocol, by Keystone version 3, or a token that is given.
//!
//! A login gives a token and the URL that it is good for. Both are kept until shortly before the token expires or until it is
//! refused; then one caller logs in anew, and the others wait for what it gets. Where the way to log in is written in files
//! ([`Cloud`]), a change of them is a reason too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method};
use object_store::client::HttpRequest;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::clouds::Cloud;
use crate::{
    Error, Operation, Repeat, Result, Secret,
    key_file::LOOK_PAUSE,
    object::store_error,
    web::{Answer, Request, Signer, Web, rfc3339_ms},
};

/// How long before its end a token is no longer used; of a short-lived one, a tenth of its life.
const EXPIRY_MARGIN: Duration = Duration::from_secs(60);
/// Between two logins for want of a good token, at least.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);
/// Keystone counts revocations in seconds: a token of the second in which others were revoked is refused with them, for as
/// long as it lives. So whoever was refused logs in anew when that second is over.
const REVOCATION_GRAIN: Duration = Duration::from_secs(1);

/// How to log in.
#[derive(PartialEq)]
pub(super) enum Way {
    /// Version 1, which tempauth and Ceph speak.
    V1 { url: String, user: Secret, key: Secret },
    /// Keystone version 3; `url` ends in `/v3`.
    Keystone { url: String, proof: Box<Proof>, region: Option<String>, interface: String },
    /// Somebody else has logged in.
    Given { storage_url: String, token: Secret },
}

impl Way {
    /// Where it is done, or where what it gives is good for.
    pub(super) fn address(&self) -> &str {
        match self {
            Self::V1 { url, .. } | Self::Keystone { url, .. } => url,
            Self::Given { storage_url, .. } => storage_url,
        }
    }
}

/// What Keystone is shown.
#[derive(PartialEq)]
pub(super) enum Proof {
    Password { user: User, password: Secret, project: Option<Named> },
    Application { id: Option<Secret>, name: Option<Secret>, user: Option<User>, secret: Secret },
}

/// Something that has an id, or a name in a domain.
#[derive(Default, PartialEq)]
pub(super) struct Named {
    pub(super) id: Option<Secret>,
    pub(super) name: Option<Secret>,
    pub(super) domain_id: Option<Secret>,
    pub(super) domain_name: Option<Secret>,
}

pub(super) type User = Named;

impl Named {
    fn json(&self) -> Value {
        let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        match (text(&self.id), text(&self.name)) {
            (Some(id), _) => json!({ "id": id }),
            (None, name) => {
                let domain = match (text(&self.domain_id), text(&self.domain_name)) {
                    (Some(id), _) => json!({ "id": id }),
                    (None, name) => json!({ "name": name.unwrap_or_else(|| "Default".to_owned()) }),
                };
                json!({ "name": name, "domain": domain })
            }
        }
    }
}

impl Proof {
    fn json(&self) -> Value {
        match self {
            Self::Password { user, password, project } => {
                let mut user = user.json();
                user["password"] = password.expose().into();
                let identity = json!({ "methods": ["password"], "password": { "user": user } });
                match project {
                    Some(project) => {
                        json!({ "auth": { "identity": identity, "scope": { "project": project.json() } } })
                    }
                    None => json!({ "auth": { "identity": identity } }),
                }
            }
            Self::Application { id, name, user, secret } => {
                let mut credential = json!({ "secret": secret.expose() });
                if let Some(id) = id {
                    credential["id"] = id.expose().into();
                } else if let Some(name) = name {
                    credential["name"] = name.expose().into();
                    credential["user"] = user.as_ref().map(Named::json).into();
                }
                let identity = json!({ "methods": ["application_credential"], "application_credential": credential });
                json!({ "auth": { "identity": identity } })
            }
        }
    }
}

/// A login that holds.
#[derive(Clone)]
struct Session {
    token: Secret,
    storage_url: String,
    since: Instant,
    /// None if it does not end by itself.
    until: Option<Instant>,
}

/// Logs in, and keeps what it gets.
pub(super) struct Login {
    /// Where the way to log in is written, if it may change.
    cloud: Option<Arc<Cloud>>,
    /// Where logins are asked for.
    web: Web,
    kept: Mutex<Kept>,
}

struct Kept {
    way: Way,
    session: Option<Session>,
    /// When the files were looked at.
    looked: Instant,
}

impl Login {
    pub(super) fn new(way: Way, cloud: Option<Cloud>, web: Web) -> Self {
        let kept = Mutex::new(Kept { way, session: None, looked: Instant::now() });
        Self { cloud: cloud.map(Arc::new), web, kept }
    }

    /// The account's URL, without a trailing slash.
    pub(super) async fn storage_url(&self) -> Result<String> {
        Ok(self.session().await?.storage_url)
    }

    async fn session(&self) -> Result<Session> {
        let mut kept = self.kept.lock().await;
        let is_due = kept.looked.elapsed() >= LOOK_PAUSE;
        if is_due && self.look(&mut kept, false).await {
            match self.log_in(&kept.way).await {
                Ok(session) => kept.session = Some(session),
                Err(error) if kept.session.is_none() => return Err(error),
                // What was got before may be good for as long as it holds.
                Err(error) => tracing::warn!(%error, "the files of clouds have changed, and nobody can log in so"),
            }
        }
        if let Some(session) = &kept.session
            && session.until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(session.clone());
        }
        let session = self.log_in(&kept.way).await?;
        Ok(kept.session.insert(session).clone())
    }

    /// Takes up another way to log in, if the files have changed (or are to be read all the same) and tell one. Whether
    /// they did.
    async fn look(&self, kept: &mut Kept, always: bool) -> bool {
        let Some(cloud) = self.cloud.clone() else { return false };
        kept.looked = Instant::now();
        let read = move || (always || cloud.has_changed()).then(|| cloud.way());
        match tokio::task::spawn_blocking(read).await {
            Ok(Some(Ok(way))) if way != kept.way => {
                kept.way = way;
                true
            }
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "the files of clouds cannot be read, and things stay as they were");
                false
            }
            _ => false,
        }
    }

    async fn log_in(&self, way: &Way) -> Result<Session> {
        match way {
            Way::V1 { url, user, key } => self.log_in_by_v1(url, user, key).await,
            Way::Keystone { url, proof, region, interface } => {
                self.log_in_by_keystone(url, proof, region.as_deref(), interface).await
            }
            Way::Given { storage_url, token } => Ok(session(token.clone(), storage_url, None)),
        }
    }

    async fn log_in_by_v1(&self, url: &str, user: &Secret, key: &Secret) -> Result<Session> {
        let headers = [("x-auth-user", user.expose()), ("x-auth-key", key.expose())];
        let answer = self.web.send(&self.request(Method::GET, url, &headers, Vec::new())).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer));
        }
        let said = |name: &str| answer.header(name).filter(|value| !value.is_empty());
        let (Some(token), Some(storage_url)) =
            (said("x-auth-token").or(said("x-storage-token")), said("x-storage-url"))
        else {
            return Err(store_error(&self.web.endpoint, "it answers a login without a token and a storage URL"));
        };
        let lifetime = said("x-auth-token-expires").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        Ok(session(Secret::new(token), storage_url, lifetime))
    }

    async fn log_in_by_keystone(
        &self,
        url: &str,
        proof: &Proof,
        region: Option<&str>,
        interface: &str,
    ) -> Result<Session> {
        let url = format!("{url}/auth/tokens");
        let body = Zeroizing::new(proof.json().to_string());
        let headers = [("content-type", "application/json"), ("accept", "application/json")];
        let content = vec![Bytes::copy_from_slice(body.as_bytes())];
        let answer = self.web.send(&self.request(Method::POST, &url, &headers, content)).await?;
        if !answer.status.is_success() {
            return Err(match proof {
                // Of one that was deleted it says that it is not found; who is not Keystone says nothing in its form.
                Proof::Application { .. } if answer.status == 404 && said_by_keystone(&answer).is_some() => {
                    self.wrong_keys(&answer)
                }
                _ => self.refused(&answer),
            });
        }
        let token = answer
            .header("x-subject-token")
            .ok_or_else(|| store_error(&self.web.endpoint, "Keystone answers a login without a token"))?;
        let document: TokenDocument =
            serde_json::from_slice(&answer.body).map_err(|error| store_error(&self.web.endpoint, error))?;
        let storage_url = document.token.storage_url(region, interface).map_err(|reason| {
            let advice = self.web.advice.wrong_region;
            let region = region.unwrap_or("any").to_owned();
            Error::WrongRegion { bucket: "object-store".into(), region, reason, advice }
        })?;
        let now_ms = chrono::Utc::now().timestamp_millis();
        let left_ms = rfc3339_ms(&document.token.expires_at) - now_ms;
        let lifetime = u64::try_from(left_ms).ok().map(Duration::from_millis);
        Ok(session(Secret::new(token), storage_url, lifetime))
    }

    fn request<'a>(
        &'a self,
        method: Method,
        url: &str,
        headers: &'a [(&'static str, &'a str)],
        content: Vec<Bytes>,
    ) -> Request<'a> {
        Request {
            method,
            url: url.to_owned(),
            headers,
            content,
            shown: &self.web.endpoint,
            operation: Operation::Stat,
            repeat: Repeat::Harmless,
        }
    }

    fn refused(&self, answer: &Answer) -> Error {
        match answer.status.as_u16() {
            401 | 403 => self.wrong_keys(answer),
            404 | 405 => {
                let reason = format!("nobody logs in there: {}", said_in(answer));
                let (endpoint, advice) = (self.web.endpoint.clone(), self.web.advice.unreachable);
                Error::Unreachable { endpoint, reason, advice }
            }
            _ => store_error(&self.web.endpoint, format!("it answers a login by {}", said_in(answer))),
        }
    }

    fn wrong_keys(&self, answer: &Answer) -> Error {
        let (endpoint, advice) = (self.web.endpoint.clone(), self.web.advice.wrong_keys);
        Error::WrongKeys { endpoint, reason: said_in(answer), advice }
    }
}

#[async_trait]
impl Signer for Login {
    async fn sign(&self, request: &mut HttpRequest, _content: &[Bytes]) -> Result<()> {
        let session = self.session().await?;
        let mut token =
            HeaderValue::try_from(session.token.expose()).map_err(|error| store_error("the token", error))?;
        token.set_sensitive(true);
        request.headers_mut().insert("x-auth-token", token);
        Ok(())
    }

    async fn find_keys(&self) -> Result<()> {
        self.session().await.map(drop)
    }

    async fn renew(&self, signed: Instant) -> Result<bool> {
        let (refused, pause) = {
            let mut kept = self.kept.lock().await;
            if matches!(kept.way, Way::Given { .. }) {
                return Ok(false);
            }
            let is_other_way = self.look(&mut kept, true).await;
            let since = kept.session.as_ref().map(|session| session.since);
            // Only what was got before the request was signed was refused with it.
            if !is_other_way && since.is_some_and(|since| since > signed) {
                return Ok(true);
            }
            let age = since.map_or(RENEWAL_PAUSE, |since| since.elapsed());
            let is_keystone = matches!(kept.way, Way::Keystone { .. });
            (since, if is_keystone { REVOCATION_GRAIN } else { RENEWAL_PAUSE.saturating_sub(age) })
        };
        tokio::time::sleep(pause).await;
        let mut kept = self.kept.lock().await;
        // Others were refused too, and one of them has logged in.
        if kept.session.as_ref().map(|session| session.since) == refused {
            kept.session = Some(self.log_in(&kept.way).await?);
        }
        Ok(true)
    }
}

fn session(token: Secret, storage_url: &str, lifetime: Option<Duration>) -> Session {
    let now = Instant::now();
    let until = lifetime.and_then(|lifetime| now.checked_add(lifetime - EXPIRY_MARGIN.min(lifetime / 10)));
    Session { token, storage_url: storage_url.trim_end_matches('/').to_owned(), since: now, until }
}

#[derive(Deserialize)]
struct TokenDocument {
    token: TokenBody,
}

#[derive(Deserialize)]
struct TokenBody {
    #[serde(default)]
    expires_at: String,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    /// The same, by its old name.
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    region_id: Option<String>,
    url: String,
}

impl Endpoint {
    fn region(&self) -> Option<&str> {
        self.region_id.as_deref().or(self.region.as_deref())
    }
}

impl TokenBody {
    /// Where the catalog has the object store; else what it has instead.
    fn storage_url(&self, region: Option<&str>, interface: &str) -> Result<&str, String> {
        if self.catalog.is_empty() {
            return Err("the token is of no project, so it has no catalog".to_owned());
        }
        let stores = self.catalog.iter().filter(|service| service.kind == "object-store");
        let endpoints: Vec<&Endpoint> =
            stores.flat_map(|service| &service.endpoints).filter(|endpoint| endpoint.interface == interface).collect();
        let of_region = |endpoint: &&&Endpoint| region.is_none_or(|region| endpoint.region() == Some(region));
        let mut found = endpoints.iter().filter(of_region);
        let regions = || {
            let mut regions: Vec<_> = endpoints.iter().filter_map(|endpoint| endpoint.region()).collect();
            regions.dedup();
            regions.join(", ")
        };
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(&only.url),
            (Some(_), Some(_)) => Err(format!("it is in {}, and one must be chosen", regions())),
            (None, _) if endpoints.is_empty() => Err(format!("the catalog has no {interface} object store")),
            (None, _) => Err(format!("it is in {}", regions())),
        }
    }
}

/// An answer's status, with Keystone's words for it.
fn said_in(answer: &Answer) -> String {
    let said = said_by_keystone(answer).unwrap_or_default();
    format!("HTTP {} {said}", answer.status.as_u16()).trim_end().to_owned()
}

fn said_by_keystone(answer: &Answer) -> Option<String> {
    let document: Value = serde_json::from_str(answer.text()?).ok()?;
    Some(document.get("error")?.get("message")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(endpoints: &[(&str, Option<&str>, &str)]) -> TokenBody {
        let endpoint = |(interface, region, url): &(&str, Option<&str>, &str)| Endpoint {
            interface: (*interface).to_owned(),
            region: region.map(str::to_owned),
            region_id: None,
            url: (*url).to_owned(),
        };
        let endpoints = endpoints.iter().map(endpoint).collect();
        let others = Service { kind: "compute".into(), endpoints: Vec::new() };
        let catalog = vec![others, Service { kind: "object-store".into(), endpoints }];
        TokenBody { expires_at: String::new(), catalog }
    }

    #[test]
    fn the_catalog_is_read_by_region_and_interface() {
        let two = body(&[("public", Some("A"), "a"), ("internal", Some("A"), "i"), ("public", Some("B"), "b")]);
        assert_eq!(two.storage_url(Some("B"), "public"), Ok("b"));
        assert_eq!(two.storage_url(None, "internal"), Ok("i"));
        assert!(two.storage_url(None, "public").unwrap_err().contains("A, B"));
        assert!(two.storage_url(Some("C"), "public").unwrap_err().contains("A, B"));
        assert!(two.storage_url(None, "admin").unwrap_err().contains("no admin object store"));
        let none = TokenBody { expires_at: String::new(), catalog: Vec::new() };
        assert!(none.storage_url(None, "public").unwrap_err().contains("no project"));
    }

    #[test]
    fn what_keystone_is_shown_is_what_it_documents() {
        let named = |name: &str| Named { name: Some(Secret::new(name)), ..Named::default() };
        let project = Named { domain_id: Some(Secret::new("d")), ..named("p") };
        let proof = Proof::Password { user: named("u"), password: Secret::new("x"), project: Some(project) };
        let expected = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": {
                "name": "u", "domain": { "name": "Default" }, "password": "x" } } },
            "scope": { "project": { "name": "p", "domain": { "id": "d" } } } } });
        assert_eq!(proof.json(), expected);
        let proof = Proof::Application { id: Some(Secret::new("i")), name: None, user: None, secret: Secret::new("s") };
        let expected = json!({ "auth": { "identity": { "methods": ["application_credential"],
            "application_credential": { "id": "i", "secret": "s" } } } });
        assert_eq!(proof.json(), expected);
    }
}
