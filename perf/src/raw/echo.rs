//! Replies of one size to requests of one size, on tokio: what a metadata request costs at the least.
//!
//! The server takes what one receive gives and answers all of it by one write; the tag of a request, where a frame has
//! its request id, comes back as that of its reply. The client drives many connections from one thread, each with a
//! number of requests in flight that were encoded before; it asks the echo and Citius alike.

use crate::measure::Side;
use anyhow::{Context as _, Result, ensure};
use citius_wire::{Flags, PRELUDE_BYTES, Prelude};
use futures::future::try_join_all;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// Bytes of the tag that comes back.
const TAG_BYTES: usize = 8;
/// Where it is: the request id of a frame.
const TAG_AT: usize = PRELUDE_BYTES - TAG_BYTES;
const TAG_END: usize = TAG_AT + TAG_BYTES;
/// The most requests that are answered by one write.
const BATCH_REPLIES_MAX: usize = 64;

/// How long requests and replies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Bytes of a request, at least a prelude.
    pub(crate) request_bytes: usize,
    /// Bytes of a reply, at least a prelude.
    pub(crate) reply_bytes: usize,
}

/// Serves until the listener fails.
pub(crate) fn serve(listener: TcpListener, sizes: Sizes) -> Result<()> {
    ensure!(sizes.request_bytes >= TAG_END && sizes.reply_bytes >= TAG_END, "{sizes:?}: no room for a tag");
    listener.set_nonblocking(true)?;
    one_thread()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await.context("accepting")?;
            // A connection ends with its peer; nobody else needs to know.
            tokio::spawn(answer(stream, sizes));
        }
    })
}

fn one_thread() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().build().context("starting tokio")
}

async fn answer(mut stream: TcpStream, sizes: Sizes) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = vec![0; sizes.request_bytes * BATCH_REPLIES_MAX];
    let mut replies = vec![0; sizes.reply_bytes * BATCH_REPLIES_MAX];
    let mut here = 0;
    loop {
        let count = stream.read(&mut requests[here..]).await?;
        if count == 0 {
            return Ok(());
        }
        here += count;
        let whole = here / sizes.request_bytes;
        let pairs = requests.chunks_exact(sizes.request_bytes).zip(replies.chunks_exact_mut(sizes.reply_bytes));
        for (request, reply) in pairs.take(whole) {
            reply[TAG_AT..TAG_END].copy_from_slice(&request[TAG_AT..TAG_END]);
        }
        stream.write_all(&replies[..whole * sizes.reply_bytes]).await?;
        requests.copy_within(whole * sizes.request_bytes..here, 0);
        here -= whole * sizes.request_bytes;
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// How many connections ask at the same time.
    pub(crate) connections: usize,
    /// How many requests each sends.
    pub(crate) requests: usize,
    /// How many of them are in flight.
    pub(crate) depth: usize,
}

/// What is sent and what comes back: the same for the echo and for what it stands beside, so that the client's work
/// is the same.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// What each connection begins with; the answer to it is a frame of any length.
    pub(crate) hello: Option<Vec<u8>>,
    /// As many requests as are in flight, one after the other, each with a tag of its own.
    pub(crate) requests: Vec<u8>,
    /// How long each and its reply are.
    pub(crate) sizes: Sizes,
}

impl Exchange {
    fn tags(&self) -> Vec<[u8; TAG_BYTES]> {
        self.requests.chunks_exact(self.sizes.request_bytes).map(tag_of).collect()
    }

    async fn greet(&self, stream: &mut TcpStream) -> Result<()> {
        let Some(hello) = &self.hello else { return Ok(()) };
        stream.write_all(hello).await?;
        let mut prelude = [0; PRELUDE_BYTES];
        stream.read_exact(&mut prelude).await?;
        let prelude = Prelude::parse(&prelude)?;
        ensure!(!prelude.flags.has(Flags::FAILED), "the server refuses the connection");
        stream.read_exact(&mut vec![0; prelude.frame_bytes() - PRELUDE_BYTES]).await?;
        Ok(())
    }
}

fn tag_of(frame: &[u8]) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&frame[TAG_AT..TAG_END]);
    tag
}

