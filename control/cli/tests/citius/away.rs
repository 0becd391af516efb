//! A store that goes away, in the middle of a write or for good, and comes back or does not.

use crate::bucket::Prefix;
use crate::full_disk::get;
use crate::support::{Process, noise, poll, put};
use citius_client::Config;
use citius_understore::testing::servers::{Ports, SeaweedFs};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Three blocks and a bit.
const FILE_BYTES: usize = (3 << 26) + 12_345;
const MIB: u64 = 1 << 20;
/// More than any change here makes of its store.
const REQUESTS_MAX: usize = 40;
/// How a request begins.
const METHODS: [&[u8]; 5] = [b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE "];

/// A way to a server that can be shut and opened again, at one address.
struct Door {
    ports: Ports<1>,
    server: String,
    state: Arc<DoorState>,
    listening: Option<JoinHandle<()>>,
}

struct DoorState {
    shut: AtomicBool,
    /// Requests that pass before it shuts by itself.
    left: AtomicI64,
    streams: Mutex<Vec<TcpStream>>,
    /// Bytes that went to the server.
    passed: AtomicU64,
}

impl DoorState {
    fn new() -> Self {
        let (streams, passed) = (Mutex::default(), AtomicU64::new(0));
        Self { shut: AtomicBool::new(false), left: AtomicI64::new(i64::MAX), streams, passed }
    }

    /// Whether bytes of a client may pass. One request of its own begins each connection's turn with its method.
    fn lets(&self, bytes: &[u8]) -> bool {
        let is_request = METHODS.iter().any(|method| bytes.starts_with(method));
        let passes = !is_request || self.left.fetch_sub(1, Ordering::SeqCst) > 0;
        if !passes {
            self.break_off();
        }
        passes && !self.shut.load(Ordering::SeqCst)
    }

    /// Refuses connections from now on, and breaks those there are.
    fn break_off(&self) {
        self.shut.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Door {
    fn to(endpoint: &str) -> Self {
        let ports = Ports::take().unwrap();
        let server = endpoint.strip_prefix("http://").unwrap().to_owned();
        let mut door = Self { ports, server, state: Arc::new(DoorState::new()), listening: None };
        door.open();
        door
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[0]).into()
    }

    fn open(&mut self) {
        // A listener is open for a moment more in each process that was being started when it was closed here.
        let listener =
            poll("the address is free again", || TcpListener::bind(self.address()).map_err(|e| e.to_string()));
        // One of its own: a connection of before that is yet to notice it shuts what is past.
        self.state = Arc::new(DoorState::new());
        let (state, server) = (Arc::clone(&self.state), self.server.clone());
        self.listening = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if state.shut.load(Ordering::SeqCst) {
                    return;
                }
                let (near, far) = (stream.unwrap(), TcpStream::connect(&server).unwrap());
                state.streams.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let (back, forth) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                let counted = Arc::clone(&state);
                std::thread::spawn(move || {
                    pass(near, far, |bytes| {
                        counted.passed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                        counted.lets(bytes)
                    });
                });
                std::thread::spawn(move || pass(back, forth, |_| true));
            }
        }));
    }

    fn shut(&mut self) {
        self.state.shut.store(true, Ordering::SeqCst);
        // The one that makes it look.
        drop(TcpStream::connect(self.address()));
        self.listening.take().unwrap().join().unwrap();
        self.state.break_off();
    }

    /// Shuts by itself before the request that follows so many.
    fn shut_after(&self, requests: i64) {
        self.state.left.store(requests, Ordering::SeqCst);
    }

    fn wait_passed(&self, bytes: u64) {
        poll("bytes on their way", || match self.state.passed.load(Ordering::SeqCst) {
            passed if passed >= bytes => Ok(()),
            passed => Err(format!("{passed}")),
        });
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, lets: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if !lets(&buffer[..bytes]) || to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn copying(local: &Process, from: &str, to: &str) -> Child {
    local.command(&["cp", from, to]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The store is away for as long as a restart of it takes, in the second block.
#[test]
fn a_write_outlives_a_restart_of_its_store() {
    let prefix = Prefix::new("away/short");
    let mut door = Door::to(prefix.endpoint());
    let local = prefix.local_at(&format!("http://{}", door.address()));
    let bytes = noise(FILE_BYTES, 91);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("f");
    put(&source, &bytes);
    let copy = copying(&local, &format!("file:{}", source.display()), "/data/f");
    door.wait_passed(80 * MIB);
    door.shut();
    std::thread::sleep(Duration::from_secs(2));
    door.open();
    let output = copy.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(prefix.get("f").unwrap() == bytes);
    assert_eq!(prefix.uploads(), [""; 0]);
}

/// A user was told that "block 1 was to be staged when block 0 was due" when the server had died; and the upload stayed in
/// the bucket for ever, because it was only logged after its first block.
#[test]
fn a_write_whose_store_stays_away_says_so_and_leaves_nothing() {
    let prefix = Prefix::new("away/long");
    let mut door = Door::to(prefix.endpoint());
    let local = prefix.local_at(&format!("http://{}", door.address()));
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("f");
    put(&source, &noise(FILE_BYTES, 92));
    let copy = copying(&local, &format!("file:{}", source.display()), "/data/f");
    door.wait_passed(16 * MIB);
    door.shut();
    let output = copy.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/data/f") && said.contains("writing f: "), "{said}");
    assert!(said.contains("does not answer") && said.contains("begin it anew"), "{said}");
    assert_eq!(prefix.uploads(), ["f"], "the upload cannot be aborted while the store is away");
    door.open();
    poll("the upload is aborted", || match prefix.uploads() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    assert_eq!(prefix.get("f"), None);
}

/// A file system on a network whose server has died: when that is known nobody waits for it any more, and who asks is told
/// so; when it is back, so is the mount.
#[test]
fn a_dead_server_is_shown_and_not_asked_until_it_is_back() {
    let runtime = Runtime::new().unwrap();
    let mut server = runtime.block_on(SeaweedFs::start()).unwrap();
    let local = Process::local(&[]);
    local.run(&["mount", "add", "/data", &server.webdav().replace("http:", "webdav:"), "--sync-interval", "0"]);
    let folder = tempfile::tempdir().unwrap();
    let (source, bytes) = (folder.path().join("f"), noise(100_000, 93));
    put(&source, &bytes);
    local.run(&["cp", &format!("file:{}", source.display()), "/data/f"]);
    let told = local.under_store("/data");
    assert!(told["breaker"] == "closed" && told["breaker_reason"] == "", "{told}");
    let measured = || {
        let metrics = get(&local, "/metrics");
        let (_, rest) = metrics.split_once("\ncitius_mount_breaker{mount=\"/data\"} ").unwrap();
        rest.lines().next().unwrap().to_owned()
    };
    assert_eq!(measured(), "0");

    let killed = Command::new("kill").arg("-KILL").arg(server.pid().to_string()).status().unwrap();
    assert!(killed.success());
    poll("the server is known to be away", || {
        local.fails(5, &["--timeout", "1s", "ls", "/data"]);
        let told = local.under_store("/data");
        if told["breaker"] == "open" { Ok(()) } else { Err(told.to_string()) }
    });
    let told = local.under_store("/data");
    assert!(told["breaker_reason"].as_str().unwrap().contains("refused"), "{told}");
    // It may be finding out at this moment whether the server is back.
    poll("the metrics say so, too", || match measured() {
        open if open == "2" => Ok(()),
        other => Err(other),
    });
    let warnings = local.json(&["cluster"])["warnings"].to_string();
    assert!(warnings.contains("the under-store of /data") && warnings.contains("does not answer"), "{warnings}");
    // Now and then one request finds out whether it is back; all others are refused unsent. A command asks again for as long
    // as it has time.
    let said = poll("a command of which nothing is sent", || {
        let before = local.under_store("/data");
        let said = local.fails(5, &["--timeout", "100ms", "ls", "/data"]);
        let after = local.under_store("/data");
        let grew = |count: &str| after[count].as_u64().unwrap() > before[count].as_u64().unwrap();
        if grew("barred") && !grew("other_requests") { Ok(said) } else { Err(format!("{before} {after} {said}")) }
    });
    for words in ["/data", "has not answered for a while", "refused", "it is asked again in", "check that it runs"] {
        assert!(said.contains(words), "{words}: {said}");
    }

    runtime.block_on(server.restart()).unwrap();
    poll("the server is asked again", || {
        let output = local.try_run(&["cat", "/data/f"]);
        (output.stdout == bytes).then_some(()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
    });
    let told = local.under_store("/data");
    assert!(told["breaker"] == "closed" && told["breaker_reason"] == "", "{told}");
    assert_eq!(measured(), "0");
}

/// Whoever is told that a store is away is told of which path, in which mount, and what was tried of it.
#[test]
fn every_failure_says_what_was_tried_of_what() {
    let prefix = Prefix::new("away/words");
    let mut door = Door::to(prefix.endpoint());
    for name in ["read", "deleted", "moved", "d/f"] {
        prefix.put(name, noise(1000, 93));
    }
    let local = prefix.local_at(&format!("http://{}", door.address()));
    let client = local.client_with(Config { timeout: Duration::from_secs(5), ..Config::default() });
    let file = client.open("/data/read").unwrap();
    door.shut();
    type Attempt<'a> = &'a (dyn Fn() -> Result<(), citius_client::Error> + Sync);
    let tried: [(&str, &str, Attempt<'_>); 6] = [
        ("/data/read", "reading read", &|| file.read_at(&mut [0; 1000], 0).map(drop)),
        ("/data/unseen", "looking at /data/unseen", &|| client.stat("/data/unseen").map(drop)),
        ("/data/d", "listing /data/d", &|| {
            client.list("/data/d").and_then(|mut names| names.try_for_each(|name| name.map(drop)))
        }),
        // Whoever changes something looks at it first, past what is cached.
        ("/data/deleted", "looking at /data/deleted", &|| client.delete("/data/deleted", false)),
        ("/data/moved", "looking at /data/", &|| client.rename("/data/moved", "/data/elsewhere", false)),
        ("/data/made", "looking at /data/made", &|| client.mkdir("/data/made", false)),
    ];
    std::thread::scope(|scope| {
        let tries =
            tried.map(|(path, words, attempt)| scope.spawn(move || (path, words, attempt().unwrap_err().to_string())));
        for (path, words, said) in tries.map(|tried| tried.join().unwrap()) {
            assert!(said.contains(path) && said.contains(words) && said.contains("does not answer"), "{words}: {said}");
        }
    });
}

/// What the bucket has before a change, and after it.
type Names = &'static [&'static str];

/// A command that changes names, whose store goes away in its middle.
struct Change {
    mount: &'static str,
    /// What follows the options; a path that begins with a slash lies in the mount.
    command: &'static [&'static str],
    /// Of the path that is changed.
    path: &'static str,
    words: &'static [&'static str],
    before: Names,
    after: Names,
}

const CHANGES: [Change; 6] = [
    Change {
        mount: "/rm",
        command: &["rm", "/a"],
        path: "/rm/a",
        words: &["looking at", "deleting"],
        before: &["a", "b"],
        after: &["b"],
    },
    Change {
        mount: "/tree",
        command: &["rm", "-r", "/d"],
        path: "/tree/d",
        words: &["looking at", "deleting"],
        before: &["a", "d/x", "d/y", "d/z"],
        after: &["a"],
    },
    Change {
        mount: "/mv",
        command: &["mv", "/a", "/b"],
        path: "/mv/",
        words: &["looking at", "renaming"],
        before: &["a"],
        after: &["b"],
    },
    Change {
        mount: "/move",
        command: &["mv", "/d", "/e"],
        path: "/move/",
        words: &["looking at", "renaming"],
        before: &["d/x", "d/y"],
        after: &["e/x", "e/y"],
    },
    Change {
        mount: "/mkdir",
        command: &["mkdir", "/d"],
        path: "/mkdir/d",
        words: &["looking at", "making"],
        before: &["a"],
        after: &["a", "d"],
    },
    Change {
        mount: "/cp",
        command: &["cp", "/a", "/b"],
        path: "/cp/",
        words: &["looking at", "reading", "writing", "publishing"],
        before: &["a"],
        after: &["a", "b"],
    },
];

/// What a command said of what it did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    /// Nothing is done.
    Refused,
    /// It will be done.
    PutOff,
    /// It is done or not.
    Unknown,
}

impl Told {
    /// Of a command that failed.
    fn of(said: &str) -> Self {
        if said.contains("it is tried again until it is done") {
            Self::PutOff
        } else if said.contains("whether it is published could not be found out") {
            Self::Unknown
        } else {
            Self::Refused
        }
    }
}

/// The files below a directory of a bucket, and its empty directories.
fn names_below(prefix: &Prefix, dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (name, is_dir) in prefix.entries(dir) {
        let name = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        let below = if is_dir { names_below(prefix, &name) } else { Vec::new() };
        // SeaweedFS lists a directory for a while after its last file is gone.
        if below.is_empty() && prefix.has(&name) {
            found.push(name);
        }
        found.extend(below);
    }
    found
}

/// Runs a change again and again, each time with one more of its requests let through, until all of them are. Whatever it
/// says is true when the store is back: it is done, it will be, or nothing was done at all.
fn breaks_off_anywhere(local: &Process, change: &Change) {
    let (mut met, content) = ([0; 4], noise(1000, 94));
    for requests in 0..REQUESTS_MAX {
        let mount = format!("{}{requests}", change.mount);
        let prefix = Prefix::new(&format!("away{mount}"));
        let within = |path: &str| path.replacen(change.mount, &mount, 1);
        for name in change.before {
            prefix.put(name, content.clone());
        }
        let mut door = Door::to(prefix.endpoint());
        let options = ["--sync-interval", "0", "--option", "retry_timeout=1s"];
        prefix.mount_through(&format!("http://{}", door.address()), local, &mount, &options);
        let command: Vec<_> = change
            .command
            .iter()
            .map(|word| if word.starts_with('/') { format!("{mount}{word}") } else { (*word).to_owned() })
            .collect();
        let mut arguments = vec!["--timeout", "3s"];
        arguments.extend(command.iter().map(String::as_str));
        door.shut_after(requests as i64);
        let output = local.try_run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = || names_below(&prefix, "");
        let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
        let told = if output.status.success() { Told::Done } else { Told::of(&said) };
        if told != Told::Done {
            let is_told = said.contains(&within(change.path)) && says(change.words);
            assert!(is_told && says(&["does not answer", "has not answered"]), "{requests}: {command:?}: {said}");
            assert!(said.contains("check that it runs"), "{requests}: {command:?}: {said}");
        }
        met[told as usize] += 1;
        if told == Told::PutOff && met[told as usize] == 1 && change.mount == "/rm" {
            // So late that its own wait is over as well: it once heard of "other operations" only.
            let said = local.fails(5, &["--timeout", "40s", "mkdir", &within(change.path)]);
            for words in ["was being changed", "deleting /rm", "does not answer", "tried again until it is done"] {
                assert!(said.contains(words), "{words}: {said}");
            }
        }
        door.shut();
        door.open();
        if told == Told::Unknown {
            // When it is known, another may write there.
            poll("the path is free", || {
                let again = [&command[..1], &["--force".to_owned()], &command[1..]].concat();
                let output = local.command(&[]).args(again).output().unwrap();
                let said = || String::from_utf8_lossy(&output.stderr).into_owned();
                output.status.success().then_some(()).ok_or_else(said)
            });
        }
        let wanted = if told == Told::Refused { change.before } else { change.after };
        poll("the bucket is as the command said", || match found() {
            names if names == wanted => Ok(()),
            names => Err(format!("{requests}: {names:?} after {command:?} said {said}")),
        });
        for name in wanted {
            local.run(&["stat", &format!("{mount}/{name}")]);
            // A directory of that name is all that is made of it.
            assert!(*name == "d" || prefix.get(name).unwrap() == content, "{name}");
        }
        local.run(&["mount", "rm", &mount]);
        if told == Told::Done {
            println!("{:?}: of {requests} were {met:?} done, refused, put off, not known", change.command);
            assert!(met[Told::Refused as usize] > 0, "{met:?}");
            assert!(met[Told::PutOff as usize] > 0 || change.mount == "/cp", "{met:?}");
            return;
        }
    }
    panic!("{:?} makes more than {REQUESTS_MAX} requests", change.command);
}

/// A user whose `rm -r` lost its store in the middle has to know whether it goes on.
#[test]
fn a_change_whose_store_goes_away_is_done_later_or_not_at_all() {
    let local = Process::local(&[]);
    std::thread::scope(|scope| {
        for change in &CHANGES {
            scope.spawn(|| breaks_off_anywhere(&local, change));
        }
    });
}
