//! What a durable `create` costs each thread of a master.
//!
//! The master serves from one core, and the CPU time of its threads for a create depends less on who else uses the machine
//! than a rate does. Medians are shown. Beside the log alone it is measured by the ratio `meta.create` of citius-perf.
//!
//! `cargo run --release -p citius-control --example create_rate -- [rounds] [creates a batch] [batches in flight]`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use citius_control::{Master, MasterConfig};
use citius_wire::{
    Batch, BatchReply, ClientId, Encoder, FrameBuffer, Hello, Incarnation, Member, Operation, Register, Request,
    Serial, Token, WorkerId, WriteType,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

const TOKEN: Token = Token([1; 32]);
const CLIENT: ClientId = ClientId([7; 16]);
const CREATES: usize = 12_800;

/// Which core the master, and which the client runs on.
#[derive(Clone, Copy)]
struct Cores {
    server: usize,
    client: usize,
}

/// How creates are asked for.
#[derive(Clone, Copy)]
struct Load {
    batch: usize,
    depth: usize,
}

fn main() {
    let argument = |i, default| std::env::args().nth(i).map_or(default, |text| text.parse().unwrap());
    let (rounds, load) = (argument(1, 9), Load { batch: argument(2, 64), depth: argument(3, 4) });
    let allowed = sched_getaffinity(None).unwrap();
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    let server = cores.next().unwrap();
    let cores = Cores { server, client: cores.next_back().unwrap_or(server) };

    // Threads start where the thread that starts them is.
    pin(cores.server);
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut config = MasterConfig::new(home.path(), TOKEN);
    config.rpc_threads = 1;
    config.heartbeats_missed_max = 3_600;
    let master = runtime.block_on(Master::start(config)).unwrap();
    pin(cores.client);
    let mut client = Client::connect(master.rpc_address());
    client.register();

    let mut figures: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds {
        let directory = format!("/creates-{round:08}");
        client.operate(Operation::Mkdir { path: directory.clone(), parents: false });
        let (syncs, cpu) = (syncs(&master), cpu_ns());
        let rate = client.create_all(&directory, load);
        let cpu: BTreeMap<_, _> =
            cpu_ns().into_iter().map(|(name, ns)| (name.clone(), ns - cpu.get(&name).unwrap_or(&0))).collect();
        let group = CREATES as f64 / (crate::syncs(&master) - syncs) as f64;
        client.operate(Operation::Delete { path: directory.clone(), recursive: true });
        if round == 0 {
            continue;
        }
        let mut add = |name: &str, value: f64| figures.entry(name.to_owned()).or_default().push(value);
        add("1 creates/s", rate);
        add("2 creates a sync", group);
        for (thread, ns) in cpu.iter().filter(|(_, ns)| **ns > 0) {
            add(&format!("4 CPU ns a create, {thread}"), *ns as f64 / CREATES as f64);
        }
        add("3 CPU ns a create", cpu.values().sum::<u64>() as f64 / CREATES as f64);
    }
    for (name, mut values) in figures {
        values.sort_by(f64::total_cmp);
        let (least, most) = (values[0], values[values.len() - 1]);
        println!("{:<44} {:>10.2}   ({least:.2} to {most:.2})", &name[2..], values[values.len() / 2]);
    }
    runtime.block_on(master.shutdown());
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).unwrap();
}

/// CPU time of this process' threads but this one, by name.
fn cpu_ns() -> BTreeMap<String, u64> {
    let me = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut all = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten().filter(|task| *task.file_name() != *me) {
        // A thread may end meanwhile.
        let read = |file| std::fs::read_to_string(task.path().join(file)).ok();
        if let (Some(name), Some(times)) = (read("comm"), read("schedstat")) {
            *all.entry(name.trim().to_owned()).or_default() += times.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    all
}

/// Syncs of the master's log so far.
fn syncs(master: &Master) -> u64 {
    let mut stream = TcpStream::connect(master.http_address()).unwrap();
    let token = TOKEN.to_hex();
    let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    write!(stream, "{head}Authorization: Bearer {token}\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix("citius_master_log_syncs_total "));
    line.unwrap().parse().unwrap()
}

fn path(directory: &str, number: usize) -> String {
    format!("{directory}/part-{number:06}")
}

struct Client {
    stream: TcpStream,
    encoder: Encoder,
    serial_next: u64,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream, encoder: Encoder::default(), serial_next: 1 };
        client.ask(&Hello { token: TOKEN, client: CLIENT, shard: 0 });
        client
    }

    fn register(&mut self) {
        let member = Member {
            worker: WorkerId(1),
            incarnation: Incarnation(1),
            data_address: String::new(),
            socket_path: String::new(),
            host: String::new(),
            shards: 1,
            weight: 1,
        };
        self.ask(&Register { member, backing: String::new(), memory_bytes: 1 });
    }

    fn operate(&mut self, operation: Operation) {
        let first = self.serials(1);
        let mut reply: BatchReply = self.ask(&Batch { first, operations: vec![operation] });
        reply.results.remove(0).unwrap();
    }

    fn serials(&mut self, count: usize) -> Serial {
        let first = self.serial_next;
        self.serial_next += count as u64;
        Serial(first)
    }

    fn ask<R: Request>(&mut self, request: &R) -> R::Reply {
        let mut out = Vec::new();
        self.encoder.request(&mut out, 0, request, 0);
        self.stream.write_all(&out).unwrap();
        let mut buffer = FrameBuffer::new(64 << 10);
        loop {
            if let Some(head) = buffer.next_head().unwrap() {
                return head.read_reply::<R>().unwrap();
            }
            let count = self.stream.read(buffer.spare()).unwrap();
            assert!(count > 0, "the master hung up");
            buffer.filled(count);
        }
    }

    /// Creates a second.
    fn create_all(&mut self, directory: &str, load: Load) -> f64 {
        let batches = CREATES / load.batch;
        let frames: Vec<Vec<u8>> = (0..batches)
            .map(|batch| {
                let operations = (0..load.batch).map(|i| Operation::Create {
                    path: path(directory, batch * load.batch + i),
                    overwrite: false,
                    parents: false,
                    write_type: WriteType::MustCache,
                    block_bytes: 0,
                });
                let batch = Batch { first: self.serials(load.batch), operations: operations.collect() };
                let mut frame = Vec::new();
                self.encoder.request(&mut frame, 0, &batch, 0);
                frame
            })
            .collect();
        let mut buffer = FrameBuffer::new(1 << 20);
        let start = Instant::now();
        let (mut asked, mut answered) = (0, 0);
        while answered < batches {
            while asked < batches && asked - answered < load.depth {
                self.stream.write_all(&frames[asked]).unwrap();
                asked += 1;
            }
            match buffer.next_head().unwrap() {
                Some(head) => {
                    let results = head.read_reply::<Batch>().unwrap().results;
                    assert!(results.len() == load.batch && results.iter().all(Result::is_ok), "{:?}", results[0]);
                    answered += 1;
                }
                None => {
                    let count = self.stream.read(buffer.spare()).unwrap();
                    assert!(count > 0, "the master hung up");
                    buffer.filled(count);
                }
            }
        }
        CREATES as f64 / start.elapsed().as_secs_f64()
    }
}
