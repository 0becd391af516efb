//! Answers on their way to one client: heads and pages gathered into as few system calls as there can be.
//!
//! ```text
//!   heads  | head 1 | head 2 | head 3 |            one buffer, reused
//!   parts    head 1, page span, head 2, page span, head 3 + descriptor
//!            '------- one sendmsg -------------'   '- its own: a descriptor rides on the first byte -'
//! ```
//!
//! Payload is sent from the page that it lies in; a part holds its page until the kernel has taken the last byte.
//! Nothing here waits: [`Outbox::send`] gives back [`Progress::Blocked`] and is called again when the socket has room.

use crate::ring::Span;
use citius_wire::{Encode, Encoder, Failure, Flags, Kind};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Parts gathered into one system call.
const GATHER_MAX: usize = 128;
/// Capacity of the head buffer that is kept when it runs empty.
const HEADS_KEPT_BYTES: usize = 256 << 10;

/// What is left of the queue after a try to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All is sent.
    Empty,
    /// The socket has no room.
    Blocked,
}

enum Part {
    /// Bytes of the head buffer.
    Head(Range<usize>),
    /// Bytes of the head buffer that begin a message with a descriptor.
    HeadWith(Range<usize>, OwnedFd),
    /// Bytes of a page, or of a buffer made for one answer.
    Payload(Span),
}

/// The queue.
#[derive(Default)]
pub(crate) struct Outbox {
    encoder: Encoder,
    heads: Vec<u8>,
    parts: VecDeque<Part>,
    /// Bytes of the first part that are sent.
    sent: usize,
    queued_bytes: usize,
    /// System calls made, for the budget that a test counts.
    calls: u64,
}

impl Outbox {
    /// Bytes that wait.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Queues an answer without payload.
    pub(crate) fn reply(&mut self, kind: Kind, request_id: u64, header: &impl Encode) {
        let range = self.encode(kind, Flags::REPLY, request_id, header, 0);
        self.push_head(range);
    }

    /// Queues an answer with a payload.
    pub(crate) fn reply_with(
        &mut self,
        kind: Kind,
        request_id: u64,
        header: &impl Encode,
        payload: impl IntoIterator<Item = Span>,
        payload_len: usize,
    ) {
        let range = self.encode(kind, Flags::REPLY, request_id, header, payload_len);
        self.push_head(range);
        let mut sum = 0;
        for span in payload {
            sum += span.len();
            self.parts.push_back(Part::Payload(span));
        }
        assert_eq!(sum, payload_len, "a payload of another length than its frame says");
        self.queued_bytes += sum;
    }

    /// Queues an answer that a descriptor goes with.
    pub(crate) fn reply_descriptor(&mut self, kind: Kind, request_id: u64, header: &impl Encode, descriptor: OwnedFd) {
        let range = self.encode(kind, Flags::REPLY.with(Flags::DESCRIPTOR), request_id, header, 0);
        self.queued_bytes += range.len();
        self.parts.push_back(Part::HeadWith(range, descriptor));
    }

    /// Queues a failure.
    pub(crate) fn failure(&mut self, kind: Kind, request_id: u64, failure: &Failure) {
        let range = self.encode(kind, Flags::REPLY.with(Flags::FAILED), request_id, failure, 0);
        self.push_head(range);
    }

    /// Sends what the socket takes now.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<Progress> {
        while !self.parts.is_empty() {
            self.calls += 1;
            match self.send_once(socket) {
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        debug_assert_eq!(self.queued_bytes, 0);
        self.heads.clear();
        self.heads.shrink_to(HEADS_KEPT_BYTES);
        Ok(Progress::Empty)
    }

    /// System calls made so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    fn encode(
        &mut self,
        kind: Kind,
        flags: Flags,
        request_id: u64,
        header: &impl Encode,
        payload_len: usize,
    ) -> Range<usize> {
        let start = self.heads.len();
        self.encoder.encode(&mut self.heads, kind, flags, request_id, header, payload_len);
        start..self.heads.len()
    }

    fn push_head(&mut self, range: Range<usize>) {
        self.queued_bytes += range.len();
        // Heads that follow one another are one part: answers without payload cost one slice in all.
        if let Some(Part::Head(last)) = self.parts.back_mut()
            && last.end == range.start
        {
            last.end = range.end;
        } else {
            self.parts.push_back(Part::Head(range));
        }
    }

