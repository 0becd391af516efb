//! An under-store's error as a client is told it.

use citius_understore::{Error, ErrorClass};
use citius_wire::{Failure, Status};

/// The class of an under-store's error, and what was being done to what when it came; its text names the cause and holds no
/// secret.
pub(crate) fn of_store(doing: &str, path: &str, error: &Error) -> Failure {
    Failure::new(status_of(error.class()), error.told(doing, path))
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
