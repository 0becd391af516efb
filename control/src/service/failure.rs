//! Errors of the rooms below, as the failures that cross the wire.

use citius_understore::{Error as StoreError, ErrorClass};
use citius_wire::{Failure, NamespacePath, Status};

use crate::raft;

/// What the log said. A command whose fate is not known is told so: a retry with its serial finds out.
pub(crate) fn of_log(error: &raft::Error) -> Failure {
    let status = match error {
        raft::Error::NotLeader { .. } => Status::NotLeader,
        raft::Error::TooLarge { .. } => Status::InvalidArgument,
        // Not `Unavailable`, which clients ask again until their time is up: only a restart helps.
        raft::Error::Failed { .. } => Status::LogStopped,
        raft::Error::Uncertain | raft::Error::Closed | raft::Error::NotReady { .. } => Status::Unavailable,
        _ => Status::Internal,
    };
    Failure::new(status, error.to_string())
}

/// What an under-store said when something was done to `path`, in the namespace's names.
pub(crate) fn of_store(doing: &str, error: &StoreError, path: &NamespacePath) -> Failure {
    let status = status_of(error.class());
    let words = match status {
        Status::NotFound => format!("{path}: no such file or directory"),
        Status::AlreadyExists => format!("{path} exists already: choose another name, or overwrite"),
        Status::NotADirectory => format!("{path} is not a directory"),
        Status::IsADirectory => format!("{path} is a directory"),
        Status::NotEmpty => format!("{path} is a directory with entries: delete them first, or delete recursively"),
        _ => error.told(doing, path),
    };
    Failure::new(status, words)
}

/// What an under-store said when it was to be mounted: its own words, which name the cure.
pub(crate) fn of_mount(error: &StoreError) -> Failure {
    Failure::new(status_of_mount(error.class()), error.to_string())
}

/// The status of a mount that cannot be, for a reason of this class.
pub(super) const fn status_of_mount(class: ErrorClass) -> Status {
    match status_of(class) {
        // What is missing is the folder or bucket, not the path in the namespace.
        Status::NotFound => Status::InvalidArgument,
        // The store was asked for as long as is sensible. `Unavailable` would have the client ask again, and whoever
        // mistyped an endpoint wait until all its time is up.
        Status::Unavailable | Status::Busy => Status::TimedOut,
        other => other,
    }
}

/// The status of the same name. Which class an error is of was decided where the error is made.
const fn status_of(class: ErrorClass) -> Status {
    match class {
        ErrorClass::NotFound => Status::NotFound,
        ErrorClass::AlreadyExists => Status::AlreadyExists,
        ErrorClass::NotADirectory => Status::NotADirectory,
        ErrorClass::IsADirectory => Status::IsADirectory,
        ErrorClass::NotEmpty => Status::NotEmpty,
        ErrorClass::InvalidArgument => Status::InvalidArgument,
        ErrorClass::InvalidName => Status::InvalidName,
        ErrorClass::EscapesMount => Status::EscapesMount,
        ErrorClass::PermissionDenied => Status::PermissionDenied,
        ErrorClass::VersionChanged => Status::VersionChanged,
        ErrorClass::Conflict => Status::Conflict,
        ErrorClass::Aborted => Status::Aborted,
        ErrorClass::NoSpace => Status::NoSpace,
        ErrorClass::Unavailable => Status::Unavailable,
        ErrorClass::TimedOut => Status::TimedOut,
        ErrorClass::Busy => Status::Busy,
        ErrorClass::ReadOnly => Status::ReadOnly,
        ErrorClass::Unsupported => Status::Unsupported,
        ErrorClass::UnderStore => Status::UnderStore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An under-store's error once had one status from a worker and another from a master, and with it another exit code.
    #[test]
    fn every_class_has_the_status_of_its_name() {
        for class in ErrorClass::ALL {
            assert_eq!(format!("{:?}", status_of(*class)), format!("{class:?}"));
        }
    }
}
