//! What only S3 has: keys, buckets, endpoints, small puts, and a server that can die.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod scripted;

use std::{
    sync::{Arc, mpsc::channel},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use citius_understore::{
    Condition, Depth, Error, ErrorClass, Failure, FileId, MountSpec, Remnant, Settled, StagedBody, StagedRecord,
    StorePath, UnderStore, open,
    testing::servers::{self, SeaweedFs},
};
use futures::TryStreamExt;
use scripted::{answer, header, refusal, scripted};

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

async fn put(store: &Arc<dyn UnderStore>, at: &str, content: &[u8], id: u8) -> citius_understore::VersionToken {
    let mut staged = store.stage(&path(at), FileId([id; 16]), None).await.unwrap();
    staged.write(Bytes::copy_from_slice(content)).await.unwrap();
    staged.publish(&Condition::Any).await.unwrap()
}

async fn checked(spec: MountSpec) -> Error {
    open(&spec).unwrap().check().await.unwrap_err()
}

/// One server for the tests that only look; starting one takes seconds.
#[tokio::test(flavor = "multi_thread")]
async fn on_one_server() {
    let server = SeaweedFs::start().await.unwrap();
    what_is_wrong_with_a_mount_is_told_apart(&server).await;
    a_read_only_mount_refuses_every_change(&server).await;
    a_read_never_mixes_versions(&server).await;
    a_small_put_of_unknown_fate_is_waited_out(&server).await;
    a_small_put_is_not_published_late(&server).await;
    keys_that_cannot_be_served_are_refusals(&server).await;
    secrets_are_in_no_text(&server).await;
    many_are_deleted_by_few_requests(&server).await;
    what_is_large_is_renamed_in_parts(&server).await;
    the_longest_keys_hold_what_they_are_given(&server).await;
}

/// S3 takes keys of 1,024 bytes. One more is refused before anybody is asked.
async fn the_longest_keys_hold_what_they_are_given(server: &SeaweedFs) {
    const KEY_BYTES: usize = 1024;
    let store = open(&server.s3().mount("keys")).unwrap();
    let below = ["d", "e", "f"].map(|letter| letter.repeat(255)).join("/");
    let at = |bytes: usize, last: &str| format!("{below}/{}", last.repeat(bytes - "keys/".len() - below.len() - 1));
    let (longest, moved) = (at(KEY_BYTES, "g"), at(KEY_BYTES, "h"));
    put(&store, &longest, b"content", 1).await;
    let pages: Vec<_> = store.list(&path(&below), "").try_collect().await.unwrap();
    let names: Vec<_> = pages.iter().flat_map(|page| &page.entries).map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, [longest.rsplit('/').next().unwrap()]);
    store.rename(&path(&longest), &path(&moved), &Condition::MustNotExist).await.unwrap();
    let token = store.stat(&path(&moved)).await.unwrap().token;
    let mut found = Vec::new();
    store.read(&path(&moved), &token, 0..7, &mut |_: u64, part: &[u8]| found.extend_from_slice(part)).await.unwrap();
    assert_eq!(found, b"content");
    store.delete_file(&path(&moved)).await.unwrap();
    let before = store.traffic().totals().requests;
    let refused = store.stat(&path(&at(KEY_BYTES + 1, "g"))).await.unwrap_err();
    assert!(matches!(refused, Error::Unnameable { .. }) && refused.to_string().contains("1024 bytes"), "{refused}");
    assert_eq!(store.traffic().totals().requests, before);
}

