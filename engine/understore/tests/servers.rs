//! Each real server of `testing::servers` that the under-store suites use most: it starts, keeps one object, says which
//! version it is, waits while it is paused, and leaves nothing behind. What the adapters make of them is in the suites.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{future::Future, pin::pin, time::Duration};

use bytes::Bytes;
use citius_understore::{
    Condition, Error, FileId, MountSpec, StorePath, open,
    testing::servers::{
        Azurite, CephGateway, CephStore, Dialect, Gluster, Hdfs, S3Bucket, SeaweedFs, Server, StandIn, call, get,
    },
};
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion,
    aws::{AmazonS3, AmazonS3Builder},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    path::Path,
};

/// Long enough for a server that is not paused to give itself away, mostly.
const PAUSE: Duration = Duration::from_millis(500);
const CONTENT: &[u8] = b"the first object";

async fn keeps_one_object(store: &dyn ObjectStore) {
    let path = Path::from("folder/object");
    store.put(&path, PutPayload::from_static(CONTENT)).await.unwrap();
    assert_eq!(read(store).await, CONTENT);
}

/// What is asked of a paused server is answered when it goes on, and not before.
async fn waits_while_paused<T>(server: &impl Server, asked: impl Future<Output = T>) -> T {
    server.pause().unwrap();
    let mut asked = pin!(asked);
    let early = tokio::time::timeout(PAUSE, &mut asked).await.is_ok();
    server.resume().unwrap();
    assert!(!early, "a paused server answers");
    asked.await
}

async fn read(store: &dyn ObjectStore) -> Bytes {
    store.get(&Path::from("folder/object")).await.unwrap().bytes().await.unwrap()
}

#[tokio::test]
async fn azurite() {
    let mut server = Azurite::start().await.unwrap();
    println!("azurite {}", server.version());
    let build = |server: &Azurite, key: &str| {
        MicrosoftAzureBuilder::new()
            .with_account(server.account())
            .with_access_key(key)
            .with_endpoint(server.endpoint())
            .with_allow_http(true)
            .with_container_name(server.container())
            .build()
            .unwrap()
    };
    keeps_one_object(&build(&server, server.key())).await;
    let error = build(&server, "d3Jvbmc=").get(&Path::from("folder/object")).await.unwrap_err();
    assert!(matches!(error, object_store::Error::PermissionDenied { .. }), "{error:?}");
    waits_while_paused(&server, keeps_one_object(&build(&server, server.key()))).await;
    server.restart().await.unwrap();
    keeps_one_object(&build(&server, server.key())).await;
    server.stop().unwrap();
}

/// Users of Alluxio and of Hadoop bring the names that they know, and see the same bucket.
#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_by_the_names_of_others() {
    let server = SeaweedFs::start().await.unwrap();
    let bucket = server.s3();
    keeps_one_object(&s3(bucket, bucket.keys().1)).await;
    let (key, secret) = bucket.keys();
    let uri = format!("s3a://{}/folder", bucket.name());
    let host = bucket.endpoint().replace("http://", "");
    let per_bucket = format!("fs.s3a.bucket.{}.endpoint", bucket.name());
    let alluxio = [
        ("s3a.accessKeyId", key),
        ("s3a.secretKey", secret),
        ("alluxio.underfs.s3.endpoint", bucket.endpoint()),
        ("alluxio.underfs.s3.region", "us-east-1"),
        ("alluxio.underfs.s3.disable.dns.buckets", "true"),
        ("alluxio.underfs.s3.secure.http.enabled", "false"),
        ("alluxio.underfs.s3.inherit.acl", "false"),
    ];
    let hadoop = [
        ("fs.s3a.access.key", key),
        ("fs.s3a.secret.key", secret),
        ("fs.s3a.endpoint", "s3.amazonaws.com"),
        (per_bucket.as_str(), host.as_str()),
        ("fs.s3a.path.style.access", "true"),
        ("fs.s3a.connection.ssl.enabled", "false"),
    ];
    for options in [&alluxio[..], &hadoop[..]] {
        let spec = options.iter().fold(MountSpec::new(&uri), |spec, (name, value)| spec.option(*name, *value));
        let store = open(&spec).unwrap();
        store.check().await.unwrap();
        let object = StorePath::parse("object").unwrap();
        let stat = store.stat(&object).await.unwrap();
        let mut bytes = Vec::new();
        let mut landing = |_: u64, piece: &[u8]| bytes.extend_from_slice(piece);
        store.read(&object, &stat.token, 0..stat.len, &mut landing).await.unwrap();
        assert_eq!(bytes, CONTENT);
        let shown = format!("{spec:?} {store:?} {:?}", spec.redacted_options());
        assert!(!shown.contains(secret) && !shown.contains(key), "{shown}");
    }
    server.stop().unwrap();
}

