//! The first error of the log, kept: after it nothing is acknowledged.
//!
//! An fsync that failed once says nothing when it succeeds later: the kernel may have dropped the
//! pages. So there is no retry; the process has to be restarted and the log replayed.

use std::io;
use std::sync::OnceLock;

/// Set once, by whoever meets the first error.
#[derive(Debug, Default)]
pub(crate) struct Latch(OnceLock<(io::ErrorKind, String)>);

impl Latch {
    /// Records `error` if it is the first, and gives it back.
    pub(crate) fn trip(&self, doing: &str, error: io::Error) -> io::Error {
        self.0.get_or_init(|| {
            let why = format!("cannot {doing}: {error}");
            tracing::error!("the replicated log stops: {why}");
            (error.kind(), why)
        });
        error
    }

    /// Fails if an error was recorded.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
        }
    }

    /// What was recorded.
    pub(crate) fn why(&self) -> Option<&str> {
        self.0.get().map(|(_, why)| why.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The first error stays, whatever follows.
    #[test]
    fn keeps_the_first_error() {
        let latch = Latch::default();
        latch.check().unwrap();
        assert!(latch.why().is_none());
        latch.trip("sync", io::Error::from(io::ErrorKind::StorageFull));
        latch.trip("write", io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(latch.check().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(latch.why().unwrap().starts_with("cannot sync"));
    }
}
