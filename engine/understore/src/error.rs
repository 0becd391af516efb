//! What can go wrong at an under-store, in words for the person who mounted it.
//!
//! Every message says what happened, why, and what to do next. No variant ever carries a secret: URIs are
//! stored after [`crate::redact`], and option values are named, not shown.

use std::{fmt, io};

/// The error below ours, kept for its text and its chain.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an under-store refused or failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URI names a system that this build cannot speak to.
    #[error("cannot mount {uri}: the scheme \"{scheme}\" is unknown; use one of {known}")]
    UnknownScheme {
        /// The URI, redacted.
        uri: String,
        /// What stands before the colon.
        scheme: String,
        /// The schemes of this build.
        known: String,
    },
    /// The URI has the right scheme and the wrong shape.
    #[error("cannot mount {uri}: {reason}")]
    InvalidUri {
        /// The URI, redacted.
        uri: String,
        /// What is wrong, and the right shape.
        reason: String,
    },
    /// No under-store of this scheme has such an option.
    #[error("cannot mount {uri}: unknown option \"{option}\"; {advice}")]
    UnknownOption {
        /// The URI, redacted.
        uri: String,
        /// The option's name.
        option: String,
        /// The options that exist, or the one that was meant.
        advice: String,
    },
    /// An option has a value that cannot work, or lacks its partner.
    #[error("cannot mount {uri}: option \"{option}\": {reason}")]
    InvalidOption {
        /// The URI, redacted.
        uri: String,
        /// The option's name.
        option: String,
        /// Why, and what to set instead; never the value of a secret.
        reason: String,
    },
    /// The bucket does not exist at the endpoint that was asked.
    #[error("{kind} \"{bucket}\" does not exist at {endpoint}; {advice}")]
    MissingBucket {
        /// What the system calls it.
        kind: &'static str,
        /// The bucket.
        bucket: String,
        /// The endpoint.
        endpoint: String,
        /// What to do, in the names of this system's options.
        advice: &'static str,
    },
    /// The mounted folder does not exist where it was looked for.
    #[error("folder {path} does not exist; create it, or check the path")]
    MissingFolder {
        /// The folder.
        path: String,
    },
    /// What was to be mounted is not a folder.
    #[error("{path} is not a folder, so it cannot be mounted; mount the folder that holds it")]
    NotAFolder {
        /// The path.
        path: String,
    },
    /// Nothing answers at the endpoint.
    #[error("{endpoint} does not answer ({reason}); {advice}")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// What the connection said.
        reason: String,
        /// What to do, in the names of this system's options.
        advice: &'static str,
    },
    /// The server says that it is asked too much, and did nothing.
    #[error("{endpoint} is asked too much ({reason}); try again in a while, or lower max_concurrency")]
    Throttled {
        /// The endpoint.
        endpoint: String,
        /// What it said.
        reason: String,
        /// How long it wants to be left alone.
        retry_after: Option<std::time::Duration>,
    },
    /// Somebody answers at the endpoint, and is not whom we trust, or speaks no TLS.
    #[error("no safe connection to {endpoint} ({reason}); {advice}")]
    Untrusted {
        /// The endpoint.
        endpoint: String,
        /// What the handshake said.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// The store knows no such key or user, or was shown another secret than its own.
    #[error("{endpoint} refused the keys ({reason}); {advice}")]
    WrongKeys {
        /// The endpoint.
        endpoint: String,
        /// The store's own code.
        reason: String,
        /// What to do, in the names of this system's options.
        advice: &'static str,
    },
    /// No source of keys answered.
    #[error("no keys for {endpoint} ({reason}); {advice}")]
    MissingKeys {
        /// The endpoint.
        endpoint: String,
        /// Which sources were tried.
        reason: String,
        /// What to do, in the names of this system's options.
        advice: &'static str,
    },
    /// The bucket lives in another region than the one requests are signed for.
    #[error("bucket \"{bucket}\" is not in region {region} ({reason}); {advice}")]
    WrongRegion {
        /// The bucket.
        bucket: String,
        /// The region that was used.
        region: String,
        /// What the store said.
        reason: String,
        /// What to do, in the names of this system's options.
        advice: &'static str,
    },
    /// The clocks of this machine and of the store differ by more than the store allows.
    #[error("{endpoint} refused the time of this machine ({reason}); set the clock")]
    ClockSkew {
        /// The endpoint.
        endpoint: String,
        /// What the store said.
        reason: String,
    },
    /// The keys are good, and do not allow this.
    #[error("{path}: the under-store denies access ({reason}); give these credentials the right, or use others")]
    PermissionDenied {
        /// The path.
        path: String,
        /// What the store said.
        reason: String,
    },
    /// Why a publication did not happen, and never will: the only request for it was refused.
    #[error(transparent)]
    Unpublished(Box<Self>),
    /// Nothing is there.
    #[error("{path}: no such file or directory in the under-store")]
    NotFound {
        /// The path.
        path: String,
    },
    /// Something is there already.
    #[error("{path}: exists already; choose another name, or overwrite")]
    AlreadyExists {
        /// The path.
        path: String,
    },
    /// A directory was asked for.
    #[error("{path}: is not a directory")]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// A file was asked for.
    #[error("{path}: is a directory")]
    IsADirectory {
        /// The path.
        path: String,
    },
    /// The directory has entries.
    #[error("{path}: the directory is not empty; delete its entries first, or delete recursively")]
    NotEmpty {
        /// The path.
        path: String,
    },
    /// The store cannot hold this name, or we cannot show it.
    #[error("{path:?}: cannot be named here: {reason}")]
    Unnameable {
        /// The path.
        path: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// A symbolic link leads out of the mounted folder.
    #[error("{path}: a symbolic link leads out of the mounted folder; mount the folder it points to")]
    EscapesMount {
        /// The path.
        path: String,
    },
    /// A socket, a pipe, a device or a dangling link.
    #[error("{path}: is {what}, which cannot be read as a file")]
    NotAFile {
        /// The path.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The file is no longer the version that the reader was promised.
    #[error("{path}: changed in the under-store since it was opened; open it again")]
    VersionChanged {
        /// The path.
        path: String,
    },
    /// Somebody else changed the target between create and publish.
    #[error("{path}: changed in the under-store since it was created here ({reason}); nothing was overwritten")]
    Conflict {
        /// The path.
        path: String,
        /// What was found instead.
        reason: String,
    },
    /// The store sent another number of bytes than it promised.
    #[error("{path}: the under-store sent {got} bytes where {expected} were due; try again")]
    WrongLength {
        /// The path.
        path: String,
        /// Bytes due.
        expected: u64,
        /// Bytes that came; at least this many when it was more.
        got: u64,
    },
    /// The store sent as many bytes as were due, from another place.
    #[error(
        "{path}: the under-store sent bytes {}-{} where {}-{} were due; try again", got.start, got.end, expected.start, expected.end
    )]
    WrongRange {
        /// The path.
        path: String,
        /// Which were due.
        expected: std::ops::Range<u64>,
        /// Which came.
        got: std::ops::Range<u64>,
    },
    /// The store sent other bytes than it said it would.
    #[error(
        "{path}: what arrived does not match the digest ({digest}) that the under-store told of it; try again, and see what damages bytes on their way: a proxy, a disk, memory"
    )]
    Damaged {
        /// The path.
        path: String,
        /// What kind of digest.
        digest: &'static str,
    },
    /// The mount, or the file system under it, takes no writes.
    #[error("{path}: the mount is read-only; mount it without the read-only option to write")]
    ReadOnly {
        /// The path.
        path: String,
    },
    /// The store has no room.
    #[error("{path}: no space left in the under-store; free some, or raise its quota")]
    NoSpace {
        /// The path.
        path: String,
    },
    /// The store holds no file of so many bytes.
    #[error(
        "{path}: is too large for this under-store, which takes at most {bytes_max} bytes of it; write several files, or write it to another mount"
    )]
    TooLarge {
        /// The path.
        path: String,
        /// Bytes of the largest file.
        bytes_max: u64,
    },
    /// The store has no such operation.
    #[error("{store} cannot {operation}")]
    NotSupported {
        /// The store.
        store: String,
        /// What was asked.
        operation: &'static str,
    },
    /// A named bound is reached.
    #[error("too many {what} at once (at most {limit}); try again shortly")]
    Busy {
        /// What there are too many of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The call was given up when its time was over.
    #[error("{path}: the under-store took longer than {seconds} s; check its health, then try again")]
    TimedOut {
        /// The path.
        path: String,
        /// The bound.
        seconds: u64,
    },
    /// The file system of a mounted folder gives no answer.
    #[error(
        "no answer came from {target} for {seconds} s; see whether the server of this file system is up, then try again"
    )]
    Away {
        /// What was asked about: the folder's URI, and the path below it.
        target: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A staged write outlived the time in which it may be published.
    #[error("{path}: was sealed too long ago to be published safely; seal it again")]
    Expired {
        /// The path.
        path: String,
    },
    /// The staged bytes are gone or are not those that were sealed.
    #[error("{path}: the staged write {file_id} is gone ({reason}); write the file again")]
    StagedLost {
        /// The path.
        path: String,
        /// The file's id, in hex.
        file_id: String,
        /// What was found.
        reason: String,
    },
    /// A stored record cannot be read.
    #[error("a staged record cannot be read: {reason}")]
    BadRecord {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The job was dropped before it ran, because its runtime ended.
    #[error("{path}: the fetch was cancelled")]
    Cancelled {
        /// The path.
        path: String,
    },
    /// A call of the operating system failed.
    #[error("{path}: {operation} failed: {source}")]
    Io {
        /// The path.
        path: String,
        /// What was being done.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The store failed in a way that has no name here.
    #[error("{path}: the under-store failed: {source}")]
    Store {
        /// The path.
        path: String,
        /// What the store said.
        source: Source,
    },
}

/// What to do about the mistakes that people make with any system, in the names of one system's options. Each system has
/// one of these beside its options.
#[derive(Debug)]
pub(crate) struct Advice {
    /// What holds its objects: a bucket, a container.
    pub(crate) bucket: &'static str,
    /// Of [`Error::MissingBucket`].
    pub(crate) missing_bucket: &'static str,
    /// Of [`Error::Unreachable`].
    pub(crate) unreachable: &'static str,
    /// Of [`Error::WrongKeys`].
    pub(crate) wrong_keys: &'static str,
    /// Of [`Error::MissingKeys`].
    pub(crate) missing_keys: &'static str,
    /// Of [`Error::WrongRegion`].
    pub(crate) wrong_region: &'static str,
}

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a caller can do about an [`Error`]: the one sorting of errors that everybody shares who passes them on.
        ///
        /// The names are those of the statuses that cross the wire, so that who translates one into the other has nothing
        /// to decide. New classes are meant to break those translations.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorClass {
            $($(#[$doc])* $name,)*
        }

        impl ErrorClass {
            /// Every class.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

classes! {
    /// Nothing is there: ask for something else.
    NotFound,
    /// Something is there: choose another name, or replace it.
    AlreadyExists,
    /// A file is where a directory was meant.
    NotADirectory,
    /// A directory is where a file was meant.
    IsADirectory,
    /// Delete what is in the directory first.
    NotEmpty,
    /// The mount itself is wrong, in its URI, its options, or what they name: whoever mounted it must change that.
    InvalidArgument,
    /// The store cannot hold this name: choose another.
    InvalidName,
    /// The path leads out of the mount: mount what it leads to.
    EscapesMount,
    /// The store refuses who asks: somebody must change keys, rights or this machine's clock.
    PermissionDenied,
    /// The version asked for is gone: open the file again.
    VersionChanged,
    /// Somebody else changed the target meanwhile: look at it, then decide.
    Conflict,
    /// The staged write cannot be published any more: write the file again.
    Aborted,
    /// Make room in the store.
    NoSpace,
    /// The store or the way to it is away: wait.
    Unavailable,
    /// The answer is later than anybody waits: look after the store.
    TimedOut,
    /// A bound of ours is reached: wait a moment.
    Busy,
    /// The mount takes no writes.
    ReadOnly,
    /// The store, or what lies at the path, cannot do it, ever.
    Unsupported,
    /// The store failed in its own way: read what it said.
    UnderStore,
}

impl Error {
    /// What whoever asked is told: what was being done, to what, and why it failed.
    pub fn told(&self, doing: &str, path: impl fmt::Display) -> String {
        let (path, words) = (path.to_string(), self.to_string());
        let cause = words.strip_prefix(&path).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&words);
        format!("{doing} {path}: {cause}")
    }

    /// Whether the thing asked for simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether a publication that ended like this did not happen, and never will.
    pub fn refuses_publication(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. } | Self::Conflict { .. } | Self::Unpublished(_))
    }

    /// This error of a publication, of which it may be known that it did not happen and never will.
    pub(crate) fn unpublished_if(self, is_known: bool) -> Self {
        if is_known && !self.refuses_publication() { Self::Unpublished(Box::new(self)) } else { self }
    }

    /// What a caller can do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unpublished(error) => error.class(),
            Self::UnknownScheme { .. }
            | Self::InvalidUri { .. }
            | Self::UnknownOption { .. }
            | Self::InvalidOption { .. }
            | Self::MissingBucket { .. }
            | Self::MissingFolder { .. }
            | Self::NotAFolder { .. }
            | Self::WrongRegion { .. } => ErrorClass::InvalidArgument,
            Self::WrongKeys { .. }
            | Self::MissingKeys { .. }
            | Self::Untrusted { .. }
            | Self::ClockSkew { .. }
            | Self::PermissionDenied { .. } => ErrorClass::PermissionDenied,
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::AlreadyExists { .. } => ErrorClass::AlreadyExists,
            Self::NotADirectory { .. } => ErrorClass::NotADirectory,
            Self::IsADirectory { .. } => ErrorClass::IsADirectory,
            Self::NotEmpty { .. } => ErrorClass::NotEmpty,
            Self::Unnameable { .. } => ErrorClass::InvalidName,
            Self::EscapesMount { .. } => ErrorClass::EscapesMount,
            Self::NotAFile { .. } | Self::NotSupported { .. } | Self::TooLarge { .. } => ErrorClass::Unsupported,
            Self::VersionChanged { .. } => ErrorClass::VersionChanged,
            Self::Conflict { .. } => ErrorClass::Conflict,
            Self::Expired { .. } | Self::StagedLost { .. } => ErrorClass::Aborted,
            Self::ReadOnly { .. } => ErrorClass::ReadOnly,
            Self::NoSpace { .. } => ErrorClass::NoSpace,
            Self::Busy { .. } => ErrorClass::Busy,
            Self::TimedOut { .. } | Self::Away { .. } => ErrorClass::TimedOut,
            Self::Unreachable { .. } | Self::Throttled { .. } | Self::Cancelled { .. } => ErrorClass::Unavailable,
            Self::Io { source, .. } if is_away(source) => ErrorClass::Unavailable,
            Self::WrongLength { .. }
            | Self::WrongRange { .. }
            | Self::Damaged { .. }
            | Self::BadRecord { .. }
            | Self::Io { .. }
            | Self::Store { .. } => ErrorClass::UnderStore,
        }
    }

    /// Whether the same call may succeed later with nothing changed by the caller.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Throttled { .. }
            | Self::TimedOut { .. }
            | Self::Away { .. }
            | Self::Busy { .. }
            | Self::WrongLength { .. }
            | Self::WrongRange { .. }
            | Self::Damaged { .. }
            | Self::Store { .. } => true,
            Self::Io { source, .. } => is_away(source),
            _ => false,
        }
    }
}

