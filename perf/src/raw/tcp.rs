//! Ranges of a working set over TCP, blocking, on std: what a remote read costs at the least.
//!
//! ```text
//! request (20 bytes): offset u64 | length u32 | id u64        reply: length u32 | id u64 | length bytes
//! ```
//!
//! All little endian. A connection has a thread. The thread takes all requests that one receive gives, and answers
//! them by one gathering write, straight out of the working set: no copy, and two system calls for any number of
//! requests that come together.

use crate::child::Server;
use crate::measure::{Latencies, Side};
use crate::offsets::Offsets;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::VecDeque;
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

const REQUEST_BYTES: usize = 20;
const REPLY_HEAD_BYTES: usize = 12;
/// The most replies in one write.
const BATCH_REPLIES_MAX: usize = 64;
/// The longest range: as much as the longest read of the ratios.
const LENGTH_MAX: usize = 1 << 20;

/// Serves until the listener fails. A connection that breaks, or asks for what is not there, ends alone.
pub(crate) fn serve(listener: &TcpListener, set: &[u8]) -> Result<()> {
    std::thread::scope(|scope| {
        loop {
            let (stream, _) = listener.accept().context("accepting")?;
            // The peer sees the end of its connection; nobody else needs to.
            scope.spawn(move || answer(&stream, set).is_ok());
        }
    })
}

fn answer(mut stream: &TcpStream, set: &[u8]) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = [0; REQUEST_BYTES * BATCH_REPLIES_MAX];
    let mut here = 0;
    loop {
        let count = stream.read(&mut requests[here..])?;
        if count == 0 {
            return Ok(());
        }
        here += count;
        let whole = here / REQUEST_BYTES;
        let mut heads = [[0; REPLY_HEAD_BYTES]; BATCH_REPLIES_MAX];
        let mut ranges = [&[][..]; BATCH_REPLIES_MAX];
        for (i, request) in requests[..whole * REQUEST_BYTES].chunks_exact(REQUEST_BYTES).enumerate() {
            let (range, head) = request.split_at(8);
            ranges[i] = range_of(set, u64_at(range, 0), u32_at(head, 0)).context("a range that is not there")?;
            heads[i].copy_from_slice(head);
        }
        let mut slices = [IoSlice::new(&[]); 2 * BATCH_REPLIES_MAX];
        for i in 0..whole {
            slices[2 * i] = IoSlice::new(&heads[i]);
            slices[2 * i + 1] = IoSlice::new(ranges[i]);
        }
        write_all(stream, &mut slices[..2 * whole])?;
        requests.copy_within(whole * REQUEST_BYTES..here, 0);
        here -= whole * REQUEST_BYTES;
    }
}

fn range_of(set: &[u8], offset: u64, length: u32) -> Option<&[u8]> {
    let (start, length) = (usize::try_from(offset).ok()?, length as usize);
    if length > LENGTH_MAX {
        return None;
    }
    set.get(start..start.checked_add(length)?)
}

fn write_all(mut stream: &TcpStream, mut slices: &mut [IoSlice<'_>]) -> Result<()> {
    while !slices.is_empty() {
        let count = stream.write_vectored(slices)?;
        ensure!(count > 0, "the peer takes no more");
        IoSlice::advance_slices(&mut slices, count);
    }
    Ok(())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A client that keeps a number of requests in flight, and puts every range into its buffer and nowhere else.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    requests: Vec<u8>,
    buffer: Vec<u8>,
    in_flight: VecDeque<(u64, Instant)>,
    id: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// How many requests.
    pub(crate) requests: usize,
    /// Bytes of each.
    pub(crate) length: usize,
    /// How many are in flight.
    pub(crate) depth: usize,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let buffer = vec![0; 2 * (REPLY_HEAD_BYTES + LENGTH_MAX)];
        Ok(Self { stream, requests: Vec::new(), buffer, in_flight: VecDeque::new(), id: 0 })
    }

    /// Reads as `load` says; `each` gets the offset and the bytes of every reply, in order, and how long it took.
    pub(crate) fn run(
        &mut self,
        load: Load,
        offsets: &mut Offsets,
        mut each: impl FnMut(u64, &[u8], std::time::Duration),
    ) -> Result<()> {
        let (mut to_ask, mut to_come) = (load.requests, load.requests);
        self.ask(load.depth.min(to_ask), load, offsets)?;
        to_ask -= load.depth.min(to_ask);
        let reply_bytes = REPLY_HEAD_BYTES + load.length;
        let mut here = 0;
        while to_come > 0 {
            let count = self.stream.read(&mut self.buffer[here..])?;
            ensure!(count > 0, "the server closed the connection");
            here += count;
            let whole = here / reply_bytes;
            for reply in self.buffer[..whole * reply_bytes].chunks_exact(reply_bytes) {
                let Some((offset, asked)) = self.in_flight.pop_front() else { bail!("a reply to no request") };
                let id = self.id - self.in_flight.len() as u64;
                let (said_length, said_id) = (u32_at(reply, 0), u64_at(reply, 4));
                ensure!(
                    said_length as usize == load.length && said_id == id,
                    "reply {said_id} of {said_length} bytes instead of {id} of {}",
                    load.length
                );
                each(offset, &reply[REPLY_HEAD_BYTES..], asked.elapsed());
            }
            self.buffer.copy_within(whole * reply_bytes..here, 0);
            here -= whole * reply_bytes;
            to_come -= whole;
            self.ask(whole.min(to_ask), load, offsets)?;
            to_ask -= whole.min(to_ask);
        }
        Ok(())
    }

    /// Sends so many requests by one write.
    fn ask(&mut self, count: usize, load: Load, offsets: &mut Offsets) -> Result<()> {
        self.requests.clear();
        for _ in 0..count {
            let offset = offsets.next();
            self.id += 1;
            self.requests.extend_from_slice(&offset.to_le_bytes());
            self.requests.extend_from_slice(&(load.length as u32).to_le_bytes());
            self.requests.extend_from_slice(&self.id.to_le_bytes());
            self.in_flight.push_back((offset, Instant::now()));
        }
        Ok(self.stream.write_all(&self.requests)?)
    }
}

