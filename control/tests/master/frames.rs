//! Bad peers: each gets words and the end of its connection, and the others are served on.

use crate::client::{Client, status};
use crate::rig::{Rig, TOKEN};
use citius_wire::{
    Batch, ClientId, CountersRequest, Encoder, Flags, HEADER_BYTES_MAX, Hello, Kind, MAGIC, OPERATIONS_MAX, Operation,
    PROTOCOL_VERSION, Serial, Status, Token,
};
use std::io::Write;
use std::time::{Duration, Instant};

fn hello(token: Token) -> Hello {
    Hello { token, client: ClientId([9; 16]), shard: 0 }
}

/// What the master says to these bytes on a connection that said hello, before it closes it.
fn told(rig: &Rig, bytes: &[u8]) -> Status {
    let mut client = rig.client();
    client.stream.write_all(bytes).unwrap();
    let (_, _, reply) = client.receive::<Batch>().expect("words come before the end");
    assert!(client.receive::<Batch>().is_none(), "and the end comes");
    assert!(rig.client().is_there("/"), "others are served");
    status(reply)
}

#[test]
fn nobody_gets_in_without_the_token() {
    let rig = Rig::new();
    let address = rig.master().rpc_address();
    for token in [Token([0; 32]), Token([8; 32])] {
        assert_eq!(Client::connect(address, &token, 1).err().unwrap().status, Status::Unauthenticated);
    }
    let mut silent = Client::connect_raw(address);
    let batch = Batch { first: Serial(1), operations: vec![Operation::MountList] };
    assert_eq!(status(silent.ask(&batch)), Status::Unauthenticated);
    assert!(silent.receive::<Batch>().is_none());
    let mut garbage = Client::connect_raw(address);
    garbage.stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n padding to fill a prelude").unwrap();
    assert_eq!(status(garbage.receive::<Batch>().unwrap().2), Status::Protocol);
    assert!(garbage.receive::<Batch>().is_none());
    assert!(rig.client().is_there("/"));
}

#[test]
fn garbage_oversize_and_damage_end_a_connection_with_words() {
    let rig = Rig::new();
    let mut good = Vec::new();
    Encoder::default().request(&mut good, 1, &Batch { first: Serial(1), operations: vec![Operation::MountList] }, 0);

    assert_eq!(told(&rig, &[0xff; 64]), Status::Protocol);
    let mut oversized = good.clone();
    oversized[8..12].copy_from_slice(&(HEADER_BYTES_MAX as u32 + 16).to_le_bytes());
    assert_eq!(told(&rig, &oversized), Status::Protocol);
    let mut with_payload = Vec::new();
    let batch = Batch { first: Serial(1), operations: vec![Operation::MountList] };
    Encoder::default().request(&mut with_payload, 1, &batch, 4);
    with_payload.extend_from_slice(&[0; 4]);
    assert_eq!(told(&rig, &with_payload), Status::Protocol);
    for i in (0..good.len()).step_by(7) {
        let mut damaged = good.clone();
        damaged[i] ^= 0x40;
        // A damaged length may call for bytes that never come: then the peer is the one to hang up.
        if !(8..24).contains(&i) {
            assert_eq!(told(&rig, &damaged), Status::Protocol, "byte {i}");
        }
    }
    let mut other_version = good.clone();
    other_version[4] = PROTOCOL_VERSION + 1;
    assert_eq!(told(&rig, &other_version), Status::Protocol);
    let mut again = Vec::new();
    Encoder::default().request(&mut again, 1, &hello(TOKEN), 0);
    assert_eq!(told(&rig, &again), Status::Protocol);
    let mut a_reply = Vec::new();
    Encoder::default().encode(&mut a_reply, Kind::Batch, Flags::REPLY, 1, &batch, 0);
    assert_eq!(told(&rig, &a_reply), Status::Protocol);
    // An archive of another message under this kind, with a good checksum.
    let mut mislabelled = Vec::new();
    Encoder::default().encode(&mut mislabelled, Kind::Batch, Flags::default(), 1, &7_u8, 0);
    assert_eq!(told(&rig, &mislabelled), Status::Protocol);
    assert_eq!(&good[..4], MAGIC.to_le_bytes());
}

#[test]
fn a_frame_cut_short_is_no_frame() {
    let rig = Rig::new();
    let mut good = Vec::new();
    Encoder::default().request(&mut good, 1, &Batch { first: Serial(1), operations: vec![Operation::MountList] }, 0);
    for cut in [1, 31, 32, good.len() - 1] {
        let mut client = rig.client();
        client.stream.write_all(&good[..cut]).unwrap();
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(client.receive::<Batch>().is_none());
    }
    assert!(rig.client().is_there("/"));
}

