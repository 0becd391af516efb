//! One connection to a shard or a master, owned by one caller for the time of a call.
//!
//! There is no reader thread: who asks also receives. Requests are queued and flushed together, answers come in any
//! order and are told apart by their request id.
//!
//! ```text
//! queue(a) queue(b) flush() ──►  peer
//! receive() ◄── head of b ; read_payload() ◄── bytes straight to where they belong
//! receive() ◄── head of a ; …
//! ```
//!
//! A warm 4 KiB read costs two system calls here, one `sendmsg` and one `recv`, and no allocation: frames are built in
//! and received into buffers that stay with the connection.

use crate::config::HANDLES_MAX;
use crate::deadline::Deadline;
use crate::sectors::SectorCheck;
use crate::stream::{Address, Stream};
use citius_wire::units::SECTOR_BYTES;
use citius_wire::{
    Access, Attach, Detach, Encoder, Failure, FileKey, Flags, FrameBuffer, FrameError, HEADER_ALIGN, Handle, Head,
    Hello, Kind, PRELUDE_BYTES, Prelude, ReadReply, Request, Status, Welcome,
};
use core::ops::Range;
use core::time::Duration;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::collections::{HashMap, VecDeque};
use std::io;

/// Bytes received at a time while answers are small, so that one call brings many.
const RECEIVE_BYTES: usize = 64 << 10;
/// A payload this long is received straight to its destination; of a shorter one a copy is cheaper than a call.
const DIRECT_BYTES_MIN: usize = 16 << 10;
/// Bytes of a payload received between two looks at their checksums: they are still in the cache then.
const CHUNK_BYTES: usize = 256 << 10;

/// What can go wrong on a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Nobody accepted the connection.
    #[error("cannot connect: {0}")]
    Refused(#[source] io::Error),
    /// The connection ended.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// The deadline passed, after the time allowed.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame that answers nothing that was asked, or not the way it must.
    #[error("{0}")]
    Unexpected(&'static str),
    /// The peer's own answer.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// A payload that does not match its checksums. The connection itself is fine.
    #[error("bytes at offset {offset} do not match their checksum")]
    Corrupt {
        /// Of the first bad sector, in the file.
        offset: u64,
    },
}

impl Fault {
    /// The class that a user is told.
    pub fn status(&self) -> Status {
        match self {
            Self::Refused(_) | Self::Broken(_) => Status::Unavailable,
            Self::TimedOut(_) => Status::TimedOut,
            Self::Frame(_) | Self::Unexpected(_) => Status::Protocol,
            Self::Failed(failure) => failure.status,
            Self::Corrupt { .. } => Status::Corrupt,
        }
    }

    /// Whether the connection may carry another request.
    pub fn leaves_connection_whole(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.status != Status::Protocol,
            Self::Corrupt { .. } => true,
            _ => false,
        }
    }
}

/// A connection past its hello.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    welcome: Welcome,
    encoder: Unprinted<Encoder>,
    out: Vec<u8>,
    frames: FrameBuffer,
    header: Vec<u8>,
    prelude: Option<Prelude>,
    payload_left: usize,
    request_id_next: u64,
    handles: Handles,
}

/// Keeps a field out of `Debug`.
struct Unprinted<T>(T);

impl<T> core::fmt::Debug for Unprinted<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("..")
    }
}

