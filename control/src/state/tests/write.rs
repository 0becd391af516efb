//! How writes begin, go on and end.

use super::*;
use citius_wire::units;

fn abort(number: u8, reason: AbortReason) -> Change {
    Change::Abort { file: key(number), reason }
}

fn published(number: u8) -> Change {
    Change::PublishDone { file: key(number), token: b"etag".to_vec() }
}

#[test]
fn a_must_cache_write_is_seen_from_complete_on() {
    let mut world = World::new();
    let applied = world.by(ALICE, Change::Create(create(key(1), "/d/f", WriteType::MustCache))).unwrap();
    assert_eq!(applied, Applied { reply: Reply::Created { file: key(1), epoch: Epoch(1) }, effects: vec![] });
    assert_eq!((world.seen("/d/f"), world.seen("/d")), (Seen::None, Seen::None));
    let file_path = path("/d/f");
    assert_eq!(world.state.resolve(&file_path).unwrap().writer.unwrap().key, key(1));
    assert_eq!(world.listed("/", ""), [("data", Seen::Mount(DATA))]);

    world.now_ms += 5;
    assert_eq!(world.done(Change::Complete { file: key(1), length: 9 }), []);
    assert_eq!((world.seen("/d/f"), world.seen("/d")), (Seen::File(key(1)), Seen::Implied));
    assert_eq!(world.listed("/", ""), [("d", Seen::Implied), ("data", Seen::Mount(DATA))]);
    let file = world.state.file(key(1)).unwrap();
    assert_eq!((file.length, file.modified_ms, file.is_complete()), (9, world.now_ms, true));
    assert_eq!(world.state.path_of(file), path("/d/f"));
    assert_eq!(world.seen("/d/f/below"), Seen::Hidden, "nothing is below a file");
    assert!(world.state.resolve(&file_path).unwrap().writer.is_none());
}

#[test]
fn nothing_is_below_a_file() {
    let mut world = World::new();
    world.file(key(1), "/f");
    assert_eq!(world.refused(Change::Create(create(key(2), "/f/x/y", WriteType::MustCache))), Status::NotADirectory);
    assert_eq!(world.refused(mkdir("/f/x", true)), Status::NotADirectory);
    assert_eq!(world.refused(rename("/x", "/f/x", true)), Status::NotADirectory);
}

#[test]
fn creates_that_are_refused() {
    let mut world = World::new();
    world.file(key(1), "/d/f");
    world.done(Change::Create(create(key(2), "/busy", WriteType::MustCache)));
    world.done(Change::MountAdd { path: "/ro".to_owned(), spec: MountSpec { read_only: true, ..spec("s3://b") } });
    let base = |path: &str| create(key(9), path, WriteType::MustCache);
    let token_too_long = vec![0; TOKEN_BYTES_MAX + 1];
    for (create, status) in [
        (base("/d/f"), Status::AlreadyExists),
        (base("/d"), Status::IsADirectory),
        (base("/"), Status::IsADirectory),
        (base("/data"), Status::IsADirectory),
        (base("/busy"), Status::FileBusy),
        (base("/busy/below"), Status::NotADirectory),
        (base("no path"), Status::InvalidArgument),
        (Create { mount: DATA, ..base("/x") }, Status::Unavailable),
        (Create { mount: MountId(3), ..base("/ro/x") }, Status::ReadOnly),
        (Create { block_bytes: BLOCK_BYTES_MIN + 1, ..base("/x") }, Status::InvalidArgument),
        (Create { replaces: Some(b"v1".to_vec()), ..base("/x") }, Status::AlreadyExists),
        (Create { overwrite: true, replaces: Some(token_too_long), ..base("/x") }, Status::InvalidArgument),
        (Create { file: key(1), ..base("/x") }, Status::InvalidArgument),
        (Create { file: key(2), ..base("/x") }, Status::InvalidArgument),
    ] {
        let case = format!("{create:?}");
        assert_eq!(world.refused(Change::Create(create)), status, "{case}");
    }
    let nobody = world.apply(None, Change::Create(base("/x"))).unwrap_err();
    assert_eq!(nobody.status, Status::InvalidArgument);
    world.done(Change::WorkerGone { worker: WorkerId(1), incarnation: Incarnation(1) });
    assert_eq!(world.refused(Change::Create(base("/x"))), Status::Unavailable, "no worker");
}