#[test]
fn what_is_a_frame_and_cannot_be_done_is_refused_and_the_connection_goes_on() {
    let rig = Rig::new();
    let mut client = rig.client();
    assert_eq!(status(client.ask(&CountersRequest {})), Status::Unsupported);
    let many = vec![Operation::MountList; OPERATIONS_MAX + 1];
    assert_eq!(status(client.ask(&Batch { first: Serial(1), operations: many })), Status::InvalidArgument);
    let last = Batch { first: Serial(u64::MAX), operations: vec![Operation::MountList; 2] };
    assert_eq!(status(client.ask(&last)), Status::InvalidArgument);
    assert_eq!(client.batch(vec![Operation::MountList; OPERATIONS_MAX]).len(), OPERATIONS_MAX);
}

/// Who is past the bound is told so in answer to its hello, those within are served on, and a place that was left is
/// free again. Connections that never say hello take no place from those that do.
#[test]
fn connections_are_bounded_and_a_place_that_was_left_is_free() {
    const MAX: u8 = 3;
    let rig = Rig::with(|config| config.rpc_connections_max = usize::from(MAX));
    let address = rig.master().rpc_address();
    let silent: Vec<_> = (0..10).map(|_| Client::connect_raw(address)).collect();
    let mut within: Vec<_> = (0..MAX).map(|id| rig.client_as(id)).collect();
    for _ in 0..3 {
        let refused = Client::connect(address, &TOKEN, 9).err().unwrap();
        assert_eq!(refused.status, Status::Busy);
        assert!(refused.message.contains("3 connections") && refused.message.contains("ulimit -n"), "{refused}");
        assert!(within.iter_mut().all(|client| client.is_there("/")), "others are served");
    }
    within.pop();
    // When the master hears of it is not ours to say.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut next = loop {
        match Client::connect(address, &TOKEN, 9) {
            Ok(client) => break client,
            Err(refused) => assert!(refused.status == Status::Busy && Instant::now() < deadline, "{refused}"),
        }
    };
    assert!(next.is_there("/"));
    assert_eq!(Client::connect(address, &TOKEN, 10).err().unwrap().status, Status::Busy, "full again");
    drop(silent);
}

/// Peers that were silent held every place before the hello, for the five seconds that a hello may take; whoever came
/// then waited for them.
#[test]
fn silent_peers_make_room_for_a_newcomer() {
    /// As many as there are places, whatever the limit of open files.
    const MANY: usize = 256;
    let rig = Rig::new();
    let address = rig.master().rpc_address();
    let silent: Vec<_> = (0..MANY + 1).map(|_| Client::connect_raw(address)).collect();
    assert!(rig.client().is_there("/"));
    let mut oldest = silent.into_iter().next().unwrap();
    assert!(
        oldest.receive::<Hello>().is_none(),
        "closed for others, not for its own silence, of which it would be told"
    );
}

/// A peer that vanished without a word, or never says one, gives its place back; one that speaks keeps it.
#[test]
fn silence_costs_a_connection_its_place() {
    let rig = Rig::with(|config| {
        config.rpc_connections_max = 2;
        config.rpc_idle_ms = 2_000;
    });
    let mut mute = Client::connect_raw(rig.master().rpc_address());
    let (mut speaks, mut silent) = (rig.client_as(1), rig.client_as(2));
    let end = std::thread::spawn(move || silent.receive::<Batch>().is_none());
    while !end.is_finished() {
        assert!(speaks.is_there("/"));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(end.join().unwrap(), "it is closed, and nothing is said");
    assert!(rig.client_as(3).is_there("/"), "its place is free");
    assert_eq!(status(mute.receive::<Hello>().unwrap().2), Status::Unauthenticated);
    assert!(mute.receive::<Hello>().is_none());
}

/// Many requests in one write, answered in any order, all of them.
#[test]
fn requests_are_pipelined() {
    let rig = Rig::new();
    let mut client = rig.client();
    const COUNT: u64 = 5_000;
    let mut out = Vec::new();
    let mut encoder = Encoder::default();
    for i in 0..COUNT {
        let operation = match i % 10 {
            // It waits for the log.
            9 => Operation::Mkdir { path: format!("/d{i}"), parents: false },
            _ => Operation::Stat { path: "/".into() },
        };
        encoder.request(&mut out, i, &Batch { first: Serial(i), operations: vec![operation] }, 0);
    }
    let mut writer = client.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || writer.write_all(&out).unwrap());
    let mut answered = vec![false; COUNT as usize];
    for _ in 0..COUNT {
        let (id, _, reply) = client.receive::<Batch>().unwrap();
        assert!(reply.unwrap().results[0].is_ok());
        assert!(!std::mem::replace(&mut answered[id as usize], true), "answered once");
    }
    writer.join().unwrap();
    assert_eq!(client.list("/").unwrap().len(), 500);
}
