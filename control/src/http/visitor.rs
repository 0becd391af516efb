//! One connection: a guest at the door until it shows the token, then seated.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use citius_wire::{Greeting, Greetings};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Site, guard};

/// Where connections are.
pub(super) struct Hall {
    site: Arc<Site>,
    router: TowerToHyperService<Router>,
    door: Greetings<oneshot::Sender<()>>,
    seats: Arc<Semaphore>,
}

/// A connection.
pub(super) struct Visitor {
    hall: Arc<Hall>,
    standing: Mutex<Standing>,
}

enum Standing {
    /// Its place is another's when that one needs it.
    AtTheDoor(#[allow(dead_code, reason = "it is held")] Greeting<oneshot::Sender<()>>),
    Seated(#[allow(dead_code, reason = "it is held")] OwnedSemaphorePermit),
}

impl Hall {
    pub(super) fn new(site: Arc<Site>, router: Router) -> Arc<Self> {
        Arc::new(Self {
            door: Greetings::new(site.greetings_max),
            seats: Arc::new(Semaphore::new(site.connections_max)),
            router: TowerToHyperService::new(router),
            site,
        })
    }

    /// A newcomer, and what ends when its place at the door is needed.
    pub(super) fn enter(self: &Arc<Self>) -> (Arc<Visitor>, impl Future<Output = ()> + use<>) {
        let (hold, ousted) = oneshot::channel();
        let standing = Mutex::new(Standing::AtTheDoor(self.door.enter(hold)));
        let visitor = Arc::new(Visitor { hall: Arc::clone(self), standing });
        let watched = Arc::clone(&visitor);
        let leaves = async move {
            // An error, as nothing is ever sent: the place was given up, for a seat or for another.
            drop(ousted.await);
            if watched.is_seated() {
                std::future::pending::<()>().await;
            }
        };
        (visitor, leaves)
    }
}

impl Visitor {
    /// Answers a request.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if guard::shows_token(request.headers(), &self.hall.site.token) && !self.sit() {
            let words = format!(
                "this server has {} connections already, the most that its limit of open files allows: close some, or \
                 raise its `ulimit -n`",
                self.hall.site.connections_max
            );
            let mut refusal = guard::refusal(StatusCode::SERVICE_UNAVAILABLE, &words);
            refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return Ok(refusal);
        }
        self.hall.router.call(request).await
    }

    fn is_seated(&self) -> bool {
        matches!(*self.standing.lock(), Standing::Seated(_))
    }

    /// Takes a seat, if it has none; whether it has one now.
    fn sit(&self) -> bool {
        if self.is_seated() {
            return true;
        }
        let Ok(seat) = Arc::clone(&self.hall.seats).try_acquire_owned() else { return false };
        let before = std::mem::replace(&mut *self.standing.lock(), Standing::Seated(seat));
        // Only now: whoever watches the place looks for the seat when it is given up.
        drop(before);
        true
    }
}