#[test]
fn one_writer_a_path_until_its_lease_expires() {
    let mut world = World::new();
    world.done(Change::Create(create(key(1), "/f", WriteType::CacheThrough)));
    let second = |number| Change::Create(create(key(number), "/f", WriteType::CacheThrough));
    let busy = world.by(BOB, second(2)).unwrap_err();
    assert_eq!(busy.status, Status::FileBusy);
    assert!(busy.message.contains("60 s"), "{busy}");
    let again = world.done(Change::Create(create(key(1), "/f", WriteType::CacheThrough)));
    assert_eq!(again, [], "the same write under another serial");

    world.now_ms += u64::from(LEASE_MS) - 1;
    assert_eq!(world.state.expired(world.now_ms).count(), 0);
    world.done(Change::Renew { file: key(1), lease_ms: LEASE_MS });
    world.now_ms += 2;
    assert_eq!(world.by(BOB, second(2)).unwrap_err().status, Status::FileBusy, "renewed");
    let abort_expired = world.apply(None, abort(1, AbortReason::LeaseExpired));
    assert_eq!(abort_expired.unwrap_err().status, Status::FileBusy);

    world.done(stage(key(1)));
    world.now_ms += u64::from(LEASE_MS) - 2;
    assert_eq!(world.state.expired(world.now_ms).map(|file| file.key).collect::<Vec<_>>(), [key(1)]);
    let effects = world.by(BOB, second(2)).unwrap().effects;
    assert_eq!(gone(&effects), (vec![key(1)], vec![(key(1), AbortReason::LeaseExpired)]));
    assert!(effects.contains(&Effect::Remains(key(1))));
    let late = world.by(ALICE, Change::Renew { file: key(1), lease_ms: LEASE_MS }).unwrap_err();
    assert_eq!(late.status, Status::Aborted);
    assert!(late.message.contains("lease"), "{late}");
}

#[test]
fn an_overwrite_swaps_at_complete() {
    let mut world = World::new();
    world.file(key(1), "/f");
    world.done(Change::Create(overwrite(key(2), "/f", WriteType::MustCache, None)));
    assert_eq!(world.seen("/f"), Seen::File(key(1)));
    world.done(abort(2, AbortReason::Writer));
    assert_eq!(world.seen("/f"), Seen::File(key(1)), "an overwrite that is given up leaves the old");
    world.done(Change::Create(overwrite(key(3), "/f", WriteType::MustCache, None)));
    let effects = world.done(Change::Complete { file: key(3), length: 1 });
    assert_eq!(gone(&effects), (vec![key(1)], vec![]));
    assert_eq!(world.seen("/f"), Seen::File(key(3)));
    assert!(world.state.file(key(1)).is_none());
}

#[test]
fn an_overwrite_swaps_at_publish_done() {
    let mut world = World::new();
    world.file(key(1), "/f");
    world.done(Change::Create(overwrite(key(2), "/f", WriteType::CacheThrough, Some(b"v1"))));
    world.done(stage(key(2)));
    let intent = world.by(BOB, intend(key(2))).unwrap();
    assert_eq!(intent.reply, Reply::Condition { replaces: Some(b"v1".to_vec()) });
    assert_eq!(world.seen("/f"), Seen::File(key(1)));
    let done = world.by(BOB, published(2)).unwrap();
    let to = FileKey::of_version(ROOT, "f", b"etag");
    assert_eq!(done.reply, Reply::Persisted(to));
    let ring = world.state.ring().clone();
    assert_eq!(
        done.effects,
        [Effect::Forget { file: key(1), ring: ring.clone() }, Effect::Rekey { from: key(2), to, ring }]
    );
    assert_eq!(world.seen("/f"), Seen::None, "the under-store has it");
    assert_eq!(world.state.inode_count(), 2, "/ and /data");
}

#[test]
fn publishing_is_idempotent_under_other_serials() {
    let mut world = World::new();
    world.done(Change::Create(create(key(1), "/data/f", WriteType::Through)));
    assert_eq!(world.refused(published(1)), Status::Protocol, "no intent is logged");
    for _ in 0..2 {
        assert_eq!(world.done(stage(key(1))), []);
    }
    let other_record = Change::StageStarted { file: key(1), record: b"upload 8".to_vec(), publisher: None };
    assert_eq!(world.refused(other_record), Status::FileBusy);
    let stranger =
        Change::PublishIntent { file: key(1), length: 5, record: RECORD.to_vec(), publisher: publisher(1, 9) };
    assert_eq!(world.refused(stranger.clone()), Status::Aborted, "a life that is not in the ring");
    for _ in 0..2 {
        assert_eq!(world.by(BOB, intend(key(1))).unwrap().reply, Reply::Condition { replaces: None });
    }
    assert_eq!(world.refused(stranger), Status::Unavailable, "another has begun");
    let to = FileKey::of_version(DATA, "f", b"etag");
    let first = world.by(BOB, published(1)).unwrap();
    assert_eq!(first.reply, Reply::Persisted(to));
    assert!(matches!(first.effects[..], [Effect::Forget { .. }]), "through keeps nothing in memory");
    assert_eq!(world.by(BOB, published(1)).unwrap(), Applied { reply: Reply::Persisted(to), effects: vec![] });
    assert_eq!(world.state.fate(key(1)), Some(Fate::Persisted(to)));
    assert_eq!(world.done(abort(1, AbortReason::Writer)), [], "nothing is left to give up");
}

