//! One connection: frames in, answers out.
//!
//! ```text
//!  loop:  answer every frame that is here ──▶ one write ──▶ wait for bytes, or for frames from elsewhere
//! ```
//! The order matters: nothing is read while answers wait to be sent, so a peer that does not read is not read from.
//! Garbage gets one `Protocol` failure and the end of the connection: after it nothing that follows can be trusted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use citius_wire::{
    Batch, BatchReply, ClientId, Encoder, Failure, Flags, FrameBuffer, HEADER_BYTES_MAX, HELLO_FRAME_BYTES_MAX, Head,
    Heartbeat, Hello, Kind, List, OPERATIONS_MAX, Outcome, PRELUDE_BYTES, Register, Status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::server::{Place, Shared, Turn};
use super::slow::{Errand, Parcel};
use super::{ANSWER_BYTES_TARGET, ELSEWHERE_MAX, FRAMES_WAITING_MAX, HELLO_PATIENCE, READ_BYTES, WRITE_PATIENCE};

/// The longest frame a master takes: none of its requests has a payload.
const REQUEST_BYTES_MAX: usize = PRELUDE_BYTES + HEADER_BYTES_MAX;
/// A receive buffer that grew past this is replaced once it is empty.
const BUFFER_BYTES_KEPT: usize = 4 * READ_BYTES;

/// Serves a connection to its end, which comes early if another needs its turn before it has said hello.
pub(super) async fn serve(mut stream: TcpStream, shared: &Arc<Shared>, Turn { place, ousted }: Turn) -> io::Result<()> {
    let mut buffer = FrameBuffer::new(READ_BYTES);
    buffer.limit_frames(HELLO_FRAME_BYTES_MAX);
    let welcomed = tokio::select! {
        biased;
        welcomed = welcome(&mut stream, &mut buffer, shared) => welcomed?,
        _ = ousted => {
            shared.counters.unauthenticated.fetch_add(1, Relaxed);
            None
        }
    };
    drop(place);
    let Some((client, _place)) = welcomed else { return Ok(()) };
    buffer.limit_frames(REQUEST_BYTES_MAX);

    let (parcels_in, mut parcels) = mpsc::channel(FRAMES_WAITING_MAX);
    let mut desk = Desk::new(client, shared, parcels_in);
    let mut watch = IdleWatch::new(shared.idle_patience);
    let mut longest = 0;
    loop {
        let verdict = desk.answer(&mut buffer, &mut longest);
        if !desk.out.is_empty() {
            timeout(WRITE_PATIENCE, stream.write_all(&desk.out)).await??;
            desk.out.clear();
            desk.out.shrink_to(2 * ANSWER_BYTES_TARGET);
            watch.saw();
        }
        match verdict {
            Verdict::Close => return hang_up(stream).await,
            Verdict::Again => continue,
            Verdict::Drained => {}
        }
        if longest > BUFFER_BYTES_KEPT && buffer.buffered() == 0 {
            buffer = FrameBuffer::new(READ_BYTES);
            buffer.limit_frames(REQUEST_BYTES_MAX);
            longest = 0;
        }
        let may_read = desk.elsewhere < ELSEWHERE_MAX;
        tokio::select! {
            biased;
            Some(parcel) = parcels.recv(), if desk.elsewhere > 0 => {
                desk.accept(&parcel);
                while desk.out.len() < ANSWER_BYTES_TARGET && let Ok(parcel) = parcels.try_recv() {
                    desk.accept(&parcel);
                }
            }
            read = stream.read(buffer.spare()), if may_read => {
                let count = read?;
                if count == 0 {
                    return Ok(());
                }
                buffer.filled(count);
                watch.saw();
            }
            () = watch.expired(), if desk.elsewhere == 0 => return Ok(()),
        }
    }
}