    #[allow(unsafe_code)]
    fn send_once(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); GATHER_MAX];
        let mut count = 0;
        let mut descriptor = None;
        for part in &self.parts {
            let bytes = match part {
                Part::Head(range) => &self.heads[range.clone()],
                Part::HeadWith(range, with) => {
                    // The descriptor was sent with the first byte, so a rest goes without it.
                    if count > 0 {
                        break;
                    }
                    if self.sent == 0 {
                        descriptor = Some(with.as_fd());
                    }
                    &self.heads[range.clone()]
                }
                // SAFETY: an answer holds only grains that are valid, and a valid grain is written by nobody until
                // its memory is released, which this span prevents.
                Part::Payload(span) => unsafe { span.bytes() },
            };
            slices[count] = IoSlice::new(if count == 0 { &bytes[self.sent..] } else { bytes });
            count += 1;
            if count == GATHER_MAX {
                break;
            }
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let passed: [BorrowedFd<'_>; 1];
        if let Some(descriptor) = descriptor {
            passed = [descriptor];
            let fits = ancillary.push(SendAncillaryMessage::ScmRights(&passed));
            debug_assert!(fits, "the space is made for one descriptor");
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(sendmsg(socket, &slices[..count], &mut ancillary, flags)?)
    }

    fn advance(&mut self, mut count: usize) {
        self.queued_bytes -= count;
        while let Some(part) = self.parts.front() {
            let length = match part {
                Part::Head(range) | Part::HeadWith(range, _) => range.len(),
                Part::Payload(span) => span.len(),
            };
            let rest = length - self.sent;
            if count < rest {
                self.sent += count;
                return;
            }
            count -= rest;
            self.sent = 0;
            self.parts.pop_front();
        }
        debug_assert_eq!(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use citius_wire::{Done, FrameBuffer, Read, ReadReply, ReadReplyView};
    use std::io::Read as _;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn answers_arrive_in_order_through_a_socket_that_is_too_small() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut outbox = Outbox::default();
        let payload: Vec<u8> = (0..600_000_u32).map(|i| i as u8).collect();
        for id in 0..20 {
            let crcs = [id as u32; 3];
            let view = ReadReplyView { offset: id, crcs: &crcs };
            outbox.reply_with(Kind::Read, id, &view, [Span::from(payload.clone())], payload.len());
            outbox.reply(Kind::Seal, 1000 + id, &Done {});
        }
        let reader = std::thread::spawn(move || {
            let mut input = FrameBuffer::new(64 << 10);
            let mut seen = Vec::new();
            while seen.len() < 40 {
                let count = theirs.read(input.spare()).unwrap();
                input.filled(count);
                while let Some((head, bytes)) = input.next_frame().unwrap() {
                    if head.prelude.kind == Kind::Read {
                        let reply: ReadReply = head.read_reply::<Read>().unwrap();
                        assert_eq!((reply.offset, bytes.len()), (head.prelude.request_id, 600_000));
                        assert!(bytes.iter().enumerate().all(|(i, &byte)| byte == i as u8));
                    }
                    seen.push(head.prelude.request_id);
                }
            }
            seen
        });
        let mut blocked = 0;
        while outbox.send(ours.as_fd()).unwrap() == Progress::Blocked {
            blocked += 1;
            std::thread::yield_now();
        }
        assert!(blocked > 0, "the test must meet a full socket");
        assert_eq!(outbox.queued_bytes(), 0);
        let expected: Vec<u64> = (0..20).flat_map(|id| [id, 1000 + id]).collect();
        assert_eq!(reader.join().unwrap(), expected);
    }

    #[test]
    fn many_answers_are_one_call() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        for id in 0..32 {
            let view = ReadReplyView { offset: 0, crcs: &[1] };
            outbox.reply_with(Kind::Read, id, &view, [Span::from(vec![0; 1024])], 1024);
        }
        assert_eq!(outbox.send(ours.as_fd()).unwrap(), Progress::Empty);
        assert_eq!(outbox.calls(), 1);
    }

    #[test]
    fn a_broken_connection_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut outbox = Outbox::default();
        outbox.reply(Kind::Seal, 1, &Done {});
        assert!(outbox.send(ours.as_fd()).is_err());
    }
}
