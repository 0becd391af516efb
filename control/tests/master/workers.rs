//! Workers: registration, heartbeats, views, tasks, silence.

use crate::client::status;
use crate::rig::{Rig, beat, eventually, member, register};
use crate::writes::publish;
use citius_wire::{
    BreakerState, Counters, DIRTY_FILES_MAX, Epoch, FileKey, Heartbeat, MountId, MountTraffic, Operation, Outcome,
    Register, Ring, Status, Work, WorkerId, WriteType,
};

fn ring(client: &mut crate::client::Client, epoch: u64) -> Ring {
    match client.one(Operation::Ring { epoch: Epoch(epoch) }).unwrap() {
        Outcome::Ring(ring) => *ring,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_worker_registers_and_is_replaced_by_its_next_life() {
    let rig = Rig::new();
    let mut client = rig.client();
    assert_eq!(status(client.ask(&beat(1, 1))), Status::NotFound, "nobody is known");
    let first = register(&mut client, 1, 1);
    assert_eq!(first.view.ring.members, [member(1, 1)]);
    assert!(first.view.keys.len() == 1 && first.view.mounts.len() == 1 && first.heartbeat_ms > 0);
    let again = register(&mut client, 1, 1);
    assert_eq!(again.view.ring.epoch, first.view.ring.epoch, "the same life changes nothing");
    let second = register(&mut client, 2, 1);
    assert!(second.view.version > first.view.version && second.view.ring.epoch > first.view.ring.epoch);
    let next = register(&mut client, 1, 2);
    assert!(next.view.ring.epoch > second.view.ring.epoch);
    assert_eq!(status(client.ask(&beat(1, 1))), Status::NotFound, "the old life is told to register");
    client.ask(&beat(1, 2)).unwrap();
    assert_eq!(ring(&mut client, 0).members.len(), 2);
    let nobody = Register { member: member(0, 1), backing: String::new(), memory_bytes: 0 };
    assert_eq!(status(client.ask(&nobody)), Status::InvalidArgument);
    let mut shardless = member(9, 1);
    shardless.shards = 0;
    let shardless = Register { member: shardless, backing: String::new(), memory_bytes: 0 };
    assert_eq!(status(client.ask(&shardless)), Status::InvalidArgument);
}

#[test]
fn views_are_sent_when_they_are_new() {
    let rig = Rig::new();
    let mut client = rig.client();
    let view = register(&mut client, 1, 1).view;
    let up_to_date = Heartbeat { view_version: view.version, ..beat(1, 1) };
    assert!(client.ask(&up_to_date).unwrap().view.is_none());
    client.mount("/m", "memory://views", None).unwrap();
    let newer = client.ask(&up_to_date).unwrap().view.unwrap();
    assert!(newer.version > view.version);
    assert_eq!(newer.mounts.last().unwrap().uri, "memory://views");
    let up_to_date = Heartbeat { view_version: newer.version, ..beat(1, 1) };
    assert!(client.ask(&up_to_date).unwrap().view.is_none());
}

#[test]
fn who_leaves_or_falls_silent_is_out_of_the_ring() {
    let rig = Rig::with(|config| {
        config.heartbeat_ms = 100;
        config.heartbeats_missed_max = 3;
    });
    let mut client = rig.client();
    register(&mut client, 1, 1);
    register(&mut client, 2, 1);
    register(&mut client, 3, 1);
    client.ask(&Heartbeat { leaving: true, ..beat(2, 1) }).unwrap();
    assert!(ring(&mut client, 0).member(WorkerId(2)).is_none());
    assert_eq!(status(client.ask(&beat(2, 1))), Status::NotFound);
    eventually("the silent one is out", || {
        client.ask(&beat(1, 1)).unwrap();
        ring(&mut client, 0).members == [member(1, 1)]
    });
    let Outcome::Cluster(cluster) = client.one(Operation::Cluster).unwrap() else { panic!() };
    let live: Vec<_> = cluster.workers.iter().map(|worker| (worker.worker.0, worker.live)).collect();
    assert_eq!(live, [(1, true), (2, false), (3, false)]);
}

#[test]
fn the_ring_of_a_file_is_kept_while_it_needs_it() {
    let rig = Rig::new();
    let mut client = rig.client();
    let first = register(&mut client, 1, 1).view.ring;
    client.memory_file("/f", 1);
    register(&mut client, 2, 1);
    assert_eq!(client.open("/f").unwrap().epoch, first.epoch);
    assert_eq!(ring(&mut client, first.epoch.0), first);
    client.delete("/f", false).unwrap();
    assert_eq!(status(client.one(Operation::Ring { epoch: first.epoch })), Status::NotFound);
}

#[test]
fn tasks_follow_from_what_becomes_of_files() {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    let memory = client.memory_file("/m", 1);
    let created = client.create("/f", WriteType::CacheThrough).unwrap();
    let key = publish(&rig, &mut client, "/f", &created, b"x").unwrap();
    client.delete("/m", false).unwrap();
    let tasks = client.ask(&beat(1, 1)).unwrap().tasks;
    let works: Vec<&Work> = tasks.iter().map(|task| &task.work).collect();
    assert_eq!(works, [&Work::Rekey { from: created.file, to: key }, &Work::Drop { file: memory }]);
    assert_eq!(client.ask(&beat(1, 1)).unwrap().tasks, tasks, "until they are done");
    let done = Heartbeat { task_done: tasks[1].number, ..beat(1, 1) };
    assert!(client.ask(&done).unwrap().tasks.is_empty());
}

/// A master forgets its tasks when it dies; the worker names what it still holds, and gets them again.
#[test]
fn lost_tasks_are_given_again_for_what_is_dirty() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    let living = client.memory_file("/living", 1);
    let gone = client.memory_file("/gone", 1);
    let created = client.create("/f", WriteType::CacheThrough).unwrap();
    let key = publish(&rig, &mut client, "/f", &created, b"x").unwrap();
    client.delete("/gone", false).unwrap();
    rig.crash();
    rig.start(|_| {});
    let mut client = rig.client();
    let stranger = FileKey([3; 16]);
    let dirty = vec![living, gone, created.file, stranger];
    let answer = client.ask(&Heartbeat { dirty, task_done: 40, ..beat(1, 1) }).unwrap();
    let works: Vec<_> = answer.tasks.iter().map(|task| (task.number, task.work.clone())).collect();
    assert_eq!(
        works,
        [
            (41, Work::Drop { file: gone }),
            (42, Work::Rekey { from: created.file, to: key }),
            (43, Work::Drop { file: stranger })
        ]
    );
    let many = Heartbeat { dirty: vec![stranger; DIRTY_FILES_MAX + 1], ..beat(1, 1) };
    assert_eq!(status(client.ask(&many)), Status::InvalidArgument);
    assert_eq!(status(client.ask(&Heartbeat { task_done: u64::MAX, ..beat(1, 1) })), Status::InvalidArgument);
}

#[test]
fn counters_and_traffic_are_shown() {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    let counters = Counters { hits: 7, memory_capacity_bytes: 5, ..Counters::default() };
    let traffic = |worker| MountTraffic { mount: MountId(1), read_bytes: 1000 * worker, ..MountTraffic::default() };
    register(&mut client, 2, 1);
    for worker in [1, 2] {
        client.ask(&Heartbeat { counters, traffic: vec![traffic(worker)], ..beat(worker, 1) }).unwrap();
    }
    let Outcome::Cluster(cluster) = client.one(Operation::Cluster).unwrap() else { panic!() };
    assert!(cluster.workers.iter().all(|worker| worker.counters == counters));
    assert_eq!(cluster.mounts[0].traffic.read_bytes, 3000);
    assert!(cluster.mounts[0].traffic.other_requests > 0, "the master's own count too");
    assert_eq!(cluster.warnings, Vec::<String>::new());
    // One of the two finds its under-store silent: that is what is shown, with its reason.
    let silent = MountTraffic {
        breaker: BreakerState::Open,
        breaker_reason: "connection refused".into(),
        failures: [5, 0, 0, 0, 0, 0],
        ..traffic(2)
    };
    client.ask(&Heartbeat { counters, traffic: vec![silent], ..beat(2, 1) }).unwrap();
    let Outcome::Cluster(cluster) = client.one(Operation::Cluster).unwrap() else { panic!() };
    assert_eq!((cluster.mounts[0].traffic.failures[0], cluster.mounts[0].traffic.read_bytes), (5, 3000));
    assert_eq!(cluster.warnings.len(), 1);
    assert!(cluster.warnings[0].contains("connection refused"), "{}", cluster.warnings[0]);
}
