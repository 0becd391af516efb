//! The storage of a gathered send: header, vector and spans, at addresses that do not move while the kernel reads them.

use super::span::Span;
use std::io;

/// Parts of one gathered send; the kernel's own bound (`IOV_MAX`).
pub const SEND_PARTS_MAX: usize = 1024;

/// A `msghdr`, its `iovec`s, and the spans that they point into.
///
/// It lives in a box that only its slot holds, so `header.msg_iov` stays right; boxes are kept for reuse by the ring,
/// which makes a warm gathered send free of allocation.
pub(super) struct Message {
    header: libc::msghdr,
    vector: Vec<libc::iovec>,
    parts: Vec<Span>,
}

impl Message {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: msghdr is plain integers and pointers, for which all zeroes is the empty message.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Self { header, vector: Vec::new(), parts: Vec::new() })
    }

    /// Lays the parts out for the kernel.
    pub(super) fn fill(self: &mut Box<Self>, parts: impl IntoIterator<Item = Span>) -> io::Result<()> {
        debug_assert!(self.parts.is_empty());
        for part in parts {
            if self.parts.len() == SEND_PARTS_MAX {
                self.parts.clear();
                self.vector.clear();
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a gathered send has too many parts"));
            }
            self.vector.push(libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
            self.parts.push(part);
        }
        self.header.msg_iov = self.vector.as_mut_ptr();
        self.header.msg_iovlen = self.vector.len() as _;
        Ok(())
    }

    pub(super) fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }

    /// Lets go of the parts and keeps the room.
    pub(super) fn clear(&mut self) {
        self.header.msg_iovlen = 0;
        self.vector.clear();
        self.parts.clear();
    }
}
