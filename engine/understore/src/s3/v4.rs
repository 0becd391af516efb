//! Version 4 signatures: Amazon's, and the two that were made after it.
//!
//! ```text
//!  key = HMAC(HMAC(HMAC(HMAC(prefix + secret, date), region), service), terminator)
//!  signature = hex HMAC(key, algorithm \n time \n date/region/service/terminator \n hex SHA256(canonical request))
//!  canonical request = method \n path \n query \n a line for each signed header \n names \n digest of the content
//! ```
//! Sources: Amazon S3 API reference, "Authenticating Requests: Using the Authorization Header"; Google Cloud Storage,
//! "Signatures" and "Canonical requests"; Alibaba OSS, "Include a V4 signature in the Authorization header". The vectors of
//! the tests are the published ones of Amazon's reference and of `alibabacloud-oss-python-sdk-v2`.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT},
};
use object_store::client::HttpRequest;
use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::{Result, Secret, object::store_error};

/// The keys that requests are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) id: Secret,
    pub(crate) secret: Secret,
    /// Proves that they are good for a while.
    pub(crate) token: Option<Secret>,
}

/// Whose signature.
#[derive(Debug)]
pub(crate) struct Scheme {
    algorithm: &'static str,
    key_prefix: &'static str,
    service: &'static str,
    terminator: &'static str,
    date: HeaderName,
    digest: HeaderName,
    token: HeaderName,
    spelling: Spelling,
}

/// What is written into the canonical request, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// The path of the request, and nearly all headers, which are named.
    Aws,
    /// Bucket and key wherever the bucket stands in the URL, headers that begin with `x-oss-` or are about the content,
    /// which need no naming, and no digest of the content.
    Oss,
}

pub(crate) static AWS4: Scheme = Scheme {
    algorithm: "AWS4-HMAC-SHA256",
    key_prefix: "AWS4",
    service: "s3",
    terminator: "aws4_request",
    date: HeaderName::from_static("x-amz-date"),
    digest: HeaderName::from_static("x-amz-content-sha256"),
    token: HeaderName::from_static("x-amz-security-token"),
    spelling: Spelling::Aws,
};

pub(crate) static GOOG4: Scheme = Scheme {
    algorithm: "GOOG4-HMAC-SHA256",
    key_prefix: "GOOG4",
    service: "storage",
    terminator: "goog4_request",
    date: HeaderName::from_static("x-goog-date"),
    digest: HeaderName::from_static("x-goog-content-sha256"),
    token: HeaderName::from_static("x-goog-security-token"),
    spelling: Spelling::Aws,
};

pub(crate) static OSS4: Scheme = Scheme {
    algorithm: "OSS4-HMAC-SHA256",
    key_prefix: "aliyun_v4",
    service: "oss",
    terminator: "aliyun_v4_request",
    date: HeaderName::from_static("x-oss-date"),
    digest: HeaderName::from_static("x-oss-content-sha256"),
    token: HeaderName::from_static("x-oss-security-token"),
    spelling: Spelling::Oss,
};

#[cfg(feature = "testing")]
impl Scheme {
    /// The header of the token beside keys that are good for a while.
    pub(crate) fn token(&self) -> &HeaderName {
        &self.token
    }
}

const UNSIGNED: HeaderValue = HeaderValue::from_static("UNSIGNED-PAYLOAD");

/// What is signed for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) scheme: &'static Scheme,
    pub(crate) region: &'a str,
    /// What the server reads before the path, where the bucket stands in the host: `/bucket`, or nothing.
    pub(crate) root: &'a str,
}

