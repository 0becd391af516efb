//! What a mount has cost its under-store so far: requests, bytes in, bytes out.
//!
//! Counters only grow and are relaxed: they are shown to people, and nothing is decided by them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of one store, shared by everything that talks to it.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: AtomicU64,
    reads: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrafficTotals {
    /// Requests sent, retries included; for file systems the calls of the store's operations.
    pub requests: u64,
    /// Of these, requests for the content of files.
    pub reads: u64,
    /// Bytes of file content received.
    pub bytes_read: u64,
    /// Bytes of file content sent.
    pub bytes_written: u64,
}

impl Traffic {
    /// The totals so far.
    pub fn totals(&self) -> TrafficTotals {
        TrafficTotals {
            requests: self.requests.load(Relaxed),
            reads: self.reads.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
        }
    }

    /// Counts one request.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Says that a request, which is counted as one already, was for content.
    pub fn count_content(&self) {
        self.reads.fetch_add(1, Relaxed);
    }

    /// Counts content received; the engine's ring calls it for what it reads through a descriptor.
    pub fn count_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Relaxed);
    }

    /// Counts content sent.
    pub fn count_written(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Relaxed);
    }
}