/// What a round of reads is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// The median time of a request, in nanoseconds.
    MedianLatency,
    /// Requests per second of the server's CPU.
    RequestsPerServerSecond,
    /// Bytes per second of the server's CPU.
    BytesPerServerSecond,
}

/// Reads from a server in another process.
#[derive(Debug)]
pub(crate) struct Reads {
    /// The server.
    pub(crate) server: Server,
    /// Connected to it.
    pub(crate) client: Client,
    /// What is asked of it.
    pub(crate) load: Load,
    /// Bytes of its working set.
    pub(crate) set_bytes: usize,
    /// What counts.
    pub(crate) figure: Figure,
}

impl Side for Reads {
    fn round(&mut self, seed: u64) -> Result<f64> {
        let load = self.load;
        let mut offsets = Offsets::new(seed, self.set_bytes, load.length);
        let mut latencies = Latencies::with_capacity(load.requests);
        let before = self.server.cpu_time()?;
        self.client.run(load, &mut offsets, |_, _, time| latencies.add(time))?;
        let server_seconds = (self.server.cpu_time()? - before).as_secs_f64();
        Ok(match self.figure {
            Figure::MedianLatency => latencies.percentile(50.0) as f64,
            Figure::RequestsPerServerSecond => load.requests as f64 / server_seconds,
            Figure::BytesPerServerSecond => (load.requests * load.length) as f64 / server_seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{PageKind, WorkingSet};
    use std::net::Ipv4Addr;

    /// A server on a thread that the test's process ends with.
    fn start() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let set = WorkingSet::new(8 << 20, PageKind::Small).unwrap();
        std::thread::spawn(move || serve(&listener, &set));
        address
    }

    #[test]
    fn every_depth_and_length_gives_the_right_bytes() {
        let set = WorkingSet::new(8 << 20, PageKind::Small).unwrap();
        let address = start();
        for (requests, length, depth) in
            [(50, 4096, 1), (500, 4096, 32), (500, 4096, 200), (20, LENGTH_MAX, 4), (9, 24, 9), (3, 64, 32)]
        {
            let mut client = Client::connect(address).unwrap();
            let mut replies = 0;
            // The same connection serves again: nothing of the first run is left in it.
            for seed in 0..2 {
                let (mut asked, mut again) =
                    (Offsets::new(seed, set.len(), length), Offsets::new(seed, set.len(), length));
                client
                    .run(Load { requests, length, depth }, &mut asked, |offset, bytes, _| {
                        assert_eq!(offset, again.next());
                        assert!(bytes == &set[offset as usize..][..length], "{offset}");
                        replies += 1;
                    })
                    .unwrap();
            }
            assert_eq!(replies, 2 * requests);
        }
    }

    #[test]
    fn what_is_not_there_ends_the_connection_and_not_the_server() {
        let address = start();
        for (offset, length) in [(8 << 20, 1_u32), ((8 << 20) - 1, 2), (u64::MAX, 4096), (0, LENGTH_MAX as u32 + 1)] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&offset.to_le_bytes()).unwrap();
            stream.write_all(&length.to_le_bytes()).unwrap();
            stream.write_all(&[0; 8]).unwrap();
            assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "{offset} {length}");
        }
        let mut client = Client::connect(address).unwrap();
        let load = Load { requests: 1, length: 8, depth: 1 };
        client.run(load, &mut Offsets::new(0, 8 << 20, 8), |_, _, _| {}).unwrap();
    }
}
