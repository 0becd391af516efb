//! The contract of every under-store, on real ones: a folder, memory, and S3 servers, some of which stand in for others.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;

use citius_understore::{
    LocalStore, MemoryStore, MountSpec, StorePath, UnderStore,
    testing::{
        Paired, Ran, Report, conformance,
        servers::{Azurite, CephGateway, CephStore, Dialect, Gluster, Hdfs, SeaweedFs, StandIn},
    },
};

/// Points that the suite has; a suite that lost some would still pass.
const POINTS: usize = 46;

/// Holds a store to the contract: a system, as docs/under-stores.md calls it, on a server.
async fn hold(system: &str, server: &str, store: Arc<dyn UnderStore>, skips: &[&str]) {
    println!("{system}: {server}");
    let report: Report = conformance(store).await;
    println!("{report}");
    assert_eq!(report.failures().count(), 0, "{report}");
    let skipped: Vec<_> = report.skipped().map(|point| point.name).collect();
    assert_eq!(skipped, skips, "{report}");
    assert_eq!(report.passed() + skips.len(), POINTS);
    Ran::contract(system, server, &report).keep();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    hold(
        "memory",
        "this process",
        Arc::new(MemoryStore::new("memory://conformance")),
        &["descriptors_show_one_version"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn example() {
    let store = citius_understore::open(&MountSpec::new("example://conformance")).unwrap();
    hold("example", "this process", store, &["shared_upload", "one_replacer_wins", "descriptors_show_one_version"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path().to_owned()).unwrap();
    hold("local", "this machine", Arc::new(store), &["shared_upload", "one_replacer_wins"]).await;
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let hidden: Vec<_> = left.iter().filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "temporaries are left: {hidden:?}");
}

/// Folders that are served by FUSE, and so are far: nothing is read through descriptors.
const FAR_FOLDER_SKIPS: [&str; 3] = ["shared_upload", "one_replacer_wins", "descriptors_show_one_version"];

/// As a user names it, by server and volume: this machine has it mounted.
#[tokio::test(flavor = "multi_thread")]
async fn gluster() {
    let server = Gluster::start().await.unwrap();
    std::fs::create_dir(server.path().join("pre fix%")).unwrap();
    let store = citius_understore::open(&MountSpec::new("glusterfs://127.0.0.1/citius/pre fix%")).unwrap();
    store.check().await.unwrap();
    hold("gluster", &format!("GlusterFS {}", server.version()), store, &FAR_FOLDER_SKIPS).await;
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn cephfs() {
    use citius_understore::testing::servers::CephFs;

    let server = CephFs::start(CephStore::Memory).await.unwrap();
    let folder = server.path().join("pre fix%");
    std::fs::create_dir(&folder).unwrap();
    let store = citius_understore::open(&MountSpec::new(folder.to_str().unwrap())).unwrap();
    store.check().await.unwrap();
    hold("cephfs", &format!("CephFS {}", server.version()), store, &FAR_FOLDER_SKIPS).await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_bucket_and_prefix() {
    let server = SeaweedFs::start().await.unwrap();
    let name = format!("SeaweedFS {}", server.version());
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.s3().mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold("s3", &name, store, &["backslashes_in_names", "descriptors_show_one_version"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_of_a_ceph_gateway() {
    let server = CephGateway::start(CephStore::Memory).await.unwrap();
    let name = format!("Ceph RGW {}", server.version());
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.s3().mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold("ceph-s3", &name, store, &["descriptors_show_one_version"]).await;
    }
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn s3_of_minio() {
    use citius_understore::testing::servers::Minio;

    let server = Minio::start().await.unwrap();
    let name = format!("MinIO {}", server.version());
    // Its markers have longer names on its disk. It takes a prefix of uploads for a whole key, and drops them by itself
    // after a day.
    let skips: [(&str, &[&str]); 2] = [
        ("", &["names_of_the_greatest_length", "descriptors_show_one_version"]),
        (
            "deep/pre fix%",
            &["names_of_the_greatest_length", "sweep_takes_the_dead_only", "descriptors_show_one_version"],
        ),
    ];
    for (prefix, skips) in skips {
        let store = citius_understore::open(&server.s3().mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold("minio", &name, store, skips).await;
    }
    server.stop().unwrap();
}

/// What SeaweedFS cannot show of it - generations that differ for equal content - is in `dialects.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn gcs_through_a_stand_in() {
    let server = StandIn::start(Dialect::Gcs).await.unwrap();
    let by_token = server.keyless("deep/pre fix%").option("google_bearer_token", server.token());
    for spec in [server.mount(""), by_token] {
        let store = citius_understore::open(&spec).unwrap();
        store.check().await.unwrap();
        let name = format!("stand-in before SeaweedFS {}", server.version());
        hold("gcs", &name, store, &["backslashes_in_names", "descriptors_show_one_version"]).await;
    }
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn oss_through_a_stand_in() {
    let server = StandIn::start(Dialect::Oss).await.unwrap();
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.mount(prefix)).unwrap();
        store.check().await.unwrap();
        // It cannot be told which version to replace.
        let name = format!("stand-in before SeaweedFS {}", server.version());
        hold("oss", &name, store, &["backslashes_in_names", "one_replacer_wins", "descriptors_show_one_version"]).await;
    }
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs() {
    let server = Hdfs::start().await.unwrap();
    let spec =
        |folder: &str| MountSpec::new(format!("{}{folder}", server.name_node())).option("hadoop_user", server.user());
    let above = citius_understore::open(&spec(server.folder())).unwrap();
    above.mkdir(&StorePath::parse("pre fix%").unwrap()).await.unwrap();
    let store = citius_understore::open(&spec(&format!("{}/pre fix%", server.folder()))).unwrap();
    store.check().await.unwrap();
    let name = format!("Hadoop {}", server.version());
    hold("hdfs", &name, store, &["shared_upload", "one_replacer_wins", "descriptors_show_one_version"]).await;
    server.stop().unwrap();
}

/// What OpenDAL reads is held against what is written natively, version by version.
#[tokio::test(flavor = "multi_thread")]
async fn webdav_by_opendal() {
    let server = SeaweedFs::start().await.unwrap();
    let root = server.webdav();
    let native = |folder: &str| {
        citius_understore::open(&MountSpec::new(format!("{}{folder}", root.replace("http", "webdav")))).unwrap()
    };
    native("").mkdir(&StorePath::parse("pre fix%").unwrap()).await.unwrap();
    let spec = MountSpec::new("opendal+webdav:///pre fix%").option("endpoint", &root);
    let reads = citius_understore::open(&MountSpec { read_only: true, ..spec }).unwrap();
    reads.check().await.unwrap();
    let store = Arc::new(Paired::new(reads, native("/pre%20fix%25")));
    let name = format!("SeaweedFS {}, written natively", server.version());
    let skips = ["odd_names", "shared_upload", "one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"];
    hold("opendal-webdav", &name, store, &skips).await;
    server.stop().unwrap();
}

/// The name node that is asked first is standby.
#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn hdfs_of_two_name_nodes() {
    use citius_understore::testing::servers::{HdfsPair, NameNode};

    let server = HdfsPair::start(NameNode::Second).await.unwrap();
    let spec = |folder: &str| {
        MountSpec::new(format!("{}{folder}", server.uri()))
            .option("hdfs_conf_dir", server.conf_dir().display().to_string())
            .option("hadoop_user", server.user())
    };
    let above = citius_understore::open(&spec("")).unwrap();
    above.mkdir(&StorePath::parse("pre fix%").unwrap()).await.unwrap();
    let store = citius_understore::open(&spec("/pre fix%")).unwrap();
    store.check().await.unwrap();
    let name = format!("Hadoop {}, two name nodes", server.version());
    hold("hdfs-ha", &name, store, &["shared_upload", "one_replacer_wins", "descriptors_show_one_version"]).await;
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[test]
fn hdfs_with_kerberos() {
    use citius_understore::testing::{
        is_alone, run_alone,
        servers::{Hdfs, Kdc, Protection},
    };

    const THIS: &str = "hdfs_with_kerberos";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let told = |variable: &str| std::env::var(variable).unwrap();
    let spec = |folder: &str| {
        MountSpec::new(format!("{}{folder}", told("TEST_URI")))
            .option("hdfs_conf_dir", told("TEST_CONF_DIR"))
            .option("kerberos_principal", told("TEST_PRINCIPAL"))
            .option("kerberos_keytab", told("TEST_KEYTAB"))
    };
    if is_alone(THIS) {
        return runtime.block_on(async {
            let above = citius_understore::open(&spec("")).unwrap();
            above.mkdir(&StorePath::parse("pre fix%").unwrap()).await.unwrap();
            let store = citius_understore::open(&spec("/pre fix%")).unwrap();
            store.check().await.unwrap();
            let skips = ["shared_upload", "one_replacer_wins", "descriptors_show_one_version"];
            hold("hdfs-kerberos", &told("TEST_SERVER"), store, &skips).await;
        });
    }
    let kdc = runtime.block_on(Kdc::start()).unwrap();
    let hdfs = runtime.block_on(Hdfs::start_secure(&kdc, Protection::Privacy)).unwrap();
    let variables = [
        ("KRB5_CONFIG", kdc.config().display().to_string()),
        ("TEST_URI", format!("{}{}", hdfs.name_node(), hdfs.folder())),
        ("TEST_CONF_DIR", hdfs.conf_dir().display().to_string()),
        ("TEST_PRINCIPAL", kdc.principal(hdfs.user())),
        ("TEST_KEYTAB", kdc.keytab(hdfs.user()).unwrap().display().to_string()),
        ("TEST_SERVER", format!("Hadoop {}, MIT Kerberos {}, privacy", hdfs.version(), kdc.version())),
    ];
    run_alone(THIS, &variables);
    hdfs.stop().unwrap();
    kdc.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_of_azurite() {
    // Beside each other, for what time alone fences is waited out.
    let runs = ["", "deep/pre fix%"].map(async |prefix| {
        let server = Azurite::start().await.unwrap();
        let store = citius_understore::open(&server.mount(prefix)).unwrap();
        store.check().await.unwrap();
        // Azure takes a backslash for a slash, too.
        let skips = [
            "backslashes_in_names",
            "listing_begins_where_it_is_asked",
            "sweep_takes_the_dead_only",
            "descriptors_show_one_version",
        ];
        hold("azure", &format!("Azurite {}", server.version()), store, &skips).await;
        server.stop().unwrap();
    });
    futures::future::join_all(runs).await;
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn webdav_of_apache() {
    use citius_understore::testing::servers::Webdav;

    let server = Webdav::start().await.unwrap();
    let (user, password) = server.keys();
    let spec = |folder: &str| {
        let spec = MountSpec::new(format!("{}{folder}", server.endpoint()));
        spec.option("webdav_user", user).option("webdav_password", password)
    };
    let above = citius_understore::open(&spec("")).unwrap();
    above.mkdir(&StorePath::parse("pre fix%").unwrap()).await.unwrap();
    let store = citius_understore::open(&spec("/pre%20fix%25")).unwrap();
    store.check().await.unwrap();
    let name = format!("Apache {}", server.version());
    hold(
        "webdav-apache",
        &name,
        store,
        &["shared_upload", "one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"],
    )
    .await;
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
    let name = format!("SeaweedFS {}", server.version());
    hold(
        "webdav",
        &name,
        store,
        &["shared_upload", "one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"],
    )
    .await;
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn sftp() {
    use citius_understore::testing::servers::Sftp;

    let server = Sftp::start().await.unwrap();
    let folder = server.folder().join("pre fix%");
    std::fs::create_dir(&folder).unwrap();
    let spec = MountSpec::new(format!("sftp://{}@{}{}", server.user(), server.address(), folder.display()))
        .option("sftp_key_file", server.key_file().display().to_string())
        .option("sftp_known_hosts", server.known_hosts().display().to_string());
    let store = citius_understore::open(&spec).unwrap();
    store.check().await.unwrap();
    hold(
        "sftp",
        &format!("OpenSSH {}", server.version()),
        Arc::clone(&store),
        &["shared_upload", "one_replacer_wins", "descriptors_show_one_version"],
    )
    .await;
    // The empty folder of temporaries goes with a sweep.
    let swept = store.sweep(&|_| true).await.unwrap();
    assert_eq!(swept.seen, 0, "temporaries are left");
    let left = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "hidden files are left: {hidden:?}");
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn swift_of_a_ceph_gateway() {
    let server = CephGateway::start(CephStore::Memory).await.unwrap();
    let name = format!("Ceph RGW {}", server.version());
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.swift_mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold("ceph-swift", &name, store, &["one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"])
            .await;
    }
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn swift() {
    use citius_understore::testing::servers::Swift;

    // Beside each other, for what time alone fences is waited out.
    let runs = ["", "deep/pre fix%"].map(async |prefix| {
        let server = Swift::start().await.unwrap();
        let name = format!("OpenStack Swift {}", server.version());
        let store = citius_understore::open(&server.mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold("swift", &name, store, &["one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"]).await;
        server.stop().unwrap();
    });
    futures::future::join_all(runs).await;
}

/// With tokens that end while it runs.
#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn swift_of_keystone() {
    use citius_understore::testing::servers::{Keystone, Tokens};

    let server = Keystone::start(Tokens::Ending(30)).await.unwrap();
    let name = format!("OpenStack Keystone {}", server.version());
    let store = citius_understore::open(&server.mount("deep/pre fix%")).unwrap();
    store.check().await.unwrap();
    let skips = ["one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"];
    hold("swift-keystone", &name, store, &skips).await;
    server.stop().unwrap();
}
