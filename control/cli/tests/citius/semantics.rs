//! What readers and writers of one path see of each other, and of those who change the under-store behind them.

use crate::support::{Process, below, noise, poll, put};
use citius_client::{Client, Config, CreateOptions, File, Local, MountOptions, Status, WriteType};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Large enough to be fetched in many pieces.
const LENGTH: usize = 12 << 20;
/// Two changes of a file further apart than this have different times: see docs/guarantees.md.
const CLOCK_TICK: Duration = Duration::from_millis(20);
const WAYS: [Local; 2] = [Local::Auto, Local::Never];

struct Scene {
    process: Process,
    data: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let process = Process::local(&["--mount", &format!("/data={}", data.path().display())]);
        Self { process, data }
    }

    fn client(&self, local: Local) -> Client {
        self.process.client_with(Config { local, ..Config::default() })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    /// Replaces a file as an editor would: by another inode, at once.
    fn replace(&self, name: &str, bytes: &[u8]) {
        put(self.at(".new"), bytes);
        std::fs::rename(self.at(".new"), self.at(name)).unwrap();
    }

    fn await_no_temporaries(&self) {
        poll("what an ended write staged is removed", || {
            let left = below(self.data.path()).into_iter().find(|path| path.to_string_lossy().contains(".citius-"));
            left.map_or(Ok(()), |path| Err(path.display().to_string()))
        });
    }
}

fn overwriting() -> CreateOptions {
    CreateOptions { overwrite: true, ..CreateOptions::default() }
}

fn small_blocks(write_type: WriteType) -> CreateOptions {
    CreateOptions { write_type, block_bytes: 2 << 20, ..CreateOptions::default() }
}

