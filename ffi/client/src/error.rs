//! What a call gives when it fails: the class of the failure, words for a person, the path and the address concerned.

use crate::connection::Fault;
use citius_wire::{ExitCode, Failure, Status};
use core::fmt;
use std::io;
use std::sync::Arc;

/// A failed call. Cheap to clone, so that all operations of a batch can share one.
#[derive(Clone)]
pub struct Error(Arc<Detail>);

#[derive(Clone)]
struct Detail {
    status: Status,
    message: String,
    path: Option<String>,
    address: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self(Arc::new(Detail { status, message: message.into(), path: None, address: None, source: None }))
    }

    /// What went wrong on a connection to `address`.
    pub(crate) fn of_fault(fault: Fault, address: &str) -> Self {
        let status = fault.status();
        let message = match &fault {
            Fault::Failed(failure) => failure.message.clone(),
            Fault::Refused(error) => format!("cannot connect to {address}: {error}; is it running?"),
            Fault::Broken(error) => format!("the connection to {address} broke: {error}"),
            Fault::TimedOut(allowed) => format!("{address} did not answer within {}", rounded(*allowed)),
            Fault::Frame(error) => format!("{address} broke the protocol: {error}"),
            Fault::Unexpected(what) => format!("{address} broke the protocol: {what}"),
            Fault::Corrupt { offset } => {
                format!("bytes from {address} at offset {offset} do not match their checksum")
            }
        };
        Self(Arc::new(Detail {
            status,
            message,
            path: None,
            address: Some(address.to_owned()),
            source: Some(Arc::new(fault)),
        }))
    }

    /// The same failure, of this path unless it already names one.
    pub(crate) fn at(mut self, path: impl fmt::Display) -> Self {
        let detail = Arc::make_mut(&mut self.0);
        detail.path.get_or_insert_with(|| path.to_string());
        self
    }

    /// The end of a call whose last attempt failed with `self` when no time was left for another.
    pub(crate) fn out_of_time(mut self, allowed: core::time::Duration) -> Self {
        if self.status() != Status::TimedOut {
            let detail = Arc::make_mut(&mut self.0);
            detail.message = format!("{} (given up after {})", detail.message, rounded(allowed));
        }
        self
    }

    /// The class of the failure.
    pub fn status(&self) -> Status {
        self.0.status
    }

    /// What happened, why, and what to do, without the path.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The namespace path concerned, if there is one.
    pub fn path(&self) -> Option<&str> {
        self.0.path.as_deref()
    }

    /// The master or worker concerned, if one is.
    pub fn address(&self) -> Option<&str> {
        self.0.address.as_deref()
    }

    /// The exit code of a command that ends with this.
    pub fn exit_code(&self) -> ExitCode {
        self.status().exit_code()
    }

    /// The nearest kind that the standard library has.
    pub fn io_kind(&self) -> io::ErrorKind {
        match self.status() {
            Status::NotFound => io::ErrorKind::NotFound,
            Status::AlreadyExists => io::ErrorKind::AlreadyExists,
            Status::NotADirectory => io::ErrorKind::NotADirectory,
            Status::IsADirectory => io::ErrorKind::IsADirectory,
            Status::NotEmpty => io::ErrorKind::DirectoryNotEmpty,
            Status::InvalidArgument | Status::InvalidName => io::ErrorKind::InvalidInput,
            Status::Unauthenticated
            | Status::PermissionDenied
            | Status::CapabilityForged
            | Status::CapabilityExpired
            | Status::EscapesMount => io::ErrorKind::PermissionDenied,
            Status::FileBusy | Status::Busy => io::ErrorKind::ResourceBusy,
            Status::NoSpace => io::ErrorKind::StorageFull,
            Status::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            Status::Unsupported => io::ErrorKind::Unsupported,
            Status::CrossMount => io::ErrorKind::CrossesDevices,
            Status::TimedOut => io::ErrorKind::TimedOut,
            Status::Unavailable | Status::NotLeader | Status::WrongEpoch | Status::LogStopped => {
                io::ErrorKind::NotConnected
            }
            Status::DataLost | Status::Corrupt | Status::Protocol => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.path {
            // Masters and workers often name the path themselves; once is enough.
            Some(path) if !self.0.message.contains(path.as_str()) => write!(f, "{path}: {}", self.0.message),
            _ => f.write_str(&self.0.message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.status())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.status, failure.message)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.io_kind(), error)
    }
}

/// A time to the millisecond: what is left of a deadline has more digits than anybody asked for.
fn rounded(time: core::time::Duration) -> String {
    format!("{:?}", core::time::Duration::from_millis((time.as_secs_f64() * 1e3).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn says_what_where_and_who() {
        let error = Error::of_fault(Fault::TimedOut(Duration::from_secs(3)), "10.0.0.1:7000").at("/a/b");
        assert_eq!(error.to_string(), "/a/b: 10.0.0.1:7000 did not answer within 3s");
        assert_eq!(error.status(), Status::TimedOut);
        assert_eq!(error.exit_code(), ExitCode::Unavailable);
        assert_eq!(error.address(), Some("10.0.0.1:7000"));
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn the_first_path_stays_and_is_said_once() {
        let error = Error::from(Failure::new(Status::NotFound, "/a does not exist")).at("/a").at("/b");
        assert_eq!(error.to_string(), "/a does not exist");
        assert_eq!(error.path(), Some("/a"));
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    }
}
