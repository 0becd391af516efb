//! Who asks: an account's key, a shared access signature, or a token of Entra ID.

use std::time::Instant;

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chrono::Utc;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use object_store::{azure::AzureCredential, client::HttpRequest};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use ring::hmac;
use zeroize::Zeroizing;

use crate::{
    Advice, Result, Secret,
    object::store_error,
    s3::{NoKeys, Provided},
    web::{STRICT, Signer, header_of},
};

/// Signs with the key of an account, by Azure's scheme "Shared Key" in the form of version 2015-02-21 and later.
pub(crate) struct SharedKey {
    account: String,
    key: hmac::Key,
}

impl SharedKey {
    /// `None` if the key is not base 64.
    pub(crate) fn new(account: &str, key: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(key.trim()).ok()?);
        Some(Self { account: account.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }
}

#[async_trait]
impl Signer for SharedKey {
    async fn sign(&self, request: &mut HttpRequest, _content: &[Bytes]) -> Result<()> {
        date(request);
        let text = string_to_sign(request.method(), request.uri(), request.headers(), &self.account);
        let signature = BASE64_STANDARD.encode(hmac::sign(&self.key, text.as_bytes()));
        authorize(request, &format!("SharedKey {}:{signature}", self.account))
    }

    async fn find_keys(&self) -> Result<()> {
        Ok(())
    }
}

/// What of a request is signed.
fn string_to_sign(method: &Method, uri: &Uri, headers: &HeaderMap, account: &str) -> String {
    let mut text = method.as_str().to_owned();
    let signed = [
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_LENGTH,
        header::HeaderName::from_static("content-md5"),
        header::CONTENT_TYPE,
        header::DATE,
        header::IF_MODIFIED_SINCE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_UNMODIFIED_SINCE,
        header::RANGE,
    ];
    for name in signed {
        let value = header_of(headers, name.as_str()).unwrap_or_default();
        text.push('\n');
        // An empty body is as good as none.
        text.push_str(if name == header::CONTENT_LENGTH && value == "0" { "" } else { value });
    }
    text.push('\n');
    let mut own: Vec<_> = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-ms-")).collect();
    own.sort_by_key(|(name, _)| name.as_str());
    for (name, value) in own {
        text.push_str(name.as_str());
        text.push(':');
        text.push_str(value.to_str().unwrap_or_default().trim());
        text.push('\n');
    }
    text.push('/');
    text.push_str(account);
    text.push_str(uri.path());
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut query: Vec<(String, String)> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name).to_ascii_lowercase(), decoded(value)))
        .collect();
    query.sort();
    for (name, value) in query {
        text.push('\n');
        text.push_str(&name);
        text.push(':');
        text.push_str(&value);
    }
    text
}

/// A shared access signature: rights that somebody signed, as a query that goes with every request.
#[derive(Clone)]
pub(super) struct Sas(Secret);

impl Sas {
    /// Reads a token as the portal and the tools write it, with a question mark in front or not, percent-encoded or not.
    /// `None` if it is no such token.
    pub(super) fn new(text: &str) -> Option<Self> {
        let pairs = text.trim().trim_start_matches('?').split('&').filter(|pair| !pair.is_empty());
        let mut query = Zeroizing::new(String::new());
        let mut is_signed = false;
        for pair in pairs {
            let (name, value) = pair.split_once('=')?;
            is_signed |= name == "sig";
            if !query.is_empty() {
                query.push('&');
            }
            let value = Zeroizing::new(percent_decode_str(value).decode_utf8().ok()?.into_owned());
            query.push_str(name);
            query.push('=');
            query.extend(utf8_percent_encode(&value, STRICT));
        }
        is_signed.then(|| Self(Secret::new(query.as_str())))
    }

    /// The URL with the token in its query.
    pub(super) fn added_to(&self, url: &str) -> String {
        let joint = if url.contains('?') { '&' } else { '?' };
        format!("{url}{joint}{}", self.0.expose())
    }
}

#[async_trait]
impl Signer for Sas {
    async fn sign(&self, request: &mut HttpRequest, _content: &[Bytes]) -> Result<()> {
        date(request);
        let uri = self.added_to(&request.uri().to_string());
        // The error would print what it could not read.
        *request.uri_mut() = uri.parse().map_err(|_| store_error("the SAS token", "it makes no URL"))?;
        Ok(())
    }