fn read(client: &Client, path: &str) -> Vec<u8> {
    let file = client.open(path).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The status that an operation failed with.
fn refusal<T: std::fmt::Debug>(result: Result<T, citius_client::Error>) -> Status {
    result.unwrap_err().status()
}

/// Reads a file piece by piece from an offset on: all of it is of one version, or the handle says that it has changed.
fn is_old_or_refused(file: &File, old: &[u8], from: usize) {
    let mut piece = vec![0; 300_000];
    let mut at = from;
    while at < old.len() {
        match file.read_at(&mut piece, at as u64) {
            Ok(count) => {
                assert!(count > 0 && piece[..count] == old[at..at + count], "other bytes at {at}");
                at += count;
            }
            Err(error) => return assert_eq!(error.status(), Status::VersionChanged, "{error:?}"),
        }
    }
}

#[test]
fn one_writer_a_path() {
    let scene = Scene::new();
    let (first, second) = (scene.client(Local::Auto), scene.client(Local::Never));
    let mut writer = first.create("/data/f", CreateOptions::default()).unwrap();
    writer.append(b"first").unwrap();
    for other in [&first, &second] {
        assert_eq!(refusal(other.create("/data/f", overwriting())), Status::FileBusy);
    }
    writer.close().unwrap();
    assert_eq!(refusal(second.create("/data/f", CreateOptions::default())), Status::AlreadyExists);
    assert_eq!(read(&second, "/data/f"), b"first");
    let mut writer = second.create("/data/f", overwriting()).unwrap();
    writer.append(b"second").unwrap();
    writer.close().unwrap();
    assert_eq!(read(&first, "/data/f"), b"second");
    assert_eq!(refusal(first.create("/data", overwriting())), Status::IsADirectory);
    assert_eq!(refusal(first.create("/data/no/f", overwriting())), Status::NotFound);
}

/// Of every write type: nobody else sees a file before its close, in the namespace or in the folder.
#[test]
fn a_file_is_visible_from_its_close_on() {
    let scene = Scene::new();
    let client = scene.client(Local::Auto);
    let bytes = noise(5 << 20, 1);
    for write_type in [WriteType::MustCache, WriteType::CacheThrough, WriteType::Through] {
        let path = format!("/data/{}", write_type.name());
        let mut writer = client.create(&path, small_blocks(write_type)).unwrap();
        writer.append(&bytes).unwrap();
        assert_eq!(refusal(client.stat(&path)), Status::NotFound);
        assert_eq!(refusal(client.open(&path)), Status::NotFound);
        assert!(client.list("/data").unwrap().all(|entry| !path.ends_with(&entry.unwrap().path)));
        let name = &path["/data/".len()..];
        assert!(!scene.at(name).exists());
        writer.close().unwrap();
        assert_eq!(client.stat(&path).unwrap().length, bytes.len() as u64);
        assert!(read(&client, &path) == bytes);
        assert_eq!(scene.at(name).exists(), write_type != WriteType::MustCache);
    }
}

/// The story: who had opened a file in memory that was then replaced was told that its memory is gone, and to delete it.
#[test]
fn a_replaced_file_in_memory_is_not_called_lost() {
    let scene = Scene::new();
    let in_memory = CreateOptions { write_type: WriteType::MustCache, ..overwriting() };
    for local in WAYS {
        let client = scene.client(local);
        let write = |path: &str, bytes: &[u8]| {
            let mut writer = client.create(path, in_memory).unwrap();
            writer.append(bytes).unwrap();
            writer.close().unwrap();
        };
        write("/data/m", b"old");
        let (unread, measured) = (client.open("/data/m").unwrap(), client.open("/data/m").unwrap());
        assert_eq!(measured.len(), 3);
        // A worker drops it when it hears of that.
        let await_dropped = |file: &File| {
            poll("the worker has dropped it", || {
                let blocks = file.resident().unwrap();
                if blocks.is_empty() { Ok(()) } else { Err(format!("{blocks:?}")) }
            });
        };
        write("/data/m", b"newer");
        await_dropped(&measured);
        let mut bytes = [0; 8];
        assert_eq!(unread.read_at(&mut bytes, 0).unwrap(), 5, "{local:?}");
        assert_eq!(&bytes[..5], b"newer");
        assert_eq!(refusal(measured.read_at(&mut bytes, 0)), Status::VersionChanged, "{local:?}");
        let (unread, measured) = (client.open("/data/m").unwrap(), client.open("/data/m").unwrap());
        assert_eq!(measured.len(), 5);
        client.delete("/data/m", false).unwrap();
        await_dropped(&measured);
        assert_eq!(refusal(unread.read_at(&mut bytes, 0)), Status::NotFound, "{local:?}");
        assert_eq!(refusal(measured.read_at(&mut bytes, 0)), Status::VersionChanged, "{local:?}");
    }
}

#[test]
fn readers_have_the_old_version_until_close() {
    let scene = Scene::new();
    let (old, new) = (noise(LENGTH, 1), noise(LENGTH + 1, 2));
    for (i, local) in WAYS.into_iter().enumerate() {
        for (j, is_warm) in [true, false].into_iter().enumerate() {
            let (name, path) = (format!("f{i}{j}"), format!("/data/f{i}{j}"));
            let (reader, writer) = (scene.client(local), scene.client(local));
            put(scene.at(&name), &old);
            if is_warm {
                assert!(read(&reader, &path) == old);
            }
            let open = reader.open(&path).unwrap();
            let mut first = [0; 100];
            open.read_exact_at(&mut first, 0).unwrap();
            assert!(first == old[..100]);
            let mut file = writer.create(&path, overwriting()).unwrap();
            file.append(&new).unwrap();
            assert!(read(&reader, &path) == old, "before the close");
            file.close().unwrap();
            assert!(read(&reader, &path) == new, "after the close");
            is_old_or_refused(&open, &old, 0);
        }
    }
}

#[test]
fn deleting_what_is_written_wins() {
    let scene = Scene::new();
    let client = scene.client(Local::Auto);
    for (i, write_type) in [WriteType::CacheThrough, WriteType::Through, WriteType::MustCache].into_iter().enumerate() {
        for (j, length) in [10, 5 << 20].into_iter().enumerate() {
            let (name, path) = (format!("f{i}{j}"), format!("/data/f{i}{j}"));
            put(scene.at(&name), b"old");
            let options = CreateOptions { overwrite: true, ..small_blocks(write_type) };
            let mut writer = client.create(&path, options).unwrap();
            writer.append(&noise(length, 3)).unwrap();
            client.delete(&path, false).unwrap();
            assert_eq!(refusal(writer.close()), Status::Aborted, "{} of {length}", write_type.name());
            assert_eq!(refusal(client.stat(&path)), Status::NotFound);
            assert!(!scene.at(&name).exists());
        }
    }
    scene.await_no_temporaries();
}

#[test]
fn renaming_what_is_written_wins() {
    let scene = Scene::new();
    let client = scene.client(Local::Auto);
    for write_type in [WriteType::CacheThrough, WriteType::MustCache] {
        put(scene.at("other"), b"other");
        put(scene.at("old"), b"old");
        let options = CreateOptions { overwrite: true, ..small_blocks(write_type) };

        // Onto it.
        let mut writer = client.create("/data/target", options).unwrap();
        writer.append(&noise(5 << 20, 4)).unwrap();
        client.rename("/data/other", "/data/target", true).unwrap();
        assert_eq!(refusal(writer.close()), Status::Aborted);
        assert_eq!(read(&client, "/data/target"), b"other");

        // From it: what was there before moves.
        let mut writer = client.create("/data/old", options).unwrap();
        writer.append(&noise(5 << 20, 5)).unwrap();
        client.rename("/data/old", "/data/moved", true).unwrap();
        assert_eq!(refusal(writer.close()), Status::Aborted);
        assert_eq!(read(&client, "/data/moved"), b"old");
        assert_eq!(refusal(client.stat("/data/old")), Status::NotFound);
        assert_eq!(std::fs::read(scene.at("moved")).unwrap(), b"old");
        assert_eq!(std::fs::read(scene.at("target")).unwrap(), b"other");
    }
    scene.await_no_temporaries();
}

#[test]
fn a_rename_takes_nothing_from_readers() {
    let scene = Scene::new();
    let bytes = noise(LENGTH, 6);
    for (i, local) in WAYS.into_iter().enumerate() {
        let client = scene.client(local);
        let (from, to) = (format!("/data/from{i}"), format!("/data/to{i}"));
        put(scene.at(&format!("from{i}")), &bytes);
        let open = client.open(&from).unwrap();
        open.read_exact_at(&mut [0; 4096], 1 << 20).unwrap();
        client.rename(&from, &to, false).unwrap();
        is_old_or_refused(&open, &bytes, 0);
        assert!(read(&client, &to) == bytes);
        assert_eq!(refusal(client.open(&from)), Status::NotFound);

        // What is in memory only moves in the log.
        let mut writer = client.create(&from, small_blocks(WriteType::MustCache)).unwrap();
        writer.append(&bytes).unwrap();
        writer.close().unwrap();
        let open = client.open(&from).unwrap();
        open.read_exact_at(&mut [0; 4096], 0).unwrap();
        client.rename(&from, &to, true).unwrap();
        let mut again = vec![0; LENGTH];
        open.read_exact_at(&mut again, 0).unwrap();
        assert!(again == bytes && read(&client, &to) == bytes);
        assert_eq!(refusal(client.open(&from)), Status::NotFound);
        // The older version that the folder had does not come back.
        client.delete(&to, false).unwrap();
        assert_eq!(refusal(client.open(&to)), Status::NotFound);
    }
}

#[test]
fn a_change_behind_citius_is_never_mixed_in() {
    let scene = Scene::new();
    let (old, new) = (noise(LENGTH, 7), noise(LENGTH, 8));
    for (i, local) in WAYS.into_iter().enumerate() {
        for (j, in_place) in [false, true].into_iter().enumerate() {
            let (name, path) = (format!("f{i}{j}"), format!("/data/f{i}{j}"));
            put(scene.at(&name), &old);
            let client = scene.client(local);
            let begun = client.open(&path).unwrap();
            let fresh = client.open(&path).unwrap();
            begun.read_exact_at(&mut [0; 5000], 0).unwrap();
            std::thread::sleep(CLOCK_TICK);
            if in_place {
                let file = std::fs::File::options().write(true).open(scene.at(&name)).unwrap();
                file.write_all_at(&new, 0).unwrap();
            } else {
                scene.replace(&name, &new);
            }
            // It has given bytes of the old version, so it gives no others.
            is_old_or_refused(&begun, &old, 0);
            // This one has given none, and follows the file.
            let mut bytes = vec![0; LENGTH];
            fresh.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == new || (bytes == old && !in_place), "a handle of no version yet");
            assert!(read(&client, &path) == new);
        }
    }
}

