//! Replies of one size to requests of one size, on tokio: what a metadata request costs at the least.
//!
//! The server takes what one receive gives and answers all of it by one write; the first 8 bytes of a request come
//! back as the first 8 of its reply. The client drives many connections from one thread, each with a number of
//! requests in flight.

use crate::child::Server;
use crate::measure::Side;
use anyhow::{Context as _, Result, ensure};
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Bytes of the tag that comes back.
const TAG_BYTES: usize = 8;
/// The most requests that are answered by one write.
const BATCH_REPLIES_MAX: usize = 64;

/// How long requests and replies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Bytes of a request, at least the tag.
    pub(crate) request_bytes: usize,
    /// Bytes of a reply, at least the tag.
    pub(crate) reply_bytes: usize,
}

/// Serves until the listener fails.
pub(crate) fn serve(listener: TcpListener, sizes: Sizes) -> Result<()> {
    ensure!(sizes.request_bytes >= TAG_BYTES && sizes.reply_bytes >= TAG_BYTES, "{sizes:?}: no room for a tag");
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
            reply[..TAG_BYTES].copy_from_slice(&request[..TAG_BYTES]);
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

/// Asks on one connection.
async fn ask(stream: &mut TcpStream, sizes: Sizes, requests: usize, depth: usize) -> Result<()> {
    let mut batch = vec![0; sizes.request_bytes * depth];
    let mut replies = vec![0; sizes.reply_bytes * depth];
    let (mut asked, mut answered, mut here) = (0_usize, 0_usize, 0);
    while answered < requests {
        let count = (requests - asked).min(depth - (asked - answered));
        for request in batch.chunks_exact_mut(sizes.request_bytes).take(count) {
            request[..TAG_BYTES].copy_from_slice(&(asked as u64).to_le_bytes());
            asked += 1;
        }
        stream.write_all(&batch[..count * sizes.request_bytes]).await?;
        let count = stream.read(&mut replies[here..]).await?;
        ensure!(count > 0, "the server closed the connection");
        here += count;
        let whole = here / sizes.reply_bytes;
        for reply in replies[..whole * sizes.reply_bytes].chunks_exact(sizes.reply_bytes) {
            ensure!(reply[..TAG_BYTES] == (answered as u64).to_le_bytes(), "a reply out of order");
            answered += 1;
        }
        replies.copy_within(whole * sizes.reply_bytes..here, 0);
        here -= whole * sizes.reply_bytes;
    }
    Ok(())
}

/// Many connections to one server, driven by one thread.
#[derive(Debug)]
pub(crate) struct Echoes {
    runtime: Runtime,
    streams: Vec<TcpStream>,
    sizes: Sizes,
    load: Load,
    /// Kept for as long as it is asked.
    _server: Option<Server>,
}

impl Echoes {
    /// Connects to a server in another process.
    pub(crate) fn connect(server: Server, sizes: Sizes, load: Load) -> Result<Self> {
        let address = server.address;
        Ok(Self { _server: Some(server), ..Self::connect_to(address, sizes, load)? })
    }

    fn connect_to(address: SocketAddr, sizes: Sizes, load: Load) -> Result<Self> {
        let runtime = one_thread()?;
        let streams = runtime.block_on(async {
            let mut streams = Vec::with_capacity(load.connections);
            for _ in 0..load.connections {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
            Result::<_>::Ok(streams)
        });
        Ok(Self { runtime, streams: streams.context("connecting")?, sizes, load, _server: None })
    }
}

impl Side for Echoes {
    /// Requests per second of the clock, over all connections.
    fn round(&mut self, _seed: u64) -> Result<f64> {
        let (sizes, load) = (self.sizes, self.load);
        let streams = std::mem::take(&mut self.streams);
        let start = Instant::now();
        self.streams = self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for mut stream in streams {
                tasks.spawn(async move { ask(&mut stream, sizes, load.requests, load.depth).await.map(|()| stream) });
            }
            tasks.join_all().await.into_iter().collect::<Result<_>>()
        })?;
        Ok((load.connections * load.requests) as f64 / start.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn every_reply_answers_its_request_at_every_depth() {
        for (request_bytes, reply_bytes) in [(8, 8), (80, 144), (300, 20)] {
            let sizes = Sizes { request_bytes, reply_bytes };
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::spawn(move || serve(listener, sizes));
            for (connections, requests, depth) in [(1, 10, 1), (5, 300, 32), (3, 300, 100), (2, 3, 32)] {
                let load = Load { connections, requests, depth };
                let mut echoes = Echoes::connect_to(address, sizes, load).unwrap();
                for round in 0..2 {
                    assert!(echoes.round(round).unwrap() > 0.0);
                }
            }
        }
    }

    #[test]
    fn a_request_without_room_for_its_tag_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(serve(listener, Sizes { request_bytes: 7, reply_bytes: 8 }).is_err());
    }
}
