//! Answers on their way to one client: heads and pages gathered into as few system calls as there can be.
//!
//! ```text
//!   heads  | sent | head 1 | head 2 | head 3 |     one buffer, reused; positions count from the connection's first byte
//!   parts           head 1, page span, head 2, page span, head 3 + descriptor
//!                   '------- one sendmsg -------------'   '- a new one: a descriptor rides on the first byte -'
//! ```
//!
//! Payload is sent from the page that it lies in; a part holds its page until the kernel has taken the last byte.
//! Nothing here waits: [`Outbox::send`] gives back [`Progress::Blocked`] and is called again when the socket has room.
//!
//! Bounds are the caller's to keep, by [`Outbox::queued_bytes`] and [`Outbox::queued_descriptors`]; what is sent takes
//! no room, also if the queue is never empty because the peer is always a little slower than we are.

use crate::ring::Span;
use citius_wire::{Encode, Encoder, Failure, Flags, Kind, Status};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Parts gathered into one system call.
const GATHER_MAX: usize = 128;
/// Capacity of the head buffer that is kept when it runs empty, and how many sent bytes it may carry along.
const HEADS_KEPT_BYTES: usize = 256 << 10;
/// Parts for which room is kept when the queue runs empty.
const PARTS_KEPT: usize = 4096;

/// What is left of the queue after a try to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All is sent.
    Empty,
    /// The socket has no room.
    Blocked,
}

enum Part {
    /// Bytes of heads, by their positions.
    Head(Range<u64>),
    /// As `Head`, beginning a message with a descriptor.
    HeadWith(Range<u64>, OwnedFd),
    /// Bytes of a page, or of a buffer made for one answer.
    Payload(Span),
}

/// The queue.
#[derive(Default)]
pub(crate) struct Outbox {
    encoder: Encoder,
    heads: Vec<u8>,
    /// The position of the first byte in `heads`.
    heads_start: u64,
    /// The position up to which heads are sent.
    heads_sent: u64,
    parts: VecDeque<Part>,
    queued_bytes: usize,
    queued_descriptors: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Descriptors that wait.
    pub(crate) fn queued_descriptors(&self) -> usize {
        self.queued_descriptors
    }

    /// Queues an answer without payload. One that no frame can hold becomes a failure: who asks has a say in its length.
    pub(crate) fn reply(&mut self, kind: Kind, request_id: u64, header: &impl Encode) {
        let start = self.heads_end();
        if let Err(error) = self.encoder.try_encode(&mut self.heads, kind, Flags::REPLY, request_id, header, 0) {
            let words = format!("the answer does not fit a frame ({error}): ask for less at once");
            return self.failure(kind, request_id, &Failure::new(Status::InvalidArgument, words));
        }
        self.push_head(start);
    }

    /// Queues an answer with a payload.
    pub(crate) fn reply_with(
        &mut self,
        kind: Kind,
        request_id: u64,
        header: &impl Encode,
        payload: impl AsRef<[Span]> + IntoIterator<Item = Span>,
    ) {
        let payload_len = payload.as_ref().iter().map(Span::len).sum();
        let start = self.heads_end();
        self.encoder.encode(&mut self.heads, kind, Flags::REPLY, request_id, header, payload_len);
        self.push_head(start);
        self.parts.extend(payload.into_iter().filter(|span| !span.is_empty()).map(Part::Payload));
        self.queued_bytes += payload_len;
    }

    /// Queues an answer that a descriptor goes with.
    pub(crate) fn reply_descriptor(&mut self, kind: Kind, request_id: u64, header: &impl Encode, descriptor: OwnedFd) {
        let start = self.heads_end();
        self.encoder.encode(&mut self.heads, kind, Flags::REPLY.with(Flags::DESCRIPTOR), request_id, header, 0);
        let range = start..self.heads_end();
        self.queued_bytes += length(&range);
        self.queued_descriptors += 1;
        self.parts.push_back(Part::HeadWith(range, descriptor));
    }

    /// Queues a failure.
    pub(crate) fn failure(&mut self, kind: Kind, request_id: u64, failure: &Failure) {
        let start = self.heads_end();
        self.encoder.failure(&mut self.heads, kind, request_id, failure);
        self.push_head(start);
    }