fn s3(bucket: &S3Bucket, secret: &str) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(bucket.endpoint())
        .with_allow_http(true)
        .with_bucket_name(bucket.name())
        .with_access_key_id(bucket.keys().0)
        .with_secret_access_key(secret)
        .with_region("us-east-1")
        .build()
        .unwrap()
}

async fn keeps_one_object_by_swift(auth_url: &str, (user, key): (&str, &str), container: &str) {
    let login = |key: &str| {
        Request::get(auth_url).header("x-auth-user", user).header("x-auth-key", key).body(Bytes::new()).unwrap()
    };
    assert!(call(login("wrong")).await.unwrap().status().is_client_error());
    let answer = call(login(key)).await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    let token = answer.headers()["x-auth-token"].to_str().unwrap();
    let url = format!("{}/{container}/by-swift", answer.headers()["x-storage-url"].to_str().unwrap());
    let request = |method, content| {
        Request::builder()
            .method(method)
            .uri(&url)
            .header("x-auth-token", token)
            .body(Bytes::from_static(content))
            .unwrap()
    };
    assert_eq!(call(request(Method::PUT, CONTENT)).await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(call(request(Method::GET, b"")).await.unwrap().body(), CONTENT);
}

#[tokio::test]
async fn ceph_gateway() {
    let mut server = CephGateway::start(CephStore::Memory).await.unwrap();
    println!("ceph {}", server.version());
    let store = s3(server.s3(), server.s3().keys().1);
    keeps_one_object(&store).await;
    let error = s3(server.s3(), "wrong").get(&Path::from("folder/object")).await.unwrap_err();
    assert!(matches!(error, object_store::Error::PermissionDenied { .. }), "{error:?}");
    keeps_one_object_by_swift(&server.swift_auth_url(), server.swift_keys(), server.container()).await;
    assert_eq!(waits_while_paused(&server, read(&store)).await, CONTENT);
    server.restart().await.unwrap();
    assert_eq!(read(&store).await, CONTENT);
    server.stop().unwrap();
}

#[tokio::test]
async fn gluster() {
    let mut server = Gluster::start().await.unwrap();
    println!("glusterfs {}", server.version());
    let path = server.path();
    std::fs::create_dir(path.join("folder")).unwrap();
    std::fs::write(path.join("folder/file"), CONTENT).unwrap();
    let another = path.join("folder/another");
    let writing = async { tokio::task::spawn_blocking(move || std::fs::write(another, CONTENT)).await };
    waits_while_paused(&server, writing).await.unwrap().unwrap();
    server.restart().await.unwrap();
    assert_eq!(std::fs::read(path.join("folder/file")).unwrap(), CONTENT);
    is_found_again(&mut server).await;
    server.stop().unwrap();
    assert!(!path.exists(), "the mount or its folder is left");
}

/// A mount of a folder outlives the client of its file system: what was open is gone with that, and is opened anew.
async fn is_found_again(server: &mut Gluster) {
    let spec = MountSpec::new(format!("file://{}/folder", server.path().display()));
    let store = open(&spec).unwrap();
    let file = StorePath::parse("file").unwrap();
    store.check().await.unwrap();
    server.mount_again().await.unwrap();
    // The kernel remembers names and lengths for a while, and has no descriptor to give.
    let page = store.list(&StorePath::root(), "").next().await.unwrap();
    assert!(page.as_ref().is_err_and(Error::is_transient), "{page:?}");
    assert_eq!(store.stat(&file).await.unwrap().len, CONTENT.len() as u64);
    let page = store.list(&StorePath::root(), "").next().await.unwrap().unwrap();
    assert!(page.entries.iter().any(|entry| entry.name == "file"), "{page:?}");
    store.check().await.unwrap();
}

#[tokio::test]
async fn hdfs() {
    let mut server = Hdfs::start().await.unwrap();
    println!("hdfs {}", server.version());
    let file = format!("{}{}/file?user.name={}", server.web(), server.folder(), server.user());
    let put = |uri: &str| Request::put(uri).body(Bytes::from_static(CONTENT)).unwrap();
    // A name node says which data node takes the content.
    let answer = call(put(&format!("{file}&op=CREATE"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT, "{answer:?}");
    let answer = call(put(answer.headers()["location"].to_str().unwrap())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED, "{answer:?}");
    waits_while_paused(&server, get(&format!("{file}&op=GETFILESTATUS"))).await.unwrap();
    server.restart().await.unwrap();
    let answer = get(&format!("{file}&op=OPEN")).await.unwrap();
    let answer = get(answer.headers()["location"].to_str().unwrap()).await.unwrap();
    assert_eq!(answer.body(), CONTENT);
    server.stop().unwrap();
}

#[tokio::test]
async fn seaweedfs() {
    let mut server = SeaweedFs::start().await.unwrap();
    println!("seaweedfs {}", server.version());
    let store = s3(server.s3(), server.s3().keys().1);
    keeps_one_object(&store).await;
    let error = s3(server.s3(), "wrong").get(&Path::from("folder/object")).await.unwrap_err();
    assert!(matches!(error, object_store::Error::PermissionDenied { .. }), "{error:?}");
    let file = format!("{}/by-webdav", server.webdav());
    let answer = call(Request::put(&file).body(Bytes::from_static(CONTENT)).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED, "{answer:?}");
    assert_eq!(waits_while_paused(&server, read(&store)).await, CONTENT);
    server.restart().await.unwrap();
    assert_eq!(read(&store).await, CONTENT);
    assert_eq!(get(&file).await.unwrap().body(), CONTENT);
    server.stop().unwrap();
}

/// Without its shim SeaweedFS takes a copy for a put of nothing, and a condition for none.
#[tokio::test]
async fn gcs_stand_in() {
    let server = StandIn::start(Dialect::Gcs).await.unwrap();
    println!("gcs: seaweedfs {}", server.version());
    let store = GoogleCloudStorageBuilder::new()
        .with_base_url(&server.endpoint())
        .with_bearer_token(server.token())
        .with_bucket_name(server.bucket())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()
        .unwrap();
    keeps_one_object(&store).await;
    let (path, copy) = (Path::from("folder/object"), Path::from("copy"));
    store.copy(&path, &copy).await.unwrap();
    assert_eq!(store.get(&copy).await.unwrap().bytes().await.unwrap(), CONTENT);

    let error = store.put_opts(&path, "other".into(), PutMode::Create.into()).await.unwrap_err();
    assert!(matches!(error, object_store::Error::AlreadyExists { .. }), "{error:?}");
    let first = store.head(&path).await.unwrap();
    let version = UpdateVersion { e_tag: first.e_tag, version: first.version };
    store.put_opts(&path, "second".into(), PutMode::Update(version.clone()).into()).await.unwrap();
    let error = store.put_opts(&path, "third".into(), PutMode::Update(version).into()).await.unwrap_err();
    assert!(matches!(error, object_store::Error::Precondition { .. }), "{error:?}");
    assert_eq!(read(&store).await, "second");

    let request = Request::put(format!("{}/{}/object", server.endpoint(), server.bucket()))
        .header("authorization", format!("Bearer {}", server.token()))
        .header("x-goog-of-tomorrow", "true");
    let answer = call(request.body(Bytes::from_static(b"other")).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED, "{answer:?}");
    server.stop().unwrap();
}

#[tokio::test]
async fn oss_stand_in() {
    let server = StandIn::start(Dialect::Oss).await.unwrap();
    println!("oss: seaweedfs {}", server.version());
    let store = open(&server.mount("")).unwrap();
    let (path, copy) = (StorePath::parse("object").unwrap(), StorePath::parse("copy").unwrap());
    let put = async |content: &'static [u8], condition: &Condition| {
        let mut staged = store.stage(&path, FileId([1; 16]), None).await.unwrap();
        staged.write(Bytes::from_static(content)).await.unwrap();
        staged.publish(condition).await
    };
    put(CONTENT, &Condition::MustNotExist).await.unwrap();
    let stat = store.rename(&path, &copy, &Condition::MustNotExist).await.unwrap();
    put(b"other", &Condition::Any).await.unwrap();
    let error = store.rename(&path, &copy, &Condition::MustNotExist).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
    let mut read = Vec::new();
    let mut landing = |_: u64, bytes: &[u8]| read.extend_from_slice(bytes);
    store.read(&copy, &stat.token, 0..stat.len, &mut landing).await.unwrap();
    assert_eq!(read, CONTENT);
    let url = format!("{}/{}/copy", server.endpoint(), server.bucket());
    assert_eq!(get(&url).await.unwrap().status(), StatusCode::FORBIDDEN, "nobody has signed");
    server.stop().unwrap();
}