impl Scope<'_> {
    /// Signs a request, with a digest of its content unless that is left open.
    pub(crate) fn sign(
        &self,
        request: &mut HttpRequest,
        keys: &Keys,
        content: Option<&[Bytes]>,
        at: DateTime<Utc>,
    ) -> Result<()> {
        let scheme = self.scheme;
        let digest = match content.filter(|_| scheme.spelling == Spelling::Aws) {
            Some(content) => HeaderValue::try_from(sha256(content)).expect("hexadecimal digits are a header's value"),
            None => UNSIGNED,
        };
        let time = HeaderValue::try_from(at.format("%Y%m%dT%H%M%SZ").to_string()).expect("digits are a header's value");
        let headers = request.headers_mut();
        headers.insert(&scheme.digest, digest);
        headers.insert(&scheme.date, time);
        if let Some(token) = &keys.token {
            headers.insert(&scheme.token, secret_value(token.expose())?);
        }
        let authorization = self.authorization(request.method(), request.uri(), request.headers(), keys);
        request.headers_mut().insert(AUTHORIZATION, secret_value(&authorization)?);
        Ok(())
    }

    /// What the `Authorization` of a request must be, which holds all its other headers.
    pub(crate) fn authorization(&self, method: &Method, uri: &Uri, headers: &HeaderMap, keys: &Keys) -> String {
        let Scheme { algorithm, service, terminator, .. } = self.scheme;
        let value = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let time = value(&self.scheme.date);
        let date = time.split('T').next().unwrap_or_default();
        let lines = self.signed_headers(uri, headers);
        let names: Vec<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let mut request = format!("{method}\n{}\n{}\n", self.path(uri), self.query(uri));
        for (name, value) in &lines {
            request.extend([name, ":", value, "\n"]);
        }
        let named = if self.scheme.spelling == Spelling::Aws { names.as_str() } else { "" };
        request.extend(["\n", named, "\n", value(&self.scheme.digest)]);
        let scope = format!("{date}/{}/{service}/{terminator}", self.region);
        let text = format!("{algorithm}\n{time}\n{scope}\n{}", sha256(&[Bytes::from(request)]));
        let signature = hex(hmac_sha256(&self.key(keys, date), &text).as_ref());
        let id = keys.id.expose();
        match self.scheme.spelling {
            Spelling::Aws => {
                format!("{algorithm} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
            }
            Spelling::Oss => format!("{algorithm} Credential={id}/{scope},Signature={signature}"),
        }
    }

    /// The key of a day.
    fn key(&self, keys: &Keys, date: &str) -> Zeroizing<Vec<u8>> {
        let Scheme { key_prefix, service, terminator, .. } = self.scheme;
        let mut key = Zeroizing::new([key_prefix.as_bytes(), keys.secret.expose().as_bytes()].concat());
        for part in [date, self.region, service, terminator] {
            key = Zeroizing::new(hmac_sha256(&key, part).as_ref().to_vec());
        }
        key
    }

    fn path(&self, uri: &Uri) -> String {
        let mut path = format!("{}{}", self.root, uri.path());
        // A bucket is spelled with a slash, also where its URL has none.
        if self.scheme.spelling == Spelling::Oss && path.matches('/').count() == 1 {
            path.push('/');
        }
        path
    }

    /// The query, sorted. It is encoded already.
    fn query(&self, uri: &Uri) -> String {
        let mut pairs: Vec<(&str, &str)> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect();
        pairs.sort_unstable();
        let spelled = pairs.into_iter().map(|(name, value)| match self.scheme.spelling {
            Spelling::Oss if value.is_empty() => name.to_owned(),
            _ => format!("{name}={value}"),
        });
        spelled.collect::<Vec<_>>().join("&")
    }

    /// Names and values, sorted. What may be changed on the way is not signed.
    fn signed_headers(&self, uri: &Uri, headers: &HeaderMap) -> Vec<(String, String)> {
        let is_signed = |name: &HeaderName| match self.scheme.spelling {
            Spelling::Aws => ![AUTHORIZATION, CONTENT_LENGTH, USER_AGENT, ACCEPT_ENCODING].contains(name),
            Spelling::Oss => name.as_str().starts_with("x-oss-") || *name == CONTENT_TYPE || name == "content-md5",
        };
        let mut lines: Vec<(String, String)> = headers
            .keys()
            .filter(|name| is_signed(name))
            .map(|name| {
                let values = headers.get_all(name).into_iter().map(|value| {
                    let text = String::from_utf8_lossy(value.as_bytes());
                    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
                });
                (name.to_string(), values.collect::<Vec<_>>().join(","))
            })
            .collect();
        if self.scheme.spelling == Spelling::Aws && !headers.contains_key("host") {
            let host = uri.authority().map_or("", |authority| authority.as_str());
            lines.push(("host".to_owned(), host.to_owned()));
        }
        lines.sort_unstable();
        lines
    }
}

