//! File systems on a network whose files change and whose servers die in a write, on real servers: no reader sees a mixture, and
//! nothing half is published. Reads that lose their servers are in endurance.rs.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod files;

use std::{io, sync::Arc, time::Duration};

use citius_understore::{
    Condition, Error, FileId, MountSpec, Outcome, Probe, Settled, StagedBody, StagedRecord, StorePath, UnderStore,
    VersionToken, diagnose,
    testing::servers::{Hdfs, Sftp, Webdav},
};
use futures::TryStreamExt;

use self::files::{body, get, path, put};

/// Bytes of a file that takes a while to read and to write.
const LARGE_BYTES: usize = 48 << 20;

/// A server that can be killed and started again.
trait Server {
    fn spec(&self) -> MountSpec;
    fn restart(&mut self) -> impl Future<Output = io::Result<()>>;
}

impl Server for Hdfs {
    fn spec(&self) -> MountSpec {
        MountSpec::new(format!("{}{}", self.name_node(), self.folder())).option("hadoop_user", self.user())
    }

    fn restart(&mut self) -> impl Future<Output = io::Result<()>> {
        Hdfs::restart(self)
    }
}

impl Server for Webdav {
    fn spec(&self) -> MountSpec {
        let (user, password) = self.keys();
        MountSpec::new(self.endpoint()).option("webdav_user", user).option("webdav_password", password)
    }

    fn restart(&mut self) -> impl Future<Output = io::Result<()>> {
        Webdav::restart(self)
    }
}

impl Server for Sftp {
    fn spec(&self) -> MountSpec {
        MountSpec::new(format!("sftp://{}{}", self.address(), self.folder().display()))
            .option("sftp_user", self.user())
            .option("sftp_key_file", self.key_file().display().to_string())
            .option("sftp_known_hosts", self.known_hosts().display().to_string())
    }

    fn restart(&mut self) -> impl Future<Output = io::Result<()>> {
        Sftp::restart(self)
    }
}

async fn names(store: &dyn UnderStore) -> Vec<String> {
    let pages: Vec<_> = store.list(&StorePath::root(), "").try_collect().await.unwrap();
    pages.into_iter().flat_map(|page| page.entries).map(|entry| entry.name).collect()
}

/// The file is replaced when the first of its bytes have come.
async fn replaced_in_the_middle(store: &Arc<dyn UnderStore>) {
    let at = path("replaced");
    let (old, new) = (body(LARGE_BYTES, 1), body(LARGE_BYTES, 2));
    let token = put(&**store, &at, 1, &old).await.unwrap();
    let mut out = Vec::new();
    let mut replacement = Some((Arc::clone(store), at.clone(), new.clone()));
    let mut landing = |_: u64, bytes: &[u8]| {
        out.extend_from_slice(bytes);
        if let Some((store, at, new)) = replacement.take() {
            // The reader waits: all the rest comes after it.
            let replace = async { put(&*store, &at, 2, &new).await.unwrap() };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(replace));
        }
    };
    match store.read(&at, &token, 0..LARGE_BYTES as u64, &mut landing).await {
        // The system kept what was open.
        Ok(()) => assert_eq!(out, old, "a mixture was read"),
        Err(error) => assert!(matches!(error, Error::VersionChanged { .. }), "{error:?}"),
    }
    let now = store.stat(&at).await.unwrap();
    assert_ne!(now.token, token);
    assert_eq!(get(&**store, &at, &now.token, LARGE_BYTES).await.unwrap(), new);
    store.delete_file(&at).await.unwrap();
}

