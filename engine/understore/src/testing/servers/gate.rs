//! Who stands before a real store and lets in only who logged in elsewhere.
//!
//! A test's provider of identities gives out keys and tokens of its own, and tells the gate of each as a [`Pass`]. What comes
//! with one is checked over what arrived - a signature of version 4 and the token beside it, a bearer's token, a token
//! that an account signed - and goes on with the store's own keys. All else is refused in the words of that service.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use chrono::Utc;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use object_store::client::HttpRequestBody;
use parking_lot::Mutex;

use super::{
    account::ServiceAccount,
    answering::{Answering, Body, away, passed, refused},
    azurite::Azurite,
    http::{moved, send},
    s3_bucket::S3Bucket,
    shim::{Dialect, OSS_REGION, StandIn, signed},
};
use crate::{
    Secret,
    azure::SharedKey,
    s3::v4::{AWS4, Keys, OSS4, Scope},
    web::Signer,
};

/// Bytes of one request's content.
const CONTENT_BYTES_MAX: usize = 32 << 20;
/// Where the bucket of S3 is said to be.
const S3_REGION: &str = "us-east-1";

/// What somebody is let in by.
#[derive(Debug, Clone)]
pub struct Pass(By);

#[derive(Debug, Clone)]
enum By {
    Keys(Keys),
    Token(Secret),
    Account(ServiceAccount),
}

impl Pass {
    /// Signatures with these keys, and the token that shows that they are good for a while.
    pub fn keys(id: &str, secret: &str, token: Option<&str>) -> Self {
        let (id, secret) = (Secret::new(id), Secret::new(secret));
        Self(By::Keys(Keys { id, secret, token: token.map(Secret::new) }))
    }

    /// A bearer's token.
    pub fn token(token: &str) -> Self {
        Self(By::Token(Secret::new(token)))
    }

    /// Tokens that the account signs itself.
    pub fn account(account: &ServiceAccount) -> Self {
        Self(By::Account(account.clone()))
    }

    fn name(&self) -> &str {
        match &self.0 {
            By::Keys(keys) => keys.id.expose(),
            By::Token(token) => token.expose(),
            By::Account(account) => account.key_id(),
        }
    }
}

/// A running gate.
#[derive(Debug)]
pub struct Gate {
    proxy: Answering,
    keeper: Arc<Keeper>,
}

impl Gate {
    /// Before a bucket of S3.
    ///
    /// # Errors
    /// Without a port or a thread.
    pub fn before_s3(bucket: &S3Bucket) -> io::Result<Self> {
        let (id, secret) = bucket.keys();
        let keys = Keys { id: Secret::new(id), secret: Secret::new(secret), token: None };
        Self::before(
            bucket.endpoint().to_owned(),
            Own::Signs(Scope { scheme: &AWS4, region: S3_REGION, root: "" }, keys),
        )
    }

    /// Before a stand-in for Google Cloud Storage or Alibaba OSS.
    ///
    /// # Errors
    /// As [`Gate::before_s3`].
    pub fn before_stand_in(server: &StandIn) -> io::Result<Self> {
        let own = match server.dialect() {
            Dialect::Gcs => Own::Shows(Secret::new(server.token())),
            Dialect::Oss => {
                let (id, secret) = server.keys();
                let keys = Keys { id: Secret::new(id), secret: Secret::new(secret), token: None };
                Own::Signs(Scope { scheme: &OSS4, region: OSS_REGION, root: "" }, keys)
            }
        };
        Self::before(server.endpoint(), own)
    }

    /// Before Azurite; its accounts stay the first part of paths.
    ///
    /// # Errors
    /// As [`Gate::before_s3`].
    pub fn before_azurite(server: &Azurite) -> io::Result<Self> {
        let endpoint = server.endpoint();
        let root = endpoint.strip_suffix(server.account()).unwrap_or(&endpoint).trim_end_matches('/').to_owned();
        let key = SharedKey::new(server.account(), server.key()).ok_or_else(|| io::Error::other("not a key"))?;
        Self::before(root, Own::IsAzures(key))
    }

    fn before(store: String, own: Own) -> io::Result<Self> {
        let keeper = Arc::new(Keeper { store, own, passes: Mutex::default(), used: Mutex::default() });
        let keeping = Arc::clone(&keeper);
        let proxy = Answering::start(move |request| {
            let keeper = Arc::clone(&keeping);
            async move { keeper.answer(request).await }
        })?;
        Ok(Self { proxy, keeper })
    }

