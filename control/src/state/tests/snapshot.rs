//! Bytes: of commands in the log, and of snapshots.

use super::*;

/// A state with something of everything.
fn world_of_everything() -> World {
    let mut world = World::new();
    world.file(key(1), "/data/ü #/kept");
    world.done(register(2, 1));
    for (number, write_type) in
        [(2, WriteType::MustCache), (3, WriteType::CacheThrough), (4, WriteType::Through), (5, WriteType::CacheThrough)]
    {
        world.done(Change::Create(overwrite(key(number), &format!("/w/{number}"), write_type, Some(b"v1"))));
    }
    world.done(stage(key(3)));
    world.done(intend(key(4)));
    world.done(stage(key(5)));
    world.done(Change::Abort { file: key(5), reason: AbortReason::Writer });
    world.done(Change::Create(create(key(6), "/w/6", WriteType::CacheThrough)));
    world.done(intend(key(6)));
    world.done(Change::PublishDone { file: key(6), token: b"etag".to_vec() });
    world.begun(delete("/gone", true));
    world.begun(rename("/data/ü #", "/data/to", false));
    world.begun(mkdir("/dir", true));
    let (refused, _) = world.begun(delete("/none", false));
    world.finish(refused, Err(Failure::new(Status::NotFound, "nothing is there")));
    world.done(Change::WorkerGone { worker: WorkerId(2), incarnation: Incarnation(1) });
    world
}

/// Commands that touch all that `world_of_everything` made.
fn what_follows() -> Vec<(Option<Caller>, Change)> {
    let again = |serial| Some(Caller { client: ALICE, serial: Serial(serial) });
    vec![
        (again(4), init()),
        (again(1), mount_add("/elsewhere")),
        (again(500), Change::Complete { file: key(2), length: 3 }),
        (again(501), Change::Create(create(key(7), "/gone/x", WriteType::MustCache))),
        (None, Change::PublishDone { file: key(4), token: b"t".to_vec() }),
        (None, Change::PublishDone { file: key(6), token: b"etag".to_vec() }),
        (None, intend(key(3))),
        (None, Change::RemainsCleaned { file: key(5) }),
        (None, Change::IntentDone { intent: intent_id(1), result: Ok(()) }),
        (None, Change::IntentDone { intent: intent_id(2), result: Ok(()) }),
        (again(502), Change::Create(create(key(7), "/gone/x", WriteType::MustCache))),
        (again(503), delete("/w", true)),
        (None, register(2, 2)),
        (again(504), mount_add("/new")),
        (again(505), mkdir("/new/dir", true)),
    ]
}

fn intent_id(number: u64) -> IntentId {
    IntentId(core::num::NonZeroU64::new(number).unwrap())
}

fn assert_same_future(one: &mut State, two: &mut State) {
    for (caller, change) in what_follows() {
        let command = Command { caller, change };
        assert_eq!(one.apply(&command, 2_000_000), two.apply(&command, 2_000_000), "{command:?}");
        one.validate();
        two.validate();
        assert!(snapshot_of(one) == snapshot_of(two), "{command:?}");
    }
}

#[test]
fn a_restored_state_is_the_state() {
    let mut world = world_of_everything();
    let bytes = snapshot_of(&world.state);
    let mut restored = State::restore(&mut bytes.as_slice()).unwrap();
    restored.validate();
    assert!(snapshot_of(&restored) == bytes);
    assert_same_future(&mut world.state, &mut restored);
}

/// To renew it after a change of the form: count its version up, keep the old file and its test, and write
/// `snapshot_of(&world_of_everything().state)` to a new one.
#[test]
fn the_golden_snapshot_is_read_and_written() {
    let golden = include_bytes!("golden/snapshot-1.bin");
    let mut world = world_of_everything();
    let mut restored = State::restore(&mut golden.as_slice()).unwrap();
    restored.validate();
    assert!(snapshot_of(&world.state) == golden[..], "the form of snapshots has changed without a new version");
    assert_same_future(&mut world.state, &mut restored);
}

#[test]
fn damaged_snapshots_are_refused() {
    let bytes = snapshot_of(&world_of_everything().state);
    let kind = |bytes: &[u8]| State::restore(&mut &*bytes).err().map(|error| error.kind());
    for cut in 0..bytes.len() {
        assert!(kind(&bytes[..cut]).is_some(), "cut at {cut}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(kind(&longer), Some(std::io::ErrorKind::InvalidData));
    let mut other = bytes;
    other[8] = 2;
    assert_eq!(kind(&other), Some(std::io::ErrorKind::Unsupported));
    other[0] = b'X';
    assert_eq!(kind(&other), Some(std::io::ErrorKind::InvalidData));
}

/// Checksums are checked before; but whatever slips through is an error or a state, never a panic.
#[test]
fn flipped_bits_never_panic() {
    let bytes = snapshot_of(&world_of_everything().state);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // A length may be flipped to tens of megabytes, which are then not there.
        let _ = State::restore(&mut flipped.as_slice());
    }
}

#[test]
fn many_files_fill_many_pieces() {
    let mut state = World::new().state;
    for number in 0..20_000_u32 {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        let file = FileKey(bytes);
        let caller = Some(Caller { client: BOB, serial: Serial(u64::from(number) + 1) });
        let at = format!("/dir-{}/file-{number}", number % 7);
        let change = Change::Create(create(file, &at, WriteType::MustCache));
        state.apply(&Command { caller, change }, 1_000_000).unwrap();
        if number % 3 == 0 {
            state.apply(&Command { caller: None, change: Change::Complete { file, length: 1 } }, 1_000_000).unwrap();
        }
        if number % 5 == 0 {
            let abort = Change::Abort { file, reason: AbortReason::Writer };
            let _ = state.apply(&Command { caller: None, change: abort }, 1_000_000);
        }
    }
    let bytes = snapshot_of(&state);
    assert!(bytes.len() > 2 << 20, "{} bytes are several pieces", bytes.len());
    let restored = State::restore(&mut bytes.as_slice()).unwrap();
    restored.validate();
    assert!(snapshot_of(&restored) == bytes);
}

#[test]
fn golden_bytes_of_a_command() {
    let command = Command {
        caller: Some(Caller { client: ALICE, serial: Serial(7) }),
        change: Change::Renew { file: key(0x11), lease_ms: LEASE_MS },
    };
    let hex: String = command.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN_COMMAND);
    assert_eq!(Command::decode(&command.encode()), Ok(command));
}
const GOLDEN_COMMAND: &str = "0101a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a107000000000000000611111111111111111111111111111111\
    60ea000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn commands_of_other_forms_are_refused() {
    let good = Command { caller: None, change: mount_add("/x") }.encode();
    let status = |bytes: &[u8]| Command::decode(bytes).unwrap_err().status;
    assert_eq!(status(&[]), Status::Corrupt);
    assert_eq!(status(&good[..good.len() - 1]), Status::Corrupt);
    assert_eq!(status(&[&[2][..], &good[1..]].concat()), Status::Unsupported);
}
