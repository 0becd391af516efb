//! Sans-I/O codec: messages to frames and bytes to frames. Who calls it does the reading and writing.
//!
//! An archive stands at the end of its header (its root is found from the end), so padding goes in front of it.
//! Archives are built from unaligned primitives: a frame may start at any byte of a receive buffer and its header is
//! read where it lies.

use crate::frame::{
    FRAME_BYTES_MAX, Flags, FrameError, HEADER_ALIGN, HEADER_BYTES_MAX, Kind, PAYLOAD_BYTES_MAX, PRELUDE_BYTES, Prelude,
};
use crate::status::{Failure, Status};
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

/// The error type inside rkyv: without a trace, so that judging hostile bytes allocates nothing.
type Judgement = rancor::Failure;
type Scratch = AlignedVec<16>;

/// What can be the header of a frame. Every archivable type is one.
pub trait Message:
    Archive<Archived: for<'a> CheckBytes<HighValidator<'a, Judgement>> + Deserialize<Self, HighDeserializer<Judgement>>>
    + Encode
    + Sized
{
}

impl<T> Message for T where
    T: Archive<
            Archived: for<'a> CheckBytes<HighValidator<'a, Judgement>> + Deserialize<T, HighDeserializer<Judgement>>,
        > + Encode
{
}

/// What can be written as a header: also views that borrow, which no frame is read into.
pub trait Encode: for<'a> Serialize<HighSerializer<Scratch, ArenaHandle<'a>, Judgement>> {}

impl<T> Encode for T where T: for<'a> Serialize<HighSerializer<Scratch, ArenaHandle<'a>, Judgement>> {}

/// A message that asks, with the kind of its frame and the message that answers it.
pub trait Request: Message {
    /// The kind of the frame, of question and answer.
    const KIND: Kind;
    /// What answers it, unless a [`Failure`] does.
    type Reply: Message;
}

/// How much scratch memory an encoder keeps between frames: more than any common header, and no burden to a connection.
const SCRATCH_BYTES_KEPT: usize = 256 << 10;

/// Writes frames into a byte buffer, reusing its scratch memory: in steady state it allocates nothing.
#[derive(Default)]
pub struct Encoder {
    scratch: Scratch,
}

impl Encoder {
    /// Appends prelude and header of a frame to `out`; its payload, if any, is for the caller to send behind it.
    ///
    /// # Panics
    /// If the message is longer than a header may be, or the payload than a payload. For what others had a say in,
    /// there is [`Encoder::try_encode`].
    pub fn encode<H: Encode>(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        flags: Flags,
        request_id: u64,
        header: &H,
        payload_len: usize,
    ) {
        if let Err(error) = self.try_encode(out, kind, flags, request_id, header, payload_len) {
            panic!("{kind:?} {request_id}: {error}");
        }
    }

