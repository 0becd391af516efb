//! Keys that last for a while: held, asked for anew before they end, and by one for all.
//!
//! Who gives them is a [`Giver`]: `ram.rs` has Alibaba's, `role.rs` Amazon's.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    keys::{KeySource, NoKeys},
    v4::Keys,
};
use crate::{
    Error, Operation, Repeat,
    web::{Answer, Request, Web},
};

/// Keys that end sooner are asked for anew.
const LEFT_MIN: Duration = Duration::from_secs(300);
/// Between two times that somebody asks who is given such as end so soon.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// How long after a failure those that still hold are used without asking again.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// How long keys that say no end are kept.
const UNTOLD: Duration = Duration::from_secs(900);
/// Keys younger than this are not asked for again when they are refused.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// Whoever gives keys for a while.
#[async_trait]
pub(super) trait Giver: Send + Sync {
    /// Asks for keys. A refusal says what to do about it.
    async fn give(&self) -> Result<Given, NoKeys>;
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
    /// Whoever asks, asks for all: here is why the last who asked got none, and when that was.
    asking: tokio::sync::Mutex<Option<(Instant, NoKeys)>>,
}

#[derive(Clone)]
struct Held {
    keys: Arc<Keys>,
    asked: Instant,
    until: Instant,
    /// When others are asked for.
    again: Instant,
    is_refused: bool,
}

impl Held {
    fn new(Given { keys, until }: Given, asked: Instant) -> Self {
        let left = until.map_or(UNTOLD, |until| (until - Utc::now()).to_std().unwrap_or_default());
        let again = asked + left.saturating_sub(LEFT_MIN).max(ASK_PAUSE);
        Self { keys: Arc::new(keys), asked, until: asked + left, again, is_refused: false }
    }

    fn holds(&self) -> bool {
        !self.is_refused && self.until > Instant::now()
    }
}

