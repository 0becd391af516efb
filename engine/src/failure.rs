//! An under-store's error as a client is told it.

use citius_understore::Error;
use citius_wire::{Failure, Status};

/// The class and the words of an under-store's error; its text names path and cause and holds no secret.
pub(crate) fn of_store(error: &Error) -> Failure {
    let status = match error {
        Error::NotFound { .. } => Status::NotFound,
        Error::AlreadyExists { .. } => Status::AlreadyExists,
        Error::NotADirectory { .. } => Status::NotADirectory,
        Error::IsADirectory { .. } => Status::IsADirectory,
        Error::NotEmpty { .. } => Status::NotEmpty,
        Error::Unnameable { .. } => Status::InvalidName,
        Error::EscapesMount { .. } => Status::EscapesMount,
        Error::NotAFile { .. } => Status::InvalidArgument,
        Error::VersionChanged { .. } => Status::VersionChanged,
        Error::Conflict { .. } => Status::Conflict,
        Error::ReadOnly { .. } => Status::ReadOnly,
        Error::NoSpace { .. } => Status::NoSpace,
        Error::NotSupported { .. } => Status::Unsupported,
        Error::Busy { .. } => Status::Busy,
        Error::TimedOut { .. } => Status::TimedOut,
        Error::Unreachable { .. } | Error::Cancelled { .. } => Status::Unavailable,
        Error::PermissionDenied { .. } | Error::WrongKeys { .. } | Error::MissingKeys { .. } => {
            Status::PermissionDenied
        }
        _ => Status::UnderStore,
    };
    Failure::new(status, error.to_string())
}