    /// As [`Encoder::encode`], for a message whose length is not known to be within bounds, such as a batch of paths.
    ///
    /// # Errors
    /// `HeaderLength` or `PayloadLength`; then nothing was appended.
    pub fn try_encode<H: Encode>(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        flags: Flags,
        request_id: u64,
        header: &H,
        payload_len: usize,
    ) -> Result<(), FrameError> {
        if payload_len > PAYLOAD_BYTES_MAX {
            return Err(FrameError::PayloadLength(payload_len as u64));
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let scratch = rkyv::api::high::to_bytes_in::<_, Judgement>(header, scratch)
            .expect("archiving into memory fails only when memory does");
        let header_len = scratch.len().next_multiple_of(HEADER_ALIGN);
        if header_len > HEADER_BYTES_MAX {
            return Err(FrameError::HeaderLength(u32::try_from(header_len).unwrap_or(u32::MAX)));
        }

        let start = out.len();
        out.resize(start + PRELUDE_BYTES + header_len - scratch.len(), 0);
        out.extend_from_slice(&scratch);
        if scratch.capacity() <= SCRATCH_BYTES_KEPT {
            self.scratch = scratch;
        }

        let mut prelude = Prelude {
            kind,
            flags,
            header_len: header_len as u32,
            header_crc: 0,
            payload_len: payload_len as u64,
            request_id,
        };
        prelude.header_crc = prelude.checksum(&out[start + PRELUDE_BYTES..]);
        out[start..start + PRELUDE_BYTES].copy_from_slice(&prelude.to_bytes());
        Ok(())
    }

    /// Appends a question.
    pub fn request<R: Request>(&mut self, out: &mut Vec<u8>, request_id: u64, request: &R, payload_len: usize) {
        self.encode(out, R::KIND, Flags::default(), request_id, request, payload_len);
    }

    /// As [`Encoder::request`], for a question whose length is not known to be within bounds.
    ///
    /// # Errors
    /// `HeaderLength` or `PayloadLength`; then nothing was appended.
    pub fn try_request<R: Request>(
        &mut self,
        out: &mut Vec<u8>,
        request_id: u64,
        request: &R,
        payload_len: usize,
    ) -> Result<(), FrameError> {
        self.try_encode(out, R::KIND, Flags::default(), request_id, request, payload_len)
    }

    /// Appends an answer: the reply, or the failure in its place. A reply that no frame can hold is a failure too:
    /// who asks decides how long an answer gets (4,096 paths may be opened at once), and must not stop who answers.
    pub fn reply<R: Request>(&mut self, out: &mut Vec<u8>, request_id: u64, reply: &Result<R::Reply, Failure>) {
        match reply {
            Ok(reply) => {
                if let Err(error) = self.try_encode(out, R::KIND, Flags::REPLY, request_id, reply, 0) {
                    let words = format!("the answer does not fit a frame ({error}): ask for less at once");
                    self.failure(out, R::KIND, request_id, &Failure::new(Status::InvalidArgument, words));
                }
            }
            Err(failure) => self.failure(out, R::KIND, request_id, failure),
        }
    }

    /// Appends the failure of a request; of one that no frame can hold, its status.
    pub fn failure(&mut self, out: &mut Vec<u8>, kind: Kind, request_id: u64, failure: &Failure) {
        let flags = Flags::REPLY.with(Flags::FAILED);
        if self.try_encode(out, kind, flags, request_id, failure, 0).is_err() {
            let short = Failure::new(failure.status, "the words of this failure do not fit a frame");
            self.encode(out, kind, flags, request_id, &short, 0);
        }
    }
}

/// A frame without its payload: where a large payload is received is for the caller to say.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Its prelude, checked against the header.
    pub prelude: Prelude,
    /// Its header.
    pub header: &'a [u8],
}

impl<'a> Head<'a> {
    /// Views the header as an archived message, without copying.
    ///
    /// # Errors
    /// [`FrameError::Archive`] if it is none.
    pub fn access<T: Message>(&self) -> Result<&'a T::Archived, FrameError> {
        rkyv::access::<T::Archived, Judgement>(self.header).map_err(|_| FrameError::Archive(self.prelude.kind))
    }

    /// Copies the header out as a message.
    ///
    /// # Errors
    /// [`FrameError::Archive`] if it is none.
    pub fn read<T: Message>(&self) -> Result<T, FrameError> {
        rkyv::deserialize::<T, Judgement>(self.access::<T>()?).map_err(|_| FrameError::Archive(self.prelude.kind))
    }

    /// Reads an answer: the reply to `R`, or the failure that came in its place.
    ///
    /// # Errors
    /// The peer's failure, or `Protocol` if the frame is no answer to such a question.
    pub fn read_reply<R: Request>(&self) -> Result<R::Reply, Failure> {
        if self.prelude.kind != R::KIND || !self.prelude.flags.has(Flags::REPLY) {
            return Err(FrameError::Archive(self.prelude.kind).into());
        }
        if self.prelude.flags.has(Flags::FAILED) {
            return Err(self.read::<Failure>()?);
        }
        Ok(self.read::<R::Reply>()?)
    }
}

/// Collects received bytes and gives the frames in them.
///
/// The owner reads into [`FrameBuffer::spare`], says [`FrameBuffer::filled`], and takes [`FrameBuffer::next_head`]
/// until there is none. Bytes of a payload are then taken with [`FrameBuffer::take_payload`]; what is not yet here of
/// a large one is best received straight to where it belongs. What is taken by neither is read as the next frame, so
/// a payload that nobody asked for must be refused, or taken and dropped.
///
/// Invariants: `start <= end <= bytes.len()`; the bytes between are received and not taken. The buffer grows with what
/// was received, never with what a peer says will come, and never past the longest frame that it takes.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    frame_bytes_max: usize,
}

