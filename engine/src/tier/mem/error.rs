//! What can go wrong with memory.

use std::io;

/// An error of the memory tier. All of them leave the tier as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemError {
    /// The shard has no page left. Evicting makes room; when nothing can be evicted it is the caller's `NoSpace`.
    #[error("the shard's memory is full: {wanted_pages} pages wanted, {free_pages} free")]
    NoPages {
        /// Pages asked for.
        wanted_pages: u32,
        /// Pages free at that time.
        free_pages: u32,
    },
    /// The kernel refused pages that should have been there: somebody else took them from the system.
    #[error("the system took back {pages} pages of the memory tier: {source}")]
    PagesLost {
        /// Pages that were refused.
        pages: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The range is being filled by somebody else, or the block is, when it should be at rest.
    #[error("the memory is being written")]
    Busy,
    /// A client still maps what it said it had finished writing.
    #[error("the writer still maps the block; it must unmap before it closes")]
    StillMapped,
    /// What a client wrote is not what it may hand over.
    #[error("the block that a local writer handed over is refused: {why}")]
    Refused {
        /// The rule that was broken.
        why: &'static str,
    },
    /// A call of the system failed.
    #[error("memory tier: {call}: {source}")]
    System {
        /// What was attempted.
        call: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl MemError {
    /// For `map_err`, with the call that failed.
    pub(super) fn system<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { call, source: source.into() }
    }
}
