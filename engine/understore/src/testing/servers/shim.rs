//! Stand-ins for Google Cloud Storage and Alibaba OSS, which have no server of their own: SeaweedFS's S3 behind a proxy
//! that speaks as they do.
//!
//! | GCS | OSS | S3 |
//! |---|---|---|
//! | `x-goog-copy-source` | `x-oss-copy-source` | `x-amz-copy-source` |
//! | `x-goog-copy-source-if-generation-match` | `x-oss-copy-source-if-match` | `x-amz-copy-source-if-match` |
//! | `x-goog-if-generation-match: 0` | `x-oss-forbid-overwrite: true` | `If-None-Match: *` |
//! | `x-goog-if-generation-match: N` | | `If-Match`, with the etag that N was made of |
//! | `x-goog-meta-…` | `x-oss-meta-…` | `x-amz-meta-…` |
//! | `x-goog-generation`, in answers; `<Generation>`, in lists | | `ETag` |
//! | 412 | 409 `FileAlreadyExists`, after `x-oss-forbid-overwrite` | 412 |
//! | `x-goog-hash` of a put or a part, held against it | `content-md5`, the same | |
//! | `x-goog-hash`, in answers | `x-oss-hash-crc64ecma` | of the put that had this etag, if it was one |
//!
//! A header of theirs that is not in the table, or a condition where they take none, is refused with 501: SeaweedFS would
//! not know it, and would do something else than was asked (of a copy it makes an empty object).
//!
//! Requests must have a good signature of version 4, or for GCS the one token. It is checked over what arrived, with the
//! key that the stand-in gives out, by the code that signs: that code is held to published examples, and here it is shown
//! that what is sent is what was signed.

use std::{collections::HashMap, fmt, io, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, IF_MATCH, IF_NONE_MATCH},
    request::Parts,
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::{
    answering::{Answering, Body, passed, refused, whole},
    fresh,
    http::{moved, send},
    seaweedfs::{Access, SeaweedFs},
    server::{Processes, Server},
};
use crate::{
    MountSpec, Secret,
    object::{Digest, DigestKind},
    s3::v4::{GOOG4, Keys, OSS4, Scope},
};

/// Generations that are remembered; who conditions on an older one is told that it is not the object's.
const GENERATIONS_MAX: usize = 1 << 16;
/// Where the bucket of OSS is said to be.
pub(super) const OSS_REGION: &str = "cn-citius";

/// Whose headers are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Google Cloud Storage's XML API.
    Gcs,
    /// Alibaba OSS.
    Oss,
}

impl Dialect {
    fn prefix(self) -> &'static str {
        match self {
            Self::Gcs => "x-goog-",
            Self::Oss => "x-oss-",
        }
    }

    fn scope(self) -> Scope<'static> {
        match self {
            Self::Gcs => Scope { scheme: &GOOG4, region: "auto", root: "" },
            Self::Oss => Scope { scheme: &OSS4, region: OSS_REGION, root: "" },
        }
    }
}

/// A running stand-in with one bucket.
#[derive(Debug)]
pub struct StandIn {
    seaweedfs: SeaweedFs,
    proxy: Answering,
    shim: Arc<Shim>,
}

impl StandIn {
    /// Starts SeaweedFS and the proxy before it.
    ///
    /// # Errors
    /// As [`SeaweedFs::start`].
    pub async fn start(dialect: Dialect) -> io::Result<Self> {
        let seaweedfs = SeaweedFs::start_for(Access::Anybody).await?;
        let keys = Keys { id: Secret::new(fresh::key()?), secret: Secret::new(fresh::key()?), token: None };
        let upstream = seaweedfs.s3().endpoint().to_owned();
        let shim = Arc::new(Shim {
            dialect,
            upstream,
            keys,
            token: fresh::key()?,
            generations: Mutex::default(),
            digests: Mutex::default(),
        });
        let serving = Arc::clone(&shim);
        let proxy = Answering::start(move |request| {
            let shim = Arc::clone(&serving);
            async move { shim.answer(request).await }
        })?;
        Ok(Self { seaweedfs, proxy, shim })
    }

    /// A mount of the bucket, or of a prefix in it, by the keys of its signatures.
    pub fn mount(&self, prefix: &str) -> MountSpec {
        let (id, secret) = self.keys();
        let spec = self.keyless(prefix);
        match self.shim.dialect {
            Dialect::Gcs => spec.option("google_hmac_access_id", id).option("google_hmac_secret", secret),
            Dialect::Oss => spec.option("oss_access_key_id", id).option("oss_access_key_secret", secret),
        }
    }

