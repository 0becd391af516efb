//! What a `stat` costs beside an echo of the same sizes: pipelined, and unpipelined from 64 connections.
//!
//! Master and echo each serve from one thread of this process; what is compared is that thread's CPU time for a request,
//! which does not depend on who else uses the machine as much as a rate does. Rounds are interleaved, medians shown.
//!
//! `cargo run --release -p citius-control --example stat_rate [pipelined|unpipelined|all [memory|cached|stored]]`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use citius_control::{Master, MasterConfig};
use citius_wire::{
    Batch, BatchReply, ClientId, Encoder, FrameBuffer, Hello, Incarnation, Member, Operation, Outcome, Register,
    Request, Serial, Token, WorkerId, WriteType,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TOKEN: Token = Token([1; 32]);
const ROUNDS: usize = 7;
const PIPELINED: usize = 400_000;
const WINDOW: usize = 128;
const UNPIPELINED: usize = 100_000;
const CONNECTIONS: usize = 64;

/// Drives connections with one request and the length of its answer; gives how many were answered.
type Load = fn(Vec<TcpStream>, &[u8], usize) -> usize;

/// CPU nanoseconds a request and requests a second, of the master and of the echo.
type Round = ((f64, f64), (f64, f64));

const LOADS: [(&str, Load); 2] = [("pipelined", pipelined), ("unpipelined", unpipelined)];

fn main() {
    let only = std::env::args().nth(1).filter(|only| only != "all");
    let only_file = std::env::args().nth(2);
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut config = MasterConfig::new(home.path(), TOKEN);
    config.rpc_threads = 1;
    config.heartbeats_missed_max = 3_600;
    let master = runtime.block_on(Master::start(config)).unwrap();
    let address = master.rpc_address();
    prepare(address, home.path());

    println!(
        "{:<34} {:>9} {:>9} {:>6}   {:>10} {:>10} {:>6}",
        "", "stat ns", "echo ns", "ratio", "stat/s", "echo/s", "ratio"
    );
    for (what, path) in [("in memory only", "/memory"), ("cached", "/m/cached"), ("file:, asked each time", "/stored")]
    {
        if only_file.as_deref().is_some_and(|only| !path.ends_with(only)) {
            continue;
        }
        let (request, reply_bytes) = exchange(address, path);
        let echo = echo(request.len(), reply_bytes);
        let mut rows = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (row, (name, load)) in rows.iter_mut().zip(LOADS) {
                if only.as_deref().is_some_and(|only| only != name) {
                    continue;
                }
                row.push((
                    measured("citius-rpc-0", || load(connect(address), &request, reply_bytes)),
                    measured("echo", || load(connect_plain(echo), &request, reply_bytes)),
                ));
            }
        }
        for (row, (how, _)) in rows.iter().zip(LOADS).filter(|(row, _)| !row.is_empty()) {
            let median = |read: fn(&Round) -> f64| {
                let mut all: Vec<f64> = row.iter().map(read).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            let (stat_ns, echo_ns) = (median(|it| it.0.0), median(|it| it.1.0));
            let (stat_rate, echo_rate) = (median(|it| it.0.1), median(|it| it.1.1));
            println!(
                "{:<34} {stat_ns:>9.0} {echo_ns:>9.0} {:>6.2}   {stat_rate:>10.0} {echo_rate:>10.0} {:>6.2}",
                format!("{what}, {how}"),
                echo_ns / stat_ns,
                stat_rate / echo_rate,
            );
        }
        println!("    request {} bytes, answer {reply_bytes} bytes", request.len());
    }
    runtime.block_on(master.shutdown());
}

/// A file in memory, one in a store whose metadata is believed for ever, one in the root folder.
fn prepare(address: SocketAddr, home: &std::path::Path) {
    std::fs::write(home.join("root/stored"), "x").unwrap();
    let cached = home.join("cached");
    std::fs::create_dir(&cached).unwrap();
    std::fs::write(cached.join("cached"), "x").unwrap();
    let mut stream = connect_one(address);
    let member = Member {
        worker: WorkerId(1),
        incarnation: Incarnation(1),
        data_address: String::new(),
        socket_path: String::new(),
        host: String::new(),
        shards: 1,
        weight: 1,
    };
    ask(&mut stream, &Register { member, backing: String::new(), memory_bytes: 1 });
    let operate = |stream: &mut TcpStream, serial, operation| -> Outcome {
        let mut reply: BatchReply = ask(stream, &Batch { first: Serial(serial), operations: vec![operation] });
        reply.results.remove(0).unwrap()
    };
    let create = Operation::Create {
        path: "/memory".into(),
        overwrite: false,
        parents: false,
        write_type: WriteType::MustCache,
        block_bytes: 0,
    };
    let Outcome::Created(created) = operate(&mut stream, 1, create) else { panic!("not created") };
    operate(&mut stream, 2, Operation::Complete { file: created.file, length: 5 });
    let mount = Operation::MountAdd {
        path: "/m".into(),
        uri: cached.to_str().unwrap().into(),
        options: vec![],
        read_only: false,
        sync_interval_ms: Some(-1),
    };
    operate(&mut stream, 3, mount);
}

/// CPU nanoseconds of the thread of this name for a request, and requests a second.
fn measured(thread: &str, load: impl FnOnce() -> usize) -> (f64, f64) {
    let (cpu, start) = (cpu_ns(thread), Instant::now());
    let count = load() as f64;
    ((cpu_ns(thread) - cpu) as f64 / count, count / start.elapsed().as_secs_f64())
}

fn cpu_ns(thread: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let of_thread =
        tasks.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == thread));
    let schedstat = of_thread.map(|task| std::fs::read_to_string(task.join("schedstat")).unwrap());
    schedstat.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// A window of requests is under way at each moment: half of it is answered before as many are sent.
