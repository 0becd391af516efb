//! A master and its workers as processes of their own: workers join, leave and die under readers and writers.

use crate::bucket::Prefix;
use crate::support::{Process, below, dice, noise, poll, put};
use citius_client::{Client, Config, CreateOptions, File, Local, Persistence, Status, WriteType};
use citius_understore::testing::servers::Ports;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Small blocks, so that every file has some on each worker.
const BLOCK_BYTES: u32 = 2 << 20;
/// A file of several blocks, the last of them short.
const LENGTH: usize = 7 * (BLOCK_BYTES as usize) + 12_345;
/// Long enough for a master to notice that a worker died, several times over.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A master with /data mounted, and workers.
struct Cluster {
    // Workers end first.
    workers: Vec<Process>,
    master: Process,
    data: tempfile::TempDir,
}

impl Cluster {
    fn of(workers: usize) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mount = format!("/data={}", data.path().display());
        let master = Process::start(&["master", "--listen", "127.0.0.1:0", "--mount", &mount]);
        let mut cluster = Self { workers: Vec::new(), master, data };
        for _ in 0..workers {
            cluster.join();
        }
        cluster
    }

    fn join(&mut self) {
        self.workers.push(worker(&self.master));
        self.await_live(self.workers.len());
    }

    /// Waits until the ring has so many members.
    fn await_live(&self, count: usize) {
        poll("the ring is complete", || {
            let cluster = self.master.json(&["cluster"]);
            let live = cluster["workers"].as_array().unwrap().iter().filter(|it| it["live"] == true).count();
            if live == count { Ok(()) } else { Err(cluster.to_string()) }
        });
    }

    fn client(&self, local: Local) -> Client {
        client(&self.master, local)
    }
}

/// Starts a worker of a master.
pub(crate) fn worker(master: &Process) -> Process {
    let (endpoint, token) = (master.endpoint(), master.home.join("token").display().to_string());
    let reach = ["--master", &endpoint, "--token-file", &token];
    let flags = ["--data-listen", "127.0.0.1:0", "--memory", "256MiB", "--shards", "1"];
    Process::start(&[&["worker"], &reach[..], &flags].concat())
}

fn client(master: &Process, local: Local) -> Client {
    master.client_with(Config { local, timeout: TIMEOUT, transfer_timeout: TIMEOUT, ..Config::default() })
}

fn options(write_type: WriteType) -> CreateOptions {
    CreateOptions { write_type, block_bytes: BLOCK_BYTES, ..CreateOptions::default() }
}

fn write(client: &Client, path: &str, bytes: &[u8], write_type: WriteType) {
    let mut writer = client.create(path, options(write_type)).unwrap();
    writer.append(bytes).unwrap();
    writer.close().unwrap();
}

