//! Beginning, mounts, workers and rings.

use super::*;

#[test]
fn nothing_happens_before_init_and_init_happens_once() {
    let mut world = World { state: State::new(), now_ms: 1, serial: 0 };
    assert_eq!(world.refused(register(1, 1)), Status::Unavailable);
    assert_eq!(world.state.resolve(&path("/a")).unwrap_err().status, Status::Unavailable);
    world.done(init());
    assert_eq!(world.done(init()), [], "the same cluster again");
    let Change::Init { keys, root, .. } = init() else { unreachable!() };
    assert_eq!(world.refused(Change::Init { cluster: ClusterId([9; 16]), keys, root }), Status::AlreadyExists);
    assert_eq!(world.state.keys(), [MacKey([7; 32])]);
    assert_eq!(world.seen("/"), Seen::Mount(ROOT));
}

#[test]
fn paths_lead_to_the_longest_mount() {
    let mut world = World::new();
    world.done(mount_add("/data/inner"));
    for (text, mount, store_path) in [
        ("/", ROOT, ""),
        ("/x/y", ROOT, "x/y"),
        ("/database", ROOT, "database"),
        ("/data", DATA, ""),
        ("/data/x", DATA, "x"),
        ("/data/inner", MountId(3), ""),
        ("/data/inner/ü/#", MountId(3), "ü/#"),
    ] {
        let text = path(text);
        let resolution = world.state.resolve(&text).unwrap();
        assert_eq!((resolution.mount.id, resolution.store_path), (mount, store_path), "{text}");
    }
    assert_eq!(world.listed("/", ""), [("data", Seen::Mount(DATA))]);
    assert_eq!(world.seen("/data/inner"), Seen::Mount(MountId(3)));
}

#[test]
fn mounts_are_refused_where_they_would_hide_something() {
    let mut world = World::new();
    world.file(key(1), "/a/b/file");
    world.done(Change::Create(create(key(2), "/w/file", WriteType::CacheThrough)));
    world.begun(delete("/d/file", false));
    for (at, status) in [
        ("/data", Status::AlreadyExists),
        ("/", Status::AlreadyExists),
        ("/a", Status::FileBusy),
        ("/a/b/file", Status::FileBusy),
        ("/a/b/file/below", Status::NotADirectory),
        ("/w/file/below", Status::NotADirectory),
        ("/w", Status::FileBusy),
        ("/d", Status::FileBusy),
        ("/d/file/below", Status::Unavailable),
        ("relative", Status::InvalidArgument),
    ] {
        assert_eq!(world.refused(mount_add(at)), status, "{at}");
    }
    world.done(mount_add("/outer/inner"));
    assert_eq!(world.refused(mount_add("/outer")), Status::FileBusy, "a mount lies below");
}

#[test]
fn mounts_are_removed_when_nothing_needs_them() {
    let remove = |path: &str| Change::MountRemove { path: path.to_owned() };
    let mut world = World::new();
    assert_eq!(world.refused(remove("/")), Status::InvalidArgument);
    assert_eq!(world.refused(remove("/nothing")), Status::NotFound);

    world.done(mount_add("/data/inner"));
    assert_eq!(world.refused(remove("/data")), Status::InvalidArgument);
    world.done(remove("/data/inner"));

    world.file(key(1), "/data/file");
    assert_eq!(world.refused(remove("/data")), Status::NotEmpty);
    let (intent, _) = world.begun(delete("/data/file", false));
    assert_eq!(world.refused(remove("/data")), Status::FileBusy, "an intent");
    world.finish(intent, Ok(()));

    world.done(Change::Create(create(key(2), "/data/w", WriteType::CacheThrough)));
    assert_eq!(world.refused(remove("/data")), Status::FileBusy, "a writer");
    world.done(stage(key(2)));
    world.done(Change::Abort { file: key(2), reason: AbortReason::Writer });
    assert_eq!(world.refused(remove("/data")), Status::FileBusy, "remains");
    world.done(Change::RemainsCleaned { file: key(2) });

    let version = world.state.view_version();
    assert_eq!(world.done(remove("/data")), [Effect::View]);
    assert!(world.state.view_version() > version);
    assert_eq!(world.seen("/data"), Seen::None);
    assert_eq!(world.state.inode_count(), 1, "nothing is left but the root");
    let again = world.by(ALICE, mount_add("/data")).unwrap();
    assert_eq!(again.reply, Reply::Mount(MountId(4)), "ids are never used again");
}

