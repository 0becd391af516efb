//! Against servers that are no more than a function: what real ones seldom do, and what they do that speak no WebDAV.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{Condition, Failure, FileId, MountSpec, Probe, StorePath, UnderStore, diagnose_open};

const FILE: &str = "0123456789";
const HEAD: &str = "etag: \"one\"\r\nlast-modified: Sun, 22 Nov 2026 17:13:58 GMT\r\n";

/// Answers every request, of which it is shown the head, and then closes the connection.
async fn serve(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/folder", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let answer = answer(&String::from_utf8_lossy(&request).to_lowercase());
            let _ = socket.write_all(answer.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    });
    uri
}

fn say(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn mount(uri: &str) -> Arc<dyn UnderStore> {
    crate::open(&MountSpec::new(uri)).unwrap()
}

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

async fn read(store: &dyn UnderStore, range: std::ops::Range<u64>) -> Result<String> {
    let stat = store.stat(&path("f")).await?;
    let mut out = Vec::new();
    store.read(&path("f"), &stat.token, range, &mut |_: u64, bytes: &[u8]| out.extend_from_slice(bytes)).await?;
    Ok(String::from_utf8(out).unwrap())
}

/// A web server as there are many: files by name, parts of them or not, no WebDAV.
fn plain(has_ranges: bool) -> impl Fn(&str) -> String + Send + Sync {
    move |request| {
        let range = request.lines().find_map(|line| line.strip_prefix("range: bytes="));
        match request.split_whitespace().collect::<Vec<_>>()[..2] {
            ["head", "/folder/f"] => say("200 OK", HEAD, FILE).replace(FILE, ""),
            ["get", "/folder/f"] => match range.and_then(|range| range.split_once('-')).filter(|_| has_ranges) {
                Some((from, to)) => {
                    let part = &FILE[from.parse().unwrap()..=to.parse().unwrap()];
                    say("206 Partial Content", &format!("{HEAD}content-range: bytes {from}-{to}/10\r\n"), part)
                }
                None => say("200 OK", HEAD, FILE),
            },
            ["head", "/folder/"] => say("403 Forbidden", "", ""),
            ["head", _] => say("404 Not Found", "", ""),
            _ => say("405 Method Not Allowed", "allow: GET, HEAD\r\n", "no"),
        }
    }
}

#[tokio::test]
async fn a_server_without_webdav_is_read_by_path_and_refuses_the_rest_by_name() {
    let store = mount(&serve(plain(true)).await);
    store.check().await.unwrap();
    let able = store.capabilities();
    assert!(!able.writes && !able.lists, "it is known as soon as it was asked");
    let diagnosis = diagnose_open(&store, false, Probe::Write).await;
    assert_eq!(diagnosis.failure(), None, "{diagnosis:?}");
    assert_eq!(read(&*store, 0..10).await.unwrap(), FILE);
    assert_eq!(read(&*store, 3..7).await.unwrap(), "3456");
    assert!(matches!(read(&*store, 3..11).await, Err(Error::WrongLength { .. })));
    assert!(matches!(store.stat(&path("g")).await, Err(Error::NotFound { .. })));
    let staged = store.stage(&path("g"), FileId([1; 16]), None).await;
    let listed = store.list(&StorePath::root(), "").try_next().await;
    let deleted = store.delete_file(&path("f")).await;
    let refused = [staged.map(drop), listed.map(drop), deleted, store.mkdir(&path("d")).await];
    for refused in refused {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::NotSupported { .. }) && refused.to_string().contains("WebDAV"), "{refused}");
    }
    let whole = mount(&serve(plain(false)).await);
    assert_eq!(read(&*whole, 0..10).await.unwrap(), FILE);
    assert_eq!(read(&*whole, 0..4).await.unwrap(), "0123");
    assert!(matches!(read(&*whole, 4..6).await, Err(Error::NotSupported { .. })));
}

