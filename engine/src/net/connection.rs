//! One client's connection, on its shard: frames in, answers out.
//!
//! Budget of warm reads over TCP, which `tests/budget` counts: for all the requests that one receive brings, one `recv`,
//! one `sendmsg` for each 64 of them, and one `io_uring_enter` to wait for more; no allocation in steady state, and no
//! copy in user space but of heads. A request that must wait (a miss, a map of an incomplete block, a
//! publication) goes on in a task of its own and is answered when it is ready, in any order.
//!
//! Bounds: [`WAITING_MAX`] requests may wait at once; [`ANSWER_BYTES_MAX`] bytes of answers may queue or be fetched for
//! it, and [`DESCRIPTORS_MAX`] descriptors queue. At any of them the connection is not read from until it has room, so a
//! client that does not receive costs a bounded amount of memory.

use crate::driver::{Found, Shard};
use crate::host::{guarded, guarded_now};
use crate::net::acceptor::{Accepted, Door};
use crate::net::outbox::{Outbox, Progress};
use crate::net::stream::Stream;
use crate::ring::Fd;
use crate::shard::{Attached, Handles};
use citius_wire::{
    Attach, Attached as AttachedReply, CAPABILITY_BYTES_MAX, CountersRequest, Detach, Done, Failure, FrameBuffer,
    FrameError, Free, Head, Kind, Load, Map, MapWrite, PAYLOAD_BYTES_MAX, PRELUDE_BYTES, Publish, Published, Read,
    Request, Resident, Seal, Stage, Staged, Status, Warm, Write,
};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Requests of one connection that may wait at once.
const WAITING_MAX: usize = 256;
/// Bytes of answers that queue or are being fetched, past which no more requests are taken.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Descriptors that queue, past which no more requests are taken.
const DESCRIPTORS_MAX: usize = 64;
/// Warm reads that are found before they are answered.
const FOUND_MAX: usize = 64;
/// Bytes of a read that is answered at once: what it looks up is little beside what it sends. With [`FOUND_MAX`], what
/// is found and in no queue yet is 4 MiB at most.
const FOUND_READ_BYTES: u32 = 64 << 10;
/// The longest header of a request to a shard: a capability and what is around it.
const HEADER_BYTES_MAX: usize = 2 * CAPABILITY_BYTES_MAX;
/// Bytes received at once.
const RECEIVE_BYTES: usize = 64 << 10;
/// Bytes of a payload that is thrown away at once, because its request was refused.
const DISCARD_BYTES: usize = 64 << 10;

/// What the tasks of one connection share.
pub(crate) struct Connection {
    /// The socket, for sending; a [`Stream`] receives from it.
    socket: Rc<OwnedFd>,
    door: Door,
    pub(crate) handles: RefCell<Handles>,
    outbox: RefCell<Outbox>,
    /// Warm reads that the next send answers; there are none while a task waits.
    found: RefCell<Vec<Found>>,
    /// Whether a task waits for the socket to have room.
    is_blocked: Cell<bool>,
    is_broken: Cell<bool>,
    waiting: Cell<usize>,
    /// Bytes of the answers that tasks are working on.
    expected_bytes: Cell<usize>,
    /// The receiving task, while it waits for room.
    receiver: RefCell<Option<Waker>>,
}

/// Serves a connection to its end.
pub(crate) async fn serve(shard: Rc<Shard>, accepted: Accepted) {
    let Accepted { socket, door, place } = accepted;
    let socket = Rc::new(socket);
    let mut stream = Stream::new(Rc::clone(&socket), shard.ring.clone(), shard.host.clone());
    let connection = Rc::new(Connection {
        socket,
        door,
        handles: RefCell::default(),
        outbox: RefCell::default(),
        found: RefCell::default(),
        is_blocked: Cell::new(false),
        is_broken: Cell::new(false),
        waiting: Cell::new(0),
        expected_bytes: Cell::new(0),
        receiver: RefCell::default(),
    });
    count(&shard.counters.connections);
    if let Some(Err(error)) = guarded(connection.converse(&shard, &mut stream)).await {
        tracing::debug!(%error, "a connection ended");
    }
    // Tasks that still work for it find it broken; the socket closes with the last of them.
    connection.break_off();
    shard.counters.connections.set(shard.counters.connections.get() - 1);
    drop(place);
}

