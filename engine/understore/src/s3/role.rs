//! Keys for a while from Amazon: of a role that is taken on with a token of another identity provider, as pods do; of a
//! container's role; of the machine's.
//!
//! Sources: AWS STS, `AssumeRoleWithWebIdentity`; AWS SDKs and Tools Reference Guide, "Container credential provider"; EC2
//! User Guide, "Retrieve security credentials from instance metadata" (version 2, with its session token).

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Method, header::AUTHORIZATION};
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use url::{Host, Url};

use super::{
    keys::NoKeys,
    temporary::{Given, Giver, ask, token_of},
    v4::Keys,
};
use crate::{
    Secret,
    web::{Answer, STRICT, Web},
};

/// Where containers of ECS ask, by a path that they are told.
pub(super) const CONTAINERS: &str = "http://169.254.170.2";
/// Where machines ask.
pub(super) const MACHINES: &str = "http://169.254.169.254";
/// Who may be shown a token over plain HTTP: this machine, and what ECS and EKS have beside a container.
const NEAR: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

/// How long a role is asked to be good, and the session that opens the metadata server.
const ROLE_S: &str = "3600";
const SESSION_S: &str = "600";

/// How the role is known.
#[derive(Debug)]
pub(super) enum Role {
    /// As one that STS gives against a token in a file that somebody else keeps fresh.
    WebIdentity { role_arn: String, token_file: PathBuf, session: String },
    /// As the container's, behind a path.
    Container { path: String, proof: Proof },
    /// As the machine's, by its metadata server.
    Machine {
        /// Whether a server that refuses a session is asked without one.
        may_lack_session: bool,
    },
}

/// What a container shows.
#[derive(Debug)]
pub(super) enum Proof {
    Nothing,
    Token(Secret),
    TokenIn(PathBuf),
}

/// Gives the keys of a role.
pub(super) struct Amazon {
    pub(super) role: Role,
    pub(super) server: Web,
}

/// The server and the path of `AWS_CONTAINER_CREDENTIALS_FULL_URI`, which must be near if it is not HTTPS.
pub(super) fn container_at(uri: &str) -> Result<(String, String), String> {
    let url = Url::parse(uri).map_err(|error| error.to_string())?;
    let is_near = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback() || NEAR.contains(&address.to_string().as_str()),
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || NEAR.iter().any(|near| near.parse() == Ok(IpAddr::V6(address)))
        }
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && is_near) {
        return Err("it is neither https:// nor on this machine, and a token must not be shown to a network".to_owned());
    }
    let (server, path) = url[..].split_at(url[..url::Position::BeforePath].len());
    Ok((server.to_owned(), path.to_owned()))
}

#[async_trait]
impl Giver for Amazon {
    async fn give(&self) -> Result<Given, NoKeys> {
        let (told, advice) = match &self.role {
            Role::WebIdentity { role_arn, token_file, session } => {
                let advice = "check aws_role_arn, and that aws_web_identity_token_file is kept fresh";
                (self.of_service(role_arn, token_file, session).await.map_err(NoKeys::surely_there), advice)
            }
            Role::Container { path, proof } => {
                let advice = "check what AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, or AWS_CONTAINER_CREDENTIALS_FULL_URI and \
                              AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE, say";
                (self.of_container(path, proof).await.map_err(NoKeys::surely_there), advice)
            }
            Role::Machine { may_lack_session } => (
                self.of_machine(*may_lack_session).await,
                "nothing else gives keys: give the machine a role, or others",
            ),
        };
        let told = told.map_err(|none| none.advised(advice))?;
        let (id, secret) = (Secret::new(told.access_key_id), Secret::new(told.secret_access_key));
        Ok(Given { keys: Keys { id, secret, token: told.token.map(Secret::new) }, until: told.expiration })
    }
}