    /// Where clients connect to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.proxy.address)
    }

    /// Lets in who has this, from now on.
    pub fn admit(&self, pass: Pass) {
        self.keeper.passes.lock().push(pass);
    }

    /// Lets in nobody any more, and forgets who was.
    pub fn close(&self) {
        self.keeper.passes.lock().clear();
        self.keeper.used.lock().clear();
    }

    /// By what requests came in, each once: ids of keys, tokens. In the order of first use.
    pub fn used(&self) -> Vec<String> {
        self.keeper.used.lock().clone()
    }
}

/// How the gate itself comes in.
enum Own {
    Signs(Scope<'static>, Keys),
    Shows(Secret),
    IsAzures(SharedKey),
}

struct Keeper {
    store: String,
    own: Own,
    passes: Mutex<Vec<Pass>>,
    used: Mutex<Vec<String>>,
}

/// By hand: the keys are nobody's to read.
impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Keeper {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        // What is not read would end the connection in the middle of what is sent.
        let content = Limited::new(body, CONTENT_BYTES_MAX).collect().await;
        let Some(name) = self.opens(&parts) else { return self.refusal() };
        {
            let mut used = self.used.lock();
            if !used.contains(&name) {
                used.push(name);
            }
        }
        let passed = match content {
            Ok(content) => self.pass_on(parts, content.to_bytes()).await,
            Err(error) => Err(io::Error::other(error)),
        };
        passed.unwrap_or_else(|error| away(&error))
    }

    /// The name of the pass that a request has.
    fn opens(&self, parts: &Parts) -> Option<String> {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let given = header("authorization")?;
        let is_good = |pass: &&Pass| match (&pass.0, &self.own) {
            (By::Token(token), Own::Shows(_) | Own::IsAzures(_)) => {
                given.strip_prefix("Bearer ") == Some(token.expose())
            }
            (By::Account(account), Own::Shows(_)) => {
                given.strip_prefix("Bearer ").is_some_and(|token| account.signed(token))
            }
            (By::Keys(keys), Own::Signs(scope, _)) => {
                header(scope.scheme.token().as_str()) == keys.token.as_ref().map(Secret::expose)
                    && given == scope.authorization(&parts.method, &parts.uri, &signed(parts, given), keys)
            }
            _ => false,
        };
        self.passes.lock().iter().find(is_good).map(|pass| pass.name().to_owned())
    }

    async fn pass_on(&self, parts: Parts, content: Bytes) -> io::Result<Response<Body>> {
        let mut request = Request::builder()
            .method(parts.method.clone())
            .uri(moved(&parts.uri, &self.store)?)
            .body(HttpRequestBody::empty())
            .map_err(io::Error::other)?;
        *request.headers_mut() = parts.headers;
        for name in [AUTHORIZATION, HOST, TRANSFER_ENCODING] {
            request.headers_mut().remove(name);
        }
        match &self.own {
            Own::Signs(scope, keys) => {
                request.headers_mut().remove(scope.scheme.token());
                scope.sign(&mut request, keys, None, Utc::now()).map_err(io::Error::other)?;
            }
            Own::Shows(token) => {
                let value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(io::Error::other)?;
                request.headers_mut().insert(AUTHORIZATION, value);
            }
            Own::IsAzures(key) => key.sign(&mut request, &[]).await.map_err(io::Error::other)?,
        }
        Ok(send(request.map(|_| Full::new(content))).await?.map(passed))
    }

    /// As each service says that it does not know who asks.
    fn refusal(&self) -> Response<Body> {
        let (status, code) = match self.own {
            Own::Signs(..) => (StatusCode::FORBIDDEN, "InvalidAccessKeyId"),
            Own::Shows(_) => (StatusCode::UNAUTHORIZED, "AuthenticationRequired"),
            Own::IsAzures(_) => (StatusCode::UNAUTHORIZED, "InvalidAuthenticationInfo"),
        };
        let mut response = refused(status, code, "the gate lets nobody in like this");
        response.headers_mut().insert("x-ms-error-code", HeaderValue::from_static(code));
        response
    }
}