impl Connection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// Any [`Fault`].
    pub fn connect(address: &Address, hello: &Hello, deadline: Deadline) -> Result<Self, Fault> {
        let mut connection = Self {
            stream: Stream::connect(address, deadline)?,
            welcome: Welcome {
                worker: citius_wire::WorkerId(0),
                epoch: citius_wire::Epoch(0),
                shards: 0,
                release: String::new(),
            },
            encoder: Unprinted(Encoder::default()),
            out: Vec::new(),
            frames: FrameBuffer::new(RECEIVE_BYTES),
            header: Vec::new(),
            prelude: None,
            payload_left: 0,
            request_id_next: 1,
            handles: Handles::default(),
        };
        connection.welcome = connection.call(hello, deadline)?;
        Ok(connection)
    }

    /// Who answered.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.stream.is_unix()
    }

    /// Asks one thing and waits for its answer. Nothing else may be in flight.
    ///
    /// # Errors
    /// Any [`Fault`].
    pub fn call<R: Request>(&mut self, request: &R, deadline: Deadline) -> Result<R::Reply, Fault> {
        let id = self.queue(request);
        self.flush(deadline)?;
        if self.receive(0, deadline)?.request_id != id {
            return Err(Fault::Unexpected("it answered a question that was not asked"));
        }
        self.reply::<R>()
    }

    /// Adds a request to those that the next [`Connection::flush`] sends, and gives its id. Ids are consecutive.
    pub fn queue<R: Request>(&mut self, request: &R) -> u64 {
        let id = self.request_id_next;
        self.request_id_next += 1;
        self.encoder.0.request(&mut self.out, id, request, 0);
        id
    }

    /// The id that the next request gets.
    pub fn request_id_next(&self) -> u64 {
        self.request_id_next
    }

    /// Sends what was queued.
    ///
    /// # Errors
    /// `Broken` or `TimedOut`.
    pub fn flush(&mut self, deadline: Deadline) -> Result<(), Fault> {
        self.stream.send_all(&self.out, &[], deadline)?;
        self.out.clear();
        Ok(())
    }

    /// Sends what was queued, then a request with a payload, which is not copied.
    ///
    /// # Errors
    /// `Broken` or `TimedOut`.
    pub fn send_with_payload<R: Request>(
        &mut self,
        request: &R,
        payload: &[u8],
        deadline: Deadline,
    ) -> Result<u64, Fault> {
        let id = self.request_id_next;
        self.request_id_next += 1;
        self.encoder.0.request(&mut self.out, id, request, payload.len());
        self.stream.send_all(&self.out, payload, deadline)?;
        self.out.clear();
        Ok(id)
    }

    /// Receives the head of the next answer. What is left of the payload of the one before is skipped.
    ///
    /// `payload_expected` is how long a payload the caller awaits, 0 if it cannot tell: before a long one no more than
    /// its head is received here, so that the rest lands where it belongs.
    ///
    /// # Errors
    /// `Broken`, `TimedOut`, `Frame`, or `Unexpected` if the frame answers nothing.
    pub fn receive(&mut self, payload_expected: usize, deadline: Deadline) -> Result<Prelude, Fault> {
        self.skip_payload(deadline)?;
        let head_expected =
            if payload_expected >= DIRECT_BYTES_MIN { read_reply_head_bytes(payload_expected) } else { usize::MAX };
        loop {
            if let Some(head) = self.frames.next_head()? {
                let prelude = head.prelude;
                if !prelude.flags.has(Flags::REPLY) {
                    return Err(Fault::Unexpected("it asked instead of answering"));
                }
                self.header.clear();
                self.header.extend_from_slice(head.header);
                self.prelude = Some(prelude);
                self.payload_left = prelude.payload_len as usize;
                return Ok(prelude);
            }
            let buffered = self.frames.buffered();
            let spare = self.frames.spare();
            // A head longer than the one expected (a failure) is received without restraint.
            let wanted = if buffered < head_expected { head_expected - buffered } else { usize::MAX };
            let wanted = wanted.min(spare.len());
            let count = self.stream.receive(&mut spare[..wanted], deadline)?;
            self.frames.filled(count);
        }
    }

    /// The answer last received, as the reply to an `R`.
    ///
    /// # Errors
    /// `Failed` with the peer's failure; `Frame` if it answers no such question.
    pub fn reply<R: Request>(&self) -> Result<R::Reply, Fault> {
        let head = answer_to(self.prelude, &self.header, R::KIND)?;
        Ok(head.read::<R::Reply>()?)
    }

    /// The answer last received, viewed where it lies.
    ///
    /// # Errors
    /// As [`Connection::reply`].
    pub fn view_reply<R: Request>(&self) -> Result<&rkyv::Archived<R::Reply>, Fault> {
        let head = answer_to(self.prelude, &self.header, R::KIND)?;
        Ok(head.access::<R::Reply>()?)
    }

    /// Bytes of the payload that were not yet taken.
    pub fn payload_left(&self) -> usize {
        self.payload_left
    }

    /// The socket, to wait for it.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Bytes that are here already and not yet taken: answers that cost no more waiting.
    pub fn buffered(&self) -> usize {
        self.frames.buffered()
    }

    /// Whether nothing that was received or queued is left over.
    pub fn is_quiet(&self) -> bool {
        self.payload_left == 0 && self.frames.buffered() == 0 && self.out.is_empty()
    }

    /// Takes the next bytes of the payload, showing each piece to `look` while it is fresh in the cache.
    ///
    /// # Errors
    /// `Broken` or `TimedOut`; `Unexpected` if the payload is shorter.
    pub fn read_payload(
        &mut self,
        mut into: &mut [u8],
        deadline: Deadline,
        mut look: impl FnMut(&[u8]),
    ) -> Result<(), Fault> {
        if into.len() > self.payload_left {
            return Err(Fault::Unexpected("its payload is shorter than it must be"));
        }
        self.payload_left -= into.len();
        let here = self.frames.take_payload(into.len());
        let (start, rest) = into.split_at_mut(here.len());
        start.copy_from_slice(here);
        look(start);
        into = rest;
        while !into.is_empty() {
            let room = into.len().min(CHUNK_BYTES);
            let count = self.stream.receive(&mut into[..room], deadline)?;
            look(&into[..count]);
            into = &mut into[count..];
        }
        Ok(())
    }

    /// Takes the payload of the answer to a read of whole sectors: `lead` bytes are checked and thrown away, then
    /// `into` is filled, then the rest is checked and thrown away.
    ///
    /// # Errors
    /// As [`Connection::reply`]; `Unexpected` if it answers another range; `Corrupt` if a sector does not match its
    /// checksum: the payload has been taken, and `into` holds nothing to be trusted.
    pub fn read_sectors(
        &mut self,
        asked: Range<u64>,
        lead: usize,
        into: &mut [u8],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        // The header is set aside so that its checksums can be read while the payload is received.
        let header = core::mem::take(&mut self.header);
        let result = self.read_sectors_under(&header, asked, lead, into, deadline);
        self.header = header;
        result
    }

    fn read_sectors_under(
        &mut self,
        header: &[u8],
        asked: Range<u64>,
        lead: usize,
        into: &mut [u8],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let length = (asked.end - asked.start) as usize;
        let reply = answer_to(self.prelude, header, Kind::Read)?.access::<ReadReply>()?;
        if reply.offset.to_native() != asked.start
            || self.payload_left != length
            || reply.crcs.len() != length.div_ceil(SECTOR_BYTES)
        {
            return Err(Fault::Unexpected("it answered a read of another range"));
        }
        let mut check = SectorCheck::new(&reply.crcs);
        let mut scratch = [0; SECTOR_BYTES];
        let trail = length - lead - into.len();
        self.read_payload(&mut scratch[..lead], deadline, |bytes| check.update(bytes))?;
        self.read_payload(into, deadline, |bytes| check.update(bytes))?;
        self.read_payload(&mut scratch[..trail], deadline, |bytes| check.update(bytes))?;
        match check.finish() {
            Some(sector) => Err(Fault::Corrupt { offset: asked.start + (sector * SECTOR_BYTES) as u64 }),
            None => Ok(()),
        }
    }

    /// The descriptor that came with the answer last received.
    ///
    /// # Errors
    /// `Unexpected` if none did.
    pub fn take_descriptor(&mut self) -> Result<OwnedFd, Fault> {
        let said = self.prelude.is_some_and(|prelude| prelude.flags.has(Flags::DESCRIPTOR));
        let descriptor = if said { self.stream.take_descriptor() } else { None };
        descriptor.ok_or(Fault::Unexpected("it answered without the descriptor"))
    }

    /// The handle of a capability on this connection, attached now if it is not. Nothing may be in flight.
    ///
    /// # Errors
    /// Any [`Fault`].
    pub fn attach(
        &mut self,
        file: FileKey,
        access: Access,
        capability: &[u8],
        deadline: Deadline,
    ) -> Result<Handle, Fault> {
        let is_write = access == Access::Write;
        if let Some(handle) = self.handles.get(file, is_write) {
            return Ok(handle);
        }
        let attach = self.queue(&Attach { capability: capability.to_vec() });
        // The worker's table is bounded by ours: the oldest handle is given back in the same flight.
        let detach = self.handles.pop_if_full().map(|handle| self.queue(&Detach { handle }));
        self.flush(deadline)?;
        let mut attached = None;
        for _ in 0..1 + usize::from(detach.is_some()) {
            let id = self.receive(0, deadline)?.request_id;
            if id == attach {
                attached = Some(self.reply::<Attach>());
            } else if Some(id) == detach {
                self.reply::<Detach>()?;
            } else {
                return Err(Fault::Unexpected("it answered a question that was not asked"));
            }
        }
        let handle = attached.ok_or(Fault::Unexpected("it answered one question twice"))??.handle;
        self.handles.insert(file, is_write, handle);
        Ok(handle)
    }

    /// Forgets the handle of a capability that the worker no longer honours.
    pub fn forget(&mut self, file: FileKey) {
        self.handles.forget(file);
    }

    fn skip_payload(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let mut scratch = [0; SECTOR_BYTES];
        while self.payload_left > 0 {
            let count = self.payload_left.min(scratch.len());
            self.read_payload(&mut scratch[..count], deadline, |_| ())?;
        }
        Ok(())
    }
}

