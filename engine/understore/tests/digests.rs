//! What stores tell of the bytes that they send, and hold against those that they are sent: by servers that say what the
//! services' documentation says, and by real servers behind a proxy that flips bits.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod scripted;

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use citius_understore::{
    Condition, Error, FileId, MountSpec, StorePath, UnderStore, VersionToken, open,
    testing::servers::{Azurite, CephGateway, CephStore, Dialect, Flipping, SeaweedFs, StandIn, Way},
};
use scripted::{Asked, answer, header, refusal, scripted};

/// How a server is mounted that listens at an address.
type Mount = fn(&str) -> MountSpec;

const MODIFIED: (&str, &str) = ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT");

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

/// Reads a range; all of the file's `len` bytes as such.
async fn read(store: &Arc<dyn UnderStore>, at: &str, range: Range<u64>, len: u64) -> Result<Vec<u8>, Error> {
    let token = match store.stat(&path(at)).await {
        Ok(stat) => stat.token,
        Err(error) => return Err(error),
    };
    read_version(store, at, &token, range, len).await
}

async fn read_version(
    store: &Arc<dyn UnderStore>,
    at: &str,
    token: &VersionToken,
    range: Range<u64>,
    len: u64,
) -> Result<Vec<u8>, Error> {
    let mut landed = Vec::new();
    let start = range.start;
    let mut landing = |offset: u64, bytes: &[u8]| {
        if offset == start {
            landed.clear();
        }
        assert_eq!(offset, start + landed.len() as u64);
        landed.extend_from_slice(bytes);
    };
    match range == (0..len) {
        true => store.read_whole(&path(at), token, len, &mut landing).await?,
        false => store.read(&path(at), token, range, &mut landing).await?,
    }
    Ok(landed)
}

fn s3(endpoint: &str) -> MountSpec {
    MountSpec::new("s3://b")
        .option("aws_endpoint", endpoint)
        .option("aws_allow_http", "true")
        .option("aws_access_key_id", "k")
        .option("aws_secret_access_key", "s")
}

fn gcs(endpoint: &str) -> MountSpec {
    MountSpec::new("gs://b")
        .option("google_base_url", endpoint)
        .option("google_allow_http", "true")
        .option("google_bearer_token", "ya29.token")
}

fn oss(endpoint: &str) -> MountSpec {
    MountSpec::new("oss://b")
        .option("oss_endpoint", endpoint)
        .option("oss_allow_http", "true")
        .option("oss_region", "cn-hangzhou")
        .option("oss_access_key_id", "LTAI")
        .option("oss_access_key_secret", "s")
}

fn azure(endpoint: &str) -> MountSpec {
    MountSpec::new("az://c")
        .option("azure_storage_account_name", "acc")
        .option("azure_storage_endpoint", endpoint)
        .option("azure_allow_http", "true")
        .option("azure_storage_account_key", "a2V5")
}

fn whole(told: &[(&str, &str)], body: &str) -> Vec<u8> {
    let range = format!("bytes 0-6/{}", body.len());
    let head = [("etag", "\"v\""), ("x-goog-generation", "7"), ("content-range", &range), MODIFIED];
    answer(206, &[&head[..], told].concat(), body)
}

fn mounted(spec: Mount, answers: Vec<Vec<u8>>) -> (Arc<dyn UnderStore>, VersionToken, Asked) {
    let (endpoint, asked) = scripted(answers);
    let token: &[u8] = if endpoint_is_of_google(spec) { b"7" } else { b"\"v\"" };
    (open(&spec(&endpoint)).unwrap(), VersionToken::new(token).unwrap(), asked)
}

fn endpoint_is_of_google(spec: Mount) -> bool {
    spec("http://h").uri.starts_with("gs:")
}

