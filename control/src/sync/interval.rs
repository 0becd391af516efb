//! How long metadata of an under-store is believed.

use citius_wire::{Failure, Status};

/// The default of object stores, in milliseconds.
const OBJECT_STORE_DEFAULT_MS: i64 = 30_000;

/// The sync interval of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncInterval {
    /// What is known is never asked again.
    ForEver,
    /// Every question goes to the store.
    Never,
    /// An answer is believed for so many milliseconds.
    Millis(u64),
}

impl SyncInterval {
    /// Reads the number of the wire: -1 for ever, 0 never, else milliseconds.
    ///
    /// # Errors
    /// `InvalidArgument` for any other negative number.
    pub(crate) fn from_ms(ms: i64) -> Result<Self, Failure> {
        match ms {
            -1 => Ok(Self::ForEver),
            0 => Ok(Self::Never),
            1.. => Ok(Self::Millis(ms.unsigned_abs())),
            _ => Err(Failure::new(
                Status::InvalidArgument,
                format!("a sync interval of {ms} ms makes no sense: use -1 (for ever), 0 (always ask) or milliseconds"),
            )),
        }
    }

    /// The number that a mount gets when it names none: a local folder answers fast and may change at any time.
    pub(crate) fn default_ms(uri: &str) -> i64 {
        if uri.starts_with('/') || uri.starts_with("file:") { 0 } else { OBJECT_STORE_DEFAULT_MS }
    }

    /// Whether an answer of `at_ms` is believed at `now_ms`.
    pub(crate) fn believes(self, at_ms: u64, now_ms: u64) -> bool {
        match self {
            Self::ForEver => true,
            Self::Never => false,
            Self::Millis(interval) => now_ms.saturating_sub(at_ms) < interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn belief_ends_at_the_millisecond() {
        let interval = SyncInterval::from_ms(10).unwrap();
        assert!(interval.believes(100, 109) && !interval.believes(100, 110));
        assert!(!SyncInterval::from_ms(0).unwrap().believes(100, 100));
        assert!(SyncInterval::from_ms(-1).unwrap().believes(0, u64::MAX));
        assert_eq!(SyncInterval::from_ms(-2).unwrap_err().status, Status::InvalidArgument);
    }

    #[test]
    fn local_folders_are_always_asked() {
        assert_eq!(SyncInterval::default_ms("/a"), 0);
        assert_eq!(SyncInterval::default_ms("file:///a"), 0);
        assert_eq!(SyncInterval::default_ms("s3://b"), 30_000);
    }
}
