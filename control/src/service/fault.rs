//! Where tests let a master die: between the steps whose order a crash must not break.

use std::fmt;
use std::sync::Arc;

/// A moment between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultPoint {
    /// An intent is logged, the under-store was not asked yet.
    IntentLogged,
    /// The under-store did it, the log does not know.
    IntentActed,
}

/// Decides at each point whether the master dies there: what it was doing stops for good, as a crash would stop it.
#[derive(Clone)]
pub struct FaultHook(Arc<dyn Fn(FaultPoint) -> bool + Send + Sync>);

impl FaultHook {
    /// A hook that strikes where `decide` says so.
    pub fn new(decide: impl Fn(FaultPoint) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(decide))
    }

    pub(crate) fn strikes(&self, point: FaultPoint) -> bool {
        (self.0)(point)
    }
}

impl fmt::Debug for FaultHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultHook(..)")
    }
}
