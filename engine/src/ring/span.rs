//! Memory and descriptors that an operation may use, each with what keeps it alive.
//!
//! The kernel holds raw addresses and descriptor numbers, so an operation owns a *keep* beside them: a counted
//! reference whose release is what allows the memory to be freed or the descriptor to be closed. The slab of the ring
//! holds that keep until the completion arrives, whatever became of the future. Cloning one is a counter on this
//! shard's core and allocates nothing.

use bytes::Bytes;
use core::ops::Range;
use core::ptr::NonNull;
use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

/// A counted reference to whatever must outlive an operation.
pub type Keep = Rc<dyn Any>;

/// Bytes that are only read through this value: the source of a send or a write, or a warm answer.
///
/// Others may hold spans of the same bytes. Nothing here stops a writer; see [`Span::bytes`].
#[derive(Clone)]
pub struct Span {
    start: NonNull<u8>,
    len: usize,
    keep: Keep,
}

impl Span {
    /// A span of `len` bytes at `start`.
    ///
    /// # Safety
    /// The bytes must be mapped, readable and initialised for as long as a clone of `keep` lives.
    pub unsafe fn new(start: NonNull<u8>, len: usize, keep: Keep) -> Self {
        Self { start, len, keep }
    }

    /// Bytes of the span.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the span has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// The part of the span at `range`, kept alive by the same reference.
    ///
    /// # Panics
    /// If `range` is not within the span.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "span {range:?} of {} bytes", self.len);
        // SAFETY: range.start is at most len, so the address stays within the span or one past its end.
        let start = unsafe { self.start.add(range.start) };
        Self { start, len: range.end - range.start, keep: Rc::clone(&self.keep) }
    }

    /// The bytes themselves.
    ///
    /// # Safety
    /// Nothing may write these bytes while the slice lives: no [`SpanMut`] of them, no operation of the kernel, no
    /// loan to another thread. The block index promises it for grains that are valid.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: readable and initialised while `keep` lives (Span::new), unwritten by the caller's promise.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn keep(&self) -> &Keep {
        &self.keep
    }
}

impl From<Vec<u8>> for Span {
    fn from(bytes: Vec<u8>) -> Self {
        let keep = Rc::new(bytes);
        let start = NonNull::from(keep.as_slice()).cast();
        Self { start, len: keep.len(), keep }
    }
}

/// Gives up the right to write; what was written may be read by all who get a clone.
impl From<SpanMut> for Span {
    fn from(span: SpanMut) -> Self {
        Self { start: span.start, len: span.len, keep: span.keep }
    }
}

impl From<Bytes> for Span {
    fn from(bytes: Bytes) -> Self {
        let start = NonNull::from(&bytes[..]).cast();
        Self { start, len: bytes.len(), keep: Rc::new(bytes) }
    }
}

/// Bytes that only the holder of this value may write or read: the destination of a read or a copy.
///
/// It is the right to fill a range of a block, so it is not `Clone`; splitting it divides the right.
pub struct SpanMut {
    start: NonNull<u8>,
    len: usize,
    keep: Keep,
}

impl SpanMut {
    /// The right to write `len` bytes at `start`.
    ///
    /// # Safety
    /// The bytes must be mapped, writable and initialised for as long as a clone of `keep` lives, and nothing else
    /// may read or write them before it is released.
    pub unsafe fn new(start: NonNull<u8>, len: usize, keep: Keep) -> Self {
        Self { start, len, keep }
    }

    /// Bytes of the span.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the span has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, to check what was written.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: initialised and ours alone (SpanMut::new); `&self` excludes our own writes.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: initialised and ours alone (SpanMut::new); `&mut self` excludes every other use of it.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Divides the right at byte `at`.
    ///
    /// # Panics
    /// If `at` is past the end.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        assert!(at <= self.len, "split at {at} of {} bytes", self.len);
        // SAFETY: `at` is at most len, so the address stays within the span or one past its end.
        let second = unsafe { self.start.add(at) };
        let tail = Self { start: second, len: self.len - at, keep: Rc::clone(&self.keep) };
        (Self { len: at, ..self }, tail)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn keep(&self) -> &Keep {
        &self.keep
    }
}

impl From<Vec<u8>> for SpanMut {
    fn from(mut bytes: Vec<u8>) -> Self {
        let start = NonNull::from(bytes.as_mut_slice()).cast();
        let len = bytes.len();
        // The vector moves into its keep; its heap bytes stay where they are.
        Self { start, len, keep: Rc::new(bytes) }
    }
}

/// A descriptor with what keeps it open, so that a number queued for the kernel never names another file.
#[derive(Clone)]
pub struct Fd {
    raw: RawFd,
    keep: Keep,
}

impl Fd {
    pub(super) fn raw(&self) -> io_uring::types::Fd {
        io_uring::types::Fd(self.raw)
    }

    pub(super) fn into_keep(self) -> Keep {
        self.keep
    }
}

impl<T: AsFd + 'static> From<Rc<T>> for Fd {
    fn from(owner: Rc<T>) -> Self {
        Self { raw: owner.as_fd().as_raw_fd(), keep: owner }
    }
}

impl<T: AsFd + 'static> From<&Rc<T>> for Fd {
    fn from(owner: &Rc<T>) -> Self {
        Self::from(Rc::clone(owner))
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self::from(Rc::new(fd))
    }
}
