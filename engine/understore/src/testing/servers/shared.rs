//! One server for several tests of a process.
//!
//! It is started for the first that asks, and ends with the last that has it, so nothing outlives the tests that wanted it.
//! Tests of one system that follow each other on several threads overlap, and have one server; on a single thread each
//! has its own. Whoever restarts or pauses a server, or looks at all that it has, as the conformance suite does, starts one
//! for itself.

use std::{
    io,
    ops::Deref,
    sync::{Arc, Weak},
};

use tokio::sync::Mutex;

use super::server::Server;

/// A server that a test may find started; a `static`.
#[derive(Debug)]
pub struct Shared<S> {
    started: Mutex<Weak<S>>,
}

/// A server as long as a test has it.
#[derive(Debug)]
pub struct Lease<S: Server> {
    server: Arc<S>,
}

impl<S: Server> Shared<S> {
    /// None is started yet.
    #[allow(clippy::new_without_default, reason = "a static needs a constant")]
    pub const fn new() -> Self {
        Self { started: Mutex::const_new(Weak::new()) }
    }

    /// The server that others have, or else a fresh one.
    ///
    /// # Errors
    /// Those of `start`.
    pub async fn get(&self, start: impl AsyncFnOnce() -> io::Result<S>) -> io::Result<Lease<S>> {
        let mut started = self.started.lock().await;
        let server = match started.upgrade() {
            Some(server) => server,
            None => Arc::new(start().await?),
        };
        *started = Arc::downgrade(&server);
        Ok(Lease { server })
    }
}

impl<S: Server> Deref for Lease<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.server
    }
}

impl<S: Server> Drop for Lease<S> {
    fn drop(&mut self) {
        // The last to have it ends its guards, which show their logs themselves.
        if std::thread::panicking() && Arc::strong_count(&self.server) > 1 {
            self.server.processes().show_logs();
        }
    }
}
