//! HDFS as a company runs it: two name nodes of which one dies, and Kerberos.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod files;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use citius_understore::{
    Condition, Error, FileId, MountSpec, Settled, StorePath, UnderStore, VersionToken,
    testing::{
        is_alone, run_alone,
        servers::{Hdfs, HdfsPair, Kdc, NameNode, Protection},
    },
};
use futures::TryStreamExt;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::{TcpListener, TcpStream},
};

use self::files::{body, get, path, put};

/// Bytes of a file that takes many calls to read and to write.
const LARGE_BYTES: usize = 20 << 20;
/// Bytes of a block, the fewest that Hadoop takes: each is a call to the name node.
const BLOCK_BYTES: usize = 1 << 20;
/// Bytes of a read.
const RANGE_BYTES: usize = 256 << 10;
/// The most that a client may need to find the other name node, and a call of it to be given up.
const PATIENCE: Duration = Duration::from_secs(180);

fn pair_spec(pair: &HdfsPair) -> MountSpec {
    MountSpec::new(pair.uri())
        .option("hdfs_conf_dir", pair.conf_dir().display().to_string())
        .option("hadoop_user", pair.user())
        .option("hdfs_block_size", BLOCK_BYTES.to_string())
}

/// What reads of one file have seen.
#[derive(Default)]
struct Seen {
    ranges: AtomicUsize,
    failures: AtomicUsize,
    is_over: AtomicBool,
}

