//! The program from outside: what it prints is what it measured, and a server of a baseline ends with its parent.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_citius-perf"))
}

/// The first core that this process may use.
fn core() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    list.split([',', '-']).next().unwrap().to_owned()
}

#[test]
fn a_ratio_without_citius_claims_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.json");
    let output = program()
        .args(["ratios", "--baselines", "--only", "shm.read.4k", "--working-set", "2097152", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().contains("shm.read.4k.p50"));
    let rows: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let row = rows.as_array().unwrap();
    assert_eq!(row.len(), 1);
    assert!(row[0]["citius"].is_null() && row[0]["ratio"].is_null() && row[0]["met"].is_null());
    assert!(row[0]["baseline"].as_f64().unwrap() > 0.0 && row[0]["rounds"] == 5);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    let stderr = |arguments: &[&str]| {
        let output = program().args(["ratios", "--baselines"]).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(stderr(&["--only", "nothing"]).contains("tcp.read.4k.d1.p50"));
    assert!(stderr(&["--rounds", "4"]).contains("5.."));
    assert!(stderr(&["--working-set", "4096"]).contains("multiple of 2097152"));
}

#[test]
fn a_server_answers_and_ends_with_its_standard_input() {
    let mut server = program()
        .args(["serve", "--core", &core(), "tcp", "--bytes", "2097152", "--pages", "small"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", line.trim().parse().unwrap())).unwrap();
    // offset 0, length 4,096, id 7
    stream.write_all(&[&[0; 8][..], &4096_u32.to_le_bytes(), &7_u64.to_le_bytes()].concat()).unwrap();
    let mut reply = vec![0; 12 + 4096];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..12], [&4096_u32.to_le_bytes()[..], &7_u64.to_le_bytes()].concat());
    assert!(reply[12..].iter().any(|&byte| byte != 0), "a working set is not zeros");

    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "the connection is gone with it");
}
