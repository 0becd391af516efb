//! What can go wrong with the log, in words for the person who has to act.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the replicated log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the log or a snapshot could not be read or written while opening.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done, as in "cannot *create* /x".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is on disk is not what was written there. Nothing was changed by finding out.
    #[error(
        "{} is damaged: {what}. Nothing was changed; restore the folder from a copy, \
         or move it away to start with an empty namespace", path.display()
    )]
    Corrupt {
        /// The file or folder.
        path: PathBuf,
        /// What was expected, and what was found.
        what: String,
    },
    /// Another process has the log open.
    #[error("{} is in use by another process; stop it first, or choose another home", path.display())]
    InUse {
        /// The log's folder.
        path: PathBuf,
    },
    /// This member does not lead; the command was not logged.
    #[error("this master does not lead the cluster{}", leader.as_ref().map(|at| format!("; ask {at}")).unwrap_or_default())]
    NotLeader {
        /// The leader's address, where it is known.
        leader: Option<String>,
    },
    /// The log failed and takes no more commands. A command that was in flight may or may not be
    /// found after the restart.
    #[error("the log in {} stopped: {why}. Free space or repair the disk, then restart the master", path.display())]
    Failed {
        /// The log's folder.
        path: PathBuf,
        /// The first error.
        why: String,
    },
    /// Leadership changed under a command: it may or may not have been committed.
    #[error("leadership changed while the command was in flight; it may or may not have been carried out")]
    Uncertain,
    /// The log is shutting down; the command was not logged, unless it was in flight.
    #[error("the log is closed")]
    Closed,
    /// The commands do not fit into one entry.
    #[error("a batch of {bytes} bytes is larger than an entry of the log may be ({bytes_max} bytes)")]
    TooLarge {
        /// The size of the commands.
        bytes: usize,
        /// The largest allowed.
        bytes_max: usize,
    },
    /// The log did not come up in time.
    #[error("the log in {} did not get ready: nothing happened for {waited_ms} ms", path.display())]
    NotReady {
        /// The log's folder.
        path: PathBuf,
        /// How long it was waited for.
        waited_ms: u64,
    },
}

impl Error {
    /// Puts `path` and what was being done to it around an I/O error.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { doing, path, source }
    }

    pub(crate) fn corrupt(path: &Path, what: impl Into<String>) -> Error {
        Error::Corrupt { path: path.to_path_buf(), what: what.into() }
    }
}
