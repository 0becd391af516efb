//! Keys for a while from Alibaba: of the RAM role of a machine, and of one that is taken on with a token of another
//! identity provider, as pods do (RRSA).
//!
//! Sources: Alibaba ECS, "Instance RAM roles" (metadata server, with its hardened mode); RAM, `AssumeRoleWithOIDC`.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use http::Method;
use parking_lot::Mutex;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{keys::KeySource, v4::Keys};
use crate::{
    Operation, Repeat, Secret,
    web::{Request, STRICT, Web},
};

/// Keys that end sooner are not used any more.
const LEFT_MIN: Duration = Duration::from_secs(300);
/// How long keys that say no end are kept.
const UNTOLD: Duration = Duration::from_secs(900);
/// Keys younger than this are not asked for again when they are refused.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);
/// How long the word that opens the metadata server is asked to be good.
const WORD_S: &str = "300";
/// What the role's sessions are called in the provider's logs.
const SESSION: &str = "citius";

/// Who gives the keys.
#[derive(Debug)]
pub(super) enum Giver {
    /// The metadata server of the machine.
    Machine {
        /// Asked for if it is not told.
        role: Option<String>,
    },
    /// The service of the provider, against a token in a file that somebody else keeps fresh.
    Oidc { role_arn: String, provider_arn: String, token_file: PathBuf },
}

/// Keys for a while, asked for anew before they end.
pub(super) struct Temporary {
    giver: Giver,
    server: Web,
    held: Mutex<Option<Held>>,
    /// Whoever asks, asks for all.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Held {
    keys: Arc<Keys>,
    asked: Instant,
    until: Instant,
    is_refused: bool,
}

impl Temporary {
    /// Keys of the giver that answers at this server.
    pub(super) fn new(giver: Giver, server: Web) -> Self {
        Self { giver, server, held: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    fn good(&self) -> Option<Arc<Keys>> {
        let held = self.held.lock();
        let good = held.as_ref().filter(|held| !held.is_refused && held.until > Instant::now() + LEFT_MIN);
        good.map(|held| Arc::clone(&held.keys))
    }

    async fn ask(&self) -> Result<Held, String> {
        let asked = Instant::now();
        let given = match &self.giver {
            Giver::Machine { role } => self.of_machine(role.as_deref()).await?,
            Giver::Oidc { role_arn, provider_arn, token_file } => {
                let token = Zeroizing::new(
                    tokio::fs::read_to_string(token_file)
                        .await
                        .map_err(|error| format!("the token file {}: {error}", token_file.display()))?,
                );
                self.of_service(role_arn, provider_arn, token.trim()).await?
            }
        };
        let left = given.expiration.map(|until| (until - Utc::now()).to_std().unwrap_or_default());
        let until = asked + left.unwrap_or(UNTOLD);
        let (id, secret) = (Secret::new(given.access_key_id), Secret::new(given.access_key_secret));
        let keys = Arc::new(Keys { id, secret, token: Some(Secret::new(given.security_token)) });
        Ok(Held { keys, asked, until, is_refused: false })
    }

    async fn of_machine(&self, role: Option<&str>) -> Result<Given, String> {
        const ROLES: &str = "/latest/meta-data/ram/security-credentials/";
        // Machines in hardened mode answer only to who has fetched a word first; others need not know of it.
        let wish = [("x-aliyun-ecs-metadata-token-ttl-seconds", WORD_S)];
        let word = self.send(Method::PUT, "/latest/api/token", &wish, Bytes::new()).await.ok();
        let word = word.as_ref().and_then(|word| std::str::from_utf8(word).ok());
        let headers: Vec<_> = word.map(|word| ("x-aliyun-ecs-metadata-token", word)).into_iter().collect();
        let role = match role {
            Some(role) => role.to_owned(),
            None => {
                let found = self.send(Method::GET, ROLES, &headers, Bytes::new()).await?;
                String::from_utf8_lossy(&found).trim().to_owned()
            }
        };
        let path = format!("{ROLES}{}", utf8_percent_encode(&role, STRICT));
        let answer = self.send(Method::GET, &path, &headers, Bytes::new()).await?;
        serde_json::from_slice(&answer).map_err(|_| format!("the metadata server gives no keys for the role {role}"))
    }

    async fn of_service(&self, role_arn: &str, provider_arn: &str, token: &str) -> Result<Given, String> {
        let nonce = format!("{:x}{:x}", std::process::id(), Utc::now().timestamp_nanos_opt().unwrap_or_default());
        let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        let form = [
            ("Action", "AssumeRoleWithOIDC"),
            ("Format", "JSON"),
            ("OIDCProviderArn", provider_arn),
            ("OIDCToken", token),
            ("RoleArn", role_arn),
            ("RoleSessionName", SESSION),
            ("SignatureNonce", &nonce),
            ("Timestamp", &timestamp),
            ("Version", "2015-04-01"),
        ];
        let form = form.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, STRICT))).join("&");
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = self.send(Method::POST, "/", &headers, form.into()).await?;
        let answer: Assumed = serde_json::from_slice(&answer)
            .map_err(|_| format!("the service gives no keys for the role {role_arn}"))?;
        Ok(answer.credentials)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Bytes, String> {
        let content = if body.is_empty() { Vec::new() } else { vec![body] };
        let request = Request {
            method,
            url: format!("{}{path}", self.server.endpoint),
            headers,
            content,
            shown: "the source of keys",
            operation: Operation::Stat,
            repeat: Repeat::Harmless,
        };
        let answer = self.server.send(&request).await.map_err(|error| error.to_string())?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let told: Told = serde_json::from_slice(&answer.body).unwrap_or_default();
        Err(format!("{} says HTTP {} {} {}", self.server.endpoint, answer.status.as_u16(), told.code, told.message))
    }
}

#[async_trait]
impl KeySource for Temporary {
    async fn keys(&self) -> Result<Arc<Keys>, String> {
        if let Some(keys) = self.good() {
            return Ok(keys);
        }
        let _asking = self.asking.lock().await;
        if let Some(keys) = self.good() {
            return Ok(keys);
        }
        match self.ask().await {
            Ok(held) => {
                let keys = Arc::clone(&held.keys);
                *self.held.lock() = Some(held);
                Ok(keys)
            }
            Err(reason) => {
                // Keys that are good for some minutes yet are better than none.
                let held = self.held.lock().clone();
                let left = held.filter(|held| !held.is_refused && held.until > Instant::now());
                left.map(|held| held.keys).ok_or(reason)
            }
        }
    }

    async fn renew(&self) -> bool {
        if let Some(held) = &mut *self.held.lock()
            && held.asked.elapsed() > RENEWAL_PAUSE
        {
            held.is_refused = true;
        }
        true
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    access_key_id: String,
    access_key_secret: String,
    security_token: String,
    expiration: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Assumed {
    credentials: Given,
}

/// A failure of the service.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Told {
    code: String,
    message: String,
}
