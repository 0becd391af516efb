//! Each real server of `testing::servers` that only `ci/test --all` has: it starts, keeps one file, says which version it
//! is, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    io::Write,
    process::{Command, Stdio},
};

use bytes::Bytes;
use citius_understore::testing::servers::{
    CephFs, CephGateway, CephStore, Keystone, Minio, Sftp, Swift, Tokens, Webdav, call, get,
};
use citius_understore::{Condition, FileId, StorePath, open};
use http::{HeaderValue, Method, Request, StatusCode};

const CONTENT: &[u8] = b"the first file";

#[tokio::test]
async fn cephfs() {
    let server = CephFs::start(CephStore::Memory).await.unwrap();
    println!("cephfs {}", server.version());
    let path = server.path();
    std::fs::create_dir(path.join("folder")).unwrap();
    std::fs::write(path.join("folder/file"), CONTENT).unwrap();
    assert_eq!(std::fs::read(path.join("folder/file")).unwrap(), CONTENT);
    server.stop().unwrap();
    assert!(!path.exists(), "the mount or its folder is left");
}

/// Every daemon is killed, not only the gateway: what was acknowledged is in the object store daemon's files.
#[tokio::test]
async fn ceph_gateway_on_bluestore() {
    let mut server = CephGateway::start(CephStore::Bluestore).await.unwrap();
    println!("ceph {} on bluestore", server.version());
    let (url, token) = log_in(&server.swift_auth_url(), server.swift_keys(), server.container()).await;
    assert_eq!(call(request(Method::PUT, &url, &token, CONTENT)).await.unwrap().status(), StatusCode::CREATED);
    server.restart().await.unwrap();
    assert_eq!(call(request(Method::GET, &url, &token, b"")).await.unwrap().body(), CONTENT);
    server.stop().unwrap();
}

#[tokio::test]
async fn minio() {
    let mut server = Minio::start().await.unwrap();
    println!("minio {}", server.version());
    let path = StorePath::parse("file").unwrap();
    let mut staged = open(&server.s3().mount("")).unwrap().stage(&path, FileId([1; 16]), None).await.unwrap();
    staged.write(Bytes::from_static(CONTENT)).await.unwrap();
    let token = staged.publish(&Condition::MustNotExist).await.unwrap();
    server.restart().await.unwrap();
    let mut found = Vec::new();
    let mut landing = |_: u64, part: &[u8]| found.extend_from_slice(part);
    let store = open(&server.s3().mount("")).unwrap();
    store.read(&path, &token, 0..CONTENT.len() as u64, &mut landing).await.unwrap();
    assert_eq!(found, CONTENT);
    server.stop().unwrap();
}

/// Where a file of a Swift container is, and a token for it.
async fn log_in(auth_url: &str, (user, key): (&str, &str), container: &str) -> (String, HeaderValue) {
    let login = Request::get(auth_url).header("x-auth-user", user).header("x-auth-key", key);
    let answer = call(login.body(Bytes::new()).unwrap()).await.unwrap();
    let url = format!("{}/{container}/file", answer.headers()["x-storage-url"].to_str().unwrap());
    (url, answer.headers()["x-auth-token"].clone())
}

fn request(method: Method, url: &str, token: &HeaderValue, content: &'static [u8]) -> Request<Bytes> {
    let builder = Request::builder().method(method).uri(url).header("x-auth-token", token);
    builder.body(Bytes::from_static(content)).unwrap()
}

#[tokio::test]
async fn swift() {
    let mut server = Swift::start().await.unwrap();
    println!("swift {}", server.version());
    let (url, token) = log_in(&server.auth_url(), server.keys(), server.container()).await;
    assert_eq!(call(request(Method::PUT, &url, &token, CONTENT)).await.unwrap().status(), StatusCode::CREATED);
    server.restart().await.unwrap();
    assert_eq!(call(request(Method::GET, &url, &token, b"")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let (url, token) = log_in(&server.auth_url(), server.keys(), server.container()).await;
    assert_eq!(call(request(Method::GET, &url, &token, b"")).await.unwrap().body(), CONTENT);
    server.stop().unwrap();
}

#[tokio::test]
async fn keystone() {
    let mut server = Keystone::start(Tokens::Revocable).await.unwrap();
    println!("keystone {}", server.version());
    let login = server.log_in(server.member()).await.unwrap();
    let document: serde_json::Value = serde_json::from_slice(login.body()).unwrap();
    let project = document["token"]["project"]["id"].as_str().unwrap();
    let catalog = document["token"]["catalog"].as_array().unwrap();
    let swift = catalog.iter().find(|service| service["type"] == "object-store").unwrap();
    let account = swift["endpoints"][0]["url"].as_str().unwrap();
    assert!(account.ends_with(&format!("/v1/AUTH_{project}")), "{account}");
    let url = format!("{account}/{}/file", server.container());
    let token = login.headers()["x-subject-token"].clone();
    assert_eq!(get(&url).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(call(request(Method::PUT, &url, &token, CONTENT)).await.unwrap().status(), StatusCode::CREATED);
    server.restart().await.unwrap();
    assert_eq!(call(request(Method::GET, &url, &token, b"")).await.unwrap().body(), CONTENT, "with the same token");
    server.stop().unwrap();
}

#[tokio::test]
async fn webdav() {
    let mut server = Webdav::start().await.unwrap();
    println!("apache {}", server.version());
    let (user, password) = server.keys();
    // Basic authentication, which a URL cannot carry here.
    let secret = Command::new("openssl").args(["base64", "-A"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut secret = secret.unwrap();
    write!(secret.stdin.take().unwrap(), "{user}:{password}").unwrap();
    let secret = String::from_utf8(secret.wait_with_output().unwrap().stdout).unwrap();
    let url = format!("{}/file", server.endpoint());
    assert_eq!(get(&url).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let authorized = |builder: http::request::Builder| builder.header("authorization", format!("Basic {secret}"));
    let put = authorized(Request::put(&url)).body(Bytes::from_static(CONTENT)).unwrap();
    assert_eq!(call(put).await.unwrap().status(), StatusCode::CREATED);
    server.restart().await.unwrap();
    let get = authorized(Request::get(&url)).body(Bytes::new()).unwrap();
    assert_eq!(call(get).await.unwrap().body(), CONTENT);
    server.stop().unwrap();
}

#[tokio::test]
async fn sftp() {
    let mut server = Sftp::start().await.unwrap();
    println!("openssh {}", server.version());
    let scratch = tempfile::tempdir().unwrap();
    let (mine, theirs) = (scratch.path().join("mine"), scratch.path().join("theirs"));
    std::fs::write(&mine, CONTENT).unwrap();
    let on_server = server.folder().join("file");
    let sftp = |server: &Sftp, batch: String| {
        let mut client = Command::new("sftp")
            .args(["-q", "-F", "none", "-b", "-", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"])
            .args(["-o", &format!("UserKnownHostsFile={}", server.known_hosts().display())])
            .args(["-P", &server.port().to_string(), "-i"])
            .arg(server.key_file())
            .arg(format!("{}@127.0.0.1", server.user()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        client.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
        assert!(client.wait().unwrap().success(), "{batch}");
    };
    sftp(&server, format!("put {} {}\n", mine.display(), on_server.display()));
    server.restart().await.unwrap();
    sftp(&server, format!("get {} {}\n", on_server.display(), theirs.display()));
    assert_eq!(std::fs::read(theirs).unwrap(), CONTENT);
    server.stop().unwrap();
}
