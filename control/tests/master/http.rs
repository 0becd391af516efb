//! HTTP: who may ask, and what is said.

use crate::rig::{Rig, TOKEN, register};
use citius_wire::Counters;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// One request on a connection of its own: the status and the whole answer.
pub(crate) fn get(rig: &Rig, path: &str, host: &str, token: Option<&str>) -> (u16, String) {
    let mut stream = TcpStream::connect(rig.master().http_address()).unwrap();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{token}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

pub(crate) fn page(rig: &Rig, path: &str) -> String {
    let (status, answer) = get(rig, path, "127.0.0.1", Some(&TOKEN.to_hex()));
    assert_eq!(status, 200, "{answer}");
    answer
}

#[test]
fn pages_want_the_token_and_the_right_name() {
    let rig = Rig::with(|config| config.hosts = vec!["node1".into()]);
    assert_eq!(get(&rig, "/healthz", "127.0.0.1", None).0, 200);
    for path in ["/readyz", "/metrics", "/api/v1/status"] {
        for token in [None, Some("00"), Some("0".repeat(64).as_str())] {
            let (status, answer) = get(&rig, path, "localhost", token);
            assert_eq!(status, 401, "{path}");
            assert!(answer.contains("application/json") && answer.contains("Bearer"), "{answer}");
        }
        assert_eq!(get(&rig, path, "node1:80", Some(&TOKEN.to_hex())).0, 200, "{path}");
        assert_eq!(get(&rig, path, "evil.example", Some(&TOKEN.to_hex())).0, 421, "{path}");
    }
    assert_eq!(get(&rig, "/healthz", "evil.example", None).0, 421);
    assert_eq!(get(&rig, "/nothing", "localhost", None).0, 404);
}

#[test]
fn metrics_and_status_say_what_is() {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 5, 1);
    client.mount("/a\"b", "memory://metrics", None).unwrap();
    let metrics = page(&rig, "/metrics");
    for line in [
        "citius_master_up 1",
        "citius_workers_live 1",
        "citius_worker_live{worker=\"0000000000000005\"} 1",
        "citius_worker_hits_total{worker=\"0000000000000005\"} 0",
        "citius_mount_read_bytes_total{mount=\"/a\\\"b\"} 0",
        "citius_mount_retries_total{mount=\"/a\\\"b\"} 0",
        "citius_mount_breaker{mount=\"/a\\\"b\"} 0",
        "citius_mount_concurrency_limit{mount=\"/a\\\"b\"} 64",
        "citius_mount_failures_total{mount=\"/a\\\"b\",kind=\"throttled\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
    for (name, _) in Counters::default().each() {
        assert!(metrics.contains(&format!("citius_worker_{name}")), "{name}");
    }
    let requests = metrics.lines().find(|line| line.starts_with("citius_master_rpc_requests_total")).unwrap();
    assert_eq!(requests.rsplit(' ').next(), Some("2"));
    let status = page(&rig, "/api/v1/status");
    let (_, body) = status.split_once("\r\n\r\n").unwrap();
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(status["workers"][0]["worker"], "0000000000000005");
    assert_eq!(status["mounts"][1]["path"], "/a\"b");
    assert_eq!(status["rpc_address"], rig.master().rpc_address().to_string());
    assert!(page(&rig, "/readyz").ends_with("ready\n"));
}

/// Asks on a connection that stays open, and gives the status.
fn ask(stream: &mut TcpStream, path: &str, token: Option<&str>) -> u16 {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n").unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap()]).unwrap();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// HTTP once took up to 1,024 connections, which may be all the files that the process may open, and whoever came when
/// they were silent waited.
#[test]
fn connections_are_bounded_and_silent_ones_make_room() {
    /// As many as there are places for those without the token, whatever the limit of open files.
    const MANY: usize = 256;
    let rig = Rig::with(|config| config.http_connections_max = 2);
    let connect = || TcpStream::connect(rig.master().http_address()).unwrap();
    let token = TOKEN.to_hex();
    let mut within = [connect(), connect()];
    assert!(within.iter_mut().all(|stream| ask(stream, "/readyz", Some(&token)) == 200));

    let mut silent: Vec<_> = (0..MANY + 1).map(|_| connect()).collect();
    assert_eq!(ask(&mut connect(), "/healthz", None), 200);
    // Whoever was only slow would be told so in ten seconds, by words.
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0, "the oldest is closed for a newcomer");

    let (status, answer) = get(&rig, "/readyz", "localhost", Some(&token));
    assert!(status == 503 && answer.contains("2 connections") && answer.contains("ulimit -n"), "{answer}");
    assert!(within.iter_mut().all(|stream| ask(stream, "/readyz", Some(&token)) == 200), "who is seated stays");
    drop(within);
    let deadline = Instant::now() + Duration::from_secs(20);
    while get(&rig, "/readyz", "localhost", Some(&token)).0 != 200 {
        assert!(Instant::now() < deadline, "a seat that was left is free again");
        std::thread::sleep(Duration::from_millis(5));
    }
}
