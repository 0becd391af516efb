//! What a client counts about itself.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of a client's counters, since it connected.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ClientStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The counters themselves. None of them is touched by a warm mapped read.
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Stats {
            pub(crate) fn snapshot(&self) -> ClientStats {
                ClientStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl ClientStats {
            /// Names and values, in order, for metrics and tables.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

stats! {
    /// Connections made.
    connects,
    /// Attempts after the first, of any call.
    retries,
    /// Requests refused by a worker that knew a newer ring.
    wrong_epochs,
    /// Files opened again by the client itself, for an expired capability or a version that nobody had read yet.
    reopens,
    /// Sectors or grains that did not match their checksum and were asked for again.
    refetches,
    /// Blocks mapped.
    maps,
    /// Of these, blocks mapped ahead of a sequential reader.
    readaheads,
    /// Mapped blocks given up for others.
    unmaps,
    /// Reads answered on a Unix socket.
    inline_reads,
    /// Bytes that these brought.
    inline_bytes,
    /// Reads answered by TCP.
    tcp_reads,
    /// Bytes that these brought.
    tcp_bytes,
    /// Bytes written through mapped memory.
    mapped_write_bytes,
    /// Bytes written in frames.
    frame_write_bytes,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
