//! What Google Cloud Storage does and SeaweedFS cannot show: by servers that say what its documentation says.

#![allow(clippy::unwrap_used)]

mod scripted;

use std::sync::Arc;

use bytes::Bytes;
use citius_understore::{Compares, Condition, Error, FileId, MountSpec, StorePath, UnderStore, VersionToken, open};
use futures::TryStreamExt;
use scripted::{answer, header, refusal, scripted};

const MODIFIED: (&str, &str) = ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT");

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

fn gcs(endpoint: &str) -> Arc<dyn UnderStore> {
    let spec = MountSpec::new("gs://bucket/p")
        .option("google_base_url", endpoint)
        .option("google_allow_http", "true")
        .option("google_bearer_token", "ya29.token")
        .option("retries_max", "0");
    open(&spec).unwrap()
}

async fn put(store: &Arc<dyn UnderStore>, len: usize, condition: &Condition) -> Result<VersionToken, Error> {
    let mut staged = store.stage(&path("f"), FileId([7; 16]), None).await?;
    staged.write(Bytes::from(vec![1; len])).await?;
    staged.publish(condition).await
}

fn generation(number: u64) -> VersionToken {
    VersionToken::new(number.to_string().as_bytes()).unwrap()
}

/// Equal content written twice has one etag and two generations, and a reader was promised one of them.
#[tokio::test(flavor = "multi_thread")]
async fn gcs_tells_versions_by_generations() {
    let head = |generation| [("etag", "\"same\""), ("x-goog-generation", generation), MODIFIED];
    let (endpoint, asked) = scripted(vec![
        answer(200, &head("11"), "content"),
        answer(206, &[&head("12")[..], &[("content-range", "bytes 0-3/7")]].concat(), "cont"),
        refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold."),
    ]);
    let store = gcs(&endpoint);
    let stat = store.stat(&path("f")).await.unwrap();
    assert_eq!((&stat.token, stat.len), (&generation(11), 7));
    for _ in 0..2 {
        let read = store.read(&path("f"), &stat.token, 0..4, &mut |_: u64, _: &[u8]| panic!("another version")).await;
        assert!(matches!(read, Err(Error::VersionChanged { .. })), "{read:?}");
    }
    let heads: Vec<String> = asked.iter().take(3).collect();
    assert!(heads[0].starts_with("head /bucket/p/f http"), "{}", heads[0]);
    for head in &heads {
        assert_eq!(header(head, "authorization"), Some("bearer ya29.token"));
        // Else an object that is stored packed would be sent unpacked, and ranges of it not at all.
        assert_eq!(header(head, "accept-encoding"), Some("gzip"));
    }
    assert_eq!(header(&heads[1], "x-goog-if-generation-match"), Some("11"));
    assert_eq!(header(&heads[1], "if-match"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn gcs_judges_conditions_of_puts() {
    let failed = || refusal(412, "PreconditionFailed", "no");
    let others = || answer(200, &[("x-goog-generation", "9"), ("x-goog-meta-citius-file", "00"), MODIFIED], "");
    let (endpoint, asked) =
        scripted(vec![answer(200, &[("x-goog-generation", "8")], ""), failed(), others(), failed(), others()]);
    let store = gcs(&endpoint);
    assert_eq!(put(&store, 3, &Condition::MustNotExist).await.unwrap(), generation(8));
    let refused = put(&store, 3, &Condition::MustNotExist).await.unwrap_err();
    assert!(matches!(refused, Error::AlreadyExists { .. }), "{refused:?}");
    let refused = put(&store, 3, &Condition::Replaces(generation(8))).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");
    let heads: Vec<String> = asked.iter().take(5).collect();
    let puts: Vec<_> = heads.iter().filter(|head| head.starts_with("put")).collect();
    let conditions: Vec<_> = puts.iter().map(|head| header(head, "x-goog-if-generation-match").unwrap()).collect();
    assert_eq!(conditions, ["0", "0", "8"]);
    assert_eq!(header(puts[0], "x-goog-meta-citius-file"), Some("07".repeat(16).as_str()));
}

/// The end of an upload takes no conditions there: the target is looked at just before, and that is all that is promised.
#[tokio::test(flavor = "multi_thread")]
async fn gcs_looks_before_it_ends_an_upload() {
    let begun = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    let ended = "<CompleteMultipartUploadResult><ETag>\"e-2\"</ETag></CompleteMultipartUploadResult>";
    let mut answers = vec![answer(200, &[], begun)];
    answers.extend([answer(200, &[("etag", "\"a\"")], ""), answer(200, &[("etag", "\"b\"")], "")]);
    answers.push(answer(200, &[("x-goog-generation", "5"), MODIFIED], ""));
    answers.push(answer(200, &[("x-goog-generation", "6")], ended));
    let (endpoint, asked) = scripted(answers);
    let store = gcs(&endpoint);
    assert_eq!(store.capabilities().large_writes, Compares::JustBefore);
    assert_eq!(store.capabilities().replace, Compares::Atomically);
    assert_eq!(put(&store, 9 << 20, &Condition::Replaces(generation(5))).await.unwrap(), generation(6));
    let heads: Vec<String> = asked.iter().take(5).collect();
    assert!(heads[3].starts_with("head /bucket/p/f ") && heads[4].starts_with("post /bucket/p/f?uploadid=u "));
    assert_eq!(header(&heads[4], "x-goog-if-generation-match"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn gcs_renames_one_version_only() {
    let head = |generation| answer(200, &[("x-goog-generation", generation), MODIFIED], "");
    let nothing = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let (endpoint, asked) = scripted(vec![
        head("3"),
        head("3"),
        refusal(404, "NoSuchKey", "no"),
        answer(200, &[], nothing),
        answer(200, &[], "<CopyObjectResult><ETag>\"e\"</ETag></CopyObjectResult>"),
        head("4"),
        answer(204, &[], ""),
    ]);
    let moved = gcs(&endpoint).rename(&path("a b"), &path("c"), &Condition::MustNotExist).await.unwrap();
    assert_eq!(moved.token, generation(4));
    let heads: Vec<String> = asked.iter().take(7).collect();
    assert!(heads[4].starts_with("put /bucket/p/c "), "{}", heads[4]);
    assert_eq!(header(&heads[4], "x-goog-copy-source"), Some("bucket/p/a%20b"));
    assert_eq!(header(&heads[4], "x-goog-copy-source-if-generation-match"), Some("3"));
    assert_eq!(header(&heads[4], "x-goog-if-generation-match"), Some("0"));
    assert!(heads[6].starts_with("delete /bucket/p/a%20b "), "{}", heads[6]);
    assert_eq!(header(&heads[6], "x-goog-if-generation-match"), Some("3"));
}

/// Google names the element that says that keys are encoded otherwise than Amazon does. Read as they are, `a+b` and
/// `a b` would both be `a+b`.
#[tokio::test(flavor = "multi_thread")]
async fn gcs_lists_encoded_keys_and_generations() {
    let list = "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>\
                <Name>bucket</Name><Prefix>p/</Prefix><Delimiter>/</Delimiter><Encoding-Type>url</Encoding-Type>\
                <IsTruncated>false</IsTruncated>\
                <Contents><Key>p/a+b%25</Key><Generation>1</Generation><MetaGeneration>1</MetaGeneration>\
                <LastModified>2015-10-21T07:28:00.123Z</LastModified><ETag>\"e\"</ETag><Size>5</Size></Contents>\
                <Contents><Key>p/a%2Bb</Key><Generation>2</Generation><Size>6</Size></Contents>\
                <CommonPrefixes><Prefix>p/d+e/</Prefix></CommonPrefixes></ListBucketResult>";
    let (endpoint, _asked) = scripted(vec![answer(200, &[], list)]);
    let pages: Vec<_> = gcs(&endpoint).list(&StorePath::root(), "").try_collect().await.unwrap();
    let entries = &pages[0].entries;
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["a b%", "a+b", "d e"]);
    assert_eq!((&entries[0].stat.token, entries[0].stat.mtime_ms), (&generation(1), 1_445_412_480_123));
    assert_eq!((&entries[1].stat.token, entries[1].stat.len), (&generation(2), 6));
    assert!(!entries[2].stat.is_file() && pages[0].refused.is_empty());
}

/// A second answer of one status is another mistake, and asks for something else to be done.
#[tokio::test(flavor = "multi_thread")]
async fn gcs_failures_are_told_apart() {
    let checked = async |refusal: Vec<u8>| {
        // Refused keys are looked for anew, once.
        let (endpoint, _asked) = scripted(vec![refusal.clone(), refusal]);
        gcs(&endpoint).check().await.unwrap_err()
    };
    let error = checked(refusal(401, "AuthenticationRequired", "Authentication required.")).await;
    assert!(
        matches!(error, Error::WrongKeys { .. }) && error.to_string().contains("google_service_account"),
        "{error}"
    );
    let error = checked(refusal(403, "AccessDenied", "x@y does not have storage.objects.list access.")).await;
    assert!(
        matches!(&error, Error::PermissionDenied { reason, .. } if reason.contains("storage.objects.list")),
        "{error}"
    );
    let error = checked(refusal(404, "NoSuchBucket", "The specified bucket does not exist.")).await;
    assert!(matches!(error, Error::MissingBucket { .. }) && error.to_string().contains("google_base_url"), "{error}");
    let error = checked(refusal(403, "RequestTimeTooSkewed", "The difference is too large.")).await;
    assert!(matches!(error, Error::ClockSkew { .. }), "{error}");
    let error = checked(refusal(400, "UserProjectMissing", "Bucket is requester pays.")).await;
    assert!(
        matches!(error, Error::PermissionDenied { .. }) && error.to_string().contains("google_user_project"),
        "{error}"
    );
    let error = checked(refusal(403, "SignatureDoesNotMatch", "no")).await;
    assert!(matches!(error, Error::WrongKeys { .. }) && !error.to_string().contains("aws_"), "{error}");
}