/// 1,300 objects go by two requests and some lists, whatever they are called, and nothing else does.
async fn many_are_deleted_by_few_requests(server: &SeaweedFs) {
    let store = open(&server.s3().mount("bulk")).unwrap();
    let odd = ["a&b", "<x>", "per%cent", "q'\"", "ünï", "two  spaces "];
    let names = (0..1300).map(|number| format!("d/{}-{number}", odd[number % odd.len()]));
    let puts = names.map(|name| {
        let store = Arc::clone(&store);
        async move { drop(put(&store, &name, b"", 1).await) }
    });
    futures::StreamExt::collect::<()>(futures::StreamExt::buffer_unordered(futures::stream::iter(puts), 32)).await;
    put(&store, "d-kept", b"kept", 2).await;
    let before = store.traffic().totals().requests;
    store.delete_dir(&path("d"), Depth::Recursive).await.unwrap();
    let asked = store.traffic().totals().requests - before;
    assert!(store.stat(&path("d")).await.is_err_and(|error| error.is_not_found()));
    assert_eq!(store.stat(&path("d-kept")).await.unwrap().len, 4);
    assert!(asked < 10, "{asked} requests");
}

/// More than one copy copies: parts do, of one version, and what the object says of itself comes along.
async fn what_is_large_is_renamed_in_parts(server: &SeaweedFs) {
    const PIECES: usize = 75;
    let piece = |number: usize| Bytes::from(vec![number as u8; 4 << 20]);
    let store = open(&server.s3().mount("large")).unwrap();
    let id = FileId([7; 16]);
    let mut staged = store.stage(&path("from"), id, Some((PIECES * (4 << 20)) as u64)).await.unwrap();
    for number in 0..PIECES {
        staged.write(piece(number)).await.unwrap();
    }
    let record = staged.seal().await.unwrap();
    staged.publish(&Condition::Any).await.unwrap();
    put(&store, "taken", b"here", 1).await;
    let taken = store.rename(&path("from"), &path("taken"), &Condition::MustNotExist).await;
    assert!(matches!(taken, Err(Error::AlreadyExists { .. })), "{taken:?}");
    let moved = store.rename(&path("from"), &path("to"), &Condition::MustNotExist).await.unwrap();
    assert!(store.stat(&path("from")).await.is_err_and(|error| error.is_not_found()));
    let (mut seen, mut right) = (0_u64, true);
    let mut landing = |offset: u64, bytes: &[u8]| {
        seen += bytes.len() as u64;
        right &= bytes.iter().zip(offset..).all(|(byte, at)| *byte == (at >> 22) as u8);
    };
    store.read(&path("to"), &moved.token, 0..moved.len, &mut landing).await.unwrap();
    assert!(right && seen == record.len, "{seen} bytes");
    // Its id came along: a settler who looks there takes it for this write.
    let settled = store.settle(&StagedRecord { path: path("to"), ..record }).await.unwrap();
    assert_eq!(settled, Settled::Published(moved.token));
    let swept = store.sweep(&|_: &Remnant| true).await.unwrap();
    assert_eq!(swept.seen, 0, "an upload was left");
}

