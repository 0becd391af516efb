//! A worker over a folder, and the master that it registers with.

use crate::peer::Peer;
use citius_engine::{Worker, WorkerConfig};
use citius_understore::{MountSpec, StorePath};
use citius_wire::{
    Access, ClusterView, Counters, CountersRequest, Encoder, Epoch, FileKey, FrameBuffer, Heartbeat, HeartbeatReply,
    Hello, Incarnation, Kind, MacKey, Member, MountId, MountSecret, Origin, Place, Register, Registered, Right, Ring,
    Task, Token, Welcome, Work, WorkerId, WriteType,
};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

pub(crate) const TOKEN: Token = Token([7; 32]);
pub(crate) const KEY: MacKey = MacKey([9; 32]);
/// The mount that the worker knows from the start.
pub(crate) const MOUNT: MountId = MountId(1);
/// The mount that is added after it.
pub(crate) const LATE_MOUNT: MountId = MountId(2);
pub(crate) const BLOCK_BYTES: u32 = 16 << 20;
pub(crate) const MEMORY_BYTES: u64 = 64 << 20;
/// Enough for a worker to lend whole blocks to writers.
const LENDING_MEMORY_BYTES: u64 = 512 << 20;
const WORKER: WorkerId = WorkerId(5);
pub(crate) const HOUR_MS: u32 = 3_600_000;

/// What the master says, now.
struct Word {
    view: ClusterView,
    heartbeat_ms: u32,
    tasks: Vec<Task>,
}

pub(crate) struct Cluster {
    runtime: tokio::runtime::Runtime,
    worker: Option<Worker>,
    word: Arc<Mutex<Word>>,
    pub(crate) folder: TempDir,
    socket: PathBuf,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_with(HOUR_MS, MEMORY_BYTES)
    }

    /// A cluster whose worker asks its master so often, and has room to lend whole blocks to writers.
    pub(crate) fn start_beating(heartbeat_ms: u32) -> Self {
        Self::start_with(heartbeat_ms, LENDING_MEMORY_BYTES)
    }

    fn start_with(heartbeat_ms: u32, memory_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = |mount| MountSecret {
            mount,
            uri: format!("file://{}", folder.path().join("data").display()),
            options: Vec::new(),
            read_only: false,
        };
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let view = ClusterView { version: 1, ring: Ring::default(), mounts: vec![secret(MOUNT)], keys: vec![KEY] };
        let word = Arc::new(Mutex::new(Word { view, heartbeat_ms, tasks: Vec::new() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let master = listener.local_addr().unwrap().to_string();
        let speaks = Arc::clone(&word);
        // It ends with the test's process, as its listener does.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let word = Arc::clone(&speaks);
                std::thread::spawn(move || answer(stream, &word));
            }
        });
        let socket = folder.path().join("socket");
        let config = WorkerConfig {
            worker: WORKER.0,
            incarnation: 1,
            master,
            token: TOKEN,
            data_listen: "127.0.0.1:0".into(),
            advertise: None,
            socket_path: Some(socket.clone()),
            host: "here".into(),
            shards: 1,
            cores: Vec::new(),
            memory_bytes,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let worker = runtime.block_on(Worker::start(config)).unwrap();
        word.lock().unwrap().view.mounts.push(secret(LATE_MOUNT));
        word.lock().unwrap().view.version += 1;
        Self { runtime, worker: Some(worker), word, folder, socket }
    }

    pub(crate) fn tcp(&self) -> Peer {
        Peer::hello(self.tcp_socket())
    }

    pub(crate) fn unix(&self) -> Peer {
        Peer::hello(self.unix_socket())
    }

    /// A connection to the data listener, without a word said.
    pub(crate) fn tcp_socket(&self) -> OwnedFd {
        TcpStream::connect(self.data_address()).unwrap().into()
    }

    /// A connection to the Unix socket, without a word said.
    pub(crate) fn unix_socket(&self) -> OwnedFd {
        UnixStream::connect(&self.socket).unwrap().into()
    }

    pub(crate) fn data_address(&self) -> std::net::SocketAddr {
        self.worker.as_ref().unwrap().data_address()
    }

    /// A file of the folder, and the right to read the version that it has now.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Right {
        std::fs::write(self.folder.path().join("data").join(name), bytes).unwrap();
        self.right_to(name)
    }

    /// The right to read the version of a file that it has now.
    pub(crate) fn right_to(&self, name: &str) -> Right {
        let store =
            citius_understore::open(&MountSpec::new(self.folder.path().join("data").display().to_string())).unwrap();
        let stat = self.runtime.block_on(store.stat(&StorePath::parse(name).unwrap())).unwrap();
        let mut file = [0; 16];
        file[..8].copy_from_slice(&crc_of(stat.token.as_bytes()).to_le_bytes());
        Right {
            file: FileKey(file),
            place: Place(1),
            mount: MOUNT,
            path: name.into(),
            origin: Origin::UnderStore { token: stat.token.as_bytes().to_vec() },
            length: stat.len,
            block_bytes: BLOCK_BYTES,
            access: Access::Read,
            user: "test".into(),
            expires_ms: u64::MAX,
        }
    }

    /// The right to write a new file.
    pub(crate) fn writing(&self, file: u8, write_type: WriteType) -> Right {
        Right {
            file: FileKey([file; 16]),
            place: Place(1),
            mount: MOUNT,
            path: format!("written-{file}"),
            origin: Origin::Writer { write_type, epoch: Epoch(1) },
            length: 0,
            block_bytes: BLOCK_BYTES,
            access: Access::Write,
            user: "test".into(),
            expires_ms: u64::MAX,
        }
    }

    /// Has another worker own about half of all blocks from now on.
    pub(crate) fn add_member(&self) -> Ring {
        let mut word = self.word.lock().unwrap();
        let mut other = word.view.ring.members[0].clone();
        other.worker = WorkerId(WORKER.0 + 1);
        word.view.ring.members.push(other);
        word.view.ring.epoch = Epoch(2);
        word.view.version += 1;
        word.view.ring.clone()
    }

    /// Has something for the worker to do when it next asks.
    pub(crate) fn leave_order(&self, work: Work) {
        self.word.lock().unwrap().tasks.push(Task { number: 1, work });
    }

    /// Gives the worker something to do; it is done when the worker has said so.
    pub(crate) fn order(&self, work: Work) {
        self.leave_order(work);
        wait_until("the worker does its task", || self.word.lock().unwrap().tasks.is_empty());
    }

    pub(crate) fn counters(&self) -> Counters {
        self.tcp().ask(&CountersRequest {}).unwrap()
    }

    pub(crate) fn worker_counters(&self) -> Counters {
        self.runtime.block_on(self.worker.as_ref().unwrap().counters())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let worker = self.worker.take().unwrap();
        self.runtime.block_on(worker.stop());
    }
}