    /// A mount of the bucket, or of a prefix in it, without keys.
    pub fn keyless(&self, prefix: &str) -> MountSpec {
        let (bucket, slash) = (self.bucket(), if prefix.is_empty() { "" } else { "/" });
        match self.shim.dialect {
            Dialect::Gcs => MountSpec::new(format!("gs://{bucket}{slash}{prefix}"))
                .option("google_base_url", self.endpoint())
                .option("google_allow_http", "true"),
            Dialect::Oss => MountSpec::new(format!("oss://{bucket}{slash}{prefix}"))
                .option("oss_endpoint", self.endpoint())
                .option("oss_region", OSS_REGION)
                .option("oss_allow_http", "true"),
        }
    }

    /// The key pair: id and secret.
    pub fn keys(&self) -> (&str, &str) {
        (self.shim.keys.id.expose(), self.shim.keys.secret.expose())
    }

    /// The token that GCS takes instead of a signature.
    pub fn token(&self) -> &str {
        &self.shim.token
    }

    /// Where clients connect to; buckets are the first part of the path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.proxy.address)
    }

    /// Whose headers it speaks.
    pub fn dialect(&self) -> Dialect {
        self.shim.dialect
    }

    /// The bucket that was made.
    pub fn bucket(&self) -> &'static str {
        self.seaweedfs.s3().name()
    }

    /// The version of SeaweedFS.
    pub fn version(&self) -> &str {
        self.seaweedfs.version()
    }

    /// Ends SeaweedFS by SIGKILL and starts it again with the same data; the proxy answers 502 meanwhile.
    ///
    /// # Errors
    /// As [`StandIn::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.seaweedfs.restart().await
    }

    /// Ends both.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(self) -> io::Result<()> {
        self.seaweedfs.stop()
    }
}

impl Server for StandIn {
    /// The proxy is a thread of the test's own and waits for a paused SeaweedFS as its clients do.
    fn processes(&self) -> Processes<'_> {
        self.seaweedfs.processes()
    }
}

struct Shim {
    dialect: Dialect,
    upstream: String,
    keys: Keys,
    token: String,
    generations: Mutex<Generations>,
    /// Of what was put, by the etag that it got: a copy has the same.
    digests: Mutex<HashMap<HeaderValue, Digest>>,
}

