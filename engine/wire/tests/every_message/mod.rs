//! One sample of every message, and the reading of any frame as the message that it says it is.
//!
//! Shared by the tests beside this folder and by the fuzz target, so that a message that is added here is added to all.

#![allow(dead_code, reason = "each of those who include this file uses some of it")]

use citius_wire::*;

/// Reads a header as every message that its kind and flags allow. Whether it is one does not matter, only that the
/// judgement ends, and that what is accepted can be taken apart.
pub(crate) fn judge(head: &Head<'_>) -> Result<(), FrameError> {
    fn one<T: Message>(head: &Head<'_>) -> Result<(), FrameError> {
        head.access::<T>()?;
        // Validated bytes always become a message.
        head.read::<T>().map(drop)
    }
    fn either<R: Request>(head: &Head<'_>) -> Result<(), FrameError> {
        let flags = head.prelude.flags;
        if flags.has(Flags::REPLY) {
            // `read_reply` on its own is what clients call; both it and the plain reading must agree.
            let plain = if flags.has(Flags::FAILED) { one::<Failure>(head) } else { one::<R::Reply>(head) };
            let reply = head.read_reply::<R>();
            if flags.has(Flags::FAILED) || plain.is_err() {
                assert!(reply.is_err());
            } else {
                assert!(reply.is_ok());
            }
            plain
        } else {
            one::<R>(head)
        }
    }
    match head.prelude.kind {
        Kind::Hello => either::<Hello>(head),
        Kind::Batch => either::<Batch>(head),
        Kind::List => either::<List>(head),
        Kind::Register => either::<Register>(head),
        Kind::Heartbeat => either::<Heartbeat>(head),
        Kind::Attach => either::<Attach>(head),
        Kind::Detach => either::<Detach>(head),
        Kind::Read => either::<Read>(head),
        Kind::Write => either::<Write>(head),
        Kind::Seal => either::<Seal>(head),
        Kind::Stage => either::<Stage>(head),
        Kind::Publish => either::<Publish>(head),
        Kind::Load => either::<Load>(head),
        Kind::Free => either::<Free>(head),
        Kind::Resident => either::<Resident>(head),
        Kind::Map => either::<Map>(head),
        Kind::MapWrite => either::<MapWrite>(head),
        Kind::Counters => either::<CountersRequest>(head),
        Kind::Staged => either::<Staged>(head),
        Kind::Warm => either::<Warm>(head),
    }
}

/// A name, and a frame with its payload.
pub(crate) type Sample = (String, Vec<u8>);

/// Collects samples, and checks of each that it is read back as what was written.
struct Samples {
    encoder: Encoder,
    all: Vec<Sample>,
}

impl Samples {
    fn ask<R: Request>(&mut self, name: &str, request: &R, payload: &[u8]) {
        let mut frame = Vec::new();
        self.encoder.request(&mut frame, 7, request, payload.len());
        frame.extend_from_slice(payload);
        self.add(&format!("{name}.ask"), frame, |head, encoder, out| {
            encoder.request(out, 7, &head.read::<R>().unwrap(), payload.len());
        });
    }

    fn answer<R: Request>(&mut self, name: &str, reply: Result<R::Reply, Failure>, payload: &[u8]) {
        let mut frame = Vec::new();
        match reply {
            Ok(reply) => self.encoder.encode(&mut frame, R::KIND, Flags::REPLY, 7, &reply, payload.len()),
            Err(failure) => self.encoder.failure(&mut frame, R::KIND, 7, &failure),
        }
        frame.extend_from_slice(payload);
        self.add(&format!("{name}.answer"), frame, |head, encoder, out| match head.read_reply::<R>() {
            Ok(reply) => encoder.encode(out, R::KIND, Flags::REPLY, 7, &reply, payload.len()),
            Err(failure) => encoder.failure(out, R::KIND, 7, &failure),
        });
    }

