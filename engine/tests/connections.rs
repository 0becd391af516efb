//! The bound of a worker's connections, which is a part of the process's limit of open files: hence a process of its own.

#![allow(clippy::unwrap_used)]
#![allow(dead_code, reason = "the cluster and the peer are those of the tests of a worker")]

#[path = "worker/cluster.rs"]
mod cluster;
#[path = "worker/peer.rs"]
mod peer;

use citius_wire::{ClientId, CountersRequest, Hello, Status};
use cluster::{Cluster, TOKEN, wait_until};
use peer::Peer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const DESCRIPTORS: u64 = 512;
const CONNECTIONS: usize = 64;

/// Who is past the bound is told so in answer to its hello, by either door; those within are served on; a place that was
/// left is free again; and connections that never say hello take no place from those that do.
#[test]
fn connections_are_bounded_and_a_place_that_was_left_is_free() {
    let all = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..all }).unwrap();
    let cluster = Cluster::start();
    // The peers are in this process too.
    setrlimit(Resource::Nofile, all).unwrap();

    let silent: Vec<_> = (0..10).map(|_| Peer::silent(cluster.tcp_socket())).collect();
    let mut within: Vec<_> =
        (0..CONNECTIONS).map(|i| if i % 2 == 0 { cluster.tcp() } else { cluster.unix() }).collect();
    let hello = Hello { token: TOKEN, client: ClientId([2; 16]), shard: 0 };
    for socket in [cluster.tcp_socket(), cluster.unix_socket()] {
        let mut past = Peer::silent(socket);
        let refused = past.ask(&hello).unwrap_err();
        assert_eq!(refused.status, Status::Busy, "{refused}");
        assert!(refused.message.contains("64 connections") && refused.message.contains("ulimit -n"), "{refused}");
        assert!(past.receive().is_none(), "and its connection ends");
    }
    assert!(within.iter_mut().all(|peer| peer.ask(&CountersRequest {}).is_ok()), "others are served");

    within.pop();
    wait_until("a place is free", || {
        let mut next = Peer::silent(cluster.tcp_socket());
        let is_in = next.ask(&hello).is_ok();
        if is_in {
            assert!(next.ask(&CountersRequest {}).is_ok());
            within.push(next);
        }
        is_in
    });
    assert_eq!(Peer::silent(cluster.unix_socket()).ask(&hello).unwrap_err().status, Status::Busy, "full again");
    drop(silent);
}