/// Asks on one connection.
async fn ask(stream: &mut TcpStream, exchange: &Exchange, tags: &[[u8; TAG_BYTES]], requests: usize) -> Result<()> {
    let (Sizes { request_bytes, reply_bytes }, depth) = (exchange.sizes, tags.len());
    let mut replies = vec![0; reply_bytes * depth];
    let (mut asked, mut answered, mut here) = (0_usize, 0_usize, 0);
    while answered < requests {
        let mut count = (requests - asked).min(depth - (asked - answered));
        while count > 0 {
            // The requests are a ring: what goes past its end is sent from its start.
            let first = asked % depth;
            let run = count.min(depth - first);
            stream.write_all(&exchange.requests[first * request_bytes..(first + run) * request_bytes]).await?;
            asked += run;
            count -= run;
        }
        let count = stream.read(&mut replies[here..]).await?;
        ensure!(count > 0, "the server closed the connection");
        here += count;
        let whole = here / reply_bytes;
        for reply in replies[..whole * reply_bytes].chunks_exact(reply_bytes) {
            ensure!(tag_of(reply) == tags[answered % depth], "a reply out of order, or of another length");
            answered += 1;
        }
        replies.copy_within(whole * reply_bytes..here, 0);
        here -= whole * reply_bytes;
    }
    Ok(())
}

/// What a round of requests is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Requests per second of the clock.
    PerSecond,
    /// Requests per second of the server's CPU.
    PerServerSecond,
}

/// Says how much CPU time a server used.
type CpuTime = Box<dyn Fn() -> Result<Duration>>;

/// Many connections to one server, driven by one thread.
pub(crate) struct Echoes {
    runtime: Runtime,
    streams: Vec<TcpStream>,
    exchange: Exchange,
    load: Load,
    figure: Figure,
    /// Keeps the server as well.
    server_time: CpuTime,
}

impl Echoes {
    /// Connects to a server in another process, which lives as long as `server_time` does.
    pub(crate) fn connect(
        address: SocketAddr,
        exchange: Exchange,
        load: Load,
        figure: Figure,
        server_time: CpuTime,
    ) -> Result<Self> {
        let runtime = one_thread()?;
        let streams = runtime.block_on(async {
            let mut streams = Vec::with_capacity(load.connections);
            for _ in 0..load.connections {
                let mut stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                exchange.greet(&mut stream).await?;
                streams.push(stream);
            }
            Result::<_>::Ok(streams)
        });
        Ok(Self { runtime, streams: streams.context("connecting")?, exchange, load, figure, server_time })
    }
}

impl Side for Echoes {
    fn round(&mut self, _seed: u64) -> Result<f64> {
        let (exchange, requests) = (&self.exchange, self.load.requests);
        let tags = exchange.tags();
        let before = (self.server_time)()?;
        let start = Instant::now();
        let streams = &mut self.streams;
        self.runtime.block_on(try_join_all(streams.iter_mut().map(|stream| ask(stream, exchange, &tags, requests))))?;
        let seconds = match self.figure {
            Figure::PerSecond => start.elapsed(),
            Figure::PerServerSecond => (self.server_time)()? - before,
        };
        Ok((self.load.connections * requests) as f64 / seconds.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn every_reply_answers_its_request_at_every_depth() {
        for (request_bytes, reply_bytes) in [(32, 32), (80, 144), (300, 40)] {
            let sizes = Sizes { request_bytes, reply_bytes };
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::spawn(move || serve(listener, sizes));
            for (connections, requests, depth) in [(1, 10, 1), (5, 300, 32), (3, 300, 100), (2, 3, 32)] {
                let load = Load { connections, requests, depth };
                let tagged = |tag: usize| {
                    let mut request = vec![0; request_bytes];
                    request[TAG_AT..TAG_END].copy_from_slice(&tag.to_le_bytes());
                    request
                };
                let exchange = Exchange { hello: None, requests: (0..depth).flat_map(tagged).collect(), sizes };
                let idle: CpuTime = Box::new(|| Ok(Duration::ZERO));
                let mut echoes = Echoes::connect(address, exchange, load, Figure::PerSecond, idle).unwrap();
                for round in 0..2 {
                    assert!(echoes.round(round).unwrap() > 0.0);
                }
            }
        }
    }

    #[test]
    fn a_request_without_room_for_its_tag_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(serve(listener, Sizes { request_bytes: 31, reply_bytes: 32 }).is_err());
    }
}