/// Asks again until it is so, for as long as any machine needs.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("it never happened that {what}");
}

fn crc_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn answer(mut stream: TcpStream, word: &Mutex<Word>) {
    let mut input = FrameBuffer::new(64 << 10);
    let mut encoder = Encoder::default();
    loop {
        match stream.read(input.spare()) {
            Ok(count) if count > 0 => input.filled(count),
            _ => return,
        }
        let mut out = Vec::new();
        while let Some((head, _)) = input.next_frame().unwrap() {
            let id = head.prelude.request_id;
            let mut word = word.lock().unwrap();
            match head.prelude.kind {
                Kind::Hello => {
                    let welcome = Welcome { worker: WorkerId(0), epoch: Epoch(1), shards: 0, release: "test".into() };
                    encoder.reply::<Hello>(&mut out, id, &Ok(welcome));
                }
                Kind::Register => {
                    let member: Member = head.read::<Register>().unwrap().member;
                    assert_eq!((member.worker, member.incarnation), (WORKER, Incarnation(1)));
                    word.view.ring = Ring { epoch: Epoch(1), members: vec![member] };
                    let registered = Registered { view: word.view.clone(), heartbeat_ms: word.heartbeat_ms };
                    encoder.reply::<Register>(&mut out, id, &Ok(registered));
                }
                Kind::Heartbeat => {
                    let beat: Heartbeat = head.read().unwrap();
                    word.tasks.retain(|task| task.number > beat.task_done);
                    let view = (beat.view_version < word.view.version).then(|| Box::new(word.view.clone()));
                    let reply = HeartbeatReply { view, tasks: word.tasks.clone() };
                    encoder.reply::<Heartbeat>(&mut out, id, &Ok(reply));
                }
                kind => panic!("a master of this kind was not made for {kind:?}"),
            }
        }
        if stream.write_all(&out).is_err() {
            return;
        }
    }
}

/// Bytes that differ from sector to sector and from seed to seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