/// A server that has just started may not have all that it serves yet.
async fn patient_get(store: &dyn UnderStore, at: &StorePath, token: &VersionToken) -> Vec<u8> {
    for _ in 0..60 {
        match get(store, at, token, LARGE_BYTES).await {
            Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(500)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the server was started again and cannot be read from");
}

/// The server is killed in the middle of a write, and after the seal of another.
async fn killed_in_a_write(server: &mut impl Server, store: &Arc<dyn UnderStore>) {
    let (torn, whole, content) = (path("torn"), path("whole"), body(LARGE_BYTES, 4));
    let mut sealed = store.stage(&whole, FileId([4; 16]), None).await.unwrap();
    sealed.write(content.clone()).await.unwrap();
    let sealed_record = StagedRecord::decode(&sealed.seal().await.unwrap().encode()).unwrap();
    assert!(matches!(sealed_record.body, StagedBody::Temp { .. }));
    let mut staged = store.stage(&torn, FileId([5; 16]), None).await.unwrap();
    staged.write(content.slice(..LARGE_BYTES / 2)).await.unwrap();
    server.restart().await.unwrap();
    let ended = async {
        staged.write(content.slice(LARGE_BYTES / 2..)).await?;
        staged.publish(&Condition::MustNotExist).await
    };
    // Some outlive a restart, and then they are whole.
    let ended = ended.await;
    let record = staged.begun();
    drop(staged);
    match &ended {
        Ok(token) => assert_eq!(patient_get(&**store, &torn, token).await, content),
        Err(error) => {
            println!("the write that lost its server: {error}");
            assert!(matches!(store.stat(&torn).await, Err(Error::NotFound { .. })), "something half is there");
            assert_eq!(store.settle(&record).await.unwrap(), Settled::Absent);
        }
    }
    // Another process has the record of the sealed one.
    drop(sealed);
    let other = citius_understore::open(&server.spec()).unwrap();
    let token = other.publish(&sealed_record, &Condition::MustNotExist).await.unwrap();
    assert_eq!(patient_get(&*other, &whole, &token).await, content);
    assert_eq!(store.settle(&sealed_record).await.unwrap(), Settled::Published(token));
    let swept = store.sweep(&|_| true).await.unwrap();
    assert_eq!(swept.seen, 0, "a temporary is left");
    let mut expected = vec!["whole"];
    expected.extend(ended.is_ok().then_some("torn"));
    expected.sort_unstable();
    assert_eq!(names(&**store).await, expected);
}

async fn endure(server: &mut impl Server) {
    let store = citius_understore::open(&server.spec()).unwrap();
    store.check().await.unwrap();
    replaced_in_the_middle(&store).await;
    killed_in_a_write(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_endures() {
    let mut server = Hdfs::start().await.unwrap();
    endure(&mut server).await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn webdav_endures() {
    let mut server = Webdav::start().await.unwrap();
    endure(&mut server).await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_endures() {
    let mut server = Sftp::start().await.unwrap();
    endure(&mut server).await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_says_what_is_wrong() {
    let server = Sftp::start().await.unwrap();
    let open = |spec: &MountSpec| citius_understore::open(spec).unwrap();
    let good = server.spec();
    let store = open(&good);
    put(&*store, &path("file"), 1, &body(1, 1)).await.unwrap();
    let at = |folder: &str| MountSpec { uri: format!("{}{folder}", good.uri), ..good.clone() };
    let missing = open(&at("/no/such")).check().await.unwrap_err();
    assert!(matches!(missing, Error::MissingFolder { .. }), "{missing}");
    let file = open(&at("/file")).check().await.unwrap_err();
    assert!(matches!(file, Error::NotAFolder { .. }), "{file}");
    // Whom it does not know, and whom it knows by another key.
    let scratch = tempfile::tempdir().unwrap();
    let (empty, changed) = (scratch.path().join("empty"), scratch.path().join("changed"));
    std::fs::write(&empty, "").unwrap();
    let user_key = std::fs::read_to_string(server.key_file().with_extension("pub")).unwrap();
    let port = server.port();
    std::fs::write(&changed, format!("[127.0.0.1]:{port} {user_key}")).unwrap();
    for (file, word) in [(&empty, "ssh-keyscan"), (&changed, "not the server that it was")] {
        let known_hosts = file.display().to_string();
        let spec = good.clone().option("sftp_known_hosts", known_hosts);
        let refused = open(&spec).check().await.unwrap_err();
        assert!(matches!(refused, Error::InvalidOption { .. }) && refused.to_string().contains(word), "{refused}");
        let diagnosis = diagnose(&spec, Probe::Read).await;
        let last = diagnosis.steps.last().unwrap();
        assert!(last.name == "keys" && matches!(last.outcome, Outcome::Failed(..)), "{diagnosis:?}");
    }
    let mut options = good.options.clone();
    options.remove("sftp_key_file");
    let keyless = MountSpec { options, ..good.clone() }.option("sftp_password", "hidden");
    let refused = open(&keyless).check().await.unwrap_err();
    assert!(matches!(refused, Error::WrongKeys { .. }) && !refused.to_string().contains("hidden"), "{refused}");
    // What is no file is named, and leads nowhere.
    let folder = server.folder();
    std::os::unix::fs::symlink("/etc", folder.join("link")).unwrap();
    std::fs::write(folder.join(std::ffi::OsStr::new("caf\u{fffd}")), "").unwrap();
    let pages: Vec<_> = store.list(&StorePath::root(), "").try_collect().await.unwrap();
    let refusals: Vec<_> = pages.iter().flat_map(|page| &page.refused).map(|refusal| refusal.name.as_str()).collect();
    assert_eq!(refusals, ["caf\u{fffd}", "link"]);
    assert!(matches!(store.stat(&path("link")).await, Err(Error::NotAFile { .. })));
    server.stop().unwrap();
    let away = store.check().await.unwrap_err();
    assert!(matches!(away, Error::Unreachable { .. }) && away.is_transient(), "{away}");
}

#[tokio::test(flavor = "multi_thread")]
async fn webdav_says_what_is_wrong() {
    let server = Webdav::start().await.unwrap();
    let open = |spec: &MountSpec| citius_understore::open(spec).unwrap();
    let good = server.spec();
    let store = open(&good);
    put(&*store, &path("file"), 1, &body(1, 1)).await.unwrap();
    let at = |folder: &str| MountSpec { uri: format!("{}{folder}", good.uri), ..good.clone() };
    let missing = open(&at("/no/such")).check().await.unwrap_err();
    assert!(matches!(missing, Error::MissingFolder { .. }), "{missing}");
    let file = open(&at("/file")).check().await.unwrap_err();
    assert!(matches!(file, Error::NotAFolder { .. }), "{file}");
    for wrong in [MountSpec::new(&good.uri), good.clone().option("webdav_password", "hidden")] {
        let refused = open(&wrong).check().await.unwrap_err();
        assert!(matches!(refused, Error::WrongKeys { .. }) && !refused.to_string().contains("hidden"), "{refused}");
    }
    let tls = MountSpec { uri: good.uri.replace("http:", "https:"), ..good.clone() };
    let refused = open(&tls).check().await.unwrap_err();
    assert!(matches!(refused, Error::Untrusted { .. }), "{refused}");
    server.stop().unwrap();
    let away = store.check().await.unwrap_err();
    assert!(matches!(away, Error::Unreachable { .. }) && away.is_transient(), "{away}");
}

/// What is wrong with a mount is told apart, in words, within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn hdfs_says_what_is_wrong() {
    let server = Hdfs::start().await.unwrap();
    let (name_node, user) = (server.name_node(), server.user());
    let open = |folder: &str, user: &str| {
        citius_understore::open(&MountSpec::new(format!("{name_node}{folder}")).option("hadoop_user", user)).unwrap()
    };
    let missing = open("/no/such/folder", user).check().await.unwrap_err();
    assert!(matches!(missing, Error::MissingFolder { .. }) && missing.to_string().contains("/no/such"), "{missing}");
    let whole = open("", user);
    whole.check().await.unwrap();
    let denied = whole.mkdir(&path("forbidden")).await.unwrap_err();
    assert!(matches!(denied, Error::PermissionDenied { .. }) && denied.to_string().contains(user), "{denied}");
    let denied = put(&*whole, &path("forbidden"), 1, &body(1, 1)).await.unwrap_err();
    assert!(matches!(denied, Error::PermissionDenied { .. }), "{denied}");
    let other = open(server.folder(), "somebody");
    let denied = put(&*other, &path("forbidden"), 1, &body(1, 1)).await.unwrap_err();
    assert!(matches!(denied, Error::PermissionDenied { .. }) && denied.to_string().contains("somebody"), "{denied}");
    let store = open(server.folder(), user);
    put(&*store, &path("file"), 2, &body(1, 1)).await.unwrap();
    let file = open(&format!("{}/file", server.folder()), user).check().await.unwrap_err();
    assert!(matches!(file, Error::NotAFolder { .. }), "{file}");
    let colon = store.mkdir(&path("a:b")).await.unwrap_err();
    assert!(matches!(colon, Error::Unnameable { .. }) && colon.to_string().contains("':'"), "{colon}");
    server.stop().unwrap();
    let away = store.check().await.unwrap_err();
    assert!(matches!(away, Error::Unreachable { .. }) && away.is_transient(), "{away}");
}
