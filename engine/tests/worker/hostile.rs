//! Peers that do not play by the rules, and peers that are merely slow: the worker answers the others all the while.

use crate::cluster::{Cluster, TOKEN, noise};
use crate::peer::Peer;
use citius_wire::{
    ClientId, CountersRequest, Detach, Encoder, Handle, Hello, Kind, MAGIC, PRELUDE_BYTES, Read, ReadMode, Resident,
    Status, TRANSFER_BYTES_MAX, Token,
};
use std::net::TcpStream;

fn hello(token: Token, shard: u16) -> Hello {
    Hello { token, client: ClientId([2; 16]), shard }
}

#[test]
fn who_has_no_token_gets_an_answer_and_no_more() {
    let cluster = Cluster::start();
    let address = cluster.data_address();
    for (hello, status) in
        [(hello(Token([0; 32]), 0), Status::Unauthenticated), (hello(TOKEN, 9), Status::InvalidArgument)]
    {
        let mut peer = Peer::silent(TcpStream::connect(address).unwrap());
        assert_eq!(peer.ask(&hello).unwrap_err().status, status);
        assert!(peer.receive().is_none());
    }
    let mut peer = Peer::silent(TcpStream::connect(address).unwrap());
    peer.send(&CountersRequest {});
    assert_eq!(peer.receive().unwrap().read::<Hello>().unwrap_err().status, Status::Protocol, "no hello, no service");
    assert!(peer.receive().is_none());
    assert_eq!(cluster.counters().connections, 1, "only the one that asks");
}

/// Peers that were silent held every place before the hello, for the five seconds that a hello may take; whoever came
/// then waited for them. Each door has places of its own.
#[test]
fn silent_peers_make_room_for_a_newcomer() {
    /// As many as there are places, whatever the limit of open files.
    const MANY: usize = 256;
    let cluster = Cluster::start();
    for socket in [Cluster::tcp_socket, Cluster::unix_socket] {
        let silent: Vec<_> = (0..MANY + 1).map(|_| Peer::silent(socket(&cluster))).collect();
        let mut newcomer = Peer::hello(socket(&cluster));
        assert!(newcomer.ask(&CountersRequest {}).is_ok());
        let mut oldest = silent.into_iter().next().unwrap();
        assert!(oldest.receive().is_none(), "closed for others, not for its own silence, of which it would be told");
    }
}

#[test]
fn garbage_ends_its_connection_and_no_other() {
    let cluster = Cluster::start();
    let right = cluster.put("f", &noise(4096, 1));
    let mut good = cluster.tcp();
    let handle = good.attach(&right);
    let frame = |kind: Kind, payload_len: usize| {
        let mut bytes = Vec::new();
        Encoder::default().encode(&mut bytes, kind, citius_wire::Flags::default(), 3, &hello(TOKEN, 0), payload_len);
        bytes
    };
    let mut damaged = frame(Kind::Read, 0);
    damaged[PRELUDE_BYTES] ^= 1;
    let mut long_header = frame(Kind::Attach, 0);
    long_header[8..12].copy_from_slice(&(64_u32 << 20).to_le_bytes());
    let mut long_payload = frame(Kind::Write, 0);
    long_payload[16..24].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    let mut short_header = Vec::new();
    let detach = Detach { handle: Handle(0) };
    Encoder::default().encode(&mut short_header, Kind::Read, citius_wire::Flags::default(), 3, &detach, 0);
    let long_request = {
        let mut bytes = Vec::new();
        let attach = citius_wire::Attach { capability: vec![0; 200_000] };
        Encoder::default().request(&mut bytes, 3, &attach, 0);
        bytes
    };
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n and some more to fill a prelude".to_vec(),
        noise(10_000, 2),
        damaged,
        long_header,
        long_payload,
        long_request,
        frame(Kind::Read, 100),
        short_header,
    ] {
        let mut peer = cluster.tcp();
        peer.send_bytes(&garbage);
        // The last words, unless the kernel throws them away with what was not read.
        if let Some(answer) = peer.receive() {
            assert_eq!(answer.failure().status, Status::Protocol);
            assert!(peer.receive().is_none(), "and then the end");
        }
        assert!(good.read(handle, 0, 4096).unwrap() == noise(4096, 1));
    }
    // Kinds that a shard does not answer are refused, and the connection goes on.
    let mut peer = cluster.tcp();
    for kind in [Kind::Hello, Kind::Batch, Kind::Register] {
        peer.send_bytes(&frame(kind, 0));
        peer.receive().unwrap();
    }
    peer.ask(&CountersRequest {}).unwrap();
    crate::cluster::wait_until("the bad connections are gone", || cluster.worker_counters().connections <= 2);
    assert_eq!(u32::from_le_bytes(*b"CTIU"), MAGIC);
}

#[test]
fn a_frame_cut_by_the_end_costs_nothing() {
    let cluster = Cluster::start();
    let right = cluster.put("f", &noise(4096, 3));
    for cut in [1, PRELUDE_BYTES, PRELUDE_BYTES + 1] {
        let mut peer = cluster.tcp();
        let handle = peer.attach(&right);
        let mut bytes = Vec::new();
        let read = Read { handle, offset: 0, length: 1, mode: ReadMode::Cache };
        Encoder::default().request(&mut bytes, 1, &read, 0);
        peer.send_bytes(&bytes[..cut]);
    }
    crate::cluster::wait_until("they are gone", || cluster.worker_counters().connections == 0);
}

/// The story: a wait for room in a socket was queued on the ring and submitted by nobody, so a client that was slow
/// once got the rest of its answers with the next heartbeat.
#[test]
fn a_slow_reader_gets_everything_and_costs_a_bounded_amount() {
    let cluster = Cluster::start();
    let bytes = noise(8 << 20, 4);
    let right = cluster.put("f", &bytes);
    for warm in [false, true] {
        let mut peer = cluster.tcp();
        let handle = peer.attach(&right);
        const READS: u64 = 200;
        let before = cluster.counters().read_bytes;
        for i in 0..READS {
            let mode = if warm { ReadMode::Cache } else { ReadMode::NoCache };
            peer.send(&Read { handle, offset: i % 2 * (4 << 20), length: TRANSFER_BYTES_MAX, mode });
        }
        // 800 MiB are asked for and none of it is taken; others are served meanwhile.
        let mut other = cluster.tcp();
        let other_handle = other.attach(&right);
        for _ in 0..20 {
            assert!(other.read(other_handle, 4096, 4096).unwrap() == bytes[4096..8192]);
        }
        let ahead = cluster.counters().read_bytes - before;
        assert!(ahead < 200 << 20, "{ahead} bytes were read for who takes none");
        for _ in 0..READS {
            let answer = peer.receive().expect("an answer");
            let offset = answer.read::<Read>().unwrap().offset as usize;
            assert!(answer.payload == bytes[offset..offset + (4 << 20)]);
        }
        if !warm {
            assert!(peer.ask(&Resident { handle }).unwrap().blocks.len() <= 1);
        }
    }
}

#[test]
fn who_goes_away_with_answers_unread_leaves_nothing() {
    let cluster = Cluster::start();
    let right = cluster.put("f", &noise(8 << 20, 5));
    for _ in 0..8 {
        let mut peer = cluster.tcp();
        let handle = peer.attach(&right);
        for i in 0..20 {
            peer.send(&Read { handle, offset: i % 2 * (4 << 20), length: TRANSFER_BYTES_MAX, mode: ReadMode::Cache });
        }
    }
    crate::cluster::wait_until("they are gone", || cluster.worker_counters().connections == 0);
}