/// The value of a header that no log may show.
pub(super) fn secret_value(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| store_error("Authorization", "the keys hold characters that no header may have"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn hmac_sha256(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn sha256(pieces: &[Bytes]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    pieces.iter().for_each(|piece| context.update(piece));
    hex(context.finish().as_ref())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn keys(id: &str, secret: &str, token: Option<&str>) -> Keys {
        Keys { id: Secret::new(id), secret: Secret::new(secret), token: token.map(Secret::new) }
    }

    fn signed(scope: Scope<'_>, mut request: HttpRequest, keys: &Keys, at_s: i64, content: Option<&[Bytes]>) -> String {
        scope.sign(&mut request, keys, content, Utc.timestamp_opt(at_s, 0).unwrap()).unwrap();
        let authorization = &request.headers()[AUTHORIZATION];
        assert!(authorization.is_sensitive() && !format!("{request:?}").contains("Signature"));
        authorization.to_str().unwrap().to_owned()
    }

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> HttpRequest {
        let builder =
            headers.iter().fold(http::Request::builder().method(method).uri(uri), |builder, (name, value)| {
                builder.header(*name, *value)
            });
        builder.body(Bytes::new().into()).unwrap()
    }

    /// The four examples of Amazon's reference, of 2013-05-24.
    #[test]
    fn amazons_examples() {
        const AT_S: i64 = 1_369_353_600;
        let keys = keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None);
        let scope = Scope { scheme: &AWS4, region: "us-east-1", root: "" };
        let sign =
            |request, content: &[u8]| signed(scope, request, &keys, AT_S, Some(&[Bytes::copy_from_slice(content)]));
        let host = "https://examplebucket.s3.amazonaws.com";
        let get = sign(request("GET", &format!("{host}/test.txt"), &[("Range", "bytes=0-9")]), b"");
        assert_eq!(
            get,
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let headers = [("Date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        let put = sign(request("PUT", &format!("{host}/test%24file.text"), &headers), b"Welcome to Amazon S3.");
        assert!(put.ends_with("=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"), "{put}");
        let lifecycle = sign(request("GET", &format!("{host}?lifecycle"), &[]), b"");
        assert!(
            lifecycle.ends_with("=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            "{lifecycle}"
        );
        let list = sign(request("GET", &format!("{host}?prefix=J&max-keys=2"), &[]), b"");
        assert!(list.ends_with("=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"), "{list}");
    }

    /// The header examples of Alibaba's SDK for Python; those with additional headers are not ours to make.
    #[test]
    fn alibabas_examples() {
        let scope = Scope { scheme: &OSS4, region: "cn-hangzhou", root: "/bucket" };
        let headers = [
            ("x-oss-head1", "value"),
            ("abc", "value"),
            ("ZAbc", "value"),
            ("XYZ", "value"),
            ("content-type", "text/plain"),
        ];
        let query = "param1=value1&%2Bparam1=value3&%7Cparam1=value4&%2Bparam2=&%7Cparam2=&param2=";
        let uri = format!("http://bucket.oss-cn-hangzhou.aliyuncs.com/1234%2B-/123/1.txt?{query}");
        let sign = |keys: &Keys, at_s| signed(scope, request("PUT", &uri, &headers), keys, at_s, Some(&[]));
        assert_eq!(
            sign(&keys("ak", "sk", None), 1_702_743_657),
            "OSS4-HMAC-SHA256 Credential=ak/20231216/cn-hangzhou/oss/aliyun_v4_request,\
             Signature=e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe"
        );
        assert_eq!(
            sign(&keys("ak", "sk", Some("token")), 1_702_784_856),
            "OSS4-HMAC-SHA256 Credential=ak/20231217/cn-hangzhou/oss/aliyun_v4_request,\
             Signature=b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea"
        );
    }

    /// The bucket stands in the host or in the path; the server reads the same of both.
    #[test]
    fn a_bucket_is_signed_alike_wherever_it_stands() {
        let sign = |root, uri: &str| {
            let scope = Scope { scheme: &OSS4, region: "cn-hangzhou", root };
            signed(scope, request("GET", uri, &[]), &keys("ak", "sk", None), 1_702_743_657, None)
        };
        let (virtual_hosted, path) = ("https://b.oss-cn-hangzhou.aliyuncs.com", "http://127.0.0.1:80/b");
        for rest in ["?list-type=2", "/a%20b?uploads="] {
            let (one, other) = (sign("/b", &format!("{virtual_hosted}{rest}")), sign("", &format!("{path}{rest}")));
            assert_eq!(one, other, "{rest}");
        }
    }

    #[test]
    fn keys_that_no_header_can_hold_are_refused() {
        let scope = Scope { scheme: &AWS4, region: "us-east-1", root: "" };
        let mut request = request("GET", "https://h/b", &[]);
        let error = scope.sign(&mut request, &keys("a\nb", "hidden-value", None), None, Utc::now()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hidden-value"));
    }
}