/// Readers open, read by pieces and start again while the file is replaced under them all the time.
#[test]
fn a_file_replaced_again_and_again_is_read_whole_or_refused() {
    const VERSIONS: usize = 3;
    const ROUNDS: usize = 60;
    const LENGTH: usize = 3 << 20;
    let scene = Scene::new();
    let versions: Vec<Vec<u8>> = (0..VERSIONS as u64).map(|seed| noise(LENGTH, 20 + seed)).collect();
    scene.replace("f", &versions[0]);
    let is_over = AtomicBool::new(false);
    let whole: u64 = std::thread::scope(|scope| {
        let readers = WAYS.map(|local| {
            let (scene, versions, is_over) = (&scene, &versions, &is_over);
            scope.spawn(move || {
                let client = scene.client(local);
                let (mut bytes, mut whole) = (vec![0; LENGTH], 0);
                while !is_over.load(Ordering::Acquire) {
                    let file = client.open("/data/f").unwrap();
                    let pieces = bytes.chunks_mut(200_000).enumerate();
                    let read = pieces.map(|(i, piece)| file.read_exact_at(piece, i as u64 * 200_000));
                    match read.collect::<Result<Vec<()>, _>>() {
                        Ok(_) => {
                            assert!(versions.contains(&bytes), "a mixture of versions");
                            whole += 1;
                        }
                        Err(error) => assert_eq!(error.status(), Status::VersionChanged, "{error:?}"),
                    }
                }
                whole
            })
        });
        for round in 0..ROUNDS {
            scene.replace("f", &versions[round % VERSIONS]);
            std::thread::sleep(Duration::from_millis(15));
        }
        is_over.store(true, Ordering::Release);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(whole > 0, "nobody ever read a whole version");
}

#[test]
fn a_target_changed_behind_its_writer_is_a_conflict() {
    let scene = Scene::new();
    let client = scene.client(Local::Auto);
    for (name, length) in [("short", 10), ("long", 5 << 20)] {
        let path = format!("/data/{name}");
        put(scene.at(name), b"old");
        let options = CreateOptions { overwrite: true, ..small_blocks(WriteType::CacheThrough) };
        let mut writer = client.create(&path, options).unwrap();
        writer.append(&noise(length, 9)).unwrap();
        scene.replace(name, b"somebody else's");
        assert_eq!(refusal(writer.close()), Status::Conflict, "replaced");
        assert_eq!(read(&client, &path), b"somebody else's");

        let name = format!("new-{name}");
        let path = format!("/data/{name}");
        let mut writer = client.create(&path, small_blocks(WriteType::Through)).unwrap();
        writer.append(&noise(length, 10)).unwrap();
        put(scene.at(&name), b"was faster");
        assert_eq!(refusal(writer.close()), Status::Conflict, "created");
        assert_eq!(read(&client, &path), b"was faster");

        let name = format!("gone-{name}");
        let path = format!("/data/{name}");
        put(scene.at(&name), b"old");
        let mut writer = client.create(&path, options).unwrap();
        writer.append(&noise(length, 11)).unwrap();
        std::fs::remove_file(scene.at(&name)).unwrap();
        assert_eq!(refusal(writer.close()), Status::Conflict, "removed");
        assert_eq!(refusal(client.stat(&path)), Status::NotFound);
    }
    scene.await_no_temporaries();
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let scene = Scene::new();
    let client = scene.client(Local::Auto);
    for (i, write_type) in [WriteType::CacheThrough, WriteType::Through, WriteType::MustCache].into_iter().enumerate() {
        let path = format!("/data/f{i}");
        let mut writer = client.create(&path, small_blocks(write_type)).unwrap();
        writer.append(&noise(5 << 20, 12)).unwrap();
        writer.abort();
        assert_eq!(refusal(client.stat(&path)), Status::NotFound);
        let mut writer = client.create(&path, small_blocks(write_type)).unwrap();
        writer.append(b"again").unwrap();
        writer.close().unwrap();
        assert_eq!(read(&client, &path), b"again");
    }
    scene.await_no_temporaries();
    poll("the memory of what was given up is free", || {
        let worker = &scene.process.json(&["cluster"])["workers"][0];
        let pinned = worker["tiers"]["mem"]["pinned_bytes"].as_u64().unwrap();
        // The must-cache file of a few bytes is pinned rightly.
        if pinned <= 2 << 20 { Ok(()) } else { Err(worker.to_string()) }
    });
}

/// The path of a writer that died is busy until its lease ends, unless somebody deletes it.
#[test]
fn the_path_of_a_dead_writer_stays_busy_and_can_be_deleted() {
    let scene = Scene::new();
    let client = scene.client(Local::Auto);
    let fifo = scene.process.home.join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    let source = format!("file:{}", fifo.display());
    let names = |scene: &Scene| scene.process.json(&["cluster"])["inodes"].as_u64().unwrap();
    let names_before = names(&scene);
    let mut child = scene.process.command(&["cp", &source, "/data/f"]).spawn().unwrap();
    // Opens when the command has opened the other end.
    let mut feed = std::fs::File::options().write(true).open(&fifo).unwrap();
    std::io::Write::write_all(&mut feed, &noise(1 << 20, 13)).unwrap();
    poll("the command has begun to write", || match names(&scene) {
        now if now > names_before => Ok(()),
        now => Err(format!("{now} names in the log")),
    });
    child.kill().unwrap();
    child.wait().unwrap();
    drop(feed);
    assert_eq!(refusal(client.create("/data/f", overwriting())), Status::FileBusy);
    assert_eq!(refusal(client.stat("/data/f")), Status::NotFound);
    put(scene.at("f"), b"from behind");
    client.delete("/data/f", false).unwrap();
    let mut writer = client.create("/data/f", CreateOptions::default()).unwrap();
    writer.append(b"alive").unwrap();
    writer.close().unwrap();
    assert_eq!(read(&client, "/data/f"), b"alive");
}

#[test]
fn a_mount_with_writers_stays_and_a_read_only_one_refuses_them() {
    let scene = Scene::new();
    let client = scene.client(Local::Auto);
    let mut writer = client.create("/data/f", CreateOptions::default()).unwrap();
    writer.append(b"bytes").unwrap();
    assert_eq!(refusal(client.mount_remove("/data")), Status::FileBusy);
    writer.close().unwrap();
    client.mount_remove("/data").unwrap();
    assert_eq!(refusal(client.stat("/data/f")), Status::NotFound);

    let options = MountOptions { read_only: true, ..MountOptions::default() };
    client.mount_add("/fixed", &scene.data.path().display().to_string(), options).unwrap();
    assert_eq!(read(&client, "/fixed/f"), b"bytes");
    for write_type in [WriteType::CacheThrough, WriteType::Through, WriteType::MustCache] {
        assert_eq!(refusal(client.create("/fixed/g", small_blocks(write_type))), Status::ReadOnly);
    }
    assert_eq!(refusal(client.create("/fixed/f", overwriting())), Status::ReadOnly);
    assert_eq!(refusal(client.mkdir("/fixed/d", false)), Status::ReadOnly);
    assert_eq!(refusal(client.delete("/fixed/f", false)), Status::ReadOnly);
    assert_eq!(refusal(client.rename("/fixed/f", "/fixed/h", false)), Status::ReadOnly);
    assert_eq!(read(&client, "/fixed/f"), b"bytes");
}

/// A process whose `n`-th run of bytes is damaged in memory, after its checksums were computed.
#[cfg(debug_assertions)]
fn with_damage(flip: &'static str) -> Scene {
    let data = tempfile::tempdir().unwrap();
    let mount = format!("/data={}", data.path().display());
    let serve = ["local", "--listen", "127.0.0.1:0", "--memory", "256MiB", "--shards", "1", "--mount", &mount];
    Scene { process: Process::start_in(&[("CITIUS_FAULT", flip)], &serve), data }
}

#[cfg(debug_assertions)]
#[test]
fn damaged_memory_is_fetched_again_and_never_served() {
    // One run of bytes, so that the first is the one that is read.
    let bytes = noise(400_000, 30);
    for (local, map) in [(Local::Never, false), (Local::Auto, false), (Local::Auto, true)] {
        let scene = with_damage("flip:1");
        put(scene.at("f"), &bytes);
        let client = scene.process.client_with(Config { local, map, ..Config::default() });
        let file = client.open("/data/f").unwrap();
        if map {
            assert!(*file.view(0, bytes.len()).unwrap() == bytes[..], "mapped");
        } else {
            let mut read = vec![0; bytes.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            assert!(read == bytes, "{local:?}");
        }
        assert!(client.stats().refetches > 0, "{local:?} {map}: the damage was not met: {:?}", client.stats());
        assert!(scene.process.log().contains("flips a bit"));
        assert!(scene.process.run(&["cat", "/data/f"]) == bytes, "the next reader");
    }
}

#[cfg(debug_assertions)]
#[test]
fn damaged_memory_without_another_copy_says_so() {
    let bytes = noise(400_000, 31);
    let scene = with_damage("flip:1");
    let client = scene.client(Local::Never);
    let mut writer = client.create("/data/f", small_blocks(WriteType::MustCache)).unwrap();
    writer.append(&bytes).unwrap();
    writer.close().unwrap();
    for (local, map) in [(Local::Never, false), (Local::Auto, false), (Local::Auto, true)] {
        let client = scene.process.client_with(Config { local, map, ..Config::default() });
        let file = client.open("/data/f").unwrap();
        let read =
            if map { file.view(0, bytes.len()).map(drop) } else { file.read_exact_at(&mut vec![0; bytes.len()], 0) };
        assert_eq!(refusal(read), Status::Corrupt, "{local:?} {map}");
    }
    let said = scene.process.fails(6, &["cat", "/data/f"]);
    assert!(said.contains("damaged") || said.contains("checksum"), "{said}");
    client.delete("/data/f", false).unwrap();
}

/// The under-store keeps no checksum of ours: what is damaged before it is stored must not be stored.
#[cfg(debug_assertions)]
#[test]
fn damaged_memory_is_not_published() {
    for write_type in [WriteType::CacheThrough, WriteType::Through] {
        let scene = with_damage("flip:1");
        let client = scene.client(Local::Never);
        put(scene.at("f"), b"old");
        let options = CreateOptions { overwrite: true, ..small_blocks(write_type) };
        let mut writer = client.create("/data/f", options).unwrap();
        writer.append(&noise(400_000, 32)).unwrap();
        assert_eq!(refusal(writer.close()), Status::Corrupt);
        assert_eq!(read(&client, "/data/f"), b"old");
        scene.await_no_temporaries();
    }
}