/// Each digest as the service spells it, once of the bytes that come and once of others.
#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_is_held_against_what_was_told() {
    let table: [(Mount, &str, &str); 6] = [
        (s3, "x-amz-checksum-crc64nvme", "lhVdXyVQTGE="),
        (s3, "x-amz-checksum-crc32c", "Ya91Mw=="),
        (s3, "x-amz-checksum-crc32", "/sUwqQ=="),
        (gcs, "x-goog-hash", "md5=mgNkuembtIDdJeHwKEyFVQ==,crc32c=Ya91Mw=="),
        (oss, "x-oss-hash-crc64ecma", "8883282091546349020"),
        (azure, "x-ms-content-crc64", "YUxQJV9dFZY="),
    ];
    for (spec, name, value) in table {
        let told = [(name, value)];
        let answers = vec![whole(&told, "cantent"), whole(&told, "content")];
        let (store, token, asked) = mounted(spec, answers);
        let bytes = read_version(&store, "f", &token, 0..7, 7).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bytes, b"content", "{name}");
        for head in asked.iter().take(2) {
            // A range would have Amazon tell nothing.
            let is_amazon = name.starts_with("x-amz-");
            assert_eq!(header(&head, "x-amz-checksum-mode"), is_amazon.then_some("enabled"), "{head}");
            assert_eq!(header(&head, "range").is_none(), is_amazon || name.starts_with("x-ms-"), "{head}");
            let asks_azure = name.starts_with("x-ms-").then_some("true");
            assert_eq!(header(&head, "x-ms-range-get-content-crc64"), asks_azure, "{head}");
        }
        // With no patience it is an error that says what of which file is wrong.
        let impatient = |endpoint: &str| spec(endpoint).option("retries_max", "0");
        let (endpoint, _asked) = scripted(vec![whole(&told, "cantent")]);
        let store = open(&impatient(&endpoint)).unwrap();
        let error = read_version(&store, "f", &token, 0..7, 7).await.unwrap_err();
        assert!(matches!(&error, Error::Damaged { path, .. } if path == "f"), "{name}: {error}");
    }
}

/// A digest of the whole object, or of the digests of its parts, says nothing of what was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_other_bytes_is_left_alone() {
    let part = |told: &[(&str, &str)]| {
        let head = [("etag", "\"v\""), ("x-goog-generation", "7"), ("content-range", "bytes 0-6/8"), MODIFIED];
        answer(206, &[&head[..], told].concat(), "content")
    };
    let composite = [("x-amz-checksum-type", "COMPOSITE"), ("x-amz-checksum-crc32c", "AAAAAA==")];
    let table: [(Mount, Vec<u8>); 6] = [
        (s3, part(&[("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")])),
        (gcs, part(&[("x-goog-hash", "crc32c=AAAAAA==")])),
        (oss, part(&[("x-oss-hash-crc64ecma", "1")])),
        (s3, whole(&composite, "content")),
        (s3, whole(&[("x-amz-checksum-crc32c", "AAAAAA==-2")], "content")),
        (gcs, whole(&[("x-goog-hash", "md5=AAAAAAAAAAAAAAAAAAAAAA==")], "content")),
    ];
    for (spec, answer) in table {
        let (store, token, _asked) = mounted(spec, vec![answer]);
        let len = if endpoint_is_of_google(spec) { 7 } else { 8 };
        assert_eq!(read_version(&store, "f", &token, 0..7, len).await.unwrap(), b"content");
    }
}

/// Backblaze refuses a request that asks for digests; it is asked without, and not again.
#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_to_tell_is_read_all_the_same() {
    let words = "Unsupported header 'x-amz-checksum-mode' received for this API call.";
    let refused = refusal(400, "InvalidArgument", words);
    let (store, token, asked) = mounted(s3, vec![refused, whole(&[], "content"), whole(&[], "content")]);
    for _ in 0..2 {
        assert_eq!(read_version(&store, "f", &token, 0..7, 7).await.unwrap(), b"content");
    }
    let asks: Vec<_> = asked.iter().take(3).map(|head| header(&head, "x-amz-checksum-mode").is_some()).collect();
    assert_eq!(asks, [true, false, false]);
}

