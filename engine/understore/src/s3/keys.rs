//! Where keys come from, and who signs with them.
//!
//! A source is asked before each request, and told when its keys were refused: keys that were changed where they are kept
//! are taken up without a new mount. A source that did so for one request lets all that were signed with the old keys
//! be sent again, each once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use http::header::AUTHORIZATION;
use object_store::{
    CredentialProvider,
    client::{HttpError, HttpErrorKind, HttpRequest},
    gcp::GcpCredential,
};
use parking_lot::{Mutex, RwLock};

use super::{
    client::Failure,
    v4::{Keys, Scheme, Scope, secret_value},
};
use crate::{
    Advice, Error, Result, Secret,
    web::{Answer, Signer, chain},
};

/// How often a source whose keys are refused is made anew, at most; and how long a renewal holds for requests that were
/// signed before it.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// Why there are no keys, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoKeys {
    /// Nothing gives any, or whoever does refuses: that stays until somebody mends it.
    Refused(String),
    /// Whoever gives them does not answer for now.
    Away { endpoint: String, reason: String },
    /// Nobody answers where there may be nobody: the metadata server of what may be no machine of a cloud.
    Absent { endpoint: String, reason: String },
}

impl NoKeys {
    /// With what to do, where somebody has to do something.
    pub(super) fn advised(self, advice: &str) -> Self {
        match self {
            Self::Refused(reason) => Self::Refused(format!("{reason}; {advice}")),
            away => away,
        }
    }

    /// Without a token that was shown: who refuses it may quote it.
    pub(super) fn without(self, token: &str) -> Self {
        match self {
            Self::Refused(reason) if !token.is_empty() => Self::Refused(reason.replace(token, "***")),
            other => other,
        }
    }

    /// Where somebody must be.
    pub(super) fn surely_there(self) -> Self {
        self.of_source(true)
    }

    /// What it is of a source that has given keys before, or never has: only who was there can be away.
    pub(super) fn of_source(self, has_given: bool) -> Self {
        match self {
            Self::Absent { endpoint, reason } if has_given => Self::Away { endpoint, reason },
            Self::Absent { endpoint, reason } => Self::Refused(format!("{endpoint} does not answer: {reason}")),
            other => other,
        }
    }

    /// The error of a request to a server, for which there are no keys.
    pub(crate) fn error(self, server: &str, advice: &Advice) -> Error {
        match self {
            Self::Refused(reason) => {
                Error::MissingKeys { endpoint: server.to_owned(), reason, advice: advice.missing_keys }
            }
            Self::Away { endpoint, reason } | Self::Absent { endpoint, reason } => {
                let advice = "it gives the keys that requests are signed with: check that it runs, and the network";
                Error::Unreachable { endpoint, reason, advice }
            }
        }
    }
}

/// Most of what may go wrong on the way to keys.
impl From<String> for NoKeys {
    fn from(reason: String) -> Self {
        Self::Refused(reason)
    }
}

/// A source of keys.
#[async_trait]
pub(super) trait KeySource: Send + Sync {
    async fn keys(&self) -> Result<Arc<Keys>, NoKeys>;

    /// Told that keys were refused. Whether there are others now.
    async fn renew(&self) -> bool;
}

/// Keys that never change.
#[async_trait]
impl KeySource for Arc<Keys> {
    async fn keys(&self) -> Result<Arc<Keys>, NoKeys> {
        Ok(Self::clone(self))
    }

    async fn renew(&self) -> bool {
        false
    }
}

/// What `object_store` gives: it refreshes what expires, and here it is made anew when what it has is refused before that.
pub(crate) struct Provided<C> {
    provider: RwLock<Provider<C>>,
    make: Make<C>,
    renewed: Mutex<Option<Instant>>,
    has_given: AtomicBool,
}

type Provider<C> = Arc<dyn CredentialProvider<Credential = C>>;
type Make<C> = Box<dyn Fn() -> object_store::Result<Provider<C>> + Send + Sync>;

impl<C> Provided<C> {
    /// What gives credentials now, and how it is made anew.
    pub(crate) fn new(
        provider: Provider<C>,
        make: impl Fn() -> object_store::Result<Provider<C>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            provider: RwLock::new(provider),
            make: Box::new(make),
            renewed: Mutex::default(),
            has_given: AtomicBool::new(false),
        }
    }

    /// What there is now. A source that gives nothing is made anew as well: its file may have been replaced.
    pub(crate) async fn credential(&self) -> Result<Arc<C>, NoKeys> {
        let provider = Arc::clone(&self.provider.read());
        let mut given = provider.get_credential().await;
        if given.is_err() && self.remake() {
            let other = Arc::clone(&self.provider.read());
            if !Arc::ptr_eq(&other, &provider) {
                given = other.get_credential().await;
            }
        }
        match given {
            Ok(credential) => {
                self.has_given.store(true, Ordering::Relaxed);
                Ok(credential)
            }
            Err(error) => Err(none_after(&error).of_source(self.has_given.load(Ordering::Relaxed))),
        }
    }

    pub(crate) fn remake(&self) -> bool {
        let mut renewed = self.renewed.lock();
        if renewed.is_some_and(|at| at.elapsed() < RENEWAL_PAUSE) {
            return true;
        }
        match (self.make)() {
            Ok(provider) => {
                *self.provider.write() = provider;
                *renewed = Some(Instant::now());
                true
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "the keys were refused, and their source gives no others");
                false
            }
        }
    }
}