    async fn find_keys(&self) -> Result<()> {
        Ok(())
    }
}

/// Tokens of Entra ID, from wherever `object_store` gets them; it renews them before they expire.
pub(super) struct Tokens {
    pub(super) credentials: Provided<AzureCredential>,
    /// What errors call the server.
    pub(super) endpoint: String,
    pub(super) advice: &'static Advice,
}

impl Tokens {
    async fn token(&self) -> Result<Zeroizing<String>> {
        let missing = |none: NoKeys| none.error(&self.endpoint, self.advice);
        let credential = self.credentials.credential().await.map_err(missing)?;
        match &*credential {
            AzureCredential::BearerToken(token) => Ok(Zeroizing::new(format!("Bearer {token}"))),
            _ => Err(missing("their source gave no token".to_owned().into())),
        }
    }
}

#[async_trait]
impl Signer for Tokens {
    async fn sign(&self, request: &mut HttpRequest, _content: &[Bytes]) -> Result<()> {
        let token = self.token().await?;
        date(request);
        authorize(request, &token)
    }

    async fn find_keys(&self) -> Result<()> {
        self.token().await.map(drop)
    }

    async fn renew(&self, _signed: Instant) -> Result<bool> {
        Ok(self.credentials.remake())
    }
}

fn date(request: &mut HttpRequest) {
    let now = Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    request.headers_mut().insert("x-ms-date", HeaderValue::try_from(now).expect("a date is ASCII"));
}

fn authorize(request: &mut HttpRequest, value: &str) -> Result<()> {
    let mut value = HeaderValue::try_from(value).map_err(|error| store_error("the credentials", error))?;
    value.set_sensitive(true);
    request.headers_mut().insert(header::AUTHORIZATION, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(method: &str, uri: &str, headers: &[(&'static str, &str)], account: &str) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        string_to_sign(&method.parse().unwrap(), &uri.parse().unwrap(), &map, account)
    }

    /// The examples of Microsoft's page "Authorize with Shared Key".
    #[test]
    fn what_is_signed_is_what_azure_documents() {
        let headers = [("x-ms-version", "2015-02-21"), ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT")];
        let uri = "http://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20";
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
                        /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        assert_eq!(signed("GET", uri, &headers, "myaccount"), expected);

        let headers = [
            ("content-type", "text/plain; charset=UTF-8"),
            ("content-length", "11"),
            ("x-ms-date", "Sun, 20 Sep 2009 20:36:40 GMT"),
            ("x-ms-meta-m1", "v1"),
            ("x-ms-meta-m2", "v2"),
        ];
        let uri = "http://testaccount1.blob.core.windows.net/mycontainer/hello.txt";
        let expected = "PUT\n\n\n11\n\ntext/plain; charset=UTF-8\n\n\n\n\n\n\nx-ms-date:Sun, 20 Sep 2009 20:36:40 GMT\n\
                        x-ms-meta-m1:v1\nx-ms-meta-m2:v2\n/testaccount1/mycontainer/hello.txt";
        assert_eq!(signed("PUT", uri, &headers, "testaccount1"), expected);
    }

    #[test]
    fn an_empty_body_and_encoded_names_are_signed_as_azure_sees_them() {
        let text = signed("PUT", "http://h/c/a%20b?prefix=x%2Fy%20z&comp=list", &[("content-length", "0")], "a");
        assert_eq!(text, "PUT\n\n\n\n\n\n\n\n\n\n\n\n/a/c/a%20b\ncomp:list\nprefix:x/y z");
    }

    #[test]
    fn a_sas_token_is_read_however_it_is_written() {
        let added = |text: &str| Sas::new(text).unwrap().added_to("http://h/c?a=b");
        let expected = "http://h/c?a=b&sv=2022&se=2030-01-01T00%3A00%3A00Z&sig=a%2Bb%2Fc%3D";
        assert_eq!(added("?sv=2022&se=2030-01-01T00%3A00%3A00Z&sig=a%2Bb%2Fc%3D"), expected);
        assert_eq!(added("sv=2022&se=2030-01-01T00:00:00Z&sig=a+b/c=\n"), expected);
        for bad in ["", "sv=2022", "password", "?&"] {
            assert!(Sas::new(bad).is_none(), "{bad:?}");
        }
    }
}
