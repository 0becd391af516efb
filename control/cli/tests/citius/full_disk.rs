//! No room for the log: what the master says then, to whom, and what is there after a restart.

use crate::support::Process;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

/// Sets the largest size to which a running process may write its files: a disk that is full from then on.
fn limit_files(process: &Process, bytes: &str) {
    let limit = format!("--fsize={bytes}:");
    let status = Command::new("prlimit").args(["--pid", &process.id().to_string(), &limit]).status().unwrap();
    assert!(status.success());
}

/// The answer to a question over HTTP, head and all.
pub(crate) fn get(process: &Process, path: &str) -> String {
    let address = process.json(&["cluster"])["endpoints"]["http"].as_str().unwrap().to_owned();
    let token = std::fs::read_to_string(process.home.join("token")).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let bearer = if path == "/healthz" { String::new() } else { format!("Authorization: Bearer {}\r\n", token.trim()) };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The log latched its error and said nothing: clients asked again until their time was up, and `/healthz` said ok.
#[test]
fn a_full_disk_is_told_at_once_and_everywhere() {
    let mut local = Process::local_limited();
    local.run(&["mkdir", "/before"]);
    assert!(get(&local, "/healthz").starts_with("HTTP/1.1 200 "));
    assert!(get(&local, "/metrics").contains("\ncitius_master_log_stopped 0\n"));

    limit_files(&local, "1");
    for arguments in [["mkdir", "/after"], ["mkdir", "/after"], ["ls", "/"], ["stat", "/before"], ["rm", "/before"]] {
        let said = local.fails(5, &arguments);
        assert!(said.contains("File too large") && said.contains("restart the master"), "{arguments:?}: {said}");
        assert!(!said.contains("given up"), "it was asked for again: {said}");
    }
    let shown = local.text(&["cluster"]);
    assert!(shown.contains("warning: the log in ") && shown.contains("Free space"), "{shown}");
    let health = get(&local, "/healthz");
    assert!(health.starts_with("HTTP/1.1 503 ") && health.contains("File too large"), "{health}");
    assert!(!health.contains(local.home.to_str().unwrap()), "{health}");
    let metrics = get(&local, "/metrics");
    assert!(metrics.contains("\ncitius_master_log_stopped 1\n") && metrics.contains("\ncitius_master_up 0\n"));

    // Room alone does not help: what the kernel dropped is not known before the log is read again.
    limit_files(&local, "unlimited");
    local.fails(5, &["mkdir", "/after"]);
    assert_eq!(local.terminate(), Some(0));
    local.restart();
    assert!(local.text(&["ls", "/"]).contains("before"));
    local.run(&["mkdir", "/more"]);
    assert!(get(&local, "/healthz").starts_with("HTTP/1.1 200 "));
}
