//! Why a master does not start, in words for the person who started it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use citius_wire::Failure;

use crate::raft;

/// Why a master did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder of the home failed.
    #[error("cannot {doing} {}: {source}; check that the home is a folder of yours with room in it", path.display())]
    Home {
        /// What was being done, as in "cannot *create* /x".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The home was written by a release that keeps it otherwise.
    #[error(
        "{} says format {found:?}, and this release knows only {known:?}: \
         start it with the release that wrote it, or choose another home", path.display()
    )]
    OtherVersion {
        /// The file that names the format.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this release writes.
        known: &'static str,
    },
    /// Something else listens there.
    #[error("{address} is in use, so {what} cannot listen there: stop what does, or choose another port (0 picks one)")]
    PortInUse {
        /// What wanted to listen.
        what: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("{what} cannot listen on {address}: {source}; use an address of this machine")]
    Listen {
        /// What wanted to listen.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The replicated log did not open.
    #[error(transparent)]
    Log(#[from] raft::Error),
    /// The under-store of `/` cannot be used.
    #[error("the root of the namespace cannot be mounted: {reason}")]
    Root {
        /// The store's own words.
        reason: String,
    },
    /// The namespace was founded on another root.
    #[error("this home was founded with the root {has}, not {asked}: leave the root out, or choose another home")]
    OtherRoot {
        /// The root it has, without secrets.
        has: String,
        /// The root that was asked for, without secrets.
        asked: String,
    },
    /// The state refused to be founded.
    #[error("the cluster cannot be founded: {0}")]
    Refused(Failure),
    /// No randomness for keys and ids.
    #[error("this machine gives no random bytes for keys: {0}")]
    Random(String),
}

impl Error {
    /// Puts `path` and what was being done to it around an I/O error.
    pub(crate) fn home(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Home { doing, path, source }
    }

    /// An error of binding a listener; a port in use has its own words.
    pub(crate) fn listen(what: &'static str, address: SocketAddr) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse { what, address },
            _ => Self::Listen { what, address, source },
        }
    }
}