/// Azure refuses to make a digest of more than 4 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn azure_is_asked_for_digests_of_short_ranges_only() {
    let gone = || refusal(404, "BlobNotFound", "The specified blob does not exist.");
    let (store, token, asked) = mounted(azure, vec![gone(), gone()]);
    for (len, asks) in [(4 << 20, true), ((4 << 20) + 1, false)] {
        assert!(read_version(&store, "f", &token, 1..len + 1, 0).await.unwrap_err().is_not_found());
        assert_eq!(header(&asked.recv().unwrap(), "x-ms-range-get-content-crc64").is_some(), asks);
    }
}

/// Every put and every part says what its content is; Amazon's by the digest that is signed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_has_its_digest_with_it() {
    let done = || answer(200, &[("etag", "\"v\""), ("x-goog-generation", "7"), MODIFIED], "");
    let table: [(Mount, &str, &str); 4] = [
        (s3, "x-amz-content-sha256", "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"),
        (gcs, "x-goog-hash", "crc32c=ya91mw=="),
        (oss, "content-md5", "mgnkuembtiddjehwkeyfvq=="),
        (azure, "x-ms-content-crc64", "yuxqjv9dfzy="),
    ];
    for (spec, name, value) in table {
        let (store, _, asked) = mounted(spec, vec![done(), done()]);
        let mut staged = store.stage(&path("f"), FileId([7; 16]), None).await.unwrap();
        staged.write(Bytes::from_static(b"con")).await.unwrap();
        staged.write(Bytes::from_static(b"tent")).await.unwrap();
        staged.publish(&Condition::Any).await.unwrap();
        // The scripted server tells heads in small letters.
        assert_eq!(header(&asked.recv().unwrap(), name), Some(value));
    }
}

/// What becomes of what arrives damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrives {
    /// It is kept.
    Kept,
    /// It is refused, in words that are not the service's, and so not sent again.
    Refused,
    /// It is refused, and sent again.
    SentAgain,
}

/// What a system shows of damages.
struct Sees {
    sent: Arrives,
    /// Whether it tells a digest of a small file.
    told: bool,
}

const SMALL_BYTES: usize = 50_001;
const LARGE_BYTES: usize = (9 << 20) + 4321;
/// More bodies than any of the tests sends.
const ALWAYS: u64 = 1000;

fn body(len: usize, seed: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(31).wrapping_add(seed * 7919) >> 3) as u8).collect::<Vec<u8>>().into()
}

async fn put(store: &Arc<dyn UnderStore>, at: &str, content: &Bytes, id: u8) -> Result<VersionToken, Error> {
    let mut staged = store.stage(&path(at), FileId([id; 16]), None).await?;
    for piece in content.chunks(1 << 20) {
        staged.write(content.slice_ref(piece)).await?;
    }
    let published = staged.publish(&Condition::MustNotExist).await;
    if published.is_err() {
        staged.abandon().await.unwrap();
    }
    published
}

