//! The contract of every under-store, on real ones: a folder, memory, and an S3 server.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;

use citius_understore::{
    LocalStore, MemoryStore, MountSpec, StorePath, UnderStore,
    testing::{Report, conformance, servers::SeaweedFs},
};

/// Points that the suite has; a suite that lost some would still pass.
const POINTS: usize = 43;

async fn hold(store: Arc<dyn UnderStore>, skips: &[&str]) {
    let report: Report = conformance(store).await;
    println!("{report}");
    assert_eq!(report.failures().count(), 0, "{report}");
    let skipped: Vec<_> = report.skipped().map(|point| point.name).collect();
    assert_eq!(skipped, skips, "{report}");
    assert_eq!(report.passed() + skips.len(), POINTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    hold(Arc::new(MemoryStore::new("memory://conformance")), &["descriptors_show_one_version"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path().to_owned()).unwrap();
    hold(Arc::new(store), &["shared_upload", "one_replacer_wins"]).await;
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let hidden: Vec<_> = left.iter().filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "temporaries are left: {hidden:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_bucket_and_prefix() {
    let server = SeaweedFs::start().await.unwrap();
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.s3().mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold(store, &["backslashes_in_names", "descriptors_show_one_version"]).await;
    }
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn s3_of_a_ceph_gateway() {
    use citius_understore::testing::servers::{CephGateway, CephStore};

    let server = CephGateway::start(CephStore::Memory).await.unwrap();
    println!("ceph {}", server.version());
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.s3().mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold(store, &["descriptors_show_one_version"]).await;
    }
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn hdfs() {
    use citius_understore::testing::servers::Hdfs;

    let server = Hdfs::start().await.unwrap();
    println!("hadoop {}", server.version());
    let spec =
        |folder: &str| MountSpec::new(format!("{}{folder}", server.name_node())).option("hadoop_user", server.user());
    let above = citius_understore::open(&spec(server.folder())).unwrap();
    above.mkdir(&StorePath::parse("pre fix%").unwrap()).await.unwrap();
    let store = citius_understore::open(&spec(&format!("{}/pre fix%", server.folder()))).unwrap();
    store.check().await.unwrap();
    hold(store, &["shared_upload", "one_replacer_wins", "descriptors_show_one_version"]).await;
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn webdav_of_apache() {
    use citius_understore::testing::servers::Webdav;

    let server = Webdav::start().await.unwrap();
    println!("apache {}", server.version());
    let (user, password) = server.keys();
    let spec = |folder: &str| {
        let spec = MountSpec::new(format!("{}{folder}", server.endpoint()));
        spec.option("webdav_user", user).option("webdav_password", password)
    };
    let above = citius_understore::open(&spec("")).unwrap();
    above.mkdir(&StorePath::parse("pre fix%").unwrap()).await.unwrap();
    let store = citius_understore::open(&spec("/pre%20fix%25")).unwrap();
    store.check().await.unwrap();
    hold(store, &["shared_upload", "one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"]).await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn webdav_of_seaweedfs() {
    let server = SeaweedFs::start().await.unwrap();
    let root = server.webdav().replace("http", "webdav");
    // The root has a folder of the server's own.
    let above = citius_understore::open(&MountSpec::new(&root)).unwrap();
    above.mkdir(&StorePath::parse("pre fix%").unwrap()).await.unwrap();
    let store = citius_understore::open(&MountSpec::new(format!("{root}/pre%20fix%25"))).unwrap();
    store.check().await.unwrap();
    hold(store, &["shared_upload", "one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"]).await;
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn sftp() {
    use citius_understore::testing::servers::Sftp;

    let server = Sftp::start().await.unwrap();
    println!("openssh {}", server.version());
    let folder = server.folder().join("pre fix%");
    std::fs::create_dir(&folder).unwrap();
    let spec = MountSpec::new(format!("sftp://{}@{}{}", server.user(), server.address(), folder.display()))
        .option("sftp_key_file", server.key_file().display().to_string())
        .option("sftp_known_hosts", server.known_hosts().display().to_string());
    let store = citius_understore::open(&spec).unwrap();
    store.check().await.unwrap();
    hold(Arc::clone(&store), &["shared_upload", "one_replacer_wins", "descriptors_show_one_version"]).await;
    // The empty folder of temporaries goes with a sweep.
    let swept = store.sweep(&|_| true).await.unwrap();
    assert_eq!(swept.seen, 0, "temporaries are left");
    let left = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "hidden files are left: {hidden:?}");
    server.stop().unwrap();
}