/// Reads ranges of a file, one after the other, over and over, until it is over. No byte is wrong.
async fn read_on(store: Arc<dyn UnderStore>, at: StorePath, token: VersionToken, content: Bytes, seen: Arc<Seen>) {
    let ranges = content.len() / RANGE_BYTES;
    for step in 0.. {
        if seen.is_over.load(Ordering::Relaxed) {
            break;
        }
        // Another block each time, so that none is at hand.
        let start = step * 7 % ranges * RANGE_BYTES;
        let mut out = Vec::new();
        let mut landing = |_: u64, bytes: &[u8]| out.extend_from_slice(bytes);
        match store.read(&at, &token, start as u64..(start + RANGE_BYTES) as u64, &mut landing).await {
            Ok(()) => {
                assert!(out == content[start..start + RANGE_BYTES], "wrong bytes from {start}");
                seen.ranges.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                println!("a read that lost its name node: {error}");
                assert!(error.is_transient(), "{error:?}");
                seen.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Waits until so many more ranges have been read.
async fn more_ranges(seen: &Seen, count: usize) {
    let before = seen.ranges.load(Ordering::Relaxed);
    let enough = async {
        while seen.ranges.load(Ordering::Relaxed) < before + count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, enough).await.expect("reads do not go on");
}

/// The active name node is killed in the middle of a file that is read and of another that is written, and the other is
/// made active.
async fn loses(pair: &mut HdfsPair, active: NameNode, store: &Arc<dyn UnderStore>, id: u8) {
    let (at, content) = (path(&format!("read-{id}")), body(LARGE_BYTES, id));
    let token = put(&**store, &at, id, &content).await.unwrap();
    let seen = Arc::new(Seen::default());
    let reader =
        tokio::spawn(read_on(Arc::clone(store), at.clone(), token.clone(), content.clone(), Arc::clone(&seen)));
    let written = path(&format!("written-{id}"));
    let mut staged = store.stage(&written, FileId([id + 1; 16]), Some(LARGE_BYTES as u64)).await.unwrap();
    staged.write(content.slice(..LARGE_BYTES / 2)).await.unwrap();
    more_ranges(&seen, 4).await;

    pair.kill(active);
    let other = if active == NameNode::First { NameNode::Second } else { NameNode::First };
    let writing = async {
        for start in (LARGE_BYTES / 2..LARGE_BYTES).step_by(RANGE_BYTES) {
            staged.write(content.slice(start..start + RANGE_BYTES)).await?;
        }
        staged.publish(&Condition::MustNotExist).await
    };
    let (ended, activated) = tokio::join!(tokio::time::timeout(PATIENCE, writing), pair.activate(other));
    activated.unwrap();
    more_ranges(&seen, 8).await;
    seen.is_over.store(true, Ordering::Relaxed);
    reader.await.unwrap();
    println!(
        "{} ranges, of which {} failed",
        seen.ranges.load(Ordering::Relaxed),
        seen.failures.load(Ordering::Relaxed)
    );

    let record = staged.begun();
    match ended.expect("the write does not end") {
        Ok(token) => assert_eq!(get(&**store, &written, &token, LARGE_BYTES).await.unwrap(), content),
        Err(error) => {
            println!("a write that lost its name node: {error}");
            assert!(error.is_transient(), "{error:?}");
            drop(staged);
            assert_eq!(store.settle(&record).await.unwrap(), Settled::Absent);
            assert!(matches!(store.stat(&written).await, Err(Error::NotFound { .. })), "something half is there");
        }
    }
    assert_eq!(get(&**store, &at, &token, LARGE_BYTES).await.unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_of_name_nodes_loses_one_and_then_the_other() {
    // The first that a client asks is standby.
    let mut pair = HdfsPair::start(NameNode::Second).await.unwrap();
    let store = citius_understore::open(&pair_spec(&pair)).unwrap();
    store.check().await.unwrap();
    let (at, content) = (path("acknowledged"), body(LARGE_BYTES, 9));
    let token = put(&*store, &at, 9, &content).await.unwrap();
    loses(&mut pair, NameNode::Second, &store, 1).await;
    pair.revive(NameNode::Second).await.unwrap();
    loses(&mut pair, NameNode::First, &store, 3).await;
    assert_eq!(get(&*store, &at, &token, LARGE_BYTES).await.unwrap(), content);
    pair.kill(NameNode::Second);
    let away = store.check().await.unwrap_err();
    assert!(matches!(away, Error::Unreachable { .. }) && away.is_transient(), "{away}");
    assert!(away.to_string().contains("refused"), "{away}");
    // One that is there and is not active helps nobody.
    pair.revive(NameNode::First).await.unwrap();
    let away = store.check().await.unwrap_err();
    assert!(matches!(away, Error::Unreachable { .. }) && away.is_transient(), "{away}");
    println!("{away}");
    pair.stop().unwrap();
}

/// Where no option names the settings, and none the user.
#[test]
fn settings_and_user_come_from_the_environment() {
    const THIS: &str = "settings_and_user_come_from_the_environment";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if is_alone(THIS) {
        return runtime.block_on(async {
            let store = citius_understore::open(&MountSpec::new("hdfs://citius-pair/citius-test")).unwrap();
            store.check().await.unwrap();
            let (at, content) = (path("file"), body(BLOCK_BYTES, 1));
            let token = put(&*store, &at, 1, &content).await.unwrap();
            assert_eq!(get(&*store, &at, &token, BLOCK_BYTES).await.unwrap(), content);
            // The name service is that of the settings, by default.
            let store = citius_understore::open(&MountSpec::new("hdfs:///citius-test")).unwrap();
            assert_eq!(get(&*store, &at, &token, BLOCK_BYTES).await.unwrap(), content);
        });
    }
    let pair = runtime.block_on(HdfsPair::start(NameNode::First)).unwrap();
    let (conf_dir, user) = (pair.conf_dir().display().to_string(), pair.user().to_owned());
    run_alone(THIS, &[("HADOOP_CONF_DIR", conf_dir), ("HADOOP_USER_NAME", user)]);
    pair.stop().unwrap();
}

/// Whose tickets the realm gives, besides the servers'.
const USER: &str = "citius";
/// Where Kerberos looks for the tickets of a process.
const TICKETS: &str = "KRB5CCNAME";

/// A cluster with Kerberos, and what its clients have.
struct Secured {
    kdc: Kdc,
    hdfs: Hdfs,
    /// For a process of their own.
    variables: Vec<(&'static str, String)>,
}

impl Secured {
    async fn start(protection: Protection) -> Self {
        let kdc = Kdc::start().await.unwrap();
        println!("krb5 {}", kdc.version());
        let hdfs = Hdfs::start_secure(&kdc, protection).await.unwrap();
        let (keytab, other) = (kdc.keytab(USER).unwrap(), kdc.keytab("other").unwrap());
        let cache = kdc.ticket_cache(USER, &keytab).unwrap();
        let variables = vec![
            ("KRB5_CONFIG", kdc.config().display().to_string()),
            ("TEST_URI", format!("{}{}", hdfs.name_node(), hdfs.folder())),
            ("TEST_CONF_DIR", hdfs.conf_dir().display().to_string()),
            ("TEST_KEYTAB", keytab.display().to_string()),
            ("TEST_CACHE", cache.display().to_string()),
            ("TEST_KEYTAB_OF_OTHER", other.display().to_string()),
        ];
        Self { kdc, hdfs, variables }
    }

    fn stop(self) {
        self.hdfs.stop().unwrap();
        self.kdc.stop().unwrap();
    }
}

fn told(variable: &str) -> String {
    std::env::var(variable).unwrap()
}

fn secured_spec() -> MountSpec {
    MountSpec::new(told("TEST_URI")).option("hdfs_conf_dir", told("TEST_CONF_DIR"))
}

fn keytab_spec() -> MountSpec {
    secured_spec().option("kerberos_principal", "citius@CITIUS.TEST").option("kerberos_keytab", told("TEST_KEYTAB"))
}

async fn keeps_a_file(spec: &MountSpec) {
    let store = citius_understore::open(spec).unwrap();
    store.check().await.unwrap();
    let (at, content) = (path("file"), body(3 * BLOCK_BYTES + 1, 5));
    let token = put(&*store, &at, 5, &content).await.unwrap();
    assert!(get(&*store, &at, &token, content.len()).await.unwrap() == content);
    let pages: Vec<_> = store.list(&StorePath::root(), "").try_collect().await.unwrap();
    assert!(pages.iter().flat_map(|page| &page.entries).any(|entry| entry.name == "file"));
    store.delete_file(&at).await.unwrap();
}

async fn refused(spec: &MountSpec) -> Error {
    let error = citius_understore::open(spec).unwrap().check().await.unwrap_err();
    println!("{error}");
    error
}

#[test]
fn kerberos_lets_in_who_has_keys_or_a_ticket() {
    const THIS: &str = "kerberos_lets_in_who_has_keys_or_a_ticket";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if is_alone(THIS) {
        return runtime.block_on(async {
            if std::env::var_os(TICKETS).is_some() {
                return keeps_a_file(&secured_spec()).await;
            }
            let principal = |spec: MountSpec| spec.option("kerberos_principal", "citius@CITIUS.TEST");
            keeps_a_file(&keytab_spec()).await;
            keeps_a_file(&principal(secured_spec()).option("kerberos_cache", format!("FILE:{}", told("TEST_CACHE"))))
                .await;
            // The settings of the files, given one by one.
            let bare = principal(MountSpec::new(told("TEST_URI"))).option("kerberos_keytab", told("TEST_KEYTAB"));
            keeps_a_file(&bare.option("dfs.data.transfer.protection", "authentication")).await;

            let nobody = refused(&secured_spec()).await;
            assert!(matches!(nobody, Error::MissingKeys { .. }), "{nobody:?}");
            assert!(nobody.to_string().contains("it wants Kerberos: "), "{nobody}");
            let unset = refused(&MountSpec::new(told("TEST_URI"))).await;
            assert!(matches!(unset, Error::Unreachable { .. }), "{unset:?}");
            assert!(unset.to_string().contains("if it wants Kerberos, set kerberos_principal"), "{unset}");
            let others_keys = keytab_spec().option("kerberos_keytab", told("TEST_KEYTAB_OF_OTHER"));
            let wrong = refused(&others_keys).await;
            assert!(matches!(wrong, Error::WrongKeys { .. } | Error::MissingKeys { .. }), "{wrong:?}");
            let other = others_keys.option("kerberos_principal", "other@CITIUS.TEST");
            let other = citius_understore::open(&other).unwrap();
            other.check().await.unwrap();
            let denied = other.mkdir(&path("forbidden")).await.unwrap_err();
            assert!(
                matches!(denied, Error::PermissionDenied { .. }) && denied.to_string().contains("other"),
                "{denied}"
            );
            let posing = refused(&keytab_spec().option("hadoop_user", "hdfs")).await;
            assert!(matches!(posing, Error::Unreachable { .. }), "{posing:?}");
            assert!(posing.to_string().contains("hadoop.proxyuser"), "{posing}");
        });
    }
    let mut secured = runtime.block_on(Secured::start(Protection::Authentication));
    run_alone(THIS, &secured.variables);
    // Once more, as whoever has called `kinit` starts Citius: no option says who asks.
    let (_, cache) = secured.variables.iter().find(|(name, _)| *name == "TEST_CACHE").unwrap();
    secured.variables.push((TICKETS, format!("FILE:{cache}")));
    run_alone(THIS, &secured.variables);
    secured.stop();
}

#[test]
fn kerberos_hides_calls_and_content() {
    const THIS: &str = "kerberos_hides_calls_and_content";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if is_alone(THIS) {
        return runtime.block_on(keeps_a_file(&keytab_spec()));
    }
    for protection in [Protection::Integrity, Protection::Privacy] {
        let secured = runtime.block_on(Secured::start(protection));
        run_alone(THIS, &secured.variables);
        secured.stop();
    }
}

/// The library of Kerberos is loaded when it is first needed; here, what is found by its name is none.
#[test]
fn kerberos_without_its_library_says_so() {
    const THIS: &str = "kerberos_without_its_library_says_so";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if is_alone(THIS) {
        return runtime.block_on(async {
            let error = refused(&keytab_spec()).await;
            assert!(matches!(error, Error::MissingKeys { .. }), "{error:?}");
            assert!(error.to_string().contains("libgssapi_krb5.so.2 cannot be loaded"), "{error}");
        });
    }
    let mut secured = runtime.block_on(Secured::start(Protection::Authentication));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("libgssapi_krb5.so.2"), "").unwrap();
    secured.variables.push(("LD_LIBRARY_PATH", folder.path().display().to_string()));
    run_alone(THIS, &secured.variables);
    secured.stop();
}

/// Stands between clients and a data node, and keeps its answers to itself once a client has said its last. Counts those.
async fn forget_last_answers(pair: &HdfsPair) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(pair.data_node_by_name()).await.unwrap();
    let (data_node, forgotten) = (pair.data_node(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&forgotten);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, count) = (TcpStream::connect(&data_node).await.unwrap(), Arc::clone(&count));
            tokio::spawn(async move {
                let ((mut asks, mut hears), (mut says, mut takes)) = (client.into_split(), server.into_split());
                let answers = async {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(len @ 1..) = says.read(&mut buffer).await {
                        // A client's last word comes right behind the one before, and so before the answer to it.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        hears.write_all(&buffer[..len]).await.unwrap();
                    }
                };
                tokio::select! {
                    said = copy(&mut asks, &mut takes) => said.map(drop).unwrap(),
                    () = answers => return,
                }
                count.fetch_add(1, Ordering::Relaxed);
                drop((asks, hears));
                takes.shutdown().await.unwrap();
                copy(&mut says, &mut sink()).await.unwrap();
            });
        }
    });
    forgotten
}

/// The story: where content is encrypted by SASL, the client sends an empty message after the last packet. A data node that had
/// closed the connection reset it, and one write in some thousands failed whose content was safe.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_its_writer_cannot_close_is_closed_by_the_name_node() {
    let pair = HdfsPair::start(NameNode::First).await.unwrap();
    let forgotten = forget_last_answers(&pair).await;
    let writer = citius_understore::open(&pair_spec(&pair).option("dfs.client.use.datanode.hostname", "true")).unwrap();
    let (at, content) = (path("forgotten"), body(100_000, 1));
    let token = put(&*writer, &at, 1, &content).await.unwrap();
    assert_eq!(forgotten.load(Ordering::Relaxed), 1, "the data node's last answer was not kept back");
    let reader = citius_understore::open(&pair_spec(&pair)).unwrap();
    assert!(get(&*reader, &at, &token, content.len()).await.unwrap() == content);
    pair.stop().unwrap();
}