fn pipelined(mut connections: Vec<TcpStream>, request: &[u8], reply_bytes: usize) -> usize {
    let mut stream = connections.swap_remove(0);
    let half = request.repeat(WINDOW / 2);
    let mut replies = vec![0; reply_bytes * WINDOW / 2];
    stream.write_all(&half).unwrap();
    for _ in 0..PIPELINED / (WINDOW / 2) {
        stream.write_all(&half).unwrap();
        stream.read_exact(&mut replies).unwrap();
    }
    PIPELINED
}

/// Each connection has one request under way.
fn unpipelined(mut connections: Vec<TcpStream>, request: &[u8], reply_bytes: usize) -> usize {
    let mut reply = vec![0; reply_bytes];
    for stream in &mut connections {
        stream.write_all(request).unwrap();
    }
    for _ in 0..UNPIPELINED / CONNECTIONS {
        for stream in &mut connections {
            stream.read_exact(&mut reply).unwrap();
            stream.write_all(request).unwrap();
        }
    }
    UNPIPELINED
}

/// A stat as a frame, and the bytes of its answer.
fn exchange(address: SocketAddr, path: &str) -> (Vec<u8>, usize) {
    let mut request = Vec::new();
    let batch = Batch { first: Serial(1), operations: vec![Operation::Stat { path: path.into() }] };
    Encoder::default().request(&mut request, 1, &batch, 0);
    let mut stream = connect_one(address);
    let mut answer = vec![0; 64 << 10];
    // The first one may have to fetch; the second is like all that follow.
    for _ in 0..2 {
        stream.write_all(&request).unwrap();
        let count = stream.read(&mut answer).unwrap();
        answer.truncate(count.max(1));
        answer.resize(64 << 10, 0);
        let mut buffer = FrameBuffer::new(64 << 10);
        buffer.spare()[..count].copy_from_slice(&answer[..count]);
        buffer.filled(count);
        let head = buffer.next_head().unwrap().unwrap();
        let reply = head.read_reply::<Batch>().unwrap();
        assert!(matches!(reply.results[0], Ok(Outcome::Info(_))), "{reply:?}");
        let bytes = head.prelude.frame_bytes();
        if bytes == count {
            answer.truncate(bytes);
            return (request, bytes);
        }
    }
    panic!("an answer came in pieces");
}

fn connect(address: SocketAddr) -> Vec<TcpStream> {
    (0..CONNECTIONS).map(|_| connect_one(address)).collect()
}

fn connect_plain(address: SocketAddr) -> Vec<TcpStream> {
    (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        })
        .collect()
}

fn connect_one(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    ask(&mut stream, &Hello { token: TOKEN, client: ClientId([1; 16]), shard: 0 });
    stream
}

fn ask<R: Request>(stream: &mut TcpStream, request: &R) -> R::Reply {
    let mut out = Vec::new();
    Encoder::default().request(&mut out, 0, request, 0);
    stream.write_all(&out).unwrap();
    let mut buffer = FrameBuffer::new(64 << 10);
    loop {
        if let Some(head) = buffer.next_head().unwrap() {
            return head.read_reply::<R>().unwrap();
        }
        let count = stream.read(buffer.spare()).unwrap();
        assert!(count > 0, "the master hung up");
        buffer.filled(count);
    }
}

/// A server that answers `reply_bytes` for each `request_bytes`, and looks at none of them: what reading and writing
/// cost by themselves, on the same kind of runtime.
fn echo(request_bytes: usize, reply_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(async move {
                    let (mut buffer, mut held) = (vec![0; 64 << 10], 0);
                    let mut out = Vec::new();
                    while let Ok(count) = stream.read(&mut buffer[held..]).await
                        && count > 0
                    {
                        held += count;
                        let whole = held / request_bytes;
                        out.clear();
                        for i in 0..whole {
                            let start = out.len();
                            out.extend_from_slice(&buffer[i * request_bytes..][..request_bytes]);
                            out.resize(start + reply_bytes, 0);
                        }
                        buffer.copy_within(whole * request_bytes..held, 0);
                        held -= whole * request_bytes;
                        if stream.write_all(&out).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    };
    std::thread::Builder::new().name("echo".into()).spawn(serve).unwrap();
    address
}
