//! Processes killed, and disks that are full: what was acknowledged is there afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use citius_control::raft::{Config, Error, Raft};

use crate::ledger::{Ledger, command, open, small};

const CHILD_DIR: &str = "CITIUS_RAFT_TEST_DIR";
const CLIENTS: u64 = 8;
const KILL_ROUNDS: u64 = 24;

/// Not a test of its own: the process that the others kill. Prints the state it found as
/// `had <client> <serial>`, then `ack <client> <serial>` for each acknowledged command, or
/// `failed <why>` when the log stops.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // libtest has begun a line with the test's name.
    say("");
    runtime.block_on(async {
        let config = Config { snapshot_log_bytes: 96 << 10, ..small() };
        let raft = match Raft::open(&dir, config, Ledger::default()).await {
            Ok(raft) => raft,
            Err(error) => return say(&format!("failed {error}")),
        };
        let found = raft.with_state(|ledger| ledger.clients.clone());
        for (client, serial) in &found {
            say(&format!("had {client} {serial}"));
        }
        say("ready");
        let mut callers = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let (raft, mut serial) = (raft.clone(), found.get(&client).copied().unwrap_or(0));
            callers.spawn(async move {
                loop {
                    serial += 1;
                    match raft.propose(command(client, serial, (serial % 700) as usize)).await {
                        Ok(receipt) => {
                            assert_eq!(receipt.serial_before, serial - 1);
                            say(&format!("ack {client} {serial}"));
                        }
                        Err(Error::Failed { why, .. }) => break why,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        while let Some(why) = callers.join_next().await {
            say(&format!("failed {}", why.unwrap()));
        }
        assert!(raft.read_lease().is_err());
        raft.shutdown().await;
    });
}

/// One line, in one write: a line that the parent reads whole was printed after the fact it states.
fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn child_command(dir: &Path, wrap: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let mut command = match wrap {
        [] => Command::new(test),
        [program, args @ ..] => {
            let mut command = Command::new(program);
            command.args(args).arg(test);
            command
        }
    };
    command.args(["--exact", "crash::child", "--nocapture", "--test-threads=1"]);
    command.env(CHILD_DIR, dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// What a child said.
#[derive(Default, Debug)]
struct Said {
    had: BTreeMap<u64, u64>,
    acknowledged: BTreeMap<u64, u64>,
    failed: Vec<String>,
    ready: bool,
}

impl Said {
    /// Reads until the child's end; `on_ack` is told the number of acknowledgements so far.
    fn listen(child: &mut Child, mut on_ack: impl FnMut(&mut Child, u64)) -> Said {
        let mut said = Said::default();
        let mut acks = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            // Cut off by the kill; libtest's own lines match nothing below.
            if !line.ends_with('\n') {
                break;
            }
            let words: Vec<&str> = line.trim_end().splitn(3, ' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            match words[0] {
                "had" => drop(said.had.insert(number(1), number(2))),
                "ready" => said.ready = true,
                "failed" => said.failed.push(line.trim_end().to_string()),
                "ack" => {
                    said.acknowledged.insert(number(1), number(2));
                    acks += 1;
                    on_ack(child, acks);
                }
                _ => {}
            }
            line.clear();
        }
        said
    }
}

/// kill -9 at varied moments, over and over on one log, with rotation, snapshots and purges under
/// way: nothing acknowledged is lost, nothing is applied twice, nothing comes from nowhere.
#[test]
fn kill_9_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    let mut total = 0;
    for round in 0..KILL_ROUNDS {
        let mut child = child_command(dir.path(), &[]).spawn().unwrap();
        // Spread over the first few hundred acknowledgements, and within the syncs between them.
        let kill_after = 1 + round * 37 % 600;
        let said = Said::listen(&mut child, |child, acks| {
            if acks == kill_after {
                std::thread::sleep(Duration::from_micros(round * 131 % 2000));
                child.kill().unwrap();
            }
        });
        child.wait().unwrap();
        assert!(said.ready && said.failed.is_empty(), "round {round}: {said:?}");
        check(round, &expected, &said.had);
        expected = said.had;
        total += said.acknowledged.len();
        expected.extend(said.acknowledged);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let raft = open(dir.path(), small()).await;
        check(KILL_ROUNDS, &expected, &raft.with_state(|ledger| ledger.clients.clone()));
        assert!(raft.metrics().snapshot_next_index > 0, "no round took a snapshot");
        raft.shutdown().await;
    });
    assert!(total as u64 >= KILL_ROUNDS);
}

/// A client has at most one command in flight: it is found at its last acknowledged serial, or at
/// the one that was in flight.
fn check(round: u64, acknowledged: &BTreeMap<u64, u64>, found: &BTreeMap<u64, u64>) {
    for (client, serial) in acknowledged {
        let has = found.get(client).copied().unwrap_or(0);
        assert!(has == *serial || has == serial + 1, "round {round}: client {client} had {serial}, has {has}");
    }
    for (client, has) in found {
        let serial = acknowledged.get(client).copied().unwrap_or(0);
        assert!(*has <= serial + 1, "round {round}: client {client} had {serial}, has {has}");
    }
}

/// A file-size limit stands in for a full disk: the write fails in the middle of a record. The log
/// stops acknowledging and says why; without the limit it opens with all that was acknowledged.
#[test]
fn a_full_disk_latches_the_log() {
    let dir = tempfile::tempdir().unwrap();
    // The signal is ignored so that the write fails instead; ulimit counts blocks of 512 bytes or
    // of 1 KiB, both below the size at which the log starts another file (32 KiB).
    let limit = "trap '' XFSZ; ulimit -f 20; exec \"$0\" \"$@\"";
    let mut child = child_command(dir.path(), &["sh", "-c", limit]).spawn().unwrap();
    let said = Said::listen(&mut child, |_, _| ());
    assert!(child.wait().unwrap().success(), "{said:?}");
    assert!(said.ready && !said.acknowledged.is_empty(), "{said:?}");
    assert_eq!(said.failed.len() as u64, CLIENTS, "{said:?}");
    assert!(said.failed.iter().all(|why| why.contains("File too large")), "{said:?}");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let raft = open(dir.path(), small()).await;
        check(0, &said.acknowledged, &raft.with_state(|ledger| ledger.clients.clone()));
        raft.shutdown().await;
    });
}
