//! Keys for a while from Alibaba: of the RAM role of a machine, and of one that is taken on with a token of another
//! identity provider, as pods do (RRSA).
//!
//! Sources: Alibaba ECS, "Instance RAM roles" (metadata server, with its hardened mode); RAM, `AssumeRoleWithOIDC`.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use http::Method;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;

use super::{
    keys::NoKeys,
    temporary::{Given, Giver, ask, token_of},
    v4::Keys,
};
use crate::{
    Secret,
    web::{STRICT, Web},
};

/// How long the word that opens the metadata server is asked to be good.
const WORD_S: &str = "300";
/// What the role's sessions are called in the provider's logs.
const SESSION: &str = "citius";

/// How the role is known.
#[derive(Debug)]
pub(super) enum Role {
    /// As that of the machine, by its metadata server.
    Machine {
        /// Asked for if it is not told.
        name: Option<String>,
    },
    /// As one that the service gives against a token in a file that somebody else keeps fresh.
    Oidc { role_arn: String, provider_arn: String, token_file: PathBuf },
}

/// Gives the keys of a role.
pub(super) struct Ram {
    pub(super) role: Role,
    pub(super) server: Web,
}

#[async_trait]
impl Giver for Ram {
    async fn give(&self) -> Result<Given, NoKeys> {
        let (told, advice) = match &self.role {
            Role::Machine { name } => {
                let advice = "nothing else gives keys: give the machine a role, or others";
                (self.of_machine(name.as_deref()).await, advice)
            }
            Role::Oidc { role_arn, provider_arn, token_file } => {
                let advice = "check oss_role_arn and oss_oidc_provider_arn, and that oss_oidc_token_file is kept fresh";
                let told = self.of_service(role_arn, provider_arn, token_file).await;
                (told.map_err(NoKeys::surely_there), advice)
            }
        };
        let told = told.map_err(|none| none.advised(advice))?;
        let (id, secret) = (Secret::new(told.access_key_id), Secret::new(told.access_key_secret));
        let keys = Keys { id, secret, token: Some(Secret::new(told.security_token)) };
        Ok(Given { keys, until: told.expiration })
    }
}

impl Ram {
    async fn of_machine(&self, role: Option<&str>) -> Result<Credentials, NoKeys> {
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
        let told = serde_json::from_slice(&answer);
        told.map_err(|_| format!("the metadata server gives no keys for the role {role}").into())
    }

    async fn of_service(&self, role_arn: &str, provider_arn: &str, token_file: &Path) -> Result<Credentials, NoKeys> {
        let token = token_of(token_file).await?;
        let nonce = format!("{:x}{:x}", std::process::id(), Utc::now().timestamp_nanos_opt().unwrap_or_default());
        let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        let form = [
            ("Action", "AssumeRoleWithOIDC"),
            ("Format", "JSON"),
            ("OIDCProviderArn", provider_arn),
            ("OIDCToken", &token),
            ("RoleArn", role_arn),
            ("RoleSessionName", SESSION),
            ("SignatureNonce", &nonce),
            ("Timestamp", &timestamp),
            ("Version", "2015-04-01"),
        ];
        let form = form.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, STRICT))).join("&");
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = self.send(Method::POST, "/", &headers, form.into()).await.map_err(|none| none.without(&token))?;
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
    ) -> Result<Bytes, NoKeys> {
        let answer = ask(&self.server, method, path, headers, body).await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let told: Told = serde_json::from_slice(&answer.body).unwrap_or_default();
        let status = answer.status.as_u16();
        Err(format!("{} says HTTP {status} {} {}", self.server.endpoint, told.code, told.message).into())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    access_key_id: String,
    access_key_secret: String,
    security_token: String,
    expiration: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Assumed {
    credentials: Credentials,
}

/// A failure of the service.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Told {
    code: String,
    message: String,
}