/// By hand: the token is nobody's to read.
impl fmt::Debug for Shim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shim").field("dialect", &self.dialect).field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// Why a request goes no further: a status, a code and a text.
type Refusal = (StatusCode, &'static str, String);

impl Shim {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.forward(request).await {
            Ok(answer) => answer,
            Err((status, code, text)) => refused(status, code, &text),
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (mut parts, body) = request.into_parts();
        self.check_who(&parts)?;
        let forbids = self.request_to_s3(&mut parts)?;
        let is_list =
            parts.method == Method::GET && parts.uri.query().is_some_and(|query| query.contains("list-type=2"));
        let bad = |error: io::Error| (StatusCode::BAD_REQUEST, "InvalidURI", error.to_string());
        parts.uri = moved(&parts.uri, &self.upstream).map_err(bad)?;
        let away = |error: String| (StatusCode::BAD_GATEWAY, "Away", error);
        let is_content = parts.method == Method::PUT && !parts.headers.contains_key("x-amz-copy-source");
        let (body, digest) = match is_content {
            true => {
                let content = body.collect().await.map_err(|error| away(error.to_string()))?.to_bytes();
                let digest = self.check_content(&mut parts.headers, &content).await?;
                (whole(content), Some(digest))
            }
            false => (passed(body), None),
        };
        let mut answer = send(Request::from_parts(parts, body)).await.map_err(|error| away(error.to_string()))?;
        if let (Some(digest), Some(etag), true) = (digest, answer.headers().get(ETAG), answer.status().is_success()) {
            let mut digests = self.digests.lock();
            // Who forgets only tells less.
            if digests.len() == GENERATIONS_MAX {
                digests.clear();
            }
            digests.insert(etag.clone(), digest);
        }
        if forbids && answer.status() == StatusCode::PRECONDITION_FAILED {
            return Err((StatusCode::CONFLICT, "FileAlreadyExists", "the object may not be there".to_owned()));
        }
        self.answer_of_s3(answer.headers_mut());
        if !is_list || self.dialect != Dialect::Gcs {
            return Ok(answer.map(passed));
        }
        let (mut parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| away(error.to_string()))?.to_bytes();
        parts.headers.remove(CONTENT_LENGTH);
        Ok(Response::from_parts(parts, whole(self.with_generations(&String::from_utf8_lossy(&body)))))
    }

    /// Who asks must have signed, or have the token.
    fn check_who(&self, parts: &Parts) -> Result<(), Refusal> {
        let given = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let scope = self.dialect.scope();
        let refusal = if given.is_empty() {
            (StatusCode::FORBIDDEN, "AccessDenied")
        } else if self.dialect == Dialect::Gcs && given.starts_with("Bearer ") {
            if given.strip_prefix("Bearer ") == Some(&self.token) {
                return Ok(());
            }
            (StatusCode::UNAUTHORIZED, "AuthenticationRequired")
        } else if !given.contains(&format!("Credential={}/", self.keys.id.expose())) {
            (StatusCode::FORBIDDEN, "InvalidAccessKeyId")
        } else if !given.contains(&format!("/{}/", scope.region)) {
            (StatusCode::BAD_REQUEST, "InvalidArgument")
        } else if given != scope.authorization(&parts.method, &parts.uri, &signed(parts, given), &self.keys) {
            (StatusCode::FORBIDDEN, "SignatureDoesNotMatch")
        } else {
            return Ok(());
        };
        let text = match refusal.1 {
            "InvalidArgument" => "Invalid signing region in Authorization header.",
            _ => "the stand-in lets nobody in like this",
        };
        Err((refusal.0, refusal.1, text.to_owned()))
    }

    /// Renames the headers of a request; whether it has OSS forbid overwriting.
    fn request_to_s3(&self, parts: &mut Parts) -> Result<bool, Refusal> {
        let unknown = |text: String| Err((StatusCode::NOT_IMPLEMENTED, "NotImplemented", text));
        let headers = &mut parts.headers;
        let is_write = matches!(parts.method, Method::PUT | Method::POST | Method::DELETE);
        if is_write && (headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH)) {
            return unknown("the stand-in takes no etags as conditions of writes".to_owned());
        }
        let completes =
            parts.method == Method::POST && parts.uri.query().is_some_and(|query| query.contains("uploadId="));
        let mut forbids = false;
        headers.remove(AUTHORIZATION);
        for (name, value) in theirs(headers, self.dialect.prefix()) {
            let rest = &name.as_str()[self.dialect.prefix().len()..];
            match (self.dialect, rest) {
                (_, "copy-source") => rename(headers, &name, "x-amz-copy-source"),
                (_, meta) if meta.starts_with("meta-") => rename(headers, &name, &format!("x-amz-{meta}")),
                (Dialect::Gcs, "if-generation-match") if !completes => {
                    headers.remove(&name);
                    if value == "0" {
                        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
                    } else {
                        headers.insert(IF_MATCH, self.etag_of(&value)?);
                    }
                }
                (Dialect::Gcs, "copy-source-if-generation-match") => {
                    headers.remove(&name);
                    headers.insert("x-amz-copy-source-if-match", self.etag_of(&value)?);
                }
                (Dialect::Oss, "copy-source-if-match") => rename(headers, &name, "x-amz-copy-source-if-match"),
                (Dialect::Oss, "forbid-overwrite") => {
                    headers.remove(&name);
                    if value == "true" {
                        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
                        forbids = true;
                    }
                }
                // Held against the content.
                (Dialect::Gcs, "hash") if parts.method == Method::PUT => {}
                // Parts of signatures.
                (_, "date" | "content-sha256") => drop(headers.remove(&name)),
                _ => return unknown(format!("the stand-in does not know the header {name} here")),
            }
        }
        Ok(forbids)
    }

    /// Holds content against what was sent as its digest, and gives that which is told of it.
    async fn check_content(&self, headers: &mut HeaderMap, content: &Bytes) -> Result<Digest, Refusal> {
        let (name, prefix, kind, told) = match self.dialect {
            Dialect::Gcs => ("x-goog-hash", "crc32c=", DigestKind::Crc32c, DigestKind::Crc32c),
            Dialect::Oss => ("content-md5", "", DigestKind::Md5, DigestKind::Crc64Xz),
        };
        let content = std::slice::from_ref(content);
        if let Some(sent) = headers.remove(name) {
            let sent = sent.to_str().unwrap_or_default();
            if sent != format!("{prefix}{}", kind.of(content).await.to_base64()) {
                let (code, text) = match self.dialect {
                    Dialect::Gcs => ("BadDigest", "the CRC32C is another one"),
                    Dialect::Oss => ("InvalidDigest", "the MD5 is another one"),
                };
                return Err((StatusCode::BAD_REQUEST, code, text.to_owned()));
            }
        }
        Ok(told.of(content).await)
    }

    fn etag_of(&self, generation: &HeaderValue) -> Result<HeaderValue, Refusal> {
        let unknown = || {
            let text = "this generation is not the object's".to_owned();
            (StatusCode::PRECONDITION_FAILED, "PreconditionFailed", text)
        };
        self.generations.lock().etag(generation).ok_or_else(unknown)
    }

    /// Renames the headers of an answer.
    fn answer_of_s3(&self, headers: &mut HeaderMap) {
        for (name, _) in theirs(headers, "x-amz-meta-") {
            let renamed = name.as_str().replacen("x-amz-", self.dialect.prefix(), 1);
            rename(headers, &name, &renamed);
        }
        let digest = headers.get(ETAG).and_then(|etag| self.digests.lock().get(etag).copied());
        if let Some(digest) = digest {
            let (name, value) = match self.dialect {
                Dialect::Gcs => ("x-goog-hash", format!("crc32c={}", digest.to_base64())),
                Dialect::Oss => ("x-oss-hash-crc64ecma", digest.to_decimal()),
            };
            let value = HeaderValue::from_str(&value).expect("base64 and digits are a header's value");
            headers.insert(HeaderName::from_static(name), value);
        }
        if self.dialect == Dialect::Gcs
            && let Some(etag) = headers.get(ETAG).cloned()
        {
            let generation = self.generations.lock().of(etag);
            headers.insert(HeaderName::from_static("x-goog-generation"), generation);
        }
    }

    /// A list with the generation of each object, and the one element that Google spells otherwise.
    fn with_generations(&self, list: &str) -> String {
        let mut out = String::new();
        for (at, piece) in list.split("<ETag>").enumerate() {
            if at > 0 {
                let etag = piece.split("</ETag>").next().unwrap_or_default();
                let etag = etag.replace("&quot;", "\"").replace("&#34;", "\"");
                let etag = HeaderValue::from_str(&etag).expect("SeaweedFS lists the etags that it sends as headers");
                let generation = self.generations.lock().of(etag);
                let generation = generation.to_str().expect("it is a number");
                out.push_str(&format!("<Generation>{generation}</Generation><ETag>"));
            }
            out.push_str(piece);
        }
        out.replace("<EncodingType>", "<Encoding-Type>").replace("</EncodingType>", "</Encoding-Type>")
    }
}