/// Both ways, once and always, a small file and one in parts.
async fn damages_are_seen(system: &str, spec: MountSpec, address: &str, sees: Sees) {
    let proxy = Flipping::before(address).unwrap();
    let store = open(&proxy.mount(spec.option("retries_max", "3"))).unwrap();
    store.check().await.unwrap();
    let (small, large) = (body(SMALL_BYTES, 1), body(LARGE_BYTES, 2));
    for (at, content, id) in [("small", &small, 1), ("large", &large, 2)] {
        let before = proxy.flipped(Way::There);
        proxy.flip(Way::There, 1);
        let put = put(&store, at, content, id).await;
        assert_eq!(proxy.flipped(Way::There), before + 1, "{system}: {at}");
        if sees.sent == Arrives::Refused {
            put.unwrap_err();
            assert!(store.stat(&path(at)).await.unwrap_err().is_not_found(), "{system}: {at}");
            continue;
        }
        put.unwrap_or_else(|error| panic!("{system}: {at}: {error}"));
        // A range that is not the whole: no digest is told of it, and the proxy lets it through.
        let len = content.len() as u64;
        let there = read(&store, at, 0..len - 1, len).await.unwrap();
        let is_right = there[..] == content[..content.len() - 1];
        assert_eq!(is_right, sees.sent == Arrives::SentAgain, "{system}: {at}");
    }
    if sees.sent != Arrives::Kept {
        proxy.flip(Way::There, ALWAYS);
        for (at, content, id) in [("never", &small, 3), ("never-large", &large, 4)] {
            let error = put(&store, at, content, id).await.unwrap_err();
            assert!(error.to_string().contains(at), "{system}: {error}");
            println!("{system}: what arrives damaged: {error}");
        }
        proxy.flip(Way::There, 0);
        for at in ["never", "never-large"] {
            assert!(store.stat(&path(at)).await.unwrap_err().is_not_found(), "{system}: {at}");
        }
    }
    put(&store, "clean", &small, 5).await.unwrap();
    let (len, before) = (SMALL_BYTES as u64, proxy.flipped(Way::Back));
    proxy.flip(Way::Back, 1);
    let read_once = read(&store, "clean", 0..len, len).await.unwrap();
    assert_eq!(proxy.flipped(Way::Back), before + 1, "{system}");
    assert_eq!(read_once == small, sees.told, "{system}: one flipped bit of a small file");
    proxy.flip(Way::Back, ALWAYS);
    let always = read(&store, "clean", 0..len, len).await;
    match always {
        Err(error) => {
            assert!(sees.told && matches!(&error, Error::Damaged { .. }), "{system}: {error}");
            println!("{system}: what comes back damaged: {error}");
        }
        Ok(bytes) => assert!(!sees.told && bytes != small, "{system}"),
    }
    proxy.flip(Way::Back, 0);
    assert_eq!(read(&store, "clean", 0..len, len).await.unwrap(), small, "{system}");
}

fn address_of(endpoint: &str) -> String {
    let endpoint = url::Url::parse(endpoint).unwrap();
    format!("{}:{}", endpoint.host_str().unwrap(), endpoint.port().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_of_seaweedfs() {
    let server = SeaweedFs::start().await.unwrap();
    let address = address_of(server.s3().endpoint());
    // It takes whatever arrives, whatever digest was signed.
    damages_are_seen("SeaweedFS", server.s3().mount("p"), &address, Sees { sent: Arrives::Kept, told: false }).await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ceph() {
    let server = CephGateway::start(CephStore::Memory).await.unwrap();
    let address = address_of(server.s3().endpoint());
    damages_are_seen("Ceph, S3", server.s3().mount("p"), &address, Sees { sent: Arrives::SentAgain, told: false })
        .await;
    damages_are_seen("Ceph, Swift", server.swift_mount("q"), &address, Sees { sent: Arrives::SentAgain, told: true })
        .await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stand_ins_of_google_and_alibaba() {
    for dialect in [Dialect::Gcs, Dialect::Oss] {
        let server = StandIn::start(dialect).await.unwrap();
        let address = address_of(&server.endpoint());
        let name = format!("stand-in of {dialect:?}");
        damages_are_seen(&name, server.mount("p"), &address, Sees { sent: Arrives::SentAgain, told: true }).await;
        server.stop().unwrap();
    }
}

/// Azurite before 3.37 has a name of its own for what does not match.
#[tokio::test(flavor = "multi_thread")]
async fn azurite() {
    let server = Azurite::start().await.unwrap();
    damages_are_seen(
        "Azurite",
        server.mount("p"),
        &address_of(&server.endpoint()),
        Sees { sent: Arrives::Refused, told: true },
    )
    .await;
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn swift() {
    let server = citius_understore::testing::servers::Swift::start().await.unwrap();
    let address = address_of(&server.auth_url());
    damages_are_seen("Swift", server.mount("p"), &address, Sees { sent: Arrives::SentAgain, told: true }).await;
    server.stop().unwrap();
}