/// Reads the hello and answers it; `None` if the connection is to be closed.
async fn welcome(
    stream: &mut TcpStream,
    buffer: &mut FrameBuffer,
    shared: &Shared,
) -> io::Result<Option<(ClientId, Place)>> {
    let mut out = Vec::new();
    let mut encoder = Encoder::default();
    let greeted = timeout(HELLO_PATIENCE, hello(stream, buffer)).await;
    let (request_id, judged) = match greeted {
        Ok(Ok(Greeting::Hello { request_id, hello })) => {
            if shared.token.matches(&hello.token) {
                (request_id, admit(shared).map(|place| (hello.client, place)))
            } else {
                shared.counters.unauthenticated.fetch_add(1, Relaxed);
                let words = "the token is not this cluster's: use the token file of the home that the master runs in";
                (request_id, Err(Failure::new(Status::Unauthenticated, words)))
            }
        }
        Ok(Ok(Greeting::Gone)) => return Ok(None),
        Ok(Ok(Greeting::Other { request_id, failure })) => {
            match failure.status {
                Status::Unauthenticated => shared.counters.unauthenticated.fetch_add(1, Relaxed),
                _ => shared.counters.bad_frames.fetch_add(1, Relaxed),
            };
            (request_id, Err(failure))
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => {
            shared.counters.unauthenticated.fetch_add(1, Relaxed);
            let words = format!("no hello came within {} s", HELLO_PATIENCE.as_secs());
            (0, Err(Failure::new(Status::Unauthenticated, words)))
        }
    };
    let (admitted, reply) = match judged {
        Ok(admitted) => (Some(admitted), Ok(shared.service.welcome())),
        Err(failure) => (None, Err(failure)),
    };
    encoder.reply::<Hello>(&mut out, request_id, &reply);
    timeout(WRITE_PATIENCE, stream.write_all(&out)).await??;
    if admitted.is_none() {
        linger(stream).await;
    }
    Ok(admitted)
}

fn admit(shared: &Shared) -> Result<Place, Failure> {
    Place::take(&shared.counters, shared.connections_max).ok_or_else(|| {
        shared.counters.turned_away.fetch_add(1, Relaxed);
        let words = format!(
            "this master has {} connections already, the most that its limit of open files allows: close some, or raise \
             its `ulimit -n`",
            shared.connections_max
        );
        Failure::new(Status::Busy, words)
    })
}

enum Greeting {
    Hello { request_id: u64, hello: Hello },
    Other { request_id: u64, failure: Failure },
    Gone,
}

async fn hello(stream: &mut TcpStream, buffer: &mut FrameBuffer) -> io::Result<Greeting> {
    loop {
        match buffer.next_head() {
            Ok(Some(head)) => {
                let request_id = head.prelude.request_id;
                let is_hello = head.prelude.kind == Kind::Hello && head.prelude.payload_len == 0;
                if !is_hello || head.prelude.flags != Flags::default() {
                    let words = "the first frame must be a hello with the token";
                    let failure = Failure::new(Status::Unauthenticated, words);
                    return Ok(Greeting::Other { request_id, failure });
                }
                return Ok(match head.read::<Hello>() {
                    Ok(hello) => Greeting::Hello { request_id, hello },
                    Err(error) => Greeting::Other { request_id, failure: error.into() },
                });
            }
            Ok(None) => {}
            Err(error) => return Ok(Greeting::Other { request_id: 0, failure: error.into() }),
        }
        let count = stream.read(buffer.spare()).await?;
        if count == 0 {
            return Ok(Greeting::Gone);
        }
        buffer.filled(count);
    }
}

/// Ends a connection so that its last words arrive: closing a socket with unread bytes would reset it, and the peer
/// might lose what was just written.
async fn hang_up(mut stream: TcpStream) -> io::Result<()> {
    linger(&mut stream).await;
    Ok(())
}

async fn linger(stream: &mut TcpStream) {
    /// How long, and how much, a peer may still send.
    const PATIENCE: Duration = Duration::from_millis(500);
    const BYTES_MAX: usize = 16 << 20;
    let drain = async {
        stream.shutdown().await?;
        let (mut sink, mut total) = (vec![0; READ_BYTES], 0);
        while total < BYTES_MAX {
            match stream.read(&mut sink).await? {
                0 => break,
                count => total += count,
            }
        }
        io::Result::Ok(())
    };
    // Whatever comes of it, the connection is over.
    drop(timeout(PATIENCE, drain).await);
}

/// What is to be done when no frame is left to answer.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Wait for more.
    Drained,
    /// Frames are left, but answers are to be sent first.
    Again,
    /// The peer broke the protocol and was told so.
    Close,
}

/// Where frames are answered.
struct Desk<'a> {
    client: ClientId,
    shared: &'a Arc<Shared>,
    parcels: mpsc::Sender<Parcel>,
    encoder: Encoder,
    /// Answers to be written.
    out: Vec<u8>,
    /// Requests that run elsewhere.
    elsewhere: usize,
    /// Results of one batch, kept for its memory.
    results: Vec<Result<Outcome, Failure>>,
}

impl<'a> Desk<'a> {
    fn new(client: ClientId, shared: &'a Arc<Shared>, parcels: mpsc::Sender<Parcel>) -> Self {
        Self {
            client,
            shared,
            parcels,
            encoder: Encoder::default(),
            out: Vec::new(),
            elsewhere: 0,
            results: Vec::new(),
        }
    }

    /// Answers the frames that are here, as far as bounds allow.
    fn answer(&mut self, buffer: &mut FrameBuffer, longest: &mut usize) -> Verdict {
        let now_ms = self.shared.service.now_ms();
        let mut requests = 0;
        let verdict = loop {
            if self.out.len() >= ANSWER_BYTES_TARGET {
                break Verdict::Again;
            }
            if self.elsewhere >= ELSEWHERE_MAX {
                break Verdict::Drained;
            }
            let failure = match buffer.next_frame() {
                Ok(Some((head, _))) => {
                    requests += 1;
                    *longest = (*longest).max(head.prelude.frame_bytes());
                    match self.take(&head, now_ms) {
                        Ok(()) => continue,
                        Err(failure) => (head.prelude.kind, head.prelude.request_id, failure),
                    }
                }
                Ok(None) => break Verdict::Drained,
                Err(error) => (Kind::Batch, 0, Failure::from(error)),
            };
            let (kind, request_id, failure) = failure;
            self.shared.counters.bad_frames.fetch_add(1, Relaxed);
            self.encoder.failure(&mut self.out, kind, request_id, &failure);
            break Verdict::Close;
        };
        if requests > 0 {
            self.shared.counters.requests.fetch_add(requests, Relaxed);
        }
        verdict
    }