async fn what_is_wrong_with_a_mount_is_told_apart(server: &SeaweedFs) {
    let good = server.s3().mount("");
    open(&good).unwrap().check().await.unwrap();
    open(&server.s3().mount("no/keys/yet")).unwrap().check().await.unwrap();

    let error = checked(good.clone().option("aws_access_key_id", "nobody")).await;
    assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
    let error = checked(good.clone().option("aws_secret_access_key", "hidden-value")).await;
    assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hidden-value"));

    let elsewhere = MountSpec { uri: "s3://no-such-bucket".into(), ..good.clone() };
    let error = checked(elsewhere).await;
    assert!(matches!(&error, Error::MissingBucket { bucket, .. } if bucket == "no-such-bucket"), "{error:?}");

    // A port that nobody listens on: it was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = checked(good.clone().option("aws_endpoint", &closed)).await;
    assert!(matches!(&error, Error::Unreachable { endpoint, .. } if *endpoint == closed), "{error:?}");

    // No keys, and nobody to ask for them.
    let keyless = MountSpec { options: Default::default(), ..good.clone() };
    let keyless = keyless.option("aws_endpoint", server.s3().endpoint()).option("aws_allow_http", "true");
    let error = checked(keyless.clone().option("aws_metadata_endpoint", &closed)).await;
    assert!(matches!(error, Error::MissingKeys { .. }), "{error:?}");
    let error = checked(keyless.option("aws_skip_signature", "true")).await;
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");

    // One that accepts and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = checked(good.option("aws_endpoint", format!("http://{}", silent.local_addr().unwrap()))).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

async fn a_read_only_mount_refuses_every_change(server: &SeaweedFs) {
    let writable = open(&server.s3().mount("ro")).unwrap();
    let token = put(&writable, "f", b"content", 1).await;
    let store = open(&MountSpec { read_only: true, ..server.s3().mount("ro") }).unwrap();
    let (f, g) = (path("f"), path("g"));
    let refusals = [
        store.mkdir(&g).await.err(),
        store.delete_file(&f).await.err(),
        store.delete_dir(&g, Depth::Recursive).await.err(),
        store.rename(&f, &g, &Condition::Any).await.err(),
        store.stage(&g, FileId([1; 16]), None).await.err(),
        store.publish(&StagedRecord::named(g.clone(), FileId([1; 16])), &Condition::Any).await.err(),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Some(Error::ReadOnly { .. })), "{refusal:?}");
    }
    let mut landed = Vec::new();
    store.read(&f, &token, 0..7, &mut |_: u64, bytes: &[u8]| landed.extend_from_slice(bytes)).await.unwrap();
    assert_eq!(landed, b"content");
}