/// Whether a file system says that its server is away, as those do that ask one and are given up by it (FUSE, NFS).
fn is_away(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable,
        NotConnected, StaleNetworkFileHandle, TimedOut,
    };
    matches!(
        error.kind(),
        NotConnected
            | TimedOut
            | StaleNetworkFileHandle
            | HostUnreachable
            | NetworkUnreachable
            | NetworkDown
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_is_what_waiting_cures() {
        let path = || "a".to_owned();
        assert!(Error::TimedOut { path: path(), seconds: 1 }.is_transient());
        assert!(!Error::NotFound { path: path() }.is_transient());
        assert!(!Error::Conflict { path: path(), reason: String::new() }.is_transient());
        assert!(Error::NotFound { path: path() }.is_not_found());
        let io = |kind: io::ErrorKind| Error::Io { path: path(), operation: "read", source: kind.into() };
        let (away, broken) = (io(io::ErrorKind::NotConnected), io(io::ErrorKind::InvalidInput));
        assert!(away.is_transient() && away.class() == ErrorClass::Unavailable);
        assert!(!broken.is_transient() && broken.class() == ErrorClass::UnderStore);
    }

    /// An endpoint that was away was once told without a word of the file it was wanted for.
    #[test]
    fn whoever_asked_is_told_of_what() {
        let away = Error::Unreachable { endpoint: "http://h".into(), reason: "refused".into(), advice: "wait" };
        assert_eq!(away.told("reading", "d/f"), "reading d/f: http://h does not answer (refused); wait");
        let gone = Error::NotFound { path: "d/f".into() };
        assert_eq!(gone.told("listing", "d/f"), "listing d/f: no such file or directory in the under-store");
        let other = gone.told("renaming", "d");
        assert_eq!(other, "renaming d: d/f: no such file or directory in the under-store");
    }

    /// These were once sorted differently by those who pass them on.
    #[test]
    fn errors_of_the_same_cure_are_of_one_class() {
        let path = || "a".to_owned();
        let skew = Error::ClockSkew { endpoint: path(), reason: String::new() };
        let lost = Error::StagedLost { path: path(), file_id: String::new(), reason: String::new() };
        let sorted = [
            (Error::NotAFile { path: path(), what: "a pipe" }, ErrorClass::Unsupported),
            (skew, ErrorClass::PermissionDenied),
            (lost, ErrorClass::Aborted),
            (Error::Expired { path: path() }, ErrorClass::Aborted),
            (Error::MissingFolder { path: path() }, ErrorClass::InvalidArgument),
            (Error::WrongLength { path: path(), expected: 2, got: 1 }, ErrorClass::UnderStore),
        ];
        for (error, class) in sorted {
            assert_eq!(error.class(), class, "{error}");
        }
    }
}