    /// Answers one frame or sends it elsewhere. An error ends the connection.
    fn take(&mut self, head: &Head<'_>, now_ms: u64) -> Result<(), Failure> {
        let prelude = &head.prelude;
        if prelude.flags != Flags::default() || prelude.payload_len != 0 {
            let words = "a request to a master has no flags and no payload";
            return Err(Failure::new(Status::Protocol, words));
        }
        let request_id = prelude.request_id;
        match prelude.kind {
            Kind::Batch => self.batch(head, now_ms)?,
            Kind::List => self.send_elsewhere(request_id, Errand::List(head.read::<List>()?)),
            Kind::Register => self.send_elsewhere(request_id, Errand::Register(Box::new(head.read::<Register>()?))),
            Kind::Heartbeat => self.send_elsewhere(request_id, Errand::Heartbeat(Box::new(head.read::<Heartbeat>()?))),
            Kind::Hello => return Err(Failure::new(Status::Protocol, "a connection says hello once")),
            other => {
                let words = format!("a master does not serve {other:?}: ask the worker that owns the block");
                self.encoder.failure(&mut self.out, other, request_id, &Failure::new(Status::Unsupported, words));
            }
        }
        Ok(())
    }

    fn batch(&mut self, head: &Head<'_>, now_ms: u64) -> Result<(), Failure> {
        let request_id = head.prelude.request_id;
        let batch = head.access::<Batch>()?;
        if batch.operations.len() > OPERATIONS_MAX {
            let count = batch.operations.len();
            let words = format!("a batch of {count} operations is over the limit of {OPERATIONS_MAX}: send several");
            let failure = Failure::new(Status::InvalidArgument, words);
            self.encoder.failure(&mut self.out, Kind::Batch, request_id, &failure);
            return Ok(());
        }
        self.results.clear();
        if !self.shared.service.answer_now(batch, now_ms, &mut self.results) {
            self.send_elsewhere(request_id, Errand::Batch(self.client, head.read::<Batch>()?));
            return Ok(());
        }
        let reply = Ok(BatchReply { results: std::mem::take(&mut self.results) });
        self.encoder.reply::<Batch>(&mut self.out, request_id, &reply);
        if let Ok(BatchReply { results }) = reply {
            self.results = results;
        }
        Ok(())
    }

    fn send_elsewhere(&mut self, request_id: u64, errand: Errand) {
        self.elsewhere += 1;
        self.shared.counters.requests_elsewhere.fetch_add(1, Relaxed);
        let run = errand.run(request_id, Arc::clone(&self.shared.service), self.parcels.clone());
        self.shared.elsewhere.spawn(run);
    }

    fn accept(&mut self, parcel: &Parcel) {
        self.out.extend_from_slice(&parcel.frame);
        if parcel.is_last {
            self.elsewhere -= 1;
        }
    }
}

/// Notices a silent peer without reading the clock for each frame: it wakes twice in the time allowed and looks whether
/// anything was seen since.
struct IdleWatch {
    sleep: std::pin::Pin<Box<tokio::time::Sleep>>,
    half: Duration,
    seen: bool,
    is_second: bool,
}

impl IdleWatch {
    fn new(patience: Duration) -> Self {
        let half = patience / 2;
        Self { sleep: Box::pin(tokio::time::sleep(half)), half, seen: false, is_second: false }
    }

    fn saw(&mut self) {
        self.seen = true;
    }

    /// Returns once two halves have passed in which nothing was seen. Safe to drop and call again.
    async fn expired(&mut self) {
        loop {
            self.sleep.as_mut().await;
            if !self.seen && self.is_second {
                return;
            }
            self.is_second = !self.seen;
            self.seen = false;
            self.sleep.as_mut().reset(Instant::now() + self.half);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time is tokio's own, paused: it jumps to the next timer when nothing else is to be done.
    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_and_noise_is_not() {
        let mut watch = IdleWatch::new(Duration::from_secs(10));
        let start = Instant::now();
        for _ in 0..10 {
            watch.saw();
            assert!(timeout(Duration::from_secs(9), watch.expired()).await.is_err());
        }
        watch.expired().await;
        let silent = start.elapsed() - Duration::from_secs(90);
        assert!(silent >= Duration::from_secs(1) && silent <= Duration::from_secs(11), "{silent:?}");
    }
}
