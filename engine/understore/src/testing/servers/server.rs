//! What tests may do with any server.

use std::io;

use super::guard::Guard;

/// A running server.
pub trait Server {
    /// The processes that serve. A mount's client is none: it is the near side of what a fault is tried on.
    fn processes(&self) -> Processes<'_>;

    /// Stops all of its processes where they are, as SIGSTOP does: connections are accepted and nothing is answered.
    ///
    /// # Errors
    /// When a process of it has ended by itself.
    fn pause(&self) -> io::Result<()> {
        self.processes().0.into_iter().try_for_each(Guard::pause)
    }

    /// Lets a paused server go on.
    ///
    /// # Errors
    /// As [`Server::pause`].
    fn resume(&self) -> io::Result<()> {
        self.processes().0.into_iter().try_for_each(Guard::resume)
    }
}

/// The processes of a server.
#[derive(Debug)]
pub struct Processes<'a>(pub(super) Vec<&'a Guard>);