fn whole(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn read(client: &Client, path: &str) -> Vec<u8> {
    whole(&client.open(path).unwrap())
}

#[test]
fn files_are_spread_over_workers_and_read_back_by_every_way() {
    let cluster = Cluster::of(2);
    for (i, write_type) in [WriteType::CacheThrough, WriteType::Through, WriteType::MustCache].into_iter().enumerate() {
        for (j, local) in [Local::Auto, Local::Never].into_iter().enumerate() {
            let path = format!("/data/{}-{j}", write_type.name());
            let bytes = noise(LENGTH + i, (10 * i + j) as u64);
            write(&cluster.client(local), &path, &bytes, write_type);
            for reader in [Local::Auto, Local::Never] {
                assert!(read(&cluster.client(reader), &path) == bytes, "{path} read as {reader:?}");
            }
            let stored = std::fs::read(cluster.data.path().join(&path["/data/".len()..])).ok();
            assert!(stored == (write_type != WriteType::MustCache).then_some(bytes), "{path} in the folder");
        }
    }
    // Of many blocks each worker has some.
    let files = ["/data/must-cache-0", "/data/must-cache-1"].map(|it| cluster.client(Local::Never).open(it).unwrap());
    let mut owners: Vec<_> = files.iter().flat_map(|it| it.resident().unwrap()).map(|it| it.worker).collect();
    assert_eq!(owners.len(), 16);
    owners.sort_unstable();
    owners.dedup();
    assert_eq!(owners.len(), 2, "all blocks are on one worker");
}

/// A third worker joins while a client reads and another writes.
#[test]
fn a_worker_that_joins_loses_nothing() {
    const FILES: usize = 48;
    let mut cluster = Cluster::of(2);
    for i in 0..FILES {
        put(cluster.data.path().join(format!("f{i}")), &noise(50_000 + i, i as u64));
    }
    let client = cluster.client(Local::Never);
    for (i, local) in [Local::Auto, Local::Never].into_iter().enumerate() {
        let path = format!("/data/kept{i}");
        write(&cluster.client(local), &path, &noise(LENGTH, 100 + i as u64), WriteType::MustCache);
    }
    // Opened under the ring of two, read under that of three.
    let opened: Vec<File> = (0..FILES).map(|i| client.open(&format!("/data/f{i}")).unwrap()).collect();
    let kept_open = client.open("/data/kept0").unwrap();
    let (bytes, in_memory) = (noise(LENGTH, 200), noise(LENGTH, 201));
    let mut writer = client.create("/data/written", options(WriteType::CacheThrough)).unwrap();
    let mut writer_in_memory = client.create("/data/in-memory", options(WriteType::MustCache)).unwrap();
    writer.append(&bytes[..LENGTH / 2]).unwrap();
    writer_in_memory.append(&in_memory[..LENGTH / 2]).unwrap();

    let is_joined = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let client = self::client(&cluster.master, Local::Auto);
            let mut rounds = 0;
            loop {
                let is_last = is_joined.load(Ordering::Acquire);
                assert!(read(&client, "/data/kept1") == noise(LENGTH, 101), "read while a worker joins");
                rounds += 1;
                if is_last {
                    return rounds;
                }
            }
        });
        cluster.workers.push(worker(&cluster.master));
        is_joined.store(true, Ordering::Release);
        assert!(reader.join().unwrap() >= 1);
    });
    cluster.await_live(3);

    writer.append(&bytes[LENGTH / 2..]).unwrap();
    writer.close().unwrap();
    writer_in_memory.append(&in_memory[LENGTH / 2..]).unwrap();
    writer_in_memory.close().unwrap();
    for (i, file) in opened.iter().enumerate() {
        if client.stats().wrong_epochs == 0 {
            // The workers that were there before hear of the join with their next heartbeats.
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(whole(file) == noise(50_000 + i, i as u64), "f{i}, opened before the join");
    }
    assert!(whole(&kept_open) == noise(LENGTH, 100), "in memory, opened before the join");
    for local in [Local::Auto, Local::Never] {
        let client = cluster.client(local);
        assert!(
            read(&client, "/data/kept0") == noise(LENGTH, 100) && read(&client, "/data/kept1") == noise(LENGTH, 101)
        );
        assert!(read(&client, "/data/written") == bytes && read(&client, "/data/in-memory") == in_memory);
    }
    // The new worker took over a share of the files, and who asked the old owner was told.
    assert!(client.stats().wrong_epochs > 0, "{:?}", client.stats());
    poll("a worker has counted it", || {
        let cluster = cluster.master.json(&["cluster"]);
        let counted: u64 = cluster["workers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|it| it["counters"]["wrong_epochs"].as_u64())
            .sum();
        if counted > 0 { Ok(()) } else { Err(cluster.to_string()) }
    });
}

/// What a newcomer owns from now on comes from who held it before, and not from the under-store once more.
#[test]
fn a_newcomer_asks_the_former_owner_before_the_under_store() {
    const FILES: usize = 40;
    let bytes = |i: usize| noise(60_000 + i, i as u64);
    let mut cluster = Cluster::of(1);
    let prefix = Prefix::new("moved");
    prefix.mount_at(&cluster.master, "/s3", "30s");
    for i in 0..FILES {
        prefix.put(&format!("f{i}"), bytes(i));
    }
    let sum = |cluster: &Cluster, counter: &str| -> u64 {
        let all = cluster.master.json(&["cluster"]);
        all["workers"].as_array().unwrap().iter().filter_map(|it| it["counters"][counter].as_u64()).sum()
    };
    let length: u64 = (0..FILES).map(|i| bytes(i).len() as u64).sum();
    let read_all = |cluster: &Cluster| {
        let client = cluster.client(Local::Never);
        for i in 0..FILES {
            assert!(read(&client, &format!("/s3/f{i}")) == bytes(i), "f{i}");
        }
    };
    read_all(&cluster);
    cluster.join();
    read_all(&cluster);
    let mut moved = 0;
    poll("the newcomer has told what it got", || {
        moved = sum(&cluster, "moved_bytes");
        if moved > 0 { Ok(()) } else { Err("nothing yet".to_owned()) }
    });
    // Once more, so that what the workers tell is of after the reads.
    let told = sum(&cluster, "requests");
    read_all(&cluster);
    poll("the workers have told of the last reads", || {
        if sum(&cluster, "requests") >= told + FILES as u64 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    let moved = moved.max(sum(&cluster, "moved_bytes"));
    assert!(moved < length, "the first worker has kept its share");
    assert_eq!(sum(&cluster, "fetched_bytes"), length, "each file left the under-store once; {moved} bytes moved");
    // Who was never asked to keep it has nothing, and then the under-store is asked.
    prefix.put("late", bytes(1));
    assert!(read(&cluster.client(Local::Never), "/s3/late") == bytes(1));
}

/// One of three workers leaves in order while clients read what it served.
#[test]
fn a_worker_that_leaves_is_not_missed() {
    const FILES: usize = 12;
    let mut cluster = Cluster::of(3);
    let client = cluster.client(Local::Never);
    for i in 0..FILES {
        write(&client, &format!("/data/f{i}"), &noise(300_000 + i, i as u64), WriteType::CacheThrough);
    }
    put(cluster.data.path().join("large"), &noise(70 << 20, 99));
    let opened: Vec<File> = (0..FILES).map(|i| client.open(&format!("/data/f{i}")).unwrap()).collect();
    let is_gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for local in [Local::Auto, Local::Never] {
            let (master, is_gone) = (&cluster.master, &is_gone);
            scope.spawn(move || {
                let client = self::client(master, local);
                let large = noise(70 << 20, 99);
                loop {
                    let is_last = is_gone.load(Ordering::Acquire);
                    assert!(read(&client, "/data/large") == large, "{local:?}");
                    for i in 0..FILES {
                        assert!(
                            read(&client, &format!("/data/f{i}")) == noise(300_000 + i, i as u64),
                            "{local:?}, f{i}"
                        );
                    }
                    if is_last {
                        break;
                    }
                }
            });
        }
        assert_eq!(cluster.workers.pop().unwrap().terminate(), Some(0));
        is_gone.store(true, Ordering::Release);
    });
    cluster.await_live(2);
    for (i, file) in opened.iter().enumerate() {
        assert!(whole(file) == noise(300_000 + i, i as u64), "f{i}, opened before");
    }
}

/// A worker dies. What the under-store has is read on; what only it had is lost, and says so.
#[test]
fn a_worker_that_is_killed_takes_only_what_was_promised_to_memory() {
    const FILES: usize = 8;
    // So many blocks are never all on one worker, also if it has twice the memory of the other.
    const SPREAD: usize = 24 * (BLOCK_BYTES as usize) + 12_345;
    let mut cluster = Cluster::of(2);
    let clients = [cluster.client(Local::Auto), cluster.client(Local::Never)];
    for i in 0..FILES {
        let client = &clients[i % 2];
        write(client, &format!("/data/stored{i}"), &noise(LENGTH, i as u64), WriteType::CacheThrough);
        write(client, &format!("/data/kept{i}"), &noise(100_000, 50 + i as u64), WriteType::MustCache);
    }
    // Blocks of this one are on both.
    write(&clients[0], "/data/spread", &noise(SPREAD, 77), WriteType::MustCache);
    let mut cut = clients[0].create("/data/cut", options(WriteType::MustCache)).unwrap();
    cut.append(&noise(SPREAD, 78)).unwrap();
    let of = |path: &str| {
        let file = clients[1].open(path).unwrap();
        file.locations(0..file.len()).unwrap().iter().map(|it| it.worker).collect::<Vec<_>>()
    };
    let owners: Vec<_> = (0..FILES).map(|i| of(&format!("/data/kept{i}"))[0]).collect();
    let spread = of("/data/spread");
    assert!(spread.iter().any(|it| *it != spread[0]), "25 blocks on one of two workers");

    let mut dying = cluster.workers.pop().unwrap();
    let id = std::fs::read_to_string(dying.home.join("worker")).unwrap();
    let id = citius_client::raw::wire::WorkerId(u64::from_str_radix(id.trim(), 16).unwrap());
    dying.kill();
    for client in &clients {
        for i in 0..FILES {
            assert!(read(client, &format!("/data/stored{i}")) == noise(LENGTH, i as u64), "stored{i}");
        }
    }
    cluster.await_live(1);
    for (i, owner) in owners.iter().enumerate() {
        let path = format!("/data/kept{i}");
        for client in &clients {
            if *owner == id {
                assert_eq!(client.stat(&path).unwrap().persistence, Persistence::Lost);
                let read = client.open(&path).and_then(|file| file.read_at(&mut [0; 8], 0));
                assert_eq!(read.unwrap_err().status(), Status::DataLost, "{path}");
            } else {
                assert!(read(client, &path) == noise(100_000, 50 + i as u64), "{path}");
            }
        }
    }
    cluster.master.fails(6, &["cat", "/data/spread"]);
    // What it is told depends on whether its last block was with the dead worker; that it is not acknowledged does not.
    let status = cut.close().unwrap_err().status();
    assert!(matches!(status, Status::DataLost | Status::Aborted | Status::Unavailable), "{status:?}");
    assert_eq!(clients[0].stat("/data/cut").unwrap_err().status(), Status::NotFound);

    // What is lost can be written again, on those that live.
    let mut again =
        clients[0].create("/data/spread", CreateOptions { overwrite: true, ..options(WriteType::MustCache) }).unwrap();
    again.append(&noise(LENGTH, 79)).unwrap();
    again.close().unwrap();
    assert!(read(&clients[1], "/data/spread") == noise(LENGTH, 79));
}

/// The master dies again and again under writers that wait for it: each of them gets its acknowledgement in the end,
/// whatever its master had logged of the write when it died, and no write happens twice or by half.
#[test]
fn writers_outlive_their_master() {
    const KILLS: u64 = 8;
    const WRITERS: u64 = 3;
    // The worker must find the next master where the last one was.
    let ports = Ports::<1>::take().unwrap();
    let listen = format!("127.0.0.1:{}", ports[0]);
    let data = tempfile::tempdir().unwrap();
    let mount = format!("/data={}", data.path().display());
    let mut master =
        Process::start(&["master", "--listen", &listen, "--http-listen", "127.0.0.1:0", "--mount", &mount]);
    let worker = worker(&master);
    let clients: Vec<Client> =
        (0..WRITERS).map(|i| client(&master, if i % 2 == 0 { Local::Auto } else { Local::Never })).collect();
    let is_over = AtomicBool::new(false);
    let written: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = clients
            .iter()
            .zip(0..)
            .map(|(client, writer): (_, u64)| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut count = 0;
                    while !is_over.load(Ordering::Acquire) {
                        let write_type = [WriteType::CacheThrough, WriteType::Through, WriteType::MustCache][count % 3];
                        let length = if count.is_multiple_of(5) { LENGTH } else { 1_000 + count };
                        let path = format!("/data/w{writer}-{count}");
                        write(client, &path, &noise(length, writer << 32 | count as u64), write_type);
                        count += 1;
                    }
                    count as u64
                })
            })
            .collect();
        let mut state = std::process::id().into();
        for _ in 0..KILLS {
            std::thread::sleep(Duration::from_millis(20 + dice(&mut state) % 150));
            master.kill();
            master.restart();
        }
        is_over.store(true, Ordering::Release);
        writers
            .into_iter()
            .zip(0..)
            .map(|(writer, number): (_, u64)| {
                let count = writer.join().unwrap();
                for i in 0..count {
                    let length = if i.is_multiple_of(5) { LENGTH } else { 1_000 + i as usize };
                    let path = format!("/data/w{number}-{i}");
                    assert!(read(&clients[0], &path) == noise(length, number << 32 | i), "{path}");
                }
                count
            })
            .sum()
    });
    assert!(written >= KILLS, "only {written} files were written: this tested nothing");
    let listed = clients[0].list("/data").unwrap().filter(|entry| entry.is_ok()).count();
    assert_eq!(listed as u64, written);
    poll("no temporary is left", || {
        let left = below(data.path()).into_iter().find(|path| path.to_string_lossy().contains(".citius-"));
        left.map_or(Ok(()), |path| Err(path.display().to_string()))
    });
    drop(worker);
}