impl<G: Giver> Temporary<G> {
    pub(super) fn new(giver: G) -> Self {
        Self { giver, held: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    fn good(&self) -> Option<Arc<Keys>> {
        let held = self.held.lock();
        let good = held.as_ref().filter(|held| held.holds() && held.again > Instant::now());
        good.map(|held| Arc::clone(&held.keys))
    }

    /// Keys that hold for some minutes yet: better than none where there are no others.
    fn last(&self) -> Option<Arc<Keys>> {
        let mut held = self.held.lock();
        let last = held.as_mut().filter(|held| held.holds())?;
        last.again = Instant::now() + FAILURE_PAUSE;
        Some(Arc::clone(&last.keys))
    }
}

#[async_trait]
impl<G: Giver> KeySource for Temporary<G> {
    async fn keys(&self) -> Result<Arc<Keys>, NoKeys> {
        if let Some(keys) = self.good() {
            return Ok(keys);
        }
        let came = Instant::now();
        let mut failed = self.asking.lock().await;
        if let Some(keys) = self.good() {
            return Ok(keys);
        }
        // Who asked meanwhile heard what this one would hear, and took its time to.
        if let Some((_, none)) = failed.as_ref().filter(|(at, _)| *at >= came) {
            return Err(none.clone());
        }
        let asked = Instant::now();
        match self.giver.give().await {
            Ok(given) => {
                let held = Held::new(given, asked);
                let keys = Arc::clone(&held.keys);
                *self.held.lock() = Some(held);
                Ok(keys)
            }
            Err(none) => self.last().ok_or_else(|| {
                let none = none.of_source(self.held.lock().is_some());
                *failed = Some((Instant::now(), none.clone()));
                none
            }),
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

/// Asks a server that gives keys, whatever it answers, unless that is to come later.
pub(super) async fn ask(
    server: &Web,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer, NoKeys> {
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
    let away = |reason| NoKeys::Away { endpoint: server.endpoint.clone(), reason };
    let answer = server.send(&request).await.map_err(|error| match error {
        Error::Unreachable { reason, .. } => NoKeys::Absent { endpoint: server.endpoint.clone(), reason },
        transient if transient.is_transient() => away(transient.to_string()),
        other => NoKeys::Refused(other.to_string()),
    })?;
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS => Err(away(format!("HTTP {}", answer.status))),
        status if status.is_server_error() => Err(away(format!("HTTP {status}"))),
        _ => Ok(answer),
    }
}

/// The token that proves to a giver who asks, from a file that somebody else keeps fresh.
pub(super) async fn token_of(file: &Path) -> Result<Zeroizing<String>, NoKeys> {
    let read = tokio::fs::read_to_string(file).await;
    let text = Zeroizing::new(read.map_err(|error| format!("the token file {}: {error}", file.display()))?);
    match text.trim() {
        "" => Err(NoKeys::Refused(format!("the token file {} is empty", file.display()))),
        token => Ok(Zeroizing::new(token.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::Secret;

    /// Gives what is written down, the last first.
    struct Scripted(Mutex<Vec<Result<(&'static str, i64), NoKeys>>>);

    #[async_trait]
    impl Giver for Scripted {
        async fn give(&self) -> Result<Given, NoKeys> {
            // Others come to wait.
            tokio::task::yield_now().await;
            let (id, left_s) = self.0.lock().pop().expect("it is asked no more often")?;
            let keys = Keys { id: Secret::new(id), secret: Secret::new("s"), token: None };
            Ok(Given { keys, until: Some(Utc::now() + TimeDelta::seconds(left_s)) })
        }
    }

    fn scripted(script: Vec<Result<(&'static str, i64), NoKeys>>) -> Temporary<Scripted> {
        Temporary::new(Scripted(Mutex::new(script)))
    }

    async fn id(source: &Temporary<Scripted>) -> Result<String, NoKeys> {
        source.keys().await.map(|keys| keys.id.expose().to_owned())
    }

    fn absent<T>() -> Result<T, NoKeys> {
        Err(NoKeys::Absent { endpoint: "e".into(), reason: "r".into() })
    }

    fn away() -> Result<String, NoKeys> {
        Err(NoKeys::Away { endpoint: "e".into(), reason: "r".into() })
    }

    fn is(id: &str) -> Result<String, NoKeys> {
        Ok(id.to_owned())
    }

    async fn later(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    /// Whoever gives keys may be away for a while: what was given is used to its end, and not a moment longer. Nobody who
    /// has never been there is away.
    #[tokio::test(start_paused = true)]
    async fn keys_outlive_a_giver_that_is_away() {
        let refused = || Err(NoKeys::Refused("no".into()));
        let script =
            vec![Ok(("last", 3600)), refused(), Ok(("ended", 0)), absent(), absent(), Ok(("first", 120)), absent()];
        let source = scripted(script);
        assert!(matches!(id(&source).await, Err(NoKeys::Refused(_))), "nobody was ever there");
        later(1).await;
        assert_eq!((id(&source).await, id(&source).await), (is("first"), is("first")));
        later(100).await;
        assert_eq!(
            (id(&source).await, id(&source).await),
            (is("first"), is("first")),
            "asked once, and not at each request"
        );
        later(21).await;
        assert_eq!(id(&source).await, away());
        later(1).await;
        // Given with an end that has passed already: who asked has it, and nobody after.
        assert_eq!((id(&source).await, id(&source).await), (is("ended"), Err(NoKeys::Refused("no".into()))));
        later(1).await;
        assert_eq!((id(&source).await, id(&source).await), (is("last"), is("last")));
        assert!(source.renew().await, "they are too young to be asked for again");
        assert_eq!(id(&source).await, is("last"));
    }

    /// Who waits while another asks in vain hears what came of that, and does not ask again and again.
    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all_who_wait() {
        let source = scripted(vec![Ok(("late", 3600)), absent()]);
        let heard = futures::future::join_all((0..8).map(|_| id(&source))).await;
        assert!(heard.iter().all(|heard| matches!(heard, Err(NoKeys::Refused(_)))), "{heard:?}");
        later(1).await;
        assert_eq!(id(&source).await, is("late"));
    }
}