impl Connection {
    async fn converse(self: &Rc<Self>, shard: &Rc<Shard>, stream: &mut Stream) -> io::Result<()> {
        let mut input = FrameBuffer::new(RECEIVE_BYTES);
        input.limit_frames(PRELUDE_BYTES + HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX);
        loop {
            let is_drained = self.take_frames(shard, stream, &mut input).await?;
            self.send(shard);
            self.room().await?;
            if is_drained {
                match stream.receive(input.spare()).await? {
                    0 => return Ok(()),
                    count => input.filled(count),
                }
            }
        }
    }

    /// Takes whole frames from the buffer until none is left (true), or the connection is full (false).
    async fn take_frames(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        stream: &mut Stream,
        input: &mut FrameBuffer,
    ) -> io::Result<bool> {
        while !self.is_full() {
            let head = match input.next_head() {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(true),
                Err(error) => return self.end(shard, 0, Kind::Hello, &error.to_string()).map(|()| true),
            };
            let prelude = head.prelude;
            match prelude.kind {
                Kind::Write => {
                    let write = match head.read::<Write>() {
                        Ok(write) => write,
                        Err(error) => {
                            return self.end(shard, prelude.request_id, Kind::Write, &error.to_string()).map(|()| true);
                        }
                    };
                    // Whoever waits for earlier answers should not wait for this payload too.
                    self.send(shard);
                    let result = self.write(shard, stream, input, write, prelude.payload_len as usize).await?;
                    self.answer::<Write>(shard, prelude.request_id, &result);
                }
                kind if head.header.len() > HEADER_BYTES_MAX => {
                    return self
                        .end(shard, prelude.request_id, kind, "no request to a shard is so long")
                        .map(|()| true);
                }
                kind if prelude.payload_len > 0 => {
                    return self
                        .end(shard, prelude.request_id, kind, "a request of this kind has no payload")
                        .map(|()| true);
                }
                _ => self.dispatch(shard, &head)?,
            }
        }
        Ok(false)
    }