/// The headers that a signature names, or all if it names none: what is added on the way is not signed.
pub(super) fn signed(parts: &Parts, authorization: &str) -> HeaderMap {
    let named = authorization.split_once("SignedHeaders=").and_then(|(_, rest)| rest.split(',').next());
    let is_signed = |name: &HeaderName| named.is_none_or(|named| named.split(';').any(|signed| name == signed));
    let headers = parts.headers.iter().filter(|(name, _)| is_signed(name));
    headers.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn theirs(headers: &HeaderMap, prefix: &str) -> Vec<(HeaderName, HeaderValue)> {
    let theirs = headers.iter().filter(|(name, _)| name.as_str().starts_with(prefix));
    theirs.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn rename(headers: &mut HeaderMap, from: &HeaderName, to: &str) {
    let to: HeaderName = to.parse().expect("a part of a header's name is one");
    if let Some(value) = headers.remove(from) {
        headers.insert(to, value);
    }
}

/// Which number stands for which etag.
#[derive(Debug, Default)]
struct Generations {
    numbers: HashMap<HeaderValue, u64>,
    etags: HashMap<u64, HeaderValue>,
    newest: u64,
}

impl Generations {
    fn of(&mut self, etag: HeaderValue) -> HeaderValue {
        if let Some(number) = self.numbers.get(&etag) {
            return HeaderValue::from(*number);
        }
        self.newest += 1;
        if let Some(forgotten) = self.newest.checked_sub(GENERATIONS_MAX as u64)
            && let Some(etag) = self.etags.remove(&forgotten)
        {
            self.numbers.remove(&etag);
        }
        self.numbers.insert(etag.clone(), self.newest);
        self.etags.insert(self.newest, etag);
        HeaderValue::from(self.newest)
    }

    fn etag(&self, number: &HeaderValue) -> Option<HeaderValue> {
        self.etags.get(&number.to_str().ok()?.parse().ok()?).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A client that conditions on what was forgotten must be refused, never matched with another object's etag.
    #[test]
    fn generations_are_bounded_and_never_reused() {
        let mut generations = Generations::default();
        let etag = |number: usize| HeaderValue::from_str(&format!("\"{number}\"")).unwrap();
        let first = generations.of(etag(0));
        assert_eq!(generations.of(etag(0)), first);
        for number in 1..GENERATIONS_MAX {
            generations.of(etag(number));
        }
        assert_eq!(generations.etag(&first), Some(etag(0)));
        generations.of(etag(GENERATIONS_MAX));
        assert_eq!(generations.etag(&first), None);
        assert_eq!(generations.etags.len(), GENERATIONS_MAX);
        assert_eq!(generations.numbers.len(), GENERATIONS_MAX);
        assert_ne!(generations.of(etag(0)), first);
    }
}