async fn a_read_never_mixes_versions(server: &SeaweedFs) {
    const LEN: usize = 24 << 20;
    let store = open(&server.s3().mount("mix")).unwrap();
    let token = put(&store, "f", &vec![1; LEN], 1).await;
    let writer = Arc::clone(&store);
    let overwriting = tokio::spawn(async move { put(&writer, "f", &vec![2; LEN], 2).await });
    let mut refused = 0;
    for round in 0..200_u64 {
        let at = round * 100_000;
        let mut landed = Vec::new();
        let mut landing = |_: u64, bytes: &[u8]| landed.extend_from_slice(bytes);
        match store.read(&path("f"), &token, at..at + 100_000, &mut landing).await {
            Ok(()) => assert!(landed.len() == 100_000 && landed.iter().all(|byte| *byte == 1), "a mixture"),
            Err(Error::VersionChanged { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    overwriting.await.unwrap();
    let read = store.read(&path("f"), &token, 0..10, &mut |_: u64, _: &[u8]| {}).await;
    assert!(matches!(read, Err(Error::VersionChanged { .. })), "{read:?} after {refused} refusals");
}

async fn a_small_put_of_unknown_fate_is_waited_out(server: &SeaweedFs) {
    let store = open(&server.s3().mount("fence")).unwrap();
    let mut staged = store.stage(&path("f"), FileId([5; 16]), None).await.unwrap();
    staged.write(Bytes::from_static(b"late")).await.unwrap();
    let record = StagedRecord::decode(&staged.seal().await.unwrap().encode()).unwrap();
    let StagedBody::Small { publish_by_ms } = record.body else { panic!("four bytes are a small put") };
    assert!(publish_by_ms > now_ms());
    let elsewhere = store.publish(&record, &Condition::Any).await;
    assert!(matches!(elsewhere, Err(Error::StagedLost { .. })), "its bytes are not here: {elsewhere:?}");
    // The publisher is alive: its PUT comes while another process settles, and must be found.
    let settling = {
        let (store, record) = (Arc::clone(&store), record.clone());
        // Its time is over in a moment, as if the seal had been long ago.
        let record = StagedRecord { body: StagedBody::Small { publish_by_ms: now_ms() }, ..record };
        tokio::spawn(async move { store.settle(&record).await.unwrap() })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!settling.is_finished(), "absence was promised while the PUT could still come");
    let token = staged.publish(&Condition::MustNotExist).await.unwrap();
    assert_eq!(settling.await.unwrap(), Settled::Published(token.clone()));
    // Found at once from now on.
    assert_eq!(store.settle(&record).await.unwrap(), Settled::Published(token));
    // Long dead: nothing is waited for.
    let dead = StagedRecord { path: path("g"), body: StagedBody::Small { publish_by_ms: 1 }, ..record };
    assert_eq!(store.settle(&dead).await.unwrap(), Settled::Absent);
}

async fn a_small_put_is_not_published_late(server: &SeaweedFs) {
    let store = open(&server.s3().mount("late")).unwrap();
    let mut staged = store.stage(&path("f"), FileId([6; 16]), None).await.unwrap();
    staged.write(Bytes::from_static(b"twice")).await.unwrap();
    let first = staged.seal().await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = staged.seal().await.unwrap();
    let limit = |record: &StagedRecord| match record.body {
        StagedBody::Small { publish_by_ms } => publish_by_ms,
        _ => panic!("a small put"),
    };
    assert!(limit(&second) > limit(&first), "a second seal gives more time");
    staged.publish(&Condition::MustNotExist).await.unwrap();
}

async fn keys_that_cannot_be_served_are_refusals(server: &SeaweedFs) {
    // Written by another program, with keys that our own paths refuse.
    let store = open(&server.s3().mount("odd")).unwrap();
    put(&store, "fine", b"x", 1).await;
    let raw = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(server.s3().endpoint())
        .with_bucket_name(server.s3().name())
        .with_access_key_id(server.s3().keys().0)
        .with_secret_access_key(server.s3().keys().1)
        .with_allow_http(true)
        .build()
        .unwrap();
    let http = object_store::client::HttpConnector::connect(
        &object_store::client::ReqwestConnector::default(),
        &object_store::ClientOptions::new().with_allow_http(true),
    )
    .unwrap();
    let credential = raw.credentials().get_credential().await.unwrap();
    for key in ["odd/new%0Aline", "odd/ctl%01x"] {
        let url = format!("{}/{}/{key}", server.s3().endpoint(), server.s3().name());
        let mut request = http::Request::put(url).body(Bytes::from_static(b"y").into()).unwrap();
        object_store::aws::AwsAuthorizer::new(&credential, "s3", "us-east-1")
            .try_authorize(&mut request, None)
            .unwrap();
        assert!(http.execute(request).await.unwrap().status().is_success());
    }
    let pages: Vec<_> = store.list(&StorePath::root(), "").try_collect().await.unwrap();
    assert_eq!(pages.len(), 1);
    assert_eq!(pages[0].entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["fine"]);
    let refused: Vec<_> = pages[0].refused.iter().map(|refusal| refusal.name.as_str()).collect();
    assert_eq!(refused, ["ctl\\u{1}x", "new\\nline"]);
}

async fn secrets_are_in_no_text(server: &SeaweedFs) {
    let spec = server.s3().mount("");
    let store = open(&spec).unwrap();
    let text = format!("{spec:?} {store:?} {}", store.uri());
    assert!(!text.contains(server.s3().keys().1), "the secret is in {text}");
    assert!(!text.contains(&server.s3().keys().0.to_owned()), "the key id is in {text}");
}

fn scripted_mount(endpoint: &str) -> MountSpec {
    MountSpec::new("s3://b")
        .option("aws_endpoint", endpoint)
        .option("aws_allow_http", "true")
        .option("aws_access_key_id", "k")
        .option("aws_secret_access_key", "s")
}

fn part(from: usize, sent: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nconnection: close\r\netag: \"v\"\r\ncontent-range: bytes {from}-99/100\r\n\
         last-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\ncontent-length: {}\r\n\r\n",
        100 - from
    );
    [head.as_bytes(), sent].concat()
}

/// A server that asks for rest, and one that dies in the middle of a body: what has landed is neither asked for nor
/// landed again, and both tries are counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_breaks_off_goes_on_where_it_stopped() {
    let content: Vec<u8> = (0..100).collect();
    let busy = b"HTTP/1.1 503 Slow Down\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec();
    let (endpoint, asked) = scripted(vec![busy, part(0, &content[..40]), part(40, &content[40..])]);
    let store = open(&scripted_mount(&endpoint)).unwrap();
    let token = citius_understore::VersionToken::new(b"\"v\"").unwrap();
    let mut landed = Vec::new();
    let mut landing = |offset: u64, bytes: &[u8]| {
        assert_eq!(offset, landed.len() as u64);
        landed.extend_from_slice(bytes);
    };
    store.read(&path("f"), &token, 0..100, &mut landing).await.unwrap();
    assert_eq!(landed, content);
    let ranges: Vec<String> = asked
        .iter()
        .take(3)
        .map(|head| head.lines().find_map(|line| line.strip_prefix("range: ")).unwrap().to_owned())
        .collect();
    assert_eq!(ranges, ["bytes=0-99", "bytes=0-99", "bytes=40-99"]);
    let totals = store.traffic().totals();
    assert_eq!((totals.requests, totals.reads, totals.retries, totals.bytes_read), (3, 3, 2, 100));
    assert_eq!(totals.failures[Failure::Throttled as usize], 1);
    assert_eq!(totals.failures.iter().sum::<u64>(), 2, "{totals:?}");
    assert_eq!(totals.in_flight, 0);
}

/// Retries of a read are the mount's, once: neither `object_store` nor the adapter adds its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_server_is_asked_as_often_as_the_mount_says() {
    for retries in [0, 2] {
        let failing = b"HTTP/1.1 500 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec();
        let (endpoint, asked) = scripted(vec![failing; 12]);
        let store = open(&scripted_mount(&endpoint).option("retries_max", retries.to_string())).unwrap();
        let token = citius_understore::VersionToken::new(b"\"v\"").unwrap();
        let read = store.read(&path("f"), &token, 0..100, &mut |_: u64, _: &[u8]| {}).await;
        assert!(read.unwrap_err().is_transient());
        assert_eq!(asked.try_iter().count(), retries + 1);
        store.stat(&path("f")).await.unwrap_err();
        assert_eq!(asked.try_iter().count(), retries + 1);
        put_fails(&store).await;
        // One PUT, and one look whether it was published after all.
        assert_eq!(asked.try_iter().count(), 2 * (retries + 1));
    }
}

/// Where a rename is a copy and a deletion, and the server made another object of the copy, the source is the only whole
/// one there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_copy_is_another_is_kept() {
    const MD5: &str = "\"9e107d9d372bb6826bd81d3542a419d6\"";
    const OTHER: &str = "\"e4d909c290d0fb1ca068ffaddf22cbd0\"";
    let object = |len: usize, etag: &str| {
        format!("HTTP/1.1 200 x\r\nconnection: close\r\netag: {etag}\r\ncontent-length: {len}\r\n\r\n").into_bytes()
    };
    // Parts have no digest of the whole: such an etag says nothing of the content.
    let copies =
        [(7, MD5, None), (7, "\"x-2\"", None), (6, MD5, Some("bytes where")), (7, OTHER, Some("another digest"))];
    for (len, etag, refused) in copies {
        let (tell, asked) = channel();
        let mut is_copied = false;
        let endpoint = servers::scripted(64, move |head| {
            let asked = head.split_once('?').map_or(head, |(path, _)| path).split(" HTTP/").next().unwrap();
            tell.send(asked.to_owned()).unwrap();
            match asked {
                "PUT /b/to" => is_copied = true,
                "HEAD /b/from" => return object(7, MD5),
                "HEAD /b/to" if is_copied => return object(len, etag),
                "HEAD /b/to" => return answer(404, &[], ""),
                "DELETE /b/from" => return answer(204, &[], ""),
                _ => {}
            }
            answer(200, &[], "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        });
        let store = open(&scripted_mount(&endpoint.unwrap())).unwrap();
        let renamed = store.rename(&path("from"), &path("to"), &Condition::MustNotExist).await;
        let asked: Vec<String> = asked.try_iter().collect();
        assert!(asked.iter().any(|asked| asked == "PUT /b/to"), "nothing was copied: {asked:?}");
        let deletes = asked.iter().filter(|asked| asked.starts_with("DELETE") || asked.starts_with("POST")).count();
        match (renamed, refused) {
            (Ok(stat), None) => assert_eq!((stat.len, deletes), (7, 1)),
            (Err(error), Some(words)) => {
                assert!(error.to_string().contains(words) && deletes == 0, "{error}, {asked:?}")
            }
            (renamed, _) => panic!("{len} {etag}: {renamed:?}"),
        }
    }
}

async fn put_fails(store: &Arc<dyn UnderStore>) -> Error {
    let mut staged = store.stage(&path("f"), FileId([1; 16]), None).await.unwrap();
    staged.write(Bytes::from_static(b"content")).await.unwrap();
    staged.publish(&Condition::MustNotExist).await.unwrap_err()
}

/// Whoever may not write is told at once, and not when the time is over in which a lost request could still be heard of.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_put_refused_is_known_not_to_have_happened() {
    let denied = || refusal(403, "AccessDenied", "Access Denied");
    let gone = || answer(404, &[], "");
    for (answers, is_known) in [(vec![denied(), gone()], true), (vec![answer(503, &[], ""), denied(), gone()], false)] {
        let (endpoint, _asked) = scripted(answers);
        let error = put_fails(&open(&scripted_mount(&endpoint)).unwrap()).await;
        assert_eq!(error.refuses_publication(), is_known, "{error:?}");
        assert_eq!(error.class(), ErrorClass::PermissionDenied);
        assert!(error.to_string().contains("denies access"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_run_side_by_side_and_end_with_their_owner() {
    let (one, two) = (SeaweedFs::start().await.unwrap(), SeaweedFs::start().await.unwrap());
    let (first, second) = (open(&one.s3().mount("")).unwrap(), open(&two.s3().mount("")).unwrap());
    let token = put(&first, "f", b"first", 1).await;
    assert!(matches!(second.stat(&path("f")).await, Err(Error::NotFound { .. })));

    // A large write is staged when its server dies.
    let mut staged = first.stage(&path("g"), FileId([2; 16]), None).await.unwrap();
    staged.write(Bytes::from(vec![7; 20 << 20])).await.unwrap();
    let pid = one.pid();
    drop(one);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the server outlives its owner");
    let error = first.check().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let error = first.stat(&path("f")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let error = first.read(&path("f"), &token, 0..5, &mut |_: u64, _: &[u8]| {}).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(staged.publish(&Condition::Any).await.unwrap_err().is_transient());
    second.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_others_are_shown_and_left_alone() {
    let server = SeaweedFs::start().await.unwrap();
    let store = open(&server.s3().mount("p")).unwrap();
    let other = open(&server.s3().mount("q")).unwrap();
    let mut mine = store.stage(&path("d/mine"), FileId([1; 16]), None).await.unwrap();
    let mut theirs = store.stage(&path("theirs"), FileId([2; 16]), None).await.unwrap();
    let mut outside = other.stage(&path("outside"), FileId([3; 16]), None).await.unwrap();
    for staged in [&mut mine, &mut theirs, &mut outside] {
        staged.write(Bytes::from(vec![1; 9 << 20])).await.unwrap();
        staged.seal().await.unwrap();
    }
    let StagedBody::Upload { upload_id: logged, .. } = theirs.begun().body else { panic!("nine MiB are an upload") };
    let seen = std::sync::Mutex::new(Vec::new());
    let swept = store
        .sweep(&|remnant| {
            let Remnant::Upload { path, upload_id, begun_ms } = remnant else { panic!("{remnant:?}") };
            assert!(*begun_ms > 0 && (*begun_ms as u64) < now_ms() + 5000);
            seen.lock().unwrap().push(path.to_string());
            *upload_id != logged
        })
        .await
        .unwrap();
    assert_eq!((swept.seen, swept.removed), (2, 1));
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    assert_eq!(seen, ["d/mine", "theirs"]);
    assert!(matches!(mine.publish(&Condition::Any).await, Err(Error::StagedLost { .. })));
    theirs.publish(&Condition::MustNotExist).await.unwrap();
    outside.publish(&Condition::MustNotExist).await.unwrap();
}

/// Files of Amazon's tools, and a mount that has nothing else.
fn profile_mount(folder: &std::path::Path, credentials: &str, config: &str, name: &str) -> MountSpec {
    let (credentials_file, config_file) = (folder.join("credentials"), folder.join("config"));
    std::fs::write(&credentials_file, credentials).unwrap();
    std::fs::write(&config_file, config).unwrap();
    MountSpec::new("s3://b")
        .option("aws_profile", name)
        .option("aws_shared_credentials_file", credentials_file.to_str().unwrap())
        .option("aws_config_file", config_file.to_str().unwrap())
        .option("aws_allow_http", "true")
        .option("retries_max", "0")
}

/// Keys for a while are written to the file by somebody else, an hour at a time. When they are refused the file is read
/// again, and the request that met the refusal is sent again, without a new mount.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_in_the_profile() {
    let nothing = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let expired = || refusal(400, "ExpiredToken", "The provided token has expired.");
    let (endpoint, asked) = scripted(vec![
        answer(200, &[], nothing),
        expired(),
        answer(200, &[], nothing),
        expired(),
        expired(),
        part(0, &[7; 100]),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let keys =
        |id: &str| format!("[work]\naws_access_key_id={id}\naws_secret_access_key=s\naws_session_token=t-{id}\n");
    let config = format!("[profile work]\nregion = eu-south-1\nendpoint_url = {endpoint}\n");
    let spec = profile_mount(folder.path(), &keys("one"), &config, "work");
    let store = open(&spec).unwrap();
    store.check().await.unwrap();
    std::fs::write(folder.path().join("credentials"), keys("two")).unwrap();
    store.check().await.unwrap();
    let token = citius_understore::VersionToken::new(b"\"v\"").unwrap();
    let heads: Vec<String> = asked.iter().take(3).collect();
    assert_eq!(header(&heads[0], "x-amz-security-token"), Some("t-one"));
    assert!(header(&heads[0], "authorization").unwrap().contains("/eu-south-1/s3/aws4_request"));
    assert_eq!(header(&heads[2], "x-amz-security-token"), Some("t-two"));
    let mut landed = Vec::new();
    std::fs::write(folder.path().join("credentials"), keys("three")).unwrap();
    let failed = store.check().await.unwrap_err();
    assert!(matches!(failed, Error::WrongKeys { .. }), "refused twice, it is not sent a third time: {failed:?}");
    store.read(&path("f"), &token, 0..100, &mut |_: u64, bytes: &[u8]| landed.extend_from_slice(bytes)).await.unwrap();
    assert_eq!(landed, [7; 100]);
    let last = asked.iter().take(3).last().unwrap();
    assert_eq!(header(&last, "x-amz-security-token"), Some("t-three"));
}

#[test]
fn profiles_that_give_no_keys_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[profile sso]\nsso_session = corp\n[profile process]\ncredential_process = /bin/keys\n[profile region]\n\
                  region = x\n[profile half]\naws_secret_access_key = hidden\n";
    let refused = |name: &str| {
        let spec = profile_mount(folder.path(), "", config, name);
        let error = open(&spec).err().unwrap_or_else(|| panic!("{name} gives no keys"));
        assert!(matches!(&error, Error::InvalidOption { option, .. } if option == "aws_profile"), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hidden"));
        error.to_string()
    };
    assert!(refused("nobody").contains("has a profile \"nobody\""));
    assert!(refused("sso").contains("sso_session is not followed here"));
    assert!(refused("process").contains("credential_process is not followed here"));
    assert!(refused("region").contains("aws_access_key_id and aws_secret_access_key"));
    assert!(refused("half").contains("write both"));
}
