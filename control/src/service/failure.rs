//! Errors of the rooms below, as the failures that cross the wire.

use citius_understore::Error as StoreError;
use citius_wire::{Failure, NamespacePath, Status};

use crate::raft;

/// What the log said. A command whose fate is not known is told so: a retry with its serial finds out.
pub(crate) fn of_log(error: &raft::Error) -> Failure {
    let status = match error {
        raft::Error::NotLeader { .. } => Status::NotLeader,
        raft::Error::TooLarge { .. } => Status::InvalidArgument,
        raft::Error::Uncertain | raft::Error::Closed | raft::Error::Failed { .. } | raft::Error::NotReady { .. } => {
            Status::Unavailable
        }
        _ => Status::Internal,
    };
    Failure::new(status, error.to_string())
}

/// What an under-store said about `path`, in the namespace's names.
pub(crate) fn of_store(error: &StoreError, path: &NamespacePath) -> Failure {
    let status = status_of(error);
    let words = match status {
        Status::NotFound => format!("{path}: no such file or directory"),
        Status::AlreadyExists => format!("{path} exists already: choose another name, or overwrite"),
        Status::NotADirectory => format!("{path} is not a directory"),
        Status::IsADirectory => format!("{path} is a directory"),
        Status::NotEmpty => format!("{path} is a directory with entries: delete them first, or delete recursively"),
        _ => format!("{path}: {error}"),
    };
    Failure::new(status, words)
}

/// What an under-store said when it was to be mounted: its own words, which name the cure.
pub(crate) fn of_mount(error: &StoreError) -> Failure {
    let status = match status_of(error) {
        // What is missing is the folder or bucket, not the path in the namespace.
        Status::NotFound => Status::InvalidArgument,
        // The store was asked for as long as is sensible. `Unavailable` would have the client ask again, and whoever
        // mistyped an endpoint wait until all its time is up.
        Status::Unavailable | Status::Busy => Status::TimedOut,
        other => other,
    };
    Failure::new(status, error.to_string())
}

fn status_of(error: &StoreError) -> Status {
    match error {
        StoreError::UnknownScheme { .. }
        | StoreError::InvalidUri { .. }
        | StoreError::UnknownOption { .. }
        | StoreError::InvalidOption { .. }
        | StoreError::MissingBucket { .. }
        | StoreError::MissingFolder { .. }
        | StoreError::NotAFolder { .. }
        | StoreError::WrongRegion { .. } => Status::InvalidArgument,
        StoreError::WrongKeys { .. } | StoreError::MissingKeys { .. } | StoreError::PermissionDenied { .. } => {
            Status::PermissionDenied
        }
        StoreError::NotFound { .. } => Status::NotFound,
        StoreError::AlreadyExists { .. } => Status::AlreadyExists,
        StoreError::NotADirectory { .. } => Status::NotADirectory,
        StoreError::IsADirectory { .. } => Status::IsADirectory,
        StoreError::NotEmpty { .. } => Status::NotEmpty,
        StoreError::Unnameable { .. } => Status::InvalidName,
        StoreError::EscapesMount { .. } => Status::EscapesMount,
        StoreError::VersionChanged { .. } => Status::VersionChanged,
        StoreError::Conflict { .. } => Status::Conflict,
        StoreError::ReadOnly { .. } => Status::ReadOnly,
        StoreError::NoSpace { .. } => Status::NoSpace,
        StoreError::NotSupported { .. } | StoreError::NotAFile { .. } => Status::Unsupported,
        StoreError::Busy { .. } => Status::Busy,
        StoreError::TimedOut { .. } => Status::TimedOut,
        StoreError::Unreachable { .. } | StoreError::ClockSkew { .. } | StoreError::Cancelled { .. } => {
            Status::Unavailable
        }
        StoreError::StagedLost { .. } | StoreError::Expired { .. } => Status::Aborted,
        _ => Status::UnderStore,
    }
}