    /// The check is on bytes, because not every message compares: read and written again, a frame is the same frame.
    fn add(&mut self, name: &str, frame: Vec<u8>, again: impl Fn(&Head<'_>, &mut Encoder, &mut Vec<u8>)) {
        let mut buffer = received(&frame);
        let (head, payload) = buffer.next_frame().unwrap().unwrap();
        let mut second = Vec::new();
        again(&head, &mut Encoder::default(), &mut second);
        second.extend_from_slice(payload);
        assert_eq!(second, frame, "{name}");
        self.all.push((name.to_owned(), frame));
    }
}

/// A buffer that has received these bytes.
pub(crate) fn received(bytes: &[u8]) -> FrameBuffer {
    let mut buffer = FrameBuffer::new(64);
    let mut rest = bytes;
    while !rest.is_empty() {
        let spare = buffer.spare();
        let count = spare.len().min(rest.len());
        spare[..count].copy_from_slice(&rest[..count]);
        buffer.filled(count);
        rest = &rest[count..];
    }
    buffer
}

/// One of every message, with every variant of its enums.
pub(crate) fn samples() -> Vec<Sample> {
    let mut s = Samples { encoder: Encoder::default(), all: Vec::new() };
    let file = FileKey(*b"0123456789abcdef");
    let handle = Handle(3);

    s.ask("hello", &hello(), &[]);
    s.answer::<Hello>(
        "hello",
        Ok(Welcome { worker: WorkerId(2), epoch: Epoch(9), shards: 3, release: "0.1.0".into() }),
        &[],
    );
    s.ask("batch", &Batch { first: Serial(41), operations: operations() }, &[]);
    s.answer::<Batch>("batch", Ok(BatchReply { results: outcomes().into_iter().map(Ok).collect() }), &[]);
    s.answer::<Batch>(
        "batch.failures",
        Ok(BatchReply {
            results: vec![
                Err(Failure::new(Status::NotFound, "/nothing is not there")),
                Ok(Outcome::Done),
                Err(Failure::wrong_epoch(ring())),
            ],
        }),
        &[],
    );
    s.ask("list", &List { path: "/data".into(), after: "a b".into(), limit: 10 }, &[]);
    s.answer::<List>("list", Ok(ListPage { entries: vec![file_info(), directory_info()], unnameable: 1 }), &[]);
    s.ask("register", &Register { member: member(1), backing: "hugetlb".into(), memory_bytes: 1 << 30 }, &[]);
    s.answer::<Register>("register", Ok(Registered { view: view(), heartbeat_ms: 1_000 }), &[]);
    s.ask(
        "heartbeat",
        &Heartbeat {
            worker: WorkerId(1),
            incarnation: Incarnation(5),
            view_version: 4,
            task_done: 2,
            counters: counters(),
            traffic: vec![traffic()],
            dirty: vec![file],
            leaving: true,
        },
        &[],
    );
    s.answer::<Heartbeat>(
        "heartbeat",
        Ok(HeartbeatReply {
            view: Some(Box::new(view())),
            tasks: vec![
                Task { number: 3, work: Work::Rekey { from: file, to: FileKey([1; 16]) } },
                Task { number: 4, work: Work::Drop { file } },
            ],
        }),
        &[],
    );
    s.answer::<Heartbeat>("heartbeat.nothing", Ok(HeartbeatReply { view: None, tasks: vec![] }), &[]);

    s.ask("attach", &Attach { capability: capability() }, &[]);
    s.answer::<Attach>("attach", Ok(Attached { handle }), &[]);
    s.ask("detach", &Detach { handle }, &[]);
    s.answer::<Detach>("detach", Ok(Done {}), &[]);
    s.ask("read", &read(), &[]);
    for (name, mode) in [
        ("read.no_cache", ReadMode::NoCache),
        ("read.refetch", ReadMode::Refetch),
        ("read.resident", ReadMode::Resident),
    ] {
        s.ask(name, &Read { mode, ..read() }, &[]);
    }
    s.answer::<Read>("read", Ok(read_reply()), b"hello");
    s.answer::<Read>("read.failure", Err(Failure::wrong_epoch(ring())), &[]);
    s.ask("write", &Write { handle, offset: 4096 }, b"hello");
    s.answer::<Write>("write", Ok(Done {}), &[]);
    s.ask("seal", &Seal { handle, index: 1, length: 5 }, &[]);
    s.answer::<Seal>("seal", Ok(Done {}), &[]);
    s.ask("stage", &Stage { handle, index: 1, length: 5 }, &[]);
    s.answer::<Stage>("stage", Ok(Done {}), &[]);
    s.ask("staged", &Staged { handle, index: 1 }, &[]);
    s.answer::<Staged>("staged", Ok(Done {}), &[]);
    s.ask("publish", &Publish { handle, length: 5 }, &[]);
    s.answer::<Publish>("publish", Ok(Published { file }), &[]);
    s.ask("load", &Load { handle, index: 1 }, &[]);
    s.answer::<Load>("load", Ok(Done {}), &[]);
    s.ask("warm", &Warm { capability: vec![7; 40], index: 1 }, &[]);
    s.answer::<Warm>("warm", Ok(Done {}), &[]);
    s.ask("free", &Free { handle }, &[]);
    s.answer::<Free>("free", Ok(Freed { bytes: 1 << 40 }), &[]);
    s.ask("resident", &Resident { handle }, &[]);
    s.answer::<Resident>(
        "resident",
        Ok(ResidentReply {
            blocks: vec![
                ResidentBlock { index: 0, memory_bytes: 64 << 20, complete: true, dirty: false },
                ResidentBlock { index: 7, memory_bytes: 32 << 10, complete: false, dirty: true },
            ],
        }),
        &[],
    );
    s.ask("map", &Map { handle, index: 1 }, &[]);
    s.answer::<Map>("map", Ok(Mapped { length: 4097, crcs: vec![1, 0xffff_ffff] }), &[]);
    s.ask("map_write", &MapWrite { handle, index: 1 }, &[]);
    s.answer::<MapWrite>("map_write", Ok(Done {}), &[]);
    s.ask("counters", &CountersRequest {}, &[]);
    s.answer::<CountersRequest>("counters", Ok(counters()), &[]);
    s.all
}

pub(crate) fn hello() -> Hello {
    Hello { token: Token(core::array::from_fn(|i| i as u8)), client: ClientId([0xc1; 16]), shard: 2 }
}

pub(crate) fn read() -> Read {
    Read { handle: Handle(3), length: 4096, offset: 0x0102_0304_0506_0708, mode: ReadMode::Cache }
}

pub(crate) fn read_reply() -> ReadReply {
    ReadReply { offset: 8192, crcs: Box::new([0x1111_2222, 0x3333_4444, 0x5555_6666]) }
}

pub(crate) fn batch() -> Batch {
    Batch {
        first: Serial(41),
        operations: vec![
            Operation::Stat { path: "/data/a b/ü".into() },
            Operation::Create {
                path: "/data/new".into(),
                overwrite: true,
                parents: false,
                write_type: WriteType::MustCache,
                block_bytes: 2 << 20,
            },
            Operation::MountList,
        ],
    }
}

pub(crate) fn key() -> MacKey {
    MacKey([0x5a; 32])
}

pub(crate) fn capability() -> Vec<u8> {
    right(Origin::UnderStore { token: b"\"etag-1\"".to_vec() }).sign(&key())
}

fn right(origin: Origin) -> Right {
    Right {
        file: FileKey(*b"0123456789abcdef"),
        place: Place(77),
        mount: MountId(1),
        path: "a b/ü".into(),
        origin,
        length: 5,
        block_bytes: 64 << 20,
        access: Access::Read,
        user: "me".into(),
        expires_ms: 1_900_000_000_000,
    }
}

/// Capabilities of every origin.
pub(crate) fn capabilities() -> Vec<Vec<u8>> {
    let origins = [
        Origin::UnderStore { token: vec![] },
        Origin::Memory { epoch: Epoch(3) },
        Origin::Writer { write_type: WriteType::Through, epoch: Epoch(4) },
    ];
    origins.into_iter().map(|origin| right(origin).sign(&key())).collect()
}

fn member(worker: u64) -> Member {
    Member {
        worker: WorkerId(worker),
        incarnation: Incarnation(5),
        data_address: "127.0.0.1:7002".into(),
        socket_path: "/run/citius/1".into(),
        host: "host-1".into(),
        shards: 3,
        weight: 1 << 30,
    }
}

fn ring() -> Ring {
    Ring { epoch: Epoch(9), members: vec![member(1), member(2)] }
}

fn view() -> ClusterView {
    let mount = MountSecret {
        mount: MountId(1),
        uri: "s3://bucket".into(),
        options: vec![("aws_region".into(), "x".into())],
        read_only: true,
    };
    ClusterView { version: 5, ring: ring(), mounts: vec![mount], keys: vec![key(), MacKey([1; 32])] }
}

fn counters() -> Counters {
    Counters { hits: 3, misses: 1, fetched_bytes: 1 << 33, ..Counters::default() }
}

fn traffic() -> MountTraffic {
    let latency = Latency { buckets: vec![0, 0, 2], sum_us: 900 };
    MountTraffic {
        mount: MountId(1),
        read_requests: 2,
        read_bytes: 65_536,
        other_requests: 1,
        write_bytes: 5,
        retries: 3,
        failures: [0, 1, 0, 2, 0, 0],
        latencies: std::array::from_fn(|_| latency.clone()),
        concurrency_limit: 64,
        breaker: BreakerState::Open,
        breaker_reason: "connection refused".into(),
        ..MountTraffic::default()
    }
}

fn file_info() -> FileInfo {
    FileInfo {
        path: "a b".into(),
        kind: EntryKind::File,
        length: 5,
        modified_ms: 1_800_000_000_000,
        version: FileKey([2; 16]),
        persistence: Persistence::MemoryOnly,
        block_bytes: 64 << 20,
        mount: MountId(1),
        is_mount: false,
    }
}

fn directory_info() -> FileInfo {
    FileInfo {
        path: "/".into(),
        kind: EntryKind::Directory,
        length: 0,
        modified_ms: 0,
        version: FileKey([0; 16]),
        persistence: Persistence::Persisted,
        block_bytes: 0,
        mount: MountId(0),
        is_mount: true,
    }
}

fn mount_info() -> MountInfo {
    MountInfo {
        mount: MountId(1),
        path: "/data".into(),
        uri: "s3://bucket".into(),
        options: vec![("aws_secret_access_key".into(), "***".into())],
        read_only: false,
        sync_interval_ms: -1,
        traffic: Box::new(traffic()),
    }
}

fn cluster_info() -> ClusterInfo {
    ClusterInfo {
        cluster: ClusterId([4; 16]),
        release: "0.1.0".into(),
        epoch: Epoch(9),
        rpc_address: "127.0.0.1:7001".into(),
        http_address: "127.0.0.1:7003".into(),
        uptime_ms: 12,
        applied_index: 34,
        inodes: 56,
        workers: vec![WorkerInfo {
            worker: WorkerId(1),
            incarnation: Incarnation(5),
            data_address: "127.0.0.1:7002".into(),
            shards: 3,
            backing: "thp".into(),
            live: true,
            seen_ms_ago: 10,
            counters: counters(),
        }],
        mounts: vec![mount_info()],
        warnings: vec!["no hugepages".into()],
    }
}

/// One of every operation.
pub(crate) fn operations() -> Vec<Operation> {
    let file = FileKey([6; 16]);
    let path = || "/data/a b/ü".to_owned();
    vec![
        Operation::Stat { path: path() },
        Operation::Open { path: path(), stale: None },
        Operation::Open { path: path(), stale: Some(FileKey([7; 16])) },
        Operation::Create {
            path: path(),
            overwrite: true,
            parents: false,
            write_type: WriteType::CacheThrough,
            block_bytes: 0,
        },
        Operation::Renew { file },
        Operation::Complete { file, length: 5 },
        Operation::Abort { file },
        Operation::Mkdir { path: path(), parents: true },
        Operation::Delete { path: path(), recursive: true },
        Operation::Rename { from: path(), to: "/data/c".into(), overwrite: false },
        Operation::MountAdd {
            path: "/data".into(),
            uri: "s3://bucket".into(),
            options: vec![("aws_region".into(), "x".into())],
            read_only: false,
            sync_interval_ms: Some(-1),
        },
        Operation::MountRemove { path: "/data".into() },
        Operation::MountList,
        Operation::Cluster,
        Operation::Ring { epoch: Epoch(0) },
        Operation::StageStarted { file, record: b"upload-1".to_vec() },
        Operation::PublishIntent { file, length: 5, record: vec![], worker: WorkerId(1), incarnation: Incarnation(5) },
        Operation::PublishDone { file, token: b"etag".to_vec() },
        Operation::PublishFailed { file },
        Operation::MountCheck { path: "/data".into(), may_write: true },
        Operation::MountSet {
            path: "/data".into(),
            options: vec![("aws_region".into(), "y".into())],
            unset: vec!["aws_endpoint".into()],
        },
    ]
}

fn checkup() -> MountCheckup {
    MountCheckup {
        uri: "s3://bucket".into(),
        steps: vec![CheckedStep {
            name: "keys".into(),
            result: StepResult::Failed,
            words: "refused".into(),
            status: Some(Status::PermissionDenied),
            took_us: 1200,
        }],
        abilities: vec![CheckedAbility { name: "rename".into(), answer: "in one step".into(), is_seen: true }],
    }
}

/// One of every outcome.
pub(crate) fn outcomes() -> Vec<Outcome> {
    vec![
        Outcome::Done,
        Outcome::Info(file_info()),
        Outcome::Opened(Box::new(Opened {
            info: file_info(),
            place: Place(77),
            epoch: Epoch(9),
            capability: capability(),
            expires_ms: 1_900_000_000_000,
        })),
        Outcome::Created(Box::new(Created {
            file: FileKey([6; 16]),
            place: Place(77),
            epoch: Epoch(9),
            block_bytes: 64 << 20,
            write_type: WriteType::Through,
            capability: capability(),
            lease_ms: 60_000,
        })),
        Outcome::Mount(Box::new(mount_info())),
        Outcome::Mounts(vec![mount_info(), mount_info()]),
        Outcome::Cluster(Box::new(cluster_info())),
        Outcome::Ring(Box::new(ring())),
        Outcome::Intent { replaces: Some(b"etag".to_vec()) },
        Outcome::Intent { replaces: None },
        Outcome::Persisted { file: FileKey([6; 16]) },
        Outcome::Checkup(Box::new(checkup())),
    ]
}