    /// Answers at once what can be, and starts a task for what cannot. A panic is this request's failure only.
    fn dispatch(self: &Rc<Self>, shard: &Rc<Shard>, head: &Head<'_>) -> io::Result<()> {
        let (kind, id) = (head.prelude.kind, head.prelude.request_id);
        let outcome = guarded_now(|| match kind {
            Kind::Read => self.read(shard, id, head),
            _ => self.dispatch_other(shard, id, head),
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => self.end(shard, id, kind, &error.to_string()),
            None => {
                self.fail(shard, kind, id, &defect());
                Ok(())
            }
        }
    }

    fn read(self: &Rc<Self>, shard: &Rc<Shard>, id: u64, head: &Head<'_>) -> Result<(), FrameError> {
        let read: Read = head.read()?;
        let handles = self.handles.borrow();
        let file = handles.get(read.handle, shard.now_ms());
        match file.and_then(|file| Ok((file, shard.find_warm(file, &read, id)?))) {
            Ok((_, Some(found))) => {
                let mut waiting = self.found.borrow_mut();
                waiting.push(found);
                if waiting.len() >= FOUND_MAX || read.length >= FOUND_READ_BYTES {
                    drop(waiting);
                    self.answer_found(shard);
                }
            }
            Ok((file, None)) => self.read_cold(shard, id, Rc::clone(file), read),
            Err(failure) => self.fail(shard, Kind::Read, id, &failure),
        }
        Ok(())
    }

    /// Answers the warm reads that were found. A read whose block has gone since is a cold one.
    fn answer_found(self: &Rc<Self>, shard: &Rc<Shard>) {
        let mut found = self.found.take();
        shard.answer_found(&mut found, &mut self.outbox.borrow_mut());
        for gone in found.drain(..) {
            self.read_cold(shard, gone.id, gone.file, gone.read);
        }
        // Nothing was found meanwhile; the buffer is kept.
        self.found.replace(found);
    }

    fn read_cold(self: &Rc<Self>, shard: &Rc<Shard>, id: u64, file: Rc<Attached>, read: Read) {
        let expected = Expected::new(self, read.length as usize);
        self.start(shard, Kind::Read, id, move |this, shard| async move {
            let result = shard.read_cold(&file, &read).await;
            drop(expected);
            match result {
                Ok(answer) => {
                    count(&shard.counters.requests);
                    this.outbox.borrow_mut().reply_with(Kind::Read, id, &answer.reply, answer.payload);
                }
                Err(failure) => this.fail(&shard, Kind::Read, id, &failure),
            }
        });
    }

    fn dispatch_other(self: &Rc<Self>, shard: &Rc<Shard>, id: u64, head: &Head<'_>) -> Result<(), FrameError> {
        match head.prelude.kind {
            Kind::Attach => {
                let request: Attach = head.read()?;
                let view = shard.view();
                let result = self.handles.borrow_mut().attach(&request.capability, &view.keys, shard.now_ms());
                self.answer::<Attach>(shard, id, &result.map(|handle| AttachedReply { handle }));
            }
            Kind::Detach => {
                let request: Detach = head.read()?;
                let result = self.handles.borrow_mut().detach(request.handle);
                self.answer::<Detach>(shard, id, &result.map(|()| Done {}));
            }
            Kind::Seal => self.later(
                shard,
                id,
                head.read::<Seal>()?,
                |request| request.handle,
                |shard, file, request| async move {
                    shard.seal(&file, request.index, request.length).await.map(|()| Done {})
                },
            ),
            Kind::Stage => self.later(
                shard,
                id,
                head.read::<Stage>()?,
                |request| request.handle,
                |shard, file, request| async move {
                    shard.stage(&file, request.index, request.length).await.map(|()| Done {})
                },
            ),
            Kind::Staged => self.later(
                shard,
                id,
                head.read::<Staged>()?,
                |request| request.handle,
                |shard, file, request| async move { shard.staged_elsewhere(&file, request.index).map(|()| Done {}) },
            ),
            Kind::Publish => self.later(
                shard,
                id,
                head.read::<Publish>()?,
                |request| request.handle,
                |shard, file, request| async move {
                    shard.publish(&file, request.length).await.map(|file| Published { file })
                },
            ),
            Kind::Load => self.later(
                shard,
                id,
                head.read::<Load>()?,
                |request| request.handle,
                |shard, file, request| async move { shard.load(&file, request.index).await.map(|()| Done {}) },
            ),
            Kind::Warm => {
                let request: Warm = head.read()?;
                match Attached::check(&request.capability, &shard.view().keys, shard.now_ms()) {
                    Ok(file) => self.start(shard, Kind::Warm, id, async move |this: Rc<Self>, shard: Rc<Shard>| {
                        let result = shard.load(&Rc::new(file), request.index).await.map(|()| Done {});
                        this.answer::<Warm>(&shard, id, &result);
                    }),
                    Err(failure) => self.fail(shard, Kind::Warm, id, &failure),
                }
            }
            Kind::Free => self.later(
                shard,
                id,
                head.read::<Free>()?,
                |request| request.handle,
                |shard, file, _| async move { Ok(shard.free(&file)) },
            ),
            Kind::Resident => self.later(
                shard,
                id,
                head.read::<Resident>()?,
                |request| request.handle,
                |shard, file, _| async move { Ok(shard.resident(&file)) },
            ),
            Kind::Map if self.door == Door::Unix => self.map(shard, id, head.read()?),
            Kind::MapWrite if self.door == Door::Unix => self.map_write(shard, id, head.read()?),
            Kind::Counters => {
                let _: CountersRequest = head.read()?;
                self.answer::<CountersRequest>(shard, id, &Ok(shard.count()));
            }
            kind => {
                let failure = Failure::new(
                    Status::Unsupported,
                    format!("a shard answers no {kind:?} on a connection of this kind"),
                );
                self.fail(shard, kind, id, &failure);
            }
        }
        Ok(())
    }

    fn map(self: &Rc<Self>, shard: &Rc<Shard>, id: u64, request: Map) {
        self.with_file::<Map>(
            shard,
            id,
            request.handle,
            async move |this: Rc<Self>, shard: Rc<Shard>, file: Rc<Attached>| match shard
                .map(&file, request.index)
                .await
            {
                Ok((reply, descriptor)) => {
                    count(&shard.counters.requests);
                    this.outbox.borrow_mut().reply_descriptor(Kind::Map, id, &reply, descriptor);
                }
                Err(failure) => this.fail(&shard, Kind::Map, id, &failure),
            },
        );
    }

    fn map_write(self: &Rc<Self>, shard: &Rc<Shard>, id: u64, request: MapWrite) {
        self.with_file::<MapWrite>(
            shard,
            id,
            request.handle,
            async move |this: Rc<Self>, shard: Rc<Shard>, file: Rc<Attached>| match shard
                .map_write(&file, request.index)
                .await
            {
                Ok(descriptor) => {
                    count(&shard.counters.requests);
                    this.outbox.borrow_mut().reply_descriptor(Kind::MapWrite, id, &Done {}, descriptor);
                }
                Err(failure) => this.fail(&shard, Kind::MapWrite, id, &failure),
            },
        );
    }

    /// Runs a request on a file in a task of its own and answers with what it gives.
    fn later<R, Work>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        id: u64,
        request: R,
        handle: impl Fn(&R) -> citius_wire::Handle,
        work: impl FnOnce(Rc<Shard>, Rc<Attached>, R) -> Work + 'static,
    ) where
        R: Request + 'static,
        Work: Future<Output = Result<R::Reply, Failure>> + 'static,
    {
        self.with_file::<R>(
            shard,
            id,
            handle(&request),
            async move |this: Rc<Self>, shard: Rc<Shard>, file: Rc<Attached>| {
                let result = work(Rc::clone(&shard), file, request).await;
                this.answer::<R>(&shard, id, &result);
            },
        );
    }

