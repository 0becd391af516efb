//! What went wrong, in words that every part shares: a status decides the exit code and whether to try again.

use crate::ring::Ring;
use core::fmt;
use rkyv::{Archive, Deserialize, Serialize};

/// The class of a failure. Numbers are part of the wire format and never change meaning.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[non_exhaustive]
#[repr(u8)]
pub enum Status {
    /// The path, mount or block does not exist.
    NotFound = 1,
    /// `create`, `mkdir` or `rename` met something that is there.
    AlreadyExists = 2,
    /// A directory was expected.
    NotADirectory = 3,
    /// A file was expected.
    IsADirectory = 4,
    /// A directory with children was to be removed without `recursive`.
    NotEmpty = 5,
    /// An argument makes no sense; trying again cannot help.
    InvalidArgument = 6,
    /// A name that Citius or the under-store cannot carry.
    InvalidName = 7,
    /// A path or symbolic link that leads out of its mount.
    EscapesMount = 8,
    /// No token, or a wrong one.
    Unauthenticated = 9,
    /// The token is right, the right is not there.
    PermissionDenied = 10,
    /// A capability whose MAC is wrong.
    CapabilityForged = 11,
    /// A capability past its time: open again.
    CapabilityExpired = 12,
    /// Asked of a worker that does not own the block in its epoch; the failure carries the ring.
    WrongEpoch = 13,
    /// The under-store's file is not the one that was opened.
    VersionChanged = 14,
    /// Another writer holds the path.
    FileBusy = 15,
    /// The under-store's file changed while it was being replaced.
    Conflict = 16,
    /// The file being written was deleted, renamed over, or its lease ran out.
    Aborted = 17,
    /// No room, and nothing may be evicted.
    NoSpace = 18,
    /// Unpersisted data whose every replica is gone.
    DataLost = 19,
    /// Bytes that do not match their checksum, with no good copy left.
    Corrupt = 20,
    /// Nobody answers, or the answer is "not now".
    Unavailable = 21,
    /// The deadline passed.
    TimedOut = 22,
    /// A bounded queue is full.
    Busy = 23,
    /// The mount is read-only.
    ReadOnly = 24,
    /// Asked of a master that does not lead.
    NotLeader = 25,
    /// The under-store or this version cannot do it.
    Unsupported = 26,
    /// The peer broke the protocol.
    Protocol = 27,
    /// The under-store failed, with its own words in the message.
    UnderStore = 28,
    /// Across two mounts, where only a copy would do.
    CrossMount = 29,
    /// A defect of Citius.
    Internal = 30,
    /// The log of this master stopped at an error of its disk, and a person must restart it. Asking the same master again
    /// is in vain; whether a change that was under way happened shows after the restart.
    LogStopped = 31,
}

/// Exit codes of the command line; one meaning each, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Any failure with no code of its own.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Not found.
    NotFound = 3,
    /// Denied.
    Denied = 4,
    /// Unavailable: try again later.
    Unavailable = 5,
    /// Integrity: data is lost or corrupt.
    Integrity = 6,
    /// Some of it worked.
    Partial = 7,
}

impl Status {
    /// Whether the same request may succeed soon, unchanged.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Busy | Self::NotLeader | Self::WrongEpoch)
    }

    /// The exit code of a command that ends with this.
    pub const fn exit_code(self) -> ExitCode {
        match self {
            Self::NotFound => ExitCode::NotFound,
            Self::Unauthenticated
            | Self::PermissionDenied
            | Self::CapabilityForged
            | Self::CapabilityExpired
            | Self::EscapesMount
            | Self::ReadOnly => ExitCode::Denied,
            Self::Unavailable | Self::TimedOut | Self::Busy | Self::NotLeader | Self::WrongEpoch | Self::LogStopped => {
                ExitCode::Unavailable
            }
            Self::DataLost | Self::Corrupt => ExitCode::Integrity,
            Self::InvalidArgument | Self::InvalidName => ExitCode::Usage,
            _ => ExitCode::Failure,
        }
    }
}

/// A failure as it crosses the wire: its class, the words for the user, and the ring if that is what was wrong.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class.
    pub status: Status,
    /// What happened, to what, why, and what to do. Never a secret.
    pub message: String,
    /// With [`Status::WrongEpoch`]: the ring to route by.
    pub ring: Option<Box<Ring>>,
}

impl Failure {
    /// A failure without a ring.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), ring: None }
    }

    /// The refusal of a worker that does not own what it was asked for.
    pub fn wrong_epoch(ring: Ring) -> Self {
        Self {
            status: Status::WrongEpoch,
            message: format!("the ring is now of epoch {}", ring.epoch),
            ring: Some(Box::new(ring)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