impl FrameBuffer {
    /// A buffer that receives `capacity` bytes at a time.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity.max(PRELUDE_BYTES)], start: 0, end: 0, frame_bytes_max: FRAME_BYTES_MAX }
    }

    /// From now on, frames longer than this are refused, and the buffer does not grow past it. A server starts with
    /// `HELLO_FRAME_BYTES_MAX`, so that a peer without the token takes no memory, and ends with `FRAME_BYTES_MAX`.
    pub fn limit_frames(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max.clamp(PRELUDE_BYTES, FRAME_BYTES_MAX);
    }

    /// Room to receive into: all of the rest of the buffer, never empty.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let room = self.bytes.len() - self.end;
        // A little room makes for many little receives. To move is cheap where at least as much was taken as remains:
        // no byte is moved more often than bytes are taken.
        if room == 0 || room < self.bytes.len() / 4 && self.start >= self.buffered() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            // One frame fills it all, and what is not a frame or too long was refused by `next_head`.
            let longer = (self.bytes.len() * 2).min(self.frame_bytes_max);
            assert!(longer > self.bytes.len(), "the owner does not take what it received");
            self.bytes.resize(longer, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Says that `count` bytes were received into [`FrameBuffer::spare`].
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.bytes.len());
    }

    /// Bytes that are here and not yet taken.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Takes the head of the next frame, if all of it is here.
    ///
    /// # Errors
    /// Any [`FrameError`]; the connection is to be closed.
    pub fn next_head(&mut self) -> Result<Option<Head<'_>>, FrameError> {
        let Some(prelude) = self.peek_prelude()? else { return Ok(None) };
        let head_bytes = PRELUDE_BYTES + prelude.header_len as usize;
        if self.buffered() < head_bytes {
            return Ok(None);
        }
        let header = &self.bytes[self.start + PRELUDE_BYTES..self.start + head_bytes];
        prelude.verify(header)?;
        self.start += head_bytes;
        Ok(Some(Head { prelude, header }))
    }

    /// Takes the next frame with its payload, if all of both is here.
    ///
    /// # Errors
    /// Any [`FrameError`]; the connection is to be closed.
    pub fn next_frame(&mut self) -> Result<Option<(Head<'_>, &[u8])>, FrameError> {
        let Some(prelude) = self.peek_prelude()? else { return Ok(None) };
        let (head_bytes, frame_bytes) = (PRELUDE_BYTES + prelude.header_len as usize, prelude.frame_bytes());
        if self.buffered() < frame_bytes {
            return Ok(None);
        }
        let frame = &self.bytes[self.start..self.start + frame_bytes];
        let header = &frame[PRELUDE_BYTES..head_bytes];
        prelude.verify(header)?;
        self.start += frame_bytes;
        Ok(Some((Head { prelude, header }, &frame[head_bytes..])))
    }

    /// Takes up to `count` bytes of a payload that are here.
    pub fn take_payload(&mut self, count: usize) -> &[u8] {
        let count = count.min(self.buffered());
        self.start += count;
        &self.bytes[self.start - count..self.start]
    }

    fn peek_prelude(&self) -> Result<Option<Prelude>, FrameError> {
        match self.bytes[self.start..self.end].first_chunk::<PRELUDE_BYTES>() {
            Some(bytes) => {
                let prelude = Prelude::parse(bytes)?;
                let (bytes, limit) = (prelude.frame_bytes(), self.frame_bytes_max);
                if bytes > limit { Err(FrameError::FrameLength { bytes, limit }) } else { Ok(Some(prelude)) }
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Done, Read, ReadMode, ReadReply, Write};
    use crate::ids::{Epoch, Handle, Incarnation, Serial, WorkerId};
    use crate::meta::{Batch, BatchReply, Operation};
    use crate::ring::{Member, Ring};

    fn read(offset: u64) -> Read {
        Read { handle: Handle(1), length: 4096, offset, mode: ReadMode::Cache }
    }

    fn frame<R: Request>(request_id: u64, request: &R, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        Encoder::default().request(&mut frame, request_id, request, payload.len());
        frame.extend_from_slice(payload);
        frame
    }

    /// Receives as a socket would: as much as there is room for.
    fn receive(buffer: &mut FrameBuffer, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let spare = buffer.spare();
            let count = spare.len().min(bytes.len());
            spare[..count].copy_from_slice(&bytes[..count]);
            buffer.filled(count);
            bytes = &bytes[count..];
        }
    }

    #[test]
    fn a_frame_cut_at_every_byte() {
        let bytes = frame(9, &Write { handle: Handle(1), offset: 2 }, b"payload");
        let head_bytes = bytes.len() - b"payload".len();
        for cut in 0..bytes.len() {
            let (mut heads, mut frames) = (FrameBuffer::new(32), FrameBuffer::new(32));
            receive(&mut heads, &bytes[..cut]);
            receive(&mut frames, &bytes[..cut]);
            assert!(frames.next_frame().unwrap().is_none(), "{cut}");
            let early = heads.next_head().unwrap().is_some();
            assert_eq!(early, cut >= head_bytes, "{cut}");

            receive(&mut heads, &bytes[cut..]);
            receive(&mut frames, &bytes[cut..]);
            let (head, payload) = frames.next_frame().unwrap().unwrap();
            assert_eq!((head.read::<Write>().unwrap().offset, payload), (2, &b"payload"[..]));
            assert_eq!(frames.buffered(), 0);
            if !early {
                assert_eq!(heads.next_head().unwrap().unwrap().read::<Write>().unwrap().offset, 2);
            }
            assert_eq!(heads.take_payload(usize::MAX), b"payload");
        }
    }

    /// Every size of receive, against buffers that are smaller and larger than a frame: frames come out whole, in
    /// order, and none is left.
    #[test]
    fn pipelined_frames() {
        let stream: Vec<u8> = (0..100).flat_map(|i| frame(i, &read(i), &[])).collect();
        for capacity in [32, 100, 4096, stream.len()] {
            for step in [1, 7, 63, 64, 65, 1000, stream.len()] {
                let mut buffer = FrameBuffer::new(capacity);
                let (mut rest, mut next) = (&stream[..], 0);
                while !rest.is_empty() {
                    let spare = buffer.spare();
                    let count = spare.len().min(step).min(rest.len());
                    spare[..count].copy_from_slice(&rest[..count]);
                    buffer.filled(count);
                    rest = &rest[count..];
                    while let Some(head) = buffer.next_head().unwrap() {
                        assert_eq!((head.prelude.request_id, head.read::<Read>().unwrap()), (next, read(next)));
                        next += 1;
                    }
                }
                assert_eq!((next, buffer.buffered()), (100, 0), "{capacity} {step}");
            }
        }
    }

    #[test]
    fn a_payload_in_pieces_between_two_frames() {
        let payload: Vec<u8> = (0..=255).collect();
        let mut buffer = FrameBuffer::new(64);
        let mut bytes = frame(1, &Write { handle: Handle(1), offset: 0 }, &payload);
        bytes.extend(frame(2, &read(7), &[]));
        let (mut rest, mut taken, mut due) = (&bytes[..], Vec::new(), None);
        while taken.len() < payload.len() {
            let spare = buffer.spare();
            let count = spare.len().min(rest.len());
            spare[..count].copy_from_slice(&rest[..count]);
            buffer.filled(count);
            rest = &rest[count..];
            if due.is_none() {
                due = buffer.next_head().unwrap().map(|head| head.prelude.payload_len as usize);
            }
            if let Some(due) = due {
                taken.extend_from_slice(buffer.take_payload((due - taken.len()).min(50)));
            }
        }
        assert_eq!(taken, payload);
        receive(&mut buffer, rest);
        assert_eq!(buffer.next_head().unwrap().unwrap().prelude.request_id, 2);
        assert!(buffer.take_payload(1).is_empty());
    }

    #[test]
    fn the_buffer_grows_to_the_longest_frame_and_no_further() {
        let payload = vec![0x5a; PAYLOAD_BYTES_MAX];
        let mut bytes = frame(1, &Write { handle: Handle(1), offset: 0 }, &payload);
        let mut buffer = FrameBuffer::new(4096);
        receive(&mut buffer, &bytes);
        assert!(buffer.bytes.len() <= FRAME_BYTES_MAX && buffer.bytes.len() < bytes.len() * 2);
        assert_eq!(buffer.next_frame().unwrap().unwrap().1.len(), PAYLOAD_BYTES_MAX);

        // The longest header and the longest payload at once are the longest frame, and it still fits.
        let header = vec![0; HEADER_BYTES_MAX];
        let mut prelude = Prelude {
            kind: Kind::Write,
            flags: Flags::default(),
            header_len: HEADER_BYTES_MAX as u32,
            header_crc: 0,
            payload_len: PAYLOAD_BYTES_MAX as u64,
            request_id: 0,
        };
        prelude.header_crc = prelude.checksum(&header);
        bytes = [&prelude.to_bytes()[..], &header, &payload].concat();
        assert_eq!(bytes.len(), FRAME_BYTES_MAX);
        receive(&mut buffer, &bytes);
        assert_eq!(buffer.bytes.len(), FRAME_BYTES_MAX);
        assert!(buffer.next_frame().unwrap().is_some());
    }

    /// A peer that promises much and sends little takes little.
    #[test]
    fn hostile_lengths_take_no_memory() {
        let mut bytes = frame(1, &Write { handle: Handle(1), offset: 0 }, &[]);
        let mut claim = |header_len: u32, payload_len: u64| {
            bytes[8..12].copy_from_slice(&header_len.to_le_bytes());
            bytes[16..24].copy_from_slice(&payload_len.to_le_bytes());
            let mut buffer = FrameBuffer::new(64);
            receive(&mut buffer, &bytes);
            let judged = buffer.next_head().map(|head| head.is_some());
            assert!(buffer.bytes.len() <= 128, "{} bytes", buffer.bytes.len());
            judged
        };
        let (header_max, payload_max) = (HEADER_BYTES_MAX as u32, PAYLOAD_BYTES_MAX as u64);
        assert_eq!(claim(u32::MAX, 0), Err(FrameError::HeaderLength(u32::MAX)));
        assert_eq!(claim(header_max + 16, 0), Err(FrameError::HeaderLength(header_max + 16)));
        assert_eq!(claim(16, u64::MAX), Err(FrameError::PayloadLength(u64::MAX)));
        assert_eq!(claim(16, payload_max + 1), Err(FrameError::PayloadLength(payload_max + 1)));
        // Within the bounds nothing is refused yet, and nothing is allocated for it either.
        assert_eq!(claim(header_max, payload_max), Ok(false));
    }

    #[test]
    fn a_limited_connection_refuses_longer_frames_from_their_prelude_alone() {
        let short = frame(1, &read(0), &[]);
        let mut buffer = FrameBuffer::new(32);
        buffer.limit_frames(short.len());
        receive(&mut buffer, &short);
        assert!(buffer.next_frame().unwrap().is_some());

        let long = frame(2, &Write { handle: Handle(1), offset: 0 }, &[0; 100]);
        receive(&mut buffer, &long[..PRELUDE_BYTES]);
        let refusal = FrameError::FrameLength { bytes: long.len(), limit: short.len() };
        assert_eq!(buffer.next_head().unwrap_err(), refusal);
        assert_eq!(buffer.next_frame().unwrap_err(), refusal);

        buffer.limit_frames(usize::MAX);
        receive(&mut buffer, &long[PRELUDE_BYTES..]);
        assert!(buffer.next_frame().unwrap().is_some());
    }

    #[test]
    #[should_panic(expected = "does not take what it received")]
    fn an_owner_who_never_takes_is_stopped() {
        let mut buffer = FrameBuffer::new(64);
        buffer.limit_frames(256);
        loop {
            let count = buffer.spare().len();
            buffer.filled(count);
        }
    }

    #[test]
    fn damage_behind_the_prelude_ends_the_connection() {
        let good = frame(1, &read(5), &[]);
        for at in PRELUDE_BYTES..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let mut buffer = FrameBuffer::new(64);
            receive(&mut buffer, &bad);
            assert!(matches!(buffer.next_head().unwrap_err(), FrameError::Checksum { .. }), "byte {at}");
        }
    }

    #[test]
    fn an_empty_message_has_an_empty_header() {
        let mut bytes = Vec::new();
        Encoder::default().reply::<Write>(&mut bytes, 4, &Ok(Done {}));
        assert_eq!(bytes.len(), PRELUDE_BYTES);
        let mut buffer = FrameBuffer::new(64);
        receive(&mut buffer, &bytes);
        let head = buffer.next_head().unwrap().unwrap();
        assert_eq!(head.read_reply::<Write>(), Ok(Done {}));
        // Too short for a message that has fields.
        assert_eq!(head.access::<ReadReply>().err(), Some(FrameError::Archive(Kind::Write)));
    }

    #[test]
    fn answers_are_judged_by_kind_and_flags() {
        let mut encoder = Encoder::default();
        let mut bytes = Vec::new();
        let failure = Failure::new(Status::NotFound, "gone");
        encoder.reply::<Read>(&mut bytes, 1, &Err(failure.clone()));
        encoder.request(&mut bytes, 2, &read(0), 0);
        let mut buffer = FrameBuffer::new(4096);
        receive(&mut buffer, &bytes);
        let head = buffer.next_head().unwrap().unwrap();
        assert_eq!(head.read_reply::<Read>(), Err(failure));
        assert_eq!(head.read_reply::<Write>().unwrap_err().status, Status::Protocol, "an answer to another question");
        let head = buffer.next_head().unwrap().unwrap();
        assert_eq!(head.read_reply::<Read>().unwrap_err().status, Status::Protocol, "a question");
    }

    fn long_failure() -> Failure {
        Failure::new(Status::NotEmpty, "x".repeat(HEADER_BYTES_MAX))
    }

    /// 4,096 operations are a legal batch, however long their answers get; the answerer must not die of it.
    #[test]
    fn what_no_frame_can_hold_is_a_failure_and_no_panic() {
        let mut encoder = Encoder::default();
        let mut bytes = Vec::new();
        let results = vec![Err(Failure::new(Status::NotFound, "x".repeat(1 << 10))); 4096];
        encoder.reply::<Batch>(&mut bytes, 1, &Ok(BatchReply { results }));
        encoder.reply::<Batch>(&mut bytes, 2, &Err(long_failure()));
        let mut buffer = FrameBuffer::new(4096);
        receive(&mut buffer, &bytes);
        let mut status = || buffer.next_head().unwrap().unwrap().read_reply::<Batch>().unwrap_err().status;
        assert_eq!([status(), status()], [Status::InvalidArgument, Status::NotEmpty]);

        bytes.clear();
        let operations = vec![Operation::Stat { path: "x".repeat(4096) }; 1024];
        let batch = Batch { first: Serial(1), operations };
        let refusal = encoder.try_request(&mut bytes, 1, &batch, 0).unwrap_err();
        assert!(matches!(refusal, FrameError::HeaderLength(length) if length as usize > HEADER_BYTES_MAX));
        let refusal = encoder.try_request(&mut bytes, 1, &read(0), PAYLOAD_BYTES_MAX + 1).unwrap_err();
        assert_eq!(refusal, FrameError::PayloadLength(PAYLOAD_BYTES_MAX as u64 + 1));
        assert!(bytes.is_empty());
    }

    #[test]
    #[should_panic(expected = "at most")]
    fn a_message_that_the_caller_should_have_bounded_panics() {
        Encoder::default().encode(&mut Vec::new(), Kind::Read, Flags::default(), 1, &long_failure(), 0);
    }

    #[test]
    fn a_failure_carries_its_ring() {
        let member = Member {
            worker: WorkerId(1),
            incarnation: Incarnation(2),
            data_address: "127.0.0.1:1".into(),
            socket_path: String::new(),
            host: "h".into(),
            shards: 1,
            weight: 1,
        };
        let failure = Failure::wrong_epoch(Ring { epoch: Epoch(3), members: vec![member] });
        let mut bytes = Vec::new();
        Encoder::default().failure(&mut bytes, Kind::Read, 1, &failure);
        let mut buffer = FrameBuffer::new(64);
        receive(&mut buffer, &bytes);
        assert_eq!(buffer.next_head().unwrap().unwrap().read_reply::<Read>(), Err(failure));
    }
}