/// A worker stands still until its master has given it up, then goes on as if nothing had happened: what it holds is
/// there again, but a write that was given up meanwhile is not published behind the master's back.
#[test]
fn a_worker_that_was_given_up_comes_back_with_what_it_holds() {
    let cluster = Cluster::of(1);
    let client = cluster.client(Local::Never);
    write(&client, "/data/kept", &noise(LENGTH, 1), WriteType::MustCache);
    let mut cut = client.create("/data/cut", options(WriteType::CacheThrough)).unwrap();
    cut.append(&noise(LENGTH, 2)).unwrap();
    let id = rustix::process::Pid::from_raw(i32::try_from(cluster.workers[0].id()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::STOP).unwrap();
    cluster.await_live(0);
    assert_eq!(client.stat("/data/kept").unwrap().persistence, Persistence::Lost);
    rustix::process::kill_process(id, rustix::process::Signal::CONT).unwrap();
    cluster.await_live(1);

    assert_eq!(client.stat("/data/kept").unwrap().persistence, Persistence::MemoryOnly);
    for local in [Local::Auto, Local::Never] {
        assert!(read(&cluster.client(local), "/data/kept") == noise(LENGTH, 1), "{local:?}");
    }
    let closed = cut.close();
    assert_eq!(closed.as_ref().map_err(|it| it.status()), Err(Status::Aborted), "{closed:?}");
    assert_eq!(client.stat("/data/cut").unwrap_err().status(), Status::NotFound);
    poll("what the write staged is removed", || {
        let left = below(cluster.data.path());
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    write(&client, "/data/cut", &noise(LENGTH, 3), WriteType::CacheThrough);
    assert!(read(&client, "/data/cut") == noise(LENGTH, 3));
}
