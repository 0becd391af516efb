//! How fast the namespace of the control plane is by itself: no log, no network, one thread.
//!
//! ```text
//! cargo run --release -p citius-control --example namespace_rate -- [FILES]
//! ```
//!
//! Creates and completes FILES must-cache files (1,000,000 unless told) in directories of 1,000, looks up paths in
//! random order, lists, writes a snapshot and reads it. Commands are made before the clock starts.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use citius_control::state::{Caller, Change, Command, Create, MountOptions, MountSpec, State};
use citius_wire::units::BLOCK_BYTES_DEFAULT;
use citius_wire::{
    ClientId, ClusterId, FileKey, Incarnation, MacKey, Member, MountId, NamespacePath, Place, Serial, WorkerId,
    WriteType,
};
use std::hint::black_box;
use std::time::Instant;

const FILES_DEFAULT: u64 = 1_000_000;
const FILES_PER_DIRECTORY: u64 = 1_000;
/// Files that are being written at a time.
const OPEN_FILES: u64 = 64;
const NOW_MS: u64 = 1_800_000_000_000;

fn main() {
    let files = std::env::args().nth(1).map_or(FILES_DEFAULT, |text| text.parse().expect("a number of files"));
    let mut state = set_up();
    let before_bytes = resident_bytes();

    let commands: Vec<Command> = (0..files).map(create).collect();
    let commands_bytes = resident_bytes() - before_bytes;
    let complete = |state: &mut State, number: u64| {
        let command = Command { caller: None, change: Change::Complete { file: key(number), length: 4096 } };
        black_box(state.apply(&command, NOW_MS).unwrap());
    };
    rate("create and complete", files, || {
        for (number, command) in commands.iter().enumerate() {
            black_box(state.apply(command, NOW_MS).unwrap());
            if let Some(number) = (number as u64).checked_sub(OPEN_FILES) {
                complete(&mut state, number);
            }
        }
        (files.saturating_sub(OPEN_FILES)..files).for_each(|number| complete(&mut state, number));
    });
    drop(commands);
    let held_bytes = resident_bytes().saturating_sub(before_bytes);
    println!(
        "{} inodes hold {} bytes each, file, session and allocator's slack included (commands took {} MiB)",
        state.inode_count(),
        held_bytes / state.inode_count() as u64,
        commands_bytes >> 20
    );

    // A step that is prime to the number of files visits each of them, far from the one before.
    let paths: Vec<NamespacePath> =
        (0..files).map(|number| NamespacePath::parse(&path(number * 7_368_787 % files)).unwrap()).collect();
    rate("resolve, random", files, || {
        for path in &paths {
            black_box(state.resolve(path).unwrap());
        }
    });
    let near: Vec<NamespacePath> = (0..files).map(|number| NamespacePath::parse(&path(number)).unwrap()).collect();
    rate("resolve, in order", files, || {
        for path in &near {
            black_box(state.resolve(path).unwrap());
        }
    });
    let absent: Vec<NamespacePath> =
        (0..files).map(|number| NamespacePath::parse(&format!("/absent/{number}/file")).unwrap()).collect();
    rate("resolve, not here", files, || {
        for path in &absent {
            black_box(state.resolve(path).unwrap());
        }
    });
    rate("list, by entry", files, || {
        for directory in 0..files.div_ceil(FILES_PER_DIRECTORY) {
            let directory = NamespacePath::parse(&path(directory * FILES_PER_DIRECTORY)).unwrap().parent().unwrap();
            assert!(black_box(state.children(&directory, "").count()) > 0);
        }
    });

    let mut bytes = Vec::new();
    rate("snapshot", files, || state.snapshot(&mut bytes).unwrap());
    println!("a snapshot has {} bytes a file", bytes.len() as u64 / files);
    drop(state);
    rate("restore", files, || {
        black_box(State::restore(&mut bytes.as_slice()).unwrap());
    });
}

/// A cluster of one worker.
fn set_up() -> State {
    let root = MountSpec {
        uri: "file:///nowhere".to_owned(),
        options: MountOptions::default(),
        read_only: false,
        sync_interval_ms: 0,
    };
    let member = Member {
        worker: WorkerId(1),
        incarnation: Incarnation(1),
        data_address: "127.0.0.1:1".to_owned(),
        socket_path: String::new(),
        host: "here".to_owned(),
        shards: 1,
        weight: 1,
    };
    let mut state = State::new();
    for change in [
        Change::Init { cluster: ClusterId([1; 16]), keys: vec![MacKey([1; 32])], root },
        Change::Register { member, backing: "small".to_owned(), memory_bytes: 1 },
    ] {
        state.apply(&Command { caller: None, change }, NOW_MS).unwrap();
    }
    state
}

fn path(number: u64) -> String {
    format!("/data/dir-{:05}/part-{:08}.parquet", number / FILES_PER_DIRECTORY, number)
}

fn key(number: u64) -> FileKey {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    FileKey(bytes)
}

fn create(number: u64) -> Command {
    let path = path(number);
    let create = Create {
        mount: MountId(1),
        place: Place::of_path(MountId(1), &path),
        path,
        file: key(number),
        write_type: WriteType::MustCache,
        block_bytes: BLOCK_BYTES_DEFAULT,
        overwrite: false,
        replaces: None,
        lease_ms: 60_000,
    };
    let caller = Caller { client: ClientId([2; 16]), serial: Serial(number + 1) };
    Command { caller: Some(caller), change: Change::Create(create) }
}

/// Prints the rate by the clock, and by the processor time of this thread: the two differ on a busy machine.
fn rate(what: &str, count: u64, work: impl FnOnce()) {
    let (start, start_ns) = (Instant::now(), processor_ns());
    work();
    let (wall_ns, own_ns) = (start.elapsed().as_nanos() as u64, processor_ns().saturating_sub(start_ns).max(1));
    let (by_clock, by_processor) = (count as f64 * 1e9 / wall_ns as f64, count as f64 * 1e9 / own_ns as f64);
    println!("{what:22} {by_clock:>11.0} /s   {by_processor:>11.0} /s of processor   {} ns each", own_ns / count);
}

/// Nanoseconds that this thread ran, as Linux counts them.
fn processor_ns() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Bytes of this process in memory, as Linux counts them.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
