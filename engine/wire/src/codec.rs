//! Sans-I/O codec: messages to frames and bytes to frames. Who calls it does the reading and writing.
//!
//! An archive stands at the end of its header (its root is found from the end), so padding goes in front of it.
//! Archives are built from unaligned primitives: a frame may start at any byte of a receive buffer and its header is
//! read where it lies.

use crate::frame::{
    Flags, FrameError, HEADER_ALIGN, HEADER_BYTES_MAX, Kind, PAYLOAD_BYTES_MAX, PRELUDE_BYTES, Prelude,
};
use crate::status::Failure;
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

/// Writes frames into a byte buffer, reusing its scratch memory.
#[derive(Default)]
pub struct Encoder {
    scratch: Scratch,
}

impl Encoder {
    /// Appends prelude and header of a frame to `out`; its payload, if any, is for the caller to send behind it.
    ///
    /// # Panics
    /// If the message is longer than a header may be: batches and pages are bounded where they are made.
    pub fn encode<H: Encode>(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        flags: Flags,
        request_id: u64,
        header: &H,
        payload_len: usize,
    ) {
        assert!(payload_len <= PAYLOAD_BYTES_MAX, "a payload of {payload_len} bytes");
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let scratch = rkyv::api::high::to_bytes_in::<_, Judgement>(header, scratch)
            .expect("archiving into memory fails only when memory does");
        let header_len = scratch.len().next_multiple_of(HEADER_ALIGN);
        assert!(header_len <= HEADER_BYTES_MAX, "a header of {header_len} bytes");

        let start = out.len();
        out.resize(start + PRELUDE_BYTES + header_len - scratch.len(), 0);
        out.extend_from_slice(&scratch);
        self.scratch = scratch;

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
    }

    /// Appends a question.
    pub fn request<R: Request>(&mut self, out: &mut Vec<u8>, request_id: u64, request: &R, payload_len: usize) {
        self.encode(out, R::KIND, Flags::default(), request_id, request, payload_len);
    }

    /// Appends an answer: the reply, or the failure in its place.
    pub fn reply<R: Request>(&mut self, out: &mut Vec<u8>, request_id: u64, reply: &Result<R::Reply, Failure>) {
        match reply {
            Ok(reply) => self.encode(out, R::KIND, Flags::REPLY, request_id, reply, 0),
            Err(failure) => self.failure(out, R::KIND, request_id, failure),
        }
    }

    /// Appends the failure of a request.
    pub fn failure(&mut self, out: &mut Vec<u8>, kind: Kind, request_id: u64, failure: &Failure) {
        self.encode(out, kind, Flags::REPLY.with(Flags::FAILED), request_id, failure, 0);
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
/// a large one is best received straight to where it belongs.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameBuffer {
    /// A buffer that receives `capacity` bytes at a time.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity.max(PRELUDE_BYTES)], start: 0, end: 0 }
    }

    /// Room to receive into: all of the rest of the buffer, never empty.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        if self.end == self.bytes.len() {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                // One frame fills it all; `next_head` has bounded how long that can get.
                let longer = (self.bytes.len() * 2).min(PRELUDE_BYTES + HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX);
                assert!(longer > self.bytes.len(), "the owner does not take what it received");
                self.bytes.resize(longer, 0);
            }
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
            Some(bytes) => Prelude::parse(bytes).map(Some),
            None => Ok(None),
        }
    }
}
