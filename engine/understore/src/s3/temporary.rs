//! Keys that last for a while: held, asked for anew before they end, and by one for all.
//!
//! Who gives them is a [`Giver`]: `ram.rs` has Alibaba's, `role.rs` Amazon's.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::Method;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{keys::KeySource, v4::Keys};
use crate::{
    Operation, Repeat,
    web::{Answer, Request, Web},
};

/// Keys that end sooner are not used any more.
const LEFT_MIN: Duration = Duration::from_secs(300);
/// How long keys that say no end are kept.
const UNTOLD: Duration = Duration::from_secs(900);
/// Keys younger than this are not asked for again when they are refused.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// Whoever gives keys for a while.
#[async_trait]
pub(super) trait Giver: Send + Sync {
    /// Asks for keys. Failures are told in words, with what to do about them.
    async fn give(&self) -> Result<Given, String>;
}

/// Keys, and when they end.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) keys: Keys,
    pub(super) until: Option<DateTime<Utc>>,
}

/// Keys for a while, asked for anew before they end.
pub(super) struct Temporary<G> {
    giver: G,
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

impl<G: Giver> Temporary<G> {
    pub(super) fn new(giver: G) -> Self {
        Self { giver, held: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    fn good(&self) -> Option<Arc<Keys>> {
        let held = self.held.lock();
        let good = held.as_ref().filter(|held| !held.is_refused && held.until > Instant::now() + LEFT_MIN);
        good.map(|held| Arc::clone(&held.keys))
    }

    async fn ask(&self) -> Result<Held, String> {
        let asked = Instant::now();
        let Given { keys, until } = self.giver.give().await?;
        let left = until.map(|until| (until - Utc::now()).to_std().unwrap_or_default());
        Ok(Held { keys: Arc::new(keys), asked, until: asked + left.unwrap_or(UNTOLD), is_refused: false })
    }
}

#[async_trait]
impl<G: Giver> KeySource for Temporary<G> {
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

/// Asks a server that gives keys, whatever it answers.
pub(super) async fn ask(
    server: &Web,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer, String> {
    let content = if body.is_empty() { Vec::new() } else { vec![body] };
    let request = Request {
        method,
        url: format!("{}{path}", server.endpoint),
        headers,
        content,
        shown: "the source of keys",
        operation: Operation::Stat,
        repeat: Repeat::Harmless,
    };
    server.send(&request).await.map_err(|error| error.to_string())
}

/// The token that proves to a giver who asks, from a file that somebody else keeps fresh.
pub(super) async fn token_of(file: &Path) -> Result<Zeroizing<String>, String> {
    let read = tokio::fs::read_to_string(file).await;
    let text = Zeroizing::new(read.map_err(|error| format!("the token file {}: {error}", file.display()))?);
    Ok(Zeroizing::new(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::Secret;

    /// Gives what is written down, the last first.
    struct Scripted(Mutex<Vec<Result<(&'static str, i64), &'static str>>>);

    #[async_trait]
    impl Giver for Scripted {
        async fn give(&self) -> Result<Given, String> {
            let (id, left_s) = self.0.lock().pop().expect("it is asked no more often")?;
            let keys = Keys { id: Secret::new(id), secret: Secret::new("s"), token: None };
            Ok(Given { keys, until: Some(Utc::now() + TimeDelta::seconds(left_s)) })
        }
    }

    /// Whoever gives keys may be away for a while: what was given is used to its end, and not a moment longer.
    #[tokio::test]
    async fn keys_outlive_a_giver_that_is_away() {
        let away = || Err("away");
        let script = vec![away(), Ok(("last", 3600)), away(), Ok(("ended", 0)), away(), Ok(("first", 120)), away()];
        let source = Temporary::new(Scripted(Mutex::new(script)));
        let id = async || source.keys().await.map(|keys| keys.id.expose().to_owned());
        let is = |id: &str| Ok(id.to_owned());
        assert_eq!(id().await, Err("away".to_owned()));
        assert_eq!((id().await, id().await), (is("first"), is("first")));
        // Given with an end that has passed already: who asked has it, and nobody after.
        assert_eq!((id().await, id().await), (is("ended"), Err("away".to_owned())));
        assert_eq!((id().await, id().await), (is("last"), is("last")));
        assert!(source.renew().await, "they are too young to be asked for again");
        assert_eq!(id().await, is("last"));
    }
}
