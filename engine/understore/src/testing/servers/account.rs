//! A service account of Google's: the file of its key, and whether a token was signed with that.
//!
//! Tokens are held to Google's "Self-signed JWTs": RS256 with the key that the header names, issuer and subject the
//! account's, a scope, and an hour at most from when it was made to its end.

use std::io;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::Utc;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde::{Deserialize, de::DeserializeOwned};

use super::fresh;
use crate::Secret;

const EMAIL: &str = "storage@citius-test.iam.gserviceaccount.com";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How far the clocks of two may be apart, in seconds.
const SKEW_S: i64 = 60;
const LIFE_S_MAX: i64 = 3600;

/// An account with one key.
#[derive(Debug, Clone)]
pub struct ServiceAccount {
    key_id: String,
    /// PKCS 8, as PEM.
    private_key: Secret,
    /// PKCS 1, as DER.
    public_key: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    scope: String,
    iat: i64,
    exp: i64,
}

impl ServiceAccount {
    /// The account, with a new key.
    ///
    /// # Errors
    /// When `openssl` makes none.
    pub fn fresh() -> io::Result<Self> {
        let folder = fresh::folder("account")?;
        let file = folder.path().join("key.pem");
        let file = file.to_str().ok_or_else(|| io::Error::other("the folder's name is no text"))?;
        fresh::openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", file])?;
        let private_key = Secret::new(std::fs::read_to_string(file)?);
        let public_key = fresh::openssl(&["rsa", "-in", file, "-RSAPublicKey_out", "-outform", "DER"])?;
        Ok(Self { key_id: fresh::key()?, private_key, public_key })
    }

    /// The file of the key, as Google's console gives it out.
    pub fn key_file(&self) -> String {
        let file = serde_json::json!({
            "type": "service_account",
            "project_id": "citius-test",
            "private_key_id": self.key_id,
            "private_key": self.private_key.expose(),
            "client_email": EMAIL,
            "client_id": "1",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
        });
        file.to_string()
    }

    /// What the key is called.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// What must not be shown of the key: a line in its middle.
    pub fn secret_line(&self) -> &str {
        self.private_key.expose().lines().nth(5).unwrap_or_default()
    }

    /// Whether this account made a token with this key, and it is good now.
    pub(super) fn signed(&self, token: &str) -> bool {
        self.check(token).is_some()
    }

    fn check(&self, token: &str) -> Option<()> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        key.verify(message.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let (header, claims): (Header, Claims) = (part(header)?, part(claims)?);
        let now = Utc::now().timestamp();
        let is_ours = header.alg == "RS256" && header.kid == self.key_id && claims.iss == EMAIL && claims.sub == EMAIL;
        let is_now = claims.iat <= now + SKEW_S && now < claims.exp && claims.exp - claims.iat <= LIFE_S_MAX;
        (is_ours && is_now && claims.scope.split(' ').any(|scope| scope == SCOPE)).then_some(())
    }
}

fn part<T: DeserializeOwned>(encoded: &str) -> Option<T> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ring::{rand::SystemRandom, signature};

    use super::*;

    fn token(account: &ServiceAccount, header: &serde_json::Value, claims: &serde_json::Value) -> String {
        let encoded = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let lines: String = account.private_key.expose().lines().filter(|line| !line.starts_with('-')).collect();
        let der = base64::prelude::BASE64_STANDARD.decode(lines).unwrap();
        let pair = signature::RsaKeyPair::from_pkcs8(&der).unwrap();
        let mut signed = vec![0; pair.public().modulus_len()];
        pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), encoded.as_bytes(), &mut signed).unwrap();
        format!("{encoded}.{}", BASE64_URL_SAFE_NO_PAD.encode(signed))
    }

    /// A verifier that takes everything would prove nothing of who is let in by it.
    #[test]
    fn only_good_tokens_of_this_key_are_taken() {
        let (account, other) = (ServiceAccount::fresh().unwrap(), ServiceAccount::fresh().unwrap());
        let now = Utc::now().timestamp();
        let header = |key: &str| serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": key});
        let claims = |issuer: &str, scope: &str, from: i64, to: i64| {
            let (from, to) = (now + from, now + to);
            serde_json::json!({"iss": issuer, "sub": issuer, "scope": scope, "iat": from, "exp": to})
        };
        let good = token(&account, &header(&account.key_id), &claims(EMAIL, SCOPE, 0, 3600));
        assert!(account.signed(&good));
        assert!(!other.signed(&good));
        let forged = token(&other, &header(&account.key_id), &claims(EMAIL, SCOPE, 0, 3600));
        assert!(!account.signed(&forged));
        for (issuer, scope, from, to) in [
            ("x@y", SCOPE, 0, 3600),
            (EMAIL, "https://www.googleapis.com/auth/drive", 0, 3600),
            (EMAIL, SCOPE, -3600, -1),
            (EMAIL, SCOPE, 120, 3600),
            (EMAIL, SCOPE, 0, 7200),
        ] {
            assert!(!account.signed(&token(&account, &header(&account.key_id), &claims(issuer, scope, from, to))));
        }
    }
}