/// The head of an answer, if it answers a question of this kind with success.
fn answer_to(prelude: Option<Prelude>, header: &[u8], kind: Kind) -> Result<Head<'_>, Fault> {
    let prelude = prelude.ok_or(Fault::Unexpected("it has not answered yet"))?;
    let head = Head { prelude, header };
    if prelude.kind != kind {
        return Err(Fault::Unexpected("it answered with a frame of another kind"));
    }
    if prelude.flags.has(Flags::FAILED) {
        return Err(head.read::<Failure>()?.into());
    }
    Ok(head)
}

/// Bytes of prelude and header of the answer to a read of `payload` bytes: an offset, a pointer and a length of the
/// checksums, and one word a sector. Only a hint: an answer of another length is received as well.
fn read_reply_head_bytes(payload: usize) -> usize {
    PRELUDE_BYTES + (16 + payload.div_ceil(SECTOR_BYTES) * 4).next_multiple_of(HEADER_ALIGN)
}

/// What is attached, the oldest first.
#[derive(Debug, Default)]
struct Handles {
    by_file: HashMap<(FileKey, bool), Handle>,
    order: VecDeque<(FileKey, bool)>,
}

impl Handles {
    fn get(&self, file: FileKey, is_write: bool) -> Option<Handle> {
        self.by_file.get(&(file, is_write)).copied()
    }

    fn insert(&mut self, file: FileKey, is_write: bool, handle: Handle) {
        self.by_file.insert((file, is_write), handle);
        self.order.push_back((file, is_write));
    }

    fn pop_if_full(&mut self) -> Option<Handle> {
        if self.order.len() < HANDLES_MAX {
            return None;
        }
        self.order.pop_front().and_then(|key| self.by_file.remove(&key))
    }

    fn forget(&mut self, file: FileKey) {
        self.order.retain(|key| key.0 != file);
        self.by_file.retain(|key, _| key.0 != file);
    }
}