impl Amazon {
    async fn of_service(&self, role_arn: &str, token_file: &Path, session: &str) -> Result<Credentials, NoKeys> {
        let token = token_of(token_file).await?;
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("DurationSeconds", ROLE_S),
            ("RoleArn", role_arn),
            ("RoleSessionName", session),
            ("Version", "2011-06-15"),
            ("WebIdentityToken", &token),
        ];
        let form = form.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, STRICT))).join("&");
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = ask(&self.server, Method::POST, "/", &headers, form.into()).await?;
        let body = self.good(&answer).map_err(|none| none.without(&token))?;
        let assumed = quick_xml::de::from_reader::<_, Assumed>(body);
        let assumed = assumed.map_err(|_| format!("{} gives no keys for the role {role_arn}", self.server.endpoint))?;
        Ok(assumed.result.credentials)
    }

    async fn of_container(&self, path: &str, proof: &Proof) -> Result<Credentials, NoKeys> {
        let token = match proof {
            Proof::Nothing => None,
            Proof::Token(token) => Some(token.clone()),
            Proof::TokenIn(file) => Some(Secret::new(token_of(file).await?.as_str())),
        };
        let token = token.as_ref().map(Secret::expose);
        let headers: Vec<_> = token.iter().map(|token| (AUTHORIZATION.as_str(), *token)).collect();
        let answer = ask(&self.server, Method::GET, path, &headers, Bytes::new()).await?;
        let body = self.good(&answer).map_err(|none| none.without(token.unwrap_or_default()))?;
        let told = serde_json::from_slice(body);
        told.map_err(|_| format!("{} gives no keys of the container", self.server.endpoint).into())
    }

    async fn of_machine(&self, may_lack_session: bool) -> Result<Credentials, NoKeys> {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        let wish = [("x-aws-ec2-metadata-token-ttl-seconds", SESSION_S)];
        let answer = ask(&self.server, Method::PUT, "/latest/api/token", &wish, Bytes::new()).await?;
        let session = match answer.status.as_u16() {
            403 if may_lack_session => None,
            _ => Some(Secret::new(String::from_utf8_lossy(self.good(&answer)?).trim())),
        };
        let headers: Vec<_> = session.iter().map(|session| ("x-aws-ec2-metadata-token", session.expose())).collect();
        let found = ask(&self.server, Method::GET, ROLES, &headers, Bytes::new()).await?;
        let found = String::from_utf8_lossy(self.good(&found)?).into_owned();
        let role = found.lines().next().unwrap_or_default().trim();
        let path = format!("{ROLES}{}", utf8_percent_encode(role, STRICT));
        let answer = ask(&self.server, Method::GET, &path, &headers, Bytes::new()).await?;
        let body = self.good(&answer)?;
        let told = serde_json::from_slice(body);
        told.map_err(|_| format!("the metadata server gives no keys for the role {role}").into())
    }

    /// What a good answer says.
    fn good<'a>(&self, answer: &'a Answer) -> Result<&'a [u8], NoKeys> {
        if answer.status.is_success() { Ok(&answer.body) } else { Err(self.refusal(answer).into()) }
    }

    /// What a refusal says: XML of STS, JSON of others, or nothing that can be read.
    fn refusal(&self, answer: &Answer) -> String {
        let of_service = quick_xml::de::from_reader::<_, Refusal>(&answer.body[..]).map(|refusal| refusal.error).ok();
        let Told { code, message } =
            of_service.or_else(|| serde_json::from_slice(&answer.body).ok()).unwrap_or_default();
        let said = [self.server.endpoint.as_str(), "says HTTP", answer.status.as_str(), &code, &message];
        said.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// Keys, as metadata servers and STS spell them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    #[serde(alias = "SessionToken")]
    token: Option<String>,
    expiration: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Assumed {
    #[serde(rename = "AssumeRoleWithWebIdentityResult")]
    result: Outcome,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Outcome {
    credentials: Credentials,
}

/// A failure of STS.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    error: Told,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    #[serde(alias = "Code")]
    code: String,
    #[serde(alias = "Message")]
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token that is sent over HTTP is everybody's on the way.
    #[test]
    fn containers_are_asked_near_or_safely() {
        let at = |uri: &str| container_at(uri).map(|(server, path)| format!("{server} {path}"));
        assert_eq!(
            at("http://169.254.170.23/v1/credentials?x=1").unwrap(),
            "http://169.254.170.23 /v1/credentials?x=1"
        );
        assert_eq!(at("http://[fd00:ec2::23]/v1").unwrap(), "http://[fd00:ec2::23] /v1");
        for near in ["http://localhost:1338/k", "http://127.0.0.7/k", "http://[::1]:80/k", "https://example.com/k"] {
            assert!(at(near).is_ok(), "{near}");
        }
        for far in ["http://example.com/k", "http://169.254.169.254/k", "ftp://127.0.0.1/k", "/v2/keys"] {
            assert!(at(far).is_err(), "{far}");
        }
    }
}