    /// Sends what the socket takes now.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<Progress> {
        while !self.parts.is_empty() {
            match self.send_once(socket) {
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        debug_assert_eq!((self.queued_bytes, self.queued_descriptors), (0, 0));
        self.heads_start += self.heads.len() as u64;
        self.heads.clear();
        self.heads.shrink_to(HEADS_KEPT_BYTES);
        self.parts.shrink_to(PARTS_KEPT);
        Ok(Progress::Empty)
    }

    fn heads_end(&self) -> u64 {
        self.heads_start + self.heads.len() as u64
    }

    fn head(&self, range: &Range<u64>) -> &[u8] {
        &self.heads[(range.start - self.heads_start) as usize..(range.end - self.heads_start) as usize]
    }

    /// Queues the heads from `start` on.
    fn push_head(&mut self, start: u64) {
        let range = start..self.heads_end();
        self.queued_bytes += length(&range);
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
                Part::Head(range) => self.head(range),
                Part::HeadWith(range, with) => {
                    if count > 0 {
                        break;
                    }
                    descriptor = Some(with.as_fd());
                    self.head(range)
                }
                // SAFETY: an answer holds only grains that are valid, and a valid grain is written by nobody until
                // its memory is released, which this span prevents.
                Part::Payload(span) => unsafe { span.bytes() },
            };
            slices[count] = IoSlice::new(bytes);
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

    /// Takes what was sent off the front. What remains of a part is a part again: a descriptor went with its first byte.
    fn advance(&mut self, mut count: usize) {
        self.queued_bytes -= count;
        while count > 0 {
            let part = self.parts.pop_front().expect("no more is sent than is queued");
            let rest = match part {
                Part::Head(range) => self.advance_head(range, &mut count).map(Part::Head),
                Part::HeadWith(range, _) => {
                    self.queued_descriptors -= 1;
                    self.advance_head(range, &mut count).map(Part::Head)
                }
                Part::Payload(span) => {
                    let sent = span.len().min(count);
                    count -= sent;
                    (sent < span.len()).then(|| Part::Payload(span.slice(sent..span.len())))
                }
            };
            if let Some(rest) = rest {
                debug_assert_eq!(count, 0);
                self.parts.push_front(rest);
            }
        }
        self.forget_sent_heads();
    }

    fn advance_head(&mut self, range: Range<u64>, count: &mut usize) -> Option<Range<u64>> {
        let sent = length(&range).min(*count);
        *count -= sent;
        self.heads_sent = range.start + sent as u64;
        (self.heads_sent < range.end).then_some(self.heads_sent..range.end)
    }

    /// Moves the heads that wait to the front, when those that are sent are many and at least as long.
    fn forget_sent_heads(&mut self) {
        let sent = (self.heads_sent - self.heads_start.min(self.heads_sent)) as usize;
        if sent >= HEADS_KEPT_BYTES && sent * 2 >= self.heads.len() {
            self.heads.drain(..sent);
            self.heads_start = self.heads_sent;
        }
    }
}

fn length(range: &Range<u64>) -> usize {
    (range.end - range.start) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use citius_wire::{
        Done, FrameBuffer, Map, Mapped, Read, ReadReply, ReadReplyView, Resident, ResidentBlock, ResidentReply, Seal,
    };
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::io::{IoSliceMut, Read as _};
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
            outbox.reply_with(Kind::Read, id, &view, [Span::from(payload.clone())]);
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

    /// The story: heads were forgotten only when the queue ran empty, which it never does for a peer that is always a
    /// little behind, so each of its connections grew without end.
    #[test]
    fn what_is_sent_takes_no_room_though_the_queue_is_never_empty() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut outbox = Outbox::default();
        let (mut input, mut answered, mut next) = (FrameBuffer::new(64 << 10), 0, 0);
        while answered < 50_000 {
            while outbox.queued_bytes() < 1 << 20 {
                outbox.reply(Kind::Seal, next, &Done {});
                next += 1;
            }
            assert_eq!(outbox.send(ours.as_fd()).unwrap(), Progress::Blocked);
            let count = theirs.read(input.spare()).unwrap();
            input.filled(count);
            while let Some((head, _)) = input.next_frame().unwrap() {
                assert_eq!(head.prelude.request_id, answered);
                answered += 1;
            }
        }
        assert!(outbox.heads.capacity() <= 4 << 20, "{} bytes for 1 MiB that waits", outbox.heads.capacity());
    }

    /// A message that brings a descriptor is cut by a full socket anywhere, also before its first byte: the descriptor
    /// comes once, with the first byte of its own answer.
    #[test]
    fn descriptors_come_once_each_with_their_answers() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut outbox = Outbox::default();
        let file = std::fs::File::open("/dev/null").unwrap();
        const ANSWERS: u64 = 64;
        for id in 0..ANSWERS {
            // Long heads, so that the socket fills within them.
            let reply = Mapped { length: id as u32, crcs: vec![7; 20_000] };
            outbox.reply_descriptor(Kind::Map, id, &reply, file.try_clone().unwrap().into());
        }
        assert_eq!(outbox.queued_descriptors(), ANSWERS as usize);
        let (mut input, mut answered, mut descriptors) = (FrameBuffer::new(256 << 10), 0, 0);
        while answered < ANSWERS {
            outbox.send(ours.as_fd()).unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut input.spare()[..10_000])];
            let received = recvmsg(&theirs, &mut slices, &mut ancillary, RecvFlags::empty()).unwrap();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors += rights.count();
                }
            }
            input.filled(received.bytes);
            while let Some((head, _)) = input.next_frame().unwrap() {
                assert_eq!(head.read_reply::<Map>().unwrap().length as u64, answered);
                answered += 1;
                assert!(descriptors as u64 >= answered, "the descriptor of {answered} is here");
            }
        }
        assert_eq!(descriptors as u64, ANSWERS);
        assert_eq!((outbox.queued_bytes(), outbox.queued_descriptors()), (0, 0));
    }

    #[test]
    fn an_answer_that_no_frame_holds_is_a_failure() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        let block = ResidentBlock { index: 0, memory_bytes: 1, complete: true, dirty: false };
        outbox.reply(Kind::Resident, 5, &ResidentReply { blocks: vec![block; 300_000] });
        outbox.reply(Kind::Seal, 6, &Done {});
        assert_eq!(outbox.send(ours.as_fd()).unwrap(), Progress::Empty);
        let mut input = FrameBuffer::new(4096);
        let count = theirs.read(input.spare()).unwrap();
        input.filled(count);
        let (first, _) = input.next_frame().unwrap().unwrap();
        assert_eq!(first.read_reply::<Resident>().unwrap_err().status, Status::InvalidArgument);
        let (second, _) = input.next_frame().unwrap().unwrap();
        assert_eq!(second.read_reply::<Seal>(), Ok(Done {}));
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
