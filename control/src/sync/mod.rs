//! What the under-stores said lately: a bounded cache of their metadata, kept apart from the log's state.
//!
//! Metadata of a file that an under-store holds can always be asked for again, so it is never replicated. How long an
//! answer is believed is the mount's sync interval ([`SyncInterval`]).

mod cache;
mod found;
mod interval;

pub(crate) use cache::{AskedAll, CACHE_ENTRIES_DEFAULT, CacheFigures, MetadataCache};
pub(crate) use found::{Found, FoundFile};
pub(crate) use interval::SyncInterval;