#[test]
fn a_logged_intent_is_settled_and_not_aborted() {
    let mut world = World::new();
    world.done(Change::Create(create(key(1), "/f", WriteType::CacheThrough)));
    world.done(intend(key(1)));
    world.now_ms += 10 * u64::from(LEASE_MS);
    assert_eq!(world.state.expired(world.now_ms).count(), 0);
    assert_eq!(world.refused(abort(1, AbortReason::Writer)), Status::Unavailable);
    assert_eq!(world.refused(Change::Create(create(key(2), "/f", WriteType::CacheThrough))), Status::FileBusy);
    assert_eq!(world.refused(delete("/f", false)), Status::Unavailable);
    assert_eq!(world.refused(rename("/f", "/g", false)), Status::Unavailable);
    assert_eq!(world.refused(rename("/g", "/f", true)), Status::Unavailable);
    let effects = world.done(Change::PublishFailed { file: key(1) });
    assert_eq!(gone(&effects), (vec![key(1)], vec![(key(1), AbortReason::PublishFailed)]));
    assert_eq!(world.state.remains().count(), 0, "who says that it failed has cleaned up");
    assert_eq!(world.done(Change::PublishFailed { file: key(1) }), []);
    assert_eq!(world.refused(published(1)), Status::Aborted);
}

#[test]
fn write_types_end_in_their_own_way() {
    let mut world = World::new();
    world.done(Change::Create(create(key(1), "/m", WriteType::MustCache)));
    world.done(Change::Create(create(key(2), "/c", WriteType::CacheThrough)));
    assert_eq!(world.refused(stage(key(1))), Status::InvalidArgument);
    assert_eq!(world.refused(intend(key(1))), Status::InvalidArgument);
    assert_eq!(world.refused(Change::PublishFailed { file: key(1) }), Status::InvalidArgument);
    assert_eq!(world.refused(Change::Complete { file: key(2), length: 1 }), Status::InvalidArgument);
}

#[test]
fn complete_is_idempotent_and_final() {
    let mut world = World::new();
    world.file(key(1), "/f");
    assert_eq!(world.done(Change::Complete { file: key(1), length: 5 }), []);
    assert_eq!(world.done(Change::Renew { file: key(1), lease_ms: 1 }), []);
    assert_eq!(world.refused(Change::Complete { file: key(1), length: 6 }), Status::InvalidArgument);
    assert_eq!(world.refused(abort(1, AbortReason::Writer)), Status::InvalidArgument);
    let too_long = u64::from(BLOCK_BYTES_MIN) * (u64::from(u32::MAX) + 1);
    assert!(units::block_count(too_long, BLOCK_BYTES_MIN) > u64::from(u32::MAX));
    world.done(Change::Create(create(key(2), "/g", WriteType::MustCache)));
    assert_eq!(world.refused(Change::Complete { file: key(2), length: too_long }), Status::InvalidArgument);
}

#[test]
fn complete_notices_that_a_block_is_gone() {
    let mut world = World::new();
    world.done(register(2, 1));
    let length = 40 * u64::from(BLOCK_BYTES_MIN);
    world.done(Change::Create(create(key(1), "/f", WriteType::MustCache)));
    let ring = world.state.ring().clone();
    let place = world.state.file(key(1)).unwrap().place;
    let other = 1 - ring.owner(place, 0).unwrap().member;
    let other = &ring.members[other];
    world.done(Change::WorkerGone { worker: other.worker, incarnation: other.incarnation });
    assert_eq!(world.refused(Change::Complete { file: key(1), length }), Status::DataLost);
}

#[test]
fn clients_speak_of_their_own_writes_only() {
    let mut world = World::new();
    world.done(Change::Create(create(key(1), "/f", WriteType::MustCache)));
    for change in [
        Change::Renew { file: key(1), lease_ms: 1 },
        Change::Complete { file: key(1), length: 1 },
        abort(1, AbortReason::Writer),
    ] {
        assert_eq!(world.by(BOB, change).unwrap_err().status, Status::PermissionDenied);
    }
    world.apply(None, abort(1, AbortReason::Writer)).unwrap();
    assert_eq!(world.state.fate(key(1)), Some(Fate::Aborted(AbortReason::Writer)));
}

#[test]
fn records_and_tokens_are_bounded() {
    let mut world = World::new();
    world.done(Change::Create(create(key(1), "/f", WriteType::CacheThrough)));
    let record = |bytes| Change::StageStarted { file: key(1), record: vec![0; bytes], publisher: None };
    assert_eq!(world.refused(record(RECORD_BYTES_MAX + 1)), Status::InvalidArgument);
    world.done(record(RECORD_BYTES_MAX));
    world.done(intend(key(1)));
    let done = |bytes| Change::PublishDone { file: key(1), token: vec![0; bytes] };
    assert_eq!(world.refused(done(TOKEN_BYTES_MAX + 1)), Status::InvalidArgument);
    world.done(done(TOKEN_BYTES_MAX));
}

#[test]
fn fates_are_bounded() {
    use super::super::files::Fates;
    let mut fates = Fates::default();
    let numbered = |number: u32| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        FileKey(bytes)
    };
    for number in 0..=FATES_MAX as u32 {
        fates.record(numbered(number), Fate::Aborted(AbortReason::Writer));
    }
    fates.validate();
    assert!(fates.get(numbered(0)).is_none() && fates.get(numbered(1)).is_some());
}