    fn with_file<R: Request>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        id: u64,
        handle: citius_wire::Handle,
        work: impl AsyncFnOnce(Rc<Self>, Rc<Shard>, Rc<Attached>) + 'static,
    ) {
        let found = self.handles.borrow().get(handle, shard.now_ms()).map(Rc::clone);
        match found {
            Ok(file) => self.start(shard, R::KIND, id, move |this, shard| work(this, shard, file)),
            Err(failure) => self.fail(shard, R::KIND, id, &failure),
        }
    }

    /// Starts a task for one request; its answers are sent when it ends.
    fn start<Work>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        kind: Kind,
        id: u64,
        work: impl FnOnce(Rc<Self>, Rc<Shard>) -> Work + 'static,
    ) where
        Work: Future<Output = ()> + 'static,
    {
        self.waiting.set(self.waiting.get() + 1);
        let (this, own) = (Rc::clone(self), Rc::clone(shard));
        shard.host.spawn(async move {
            if guarded(work(Rc::clone(&this), Rc::clone(&own))).await.is_none() {
                this.fail(&own, kind, id, &defect());
            }
            this.waiting.set(this.waiting.get() - 1);
            this.send(&own);
            this.wake_receiver();
        });
    }

    /// Receives the payload of a write straight into the pages of its block.
    async fn write(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        stream: &mut Stream,
        input: &mut FrameBuffer,
        write: Write,
        length: usize,
    ) -> io::Result<Result<Done, Failure>> {
        let file = self.handles.borrow().get(write.handle, shard.now_ms()).map(Rc::clone);
        let prepared = match file {
            Ok(file) => shard.write_prepare(&file, write.offset, length).await.map(|pending| (file, pending)),
            Err(failure) => Err(failure),
        };
        let (file, mut pending) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                discard(stream, input, length).await?;
                return Ok(Err(failure));
            }
        };
        receive_into(stream, input, pending.bytes_mut()).await?;
        Ok(shard.write_done(&file, pending).map(|()| Done {}))
    }

    fn answer<R: Request>(&self, shard: &Shard, id: u64, result: &Result<R::Reply, Failure>) {
        match result {
            Ok(reply) => self.outbox.borrow_mut().reply(R::KIND, id, reply),
            Err(failure) => return self.fail(shard, R::KIND, id, failure),
        }
        count(&shard.counters.requests);
    }

    fn fail(&self, shard: &Shard, kind: Kind, id: u64, failure: &Failure) {
        count(&shard.counters.requests);
        count(&shard.counters.failures);
        if failure.status == Status::WrongEpoch {
            count(&shard.counters.wrong_epochs);
        }
        self.outbox.borrow_mut().failure(kind, id, failure);
    }

    /// Says why, and ends the connection: what follows on it cannot be understood.
    fn end(self: &Rc<Self>, shard: &Rc<Shard>, id: u64, kind: Kind, why: &str) -> io::Result<()> {
        self.answer_found(shard);
        self.outbox.borrow_mut().failure(kind, id, &Failure::new(Status::Protocol, why));
        // The last words are sent as far as the socket takes them; nobody waits for it.
        let _ = self.outbox.borrow_mut().send(self.socket.as_fd());
        Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()))
    }

    /// Sends what is queued; if the socket has no room, a task goes on when it has.
    fn send(self: &Rc<Self>, shard: &Rc<Shard>) {
        self.answer_found(shard);
        if self.is_blocked.get() || self.is_broken.get() {
            return;
        }
        if self.try_send() == Progress::Blocked {
            self.is_blocked.set(true);
            let (this, own) = (Rc::clone(self), Rc::clone(shard));
            shard.host.spawn(async move {
                if guarded(this.send_rest(&own)).await.is_none() {
                    this.break_off();
                }
                this.is_blocked.set(false);
                this.wake_receiver();
            });
        }
    }

    /// Sends until nothing is queued, waiting for the socket to have room.
    async fn send_rest(&self, shard: &Shard) {
        while !self.is_broken.get() {
            let socket = Fd::from(Rc::clone(&self.socket));
            if let Err(error) = shard.ring.poll_add(socket, libc::POLLOUT as u32).await {
                tracing::warn!(%error, "a connection was ended: its socket cannot be waited for");
                self.break_off();
            }
            if self.try_send() == Progress::Empty {
                return;
            }
            self.wake_receiver();
        }
    }

    fn try_send(&self) -> Progress {
        let sent = self.outbox.borrow_mut().send(self.socket.as_fd());
        sent.unwrap_or_else(|error| {
            tracing::debug!(%error, "a client is gone");
            self.break_off();
            Progress::Empty
        })
    }

    fn is_full(&self) -> bool {
        let outbox = self.outbox.borrow();
        self.waiting.get() >= WAITING_MAX
            || outbox.queued_bytes() + self.expected_bytes.get() >= ANSWER_BYTES_MAX
            || outbox.queued_descriptors() >= DESCRIPTORS_MAX
    }

    /// Waits until more may be taken in.
    async fn room(&self) -> io::Result<()> {
        poll_fn(|context| {
            if self.is_broken.get() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !self.is_full() {
                return Poll::Ready(Ok(()));
            }
            *self.receiver.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn wake_receiver(&self) {
        if let Some(waker) = self.receiver.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The end: the receiving task finds the socket closed, and nothing more is sent.
    fn break_off(&self) {
        self.is_broken.set(true);
        // It may be closed by the peer already.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
        self.wake_receiver();
    }
}

/// Bytes of an answer to come, counted against its connection until dropped.
struct Expected {
    connection: Rc<Connection>,
    bytes: usize,
}

impl Expected {
    fn new(connection: &Rc<Connection>, bytes: usize) -> Self {
        connection.expected_bytes.set(connection.expected_bytes.get() + bytes);
        Self { connection: Rc::clone(connection), bytes }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.connection.expected_bytes.set(self.connection.expected_bytes.get() - self.bytes);
    }
}

/// Adds one.
fn count(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

fn defect() -> Failure {
    Failure::new(Status::Internal, "a defect in the worker ended this request; its log has the place")
}

/// Receives exactly `into`: first what is buffered, then straight from the socket.
async fn receive_into(stream: &mut Stream, input: &mut FrameBuffer, into: &mut [u8]) -> io::Result<()> {
    let buffered = input.take_payload(into.len());
    let mut at = buffered.len();
    into[..at].copy_from_slice(buffered);
    while at < into.len() {
        match stream.receive(&mut into[at..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => at += count,
        }
    }
    Ok(())
}

async fn discard(stream: &mut Stream, input: &mut FrameBuffer, length: usize) -> io::Result<()> {
    let mut rest = length - input.take_payload(length).len();
    let mut buffer = vec![0; DISCARD_BYTES.min(rest)];
    while rest > 0 {
        let want = rest.min(buffer.len());
        match stream.receive(&mut buffer[..want]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => rest -= count,
        }
    }
    Ok(())
}