/// Each answer to GET is wrong in its own way, and no read of it succeeds.
#[tokio::test]
async fn a_wrong_answer_is_never_taken_for_the_file() {
    type Wrong = fn() -> String;
    let cases: [(&str, Wrong); 6] = [
        ("another version", || say("206 Partial Content", "etag: \"two\"\r\ncontent-range: bytes 2-5/10\r\n", "xxxx")),
        ("another length", || say("206 Partial Content", "etag: \"one\"\r\ncontent-range: bytes 2-5/11\r\n", "2345")),
        ("another part", || say("206 Partial Content", "etag: \"one\"\r\ncontent-range: bytes 3-6/10\r\n", "3456")),
        ("cut short", || {
            say("206 Partial Content", "etag: \"one\"\r\ncontent-range: bytes 2-5/10\r\n", "2345").replace("2345", "23")
        }),
        ("too little", || say("206 Partial Content", "etag: \"one\"\r\ncontent-range: bytes 2-5/10\r\n", "234")),
        ("no part named", || say("206 Partial Content", "etag: \"one\"\r\n", "2345")),
    ];
    for (name, wrong) in cases {
        let answer = plain(true);
        let store =
            mount(&serve(move |request| if request.starts_with("get") { wrong() } else { answer(request) }).await);
        let error = read(&*store, 2..6).await.unwrap_err();
        match name {
            "another version" | "another length" => assert!(matches!(error, Error::VersionChanged { .. }), "{error:?}"),
            _ => assert!(!matches!(error, Error::VersionChanged { .. } | Error::NotFound { .. }), "{name}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_a_redirecting_one_is_named() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, answer) = (Arc::clone(&asked), plain(true));
    let busy = move |request: &str| match count.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => say("503 Service Unavailable", "", ""),
        _ => answer(request),
    };
    let store = mount(&serve(busy).await);
    assert_eq!(read(&*store, 0..10).await.unwrap(), FILE);
    let totals = store.traffic().totals();
    assert_eq!((totals.retries, totals.failures[Failure::Throttled as usize]), (2, 2), "{totals:?}");
    let elsewhere = |_: &str| say("301 Moved Permanently", "location: https://me:hidden@elsewhere/x\r\n", "");
    let uri = serve(elsewhere).await.replace("http:", "webdav:");
    let error = mount(&uri).check().await.unwrap_err().to_string();
    assert!(error.contains("elsewhere") && !error.contains("hidden"), "{error}");
}

/// A bearer's token goes with every request, and into no text; who is refused is told what to look at.
#[tokio::test]
async fn a_token_is_sent_and_not_shown() {
    const TOKEN: &str = "hidden-token";
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, answer) = (Arc::clone(&asked), plain(true));
    let guarded = move |request: &str| {
        count.fetch_add(1, Ordering::Relaxed);
        let is_known = request.lines().any(|line| line == format!("authorization: bearer {TOKEN}"));
        if is_known { answer(request) } else { say("401 Unauthorized", "", "") }
    };
    let uri = serve(guarded).await;
    let spec = MountSpec::new(&uri).option("webdav_token", TOKEN);
    let store = crate::open(&spec).unwrap();
    store.check().await.unwrap();
    assert_eq!(read(&*store, 3..7).await.unwrap(), "3456");
    assert!(asked.load(Ordering::Relaxed) >= 3);
    let wrong = MountSpec::new(&uri).option("webdav_token", "another-hidden-token");
    let error = crate::open(&wrong).unwrap().check().await.unwrap_err();
    assert!(matches!(error, Error::WrongKeys { .. }) && error.to_string().contains("webdav_token"), "{error:?}");
    let none = mount(&uri).check().await.unwrap_err();
    assert!(matches!(none, Error::MissingKeys { .. } | Error::WrongKeys { .. }), "{none:?}");
    let shown = format!("{spec:?} {wrong:?} {store:?} {} {:?} {error} {error:?}", store.uri(), spec.redacted_options());
    assert!(!shown.contains("hidden"), "{shown}");
}

/// A server whose MOVE changes what tells whose a file is must not be written to.
#[tokio::test]
async fn a_server_that_changes_times_takes_no_writes() {
    let moved = |request: &str| {
        let is_moved = request.contains(COPY_SUFFIX);
        let time = if is_moved { "Sun, 22 Nov 2026 17:13:59 GMT" } else { "Sun, 22 Nov 2026 17:13:58 GMT" };
        let kind = if request.contains("/trial-") || request.contains("/folder/f ") {
            "<d:resourcetype/><d:getcontentlength>1</d:getcontentlength>"
        } else {
            "<d:resourcetype><d:collection/></d:resourcetype>"
        };
        match request.split_whitespace().next() {
            Some("propfind") if request.contains("/folder/f ") => say("404 Not Found", "", ""),
            Some("propfind") => say(
                "207 Multi-Status",
                "",
                &format!(
                    "<d:multistatus xmlns:d=\"DAV:\"><d:response><d:href>/x</d:href><d:propstat><d:prop>{kind}\
                     <d:getlastmodified>{time}</d:getlastmodified></d:prop><d:status>HTTP/1.1 200 OK</d:status>\
                     </d:propstat></d:response></d:multistatus>"
                ),
            ),
            _ => say("201 Created", "", ""),
        }
    };
    let store = mount(&serve(moved).await);
    let refused = match store.stage(&path("f"), FileId([1; 16]), None).await {
        Ok(mut staged) => staged.publish(&Condition::Any).await.map(drop),
        Err(error) => Err(error),
    };
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Error::NotSupported { .. }) && refused.to_string().contains("moved"), "{refused:?}");
}

#[tokio::test]
async fn no_more_is_passed_on_than_was_asked_for() {
    let chunks = || stream::iter(["abc", "def", "ghi"].map(|text| Ok(Bytes::from_static(text.as_bytes())))).boxed();
    for (len, expected) in [(0, ""), (2, "ab"), (3, "abc"), (5, "abcde"), (20, "abcdefghi")] {
        let parts: Vec<Bytes> = first(chunks(), len).try_collect().await.unwrap();
        assert_eq!(parts.concat(), expected.as_bytes());
    }
}

#[test]
fn ranges_and_times_are_read() {
    let range = |text: &'static str| content_range(&HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]));
    assert_eq!(range("bytes 5-9/20"), Some((5, Some(20))));
    assert_eq!(range("bytes 5-9/*"), Some((5, None)));
    assert_eq!(range("items 5-9/20"), None);
    assert_eq!(range("bytes */20"), None);
    assert_eq!(time_ns("Sun, 22 Nov 2026 17:13:58 GMT"), 1_795_367_638_000_000_000);
    assert_eq!(time_ns("yesterday"), 0);
}
