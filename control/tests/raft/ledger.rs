//! A small machine that notices every way in which a log can cheat.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use citius_control::raft::{Config, Machine, Position, Raft, SnapshotWriter};

/// Commands are `client u64, serial u64`, then any bytes. A client's serials must come as 1, 2, 3…;
/// the reply says where the command was applied and what the client's serial was before.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) clients: BTreeMap<u64, u64>,
    /// Sum over all commands of a hash of their bytes and positions: equal ledgers are equal logs.
    pub(crate) digest: u64,
    pub(crate) applied: u64,
    last: Option<Position>,
    pub(crate) fail_snapshots: Arc<AtomicBool>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Receipt {
    pub(crate) at: Position,
    pub(crate) serial_before: u64,
}

pub(crate) fn command(client: u64, serial: u64, padding: usize) -> Vec<u8> {
    let mut bytes = [client.to_le_bytes(), serial.to_le_bytes()].concat();
    bytes.resize(16 + padding, serial as u8);
    bytes
}

/// A command that makes the machine panic.
pub(crate) const POISON: &[u8] = b"poison";

impl Machine for Ledger {
    type Reply = Receipt;

    fn apply(&mut self, at: Position, command: &[u8]) -> Receipt {
        assert_ne!(command, POISON, "as asked");
        if let Some(last) = self.last {
            assert!(at.index >= last.index && at.term >= last.term && at.time_ms >= last.time_ms);
            assert_eq!(at.slot, if at.index == last.index { last.slot + 1 } else { 0 });
        }
        let client = u64::from_le_bytes(command[..8].try_into().unwrap());
        let serial = u64::from_le_bytes(command[8..16].try_into().unwrap());
        let before = self.clients.insert(client, serial).unwrap_or(0);
        let place = u64::from(crc32fast::hash(command)) ^ at.index << 20 ^ u64::from(at.slot) ^ at.time_ms << 7;
        self.digest = self.digest.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(place);
        self.applied += 1;
        self.last = Some(at);
        Receipt { at, serial_before: before }
    }

    fn snapshot(&self) -> SnapshotWriter {
        let last = self.last.unwrap_or(Position { index: 0, slot: 0, term: 0, time_ms: 0 });
        let mut numbers = vec![self.digest, self.applied, u64::from(self.last.is_some())];
        numbers.extend([last.index, u64::from(last.slot), last.term, last.time_ms]);
        numbers.extend(self.clients.iter().flat_map(|(client, serial)| [*client, *serial]));
        let fail = self.fail_snapshots.load(Ordering::SeqCst);
        Box::new(move |out| {
            for number in numbers {
                out.write_all(&number.to_le_bytes())?;
            }
            if fail { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
        })
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let numbers: Vec<u64> = bytes.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().unwrap())).collect();
        let [digest, applied, has_last, index, slot, term, time_ms, clients @ ..] = &numbers[..] else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        (self.digest, self.applied) = (*digest, *applied);
        let last = Position { index: *index, slot: *slot as u32, term: *term, time_ms: *time_ms };
        self.last = (*has_last == 1).then_some(last);
        self.clients = clients.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(())
    }
}

/// Everything small, so that files rotate and snapshots come within a test.
pub(crate) fn small() -> Config {
    Config { chunk_bytes: 32 << 10, cache_bytes: 16 << 10, snapshot_log_bytes: u64::MAX, ..Config::default() }
}

pub(crate) async fn open(dir: &Path, config: Config) -> Raft<Ledger> {
    Raft::open(dir, config, Ledger::default()).await.unwrap()
}

/// What two equal logs have in common.
pub(crate) fn fingerprint(raft: &Raft<Ledger>) -> (u64, u64, BTreeMap<u64, u64>) {
    raft.with_state(|ledger| (ledger.digest, ledger.applied, ledger.clients.clone()))
}

/// Proposes `count` more commands of `client`, one after the other.
pub(crate) async fn write(raft: &Raft<Ledger>, client: u64, count: u64, padding: usize) {
    let start = raft.with_state(|ledger| ledger.clients.get(&client).copied().unwrap_or(0));
    for serial in start + 1..=start + count {
        let receipt = raft.propose(command(client, serial, padding)).await.unwrap();
        assert_eq!(receipt.serial_before, serial - 1);
    }
}