/// A mount keeps its id, and so all that is known of its files, whatever its options become.
#[test]
fn options_of_a_mount_change() {
    let mut world = World::new();
    assert_eq!(world.refused(mount_set("/data/below", "x")), Status::NotFound);
    let before = world.state.mount(DATA).unwrap().clone();
    let version = world.state.view_version();
    let applied = world.by(ALICE, mount_set("/data", "x")).unwrap();
    assert_eq!((applied.reply, applied.effects), (Reply::Mount(DATA), vec![Effect::View]));
    assert!(world.state.view_version() > version, "workers hear of it");
    let after = world.state.mount(DATA).unwrap();
    let wanted = MountOptions(vec![("aws_region".to_owned(), "x".into())]);
    assert_eq!(*after, Mount { options: wanted, ..before });
}

#[test]
fn secrets_never_print() {
    let mut world = World::new();
    let command = Command { caller: None, change: mount_add("/data") };
    let mount = world.state.mount(DATA).unwrap();
    assert!(mount.options.0.iter().any(|(_, value)| value.expose() == "hunter2"));
    let failure = world.by(ALICE, mount_add("/data")).unwrap_err();
    for text in [format!("{command:?}"), format!("{:?}", world.state.mount(DATA)), failure.to_string()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn epochs_follow_the_live_members() {
    let mut world = World::new();
    let registered = |world: &mut World, worker, incarnation| {
        let applied = world.by(ALICE, register(worker, incarnation)).unwrap();
        let Reply::Registered(epoch) = applied.reply else { panic!("{applied:?}") };
        (epoch, applied.effects.contains(&Effect::View))
    };
    assert_eq!(world.state.ring().epoch, Epoch(1));
    assert_eq!(registered(&mut world, 1, 1), (Epoch(1), false), "the same life again");
    assert_eq!(registered(&mut world, 2, 1), (Epoch(2), true));
    assert_eq!(registered(&mut world, 1, 2), (Epoch(3), true), "a new life");
    world.done(Change::WorkerGone { worker: WorkerId(1), incarnation: Incarnation(1) });
    assert_eq!(world.state.ring().epoch, Epoch(3), "the old life was over before");
    world.done(Change::WorkerGone { worker: WorkerId(1), incarnation: Incarnation(2) });
    assert_eq!(world.state.ring().epoch, Epoch(4));
    assert_eq!(world.state.ring().members, [member(2, 1)]);
    assert_eq!(world.state.workers().map(|worker| worker.live).collect::<Vec<_>>(), [false, true]);
    assert!(world.state.is_live(publisher(2, 1)) && !world.state.is_live(publisher(1, 2)));
    for epoch in 0..4 {
        assert!(world.state.ring_of(Epoch(epoch)).is_none(), "epoch {epoch} places nothing");
    }
    let shardless = Member { shards: 0, ..member(3, 1) };
    let change = Change::Register { member: shardless, backing: String::new(), memory_bytes: 0 };
    assert_eq!(world.refused(change), Status::InvalidArgument);
}

#[test]
fn a_ring_is_kept_as_long_as_it_places_a_file() {
    let mut world = World::new();
    world.file(key(1), "/file");
    world.done(register(2, 1));
    world.done(register(3, 1));
    assert_eq!(world.state.file(key(1)).unwrap().epoch, Epoch(1));
    assert_eq!(world.state.ring_of(Epoch(1)).unwrap().members, [member(1, 1)]);
    assert!(world.state.ring_of(Epoch(2)).is_none());
    let (_, effects) = world.begun(delete("/file", false));
    let Effect::Forget { ring, .. } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(ring.members, [member(1, 1)], "who forgets is told even as the ring goes");
    assert!(world.state.ring_of(Epoch(1)).is_none());
}

#[test]
fn a_file_is_lost_with_the_life_of_an_owner() {
    let mut world = World::new();
    world.file(key(1), "/file");
    world.done(Change::Create(create(key(2), "/empty", WriteType::MustCache)));
    world.done(Change::Complete { file: key(2), length: 0 });
    let is_lost = |world: &World, number| world.state.is_lost(world.state.file(key(number)).unwrap());
    world.done(register(2, 1));
    assert!(!is_lost(&world, 1), "a join loses nothing");
    world.done(Change::WorkerGone { worker: WorkerId(1), incarnation: Incarnation(1) });
    assert!(is_lost(&world, 1) && !is_lost(&world, 2), "an empty file has no owner");
    world.done(register(1, 1));
    assert!(!is_lost(&world, 1), "the same life is back, and its memory");
    world.done(register(1, 2));
    assert!(is_lost(&world, 1));
    assert_eq!(world.seen("/file"), Seen::File(key(1)), "a lost file stays listed");

    world.done(Change::Create(overwrite(key(3), "/file", WriteType::MustCache, None)));
    let (forgotten, _) = gone(&world.done(Change::Complete { file: key(3), length: 1 }));
    assert_eq!((forgotten, is_lost(&world, 3)), (vec![key(1)], false), "a lost file can be overwritten");
}

#[test]
fn a_file_of_many_blocks_is_lost_with_any_of_their_owners() {
    let mut world = World::new();
    world.done(register(2, 1));
    world.done(Change::Create(create(key(1), "/file", WriteType::MustCache)));
    world.done(Change::Complete { file: key(1), length: 40 * u64::from(BLOCK_BYTES_MIN) });
    let lost_without = |worker| {
        let mut copy = State::restore(&mut snapshot_of(&world.state).as_slice()).unwrap();
        let gone = Change::WorkerGone { worker: WorkerId(worker), incarnation: Incarnation(1) };
        copy.apply(&Command { caller: None, change: gone }, 2_000_000).unwrap();
        copy.is_lost(copy.file(key(1)).unwrap())
    };
    assert!(lost_without(1) && lost_without(2), "40 blocks lie on both workers");
}

#[test]
fn writes_end_with_their_publisher_unless_their_intent_is_logged() {
    let mut world = World::new();
    for (number, write_type) in
        [(1, WriteType::CacheThrough), (2, WriteType::Through), (3, WriteType::MustCache), (4, WriteType::CacheThrough)]
    {
        world.done(Change::Create(create(key(number), &format!("/{number}"), write_type)));
    }
    world.done(stage(key(2)));
    world.done(intend(key(4)));
    world.file(key(5), "/5");
    let effects = world.done(register(1, 2));
    let (_, aborted) = gone(&effects);
    assert_eq!(aborted, [1, 2, 3].map(|number| (key(number), AbortReason::WorkerLost)));
    assert!(effects.contains(&Effect::Remains(key(2))));
    assert_eq!(world.state.remains().map(|(file, _)| file).collect::<Vec<_>>(), [key(2)]);
    assert_eq!(world.state.unsettled().map(|file| file.key).collect::<Vec<_>>(), [key(4)]);
    assert_eq!(world.refused(Change::Complete { file: key(3), length: 1 }), Status::Aborted);
    assert_eq!(world.refused(stage(key(1))), Status::Aborted);

    world.done(Change::PublishDone { file: key(4), token: b"etag".to_vec() });
    assert_eq!(world.state.unsettled().count(), 0);
}

#[test]
fn the_longest_gone_worker_makes_room_and_live_ones_do_not() {
    use super::super::workers::{Worker, Workers};
    use citius_wire::WORKERS_MAX;
    let worker = |id, changed_ms| Worker {
        member: member(id, 1),
        backing: String::new(),
        memory_bytes: 1,
        live: true,
        changed_ms,
    };
    let count = WORKERS_MAX as u64;
    let all = (0..count).map(|id| worker(id, id)).collect::<Vec<_>>();
    let members = all.iter().map(|worker| worker.member.clone()).collect();
    let ring = citius_wire::Ring { epoch: Epoch(9), members };
    let mut workers = Workers::restore(all, vec![ring]).unwrap();
    workers.validate();
    assert_eq!(workers.register(worker(count, 1)).unwrap_err().status, Status::NoSpace);
    workers.leave(publisher(7, 1), 5_000);
    workers.leave(publisher(5, 1), 6_000);
    workers.register(worker(count, 7_000)).unwrap();
    workers.validate();
    assert!(workers.iter().all(|worker| worker.member.worker != WorkerId(7)));
    assert!(workers.iter().any(|worker| worker.member.worker == WorkerId(5) && !worker.live));
}