/// Why `object_store` gives no credential.
fn none_after(error: &object_store::Error) -> NoKeys {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let connection = causes.filter_map(|cause| cause.downcast_ref::<HttpError>()).next();
    match connection.map(HttpError::kind) {
        Some(HttpErrorKind::Connect | HttpErrorKind::Timeout | HttpErrorKind::Interrupted | HttpErrorKind::Request) => {
            NoKeys::Absent { endpoint: "the service that gives tokens".to_owned(), reason: chain(error) }
        }
        _ => NoKeys::Refused(chain(error)),
    }
}

/// Signs by version 4 of somebody's rules.
pub(super) struct V4Signer {
    pub(super) source: Box<dyn KeySource>,
    pub(super) scheme: &'static Scheme,
    pub(super) region: String,
    /// See [`Scope::root`].
    pub(super) root: String,
    /// Whether contents are signed as well.
    pub(super) signs_content: bool,
    /// What errors call the server.
    pub(super) endpoint: String,
    pub(super) advice: &'static Advice,
}

impl V4Signer {
    async fn keys(&self) -> Result<Arc<Keys>> {
        self.source.keys().await.map_err(|none| none.error(&self.endpoint, self.advice))
    }
}

#[async_trait]
impl Signer for V4Signer {
    async fn sign(&self, request: &mut HttpRequest, content: &[Bytes]) -> Result<()> {
        let keys = self.keys().await?;
        let scope = Scope { scheme: self.scheme, region: &self.region, root: &self.root };
        scope.sign(request, &keys, self.signs_content.then_some(content), Utc::now())
    }

    async fn find_keys(&self) -> Result<()> {
        self.keys().await.map(drop)
    }

    fn is_refused(&self, answer: &Answer) -> bool {
        Failure::of(answer).is_some_and(|failure| failure.refuses_keys())
    }

    async fn renew(&self, _signed: Instant) -> Result<bool> {
        Ok(self.source.renew().await)
    }
}

/// Shows Google's tokens.
pub(super) struct Bearer {
    pub(super) tokens: Provided<GcpCredential>,
    /// What errors call the server.
    pub(super) endpoint: String,
    pub(super) advice: &'static Advice,
}

impl Bearer {
    async fn token(&self) -> Result<Arc<GcpCredential>> {
        self.tokens.credential().await.map_err(|none| none.error(&self.endpoint, self.advice))
    }
}

#[async_trait]
impl Signer for Bearer {
    async fn sign(&self, request: &mut HttpRequest, _content: &[Bytes]) -> Result<()> {
        let token = self.token().await?;
        // What stands in for the service may want none.
        if !token.bearer.is_empty() {
            let value = Secret::new(format!("Bearer {}", token.bearer));
            request.headers_mut().insert(AUTHORIZATION, secret_value(value.expose())?);
        }
        Ok(())
    }

    async fn find_keys(&self) -> Result<()> {
        self.token().await.map(drop)
    }

    fn is_refused(&self, answer: &Answer) -> bool {
        Failure::of(answer).is_some_and(|failure| failure.refuses_keys())
    }

    async fn renew(&self, _signed: Instant) -> Result<bool> {
        Ok(self.tokens.remake())
    }
}

#[cfg(test)]
mod tests {
    use object_store::StaticCredentialProvider;

    use super::*;

    fn provider(bearer: &str) -> Provider<GcpCredential> {
        Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: bearer.to_owned() }))
    }

    /// A token that is refused before its end, or the file of a service account that was replaced: what gives credentials
    /// is made anew, once for all who were refused; where that fails, what there is stays.
    #[tokio::test]
    async fn refused_credentials_are_made_anew() {
        let made = Arc::new(Mutex::new(0));
        let count = Arc::clone(&made);
        let source = Provided::new(provider("0"), move || {
            let mut made = count.lock();
            *made += 1;
            match *made {
                1 => Err(object_store::Error::NotImplemented { operation: "now".into(), implementer: "nobody".into() }),
                number => Ok(provider(&number.to_string())),
            }
        });
        let id = async || source.credential().await.unwrap().bearer.clone();
        assert!(!source.remake());
        assert_eq!(id().await, "0");
        for _ in 0..3 {
            assert!(source.remake());
            assert_eq!(id().await, "2");
        }
        assert_eq!(*made.lock(), 2);
    }
}
