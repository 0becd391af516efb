//! What Google Cloud Storage and Alibaba OSS do and SeaweedFS cannot show: by servers that say what their documentation says.

#![allow(clippy::unwrap_used)]

mod logged;
mod scripted;

use std::sync::Arc;

use bytes::Bytes;
use citius_understore::{
    Compares, Condition, Error, FileId, MountSpec, StorePath, UnderStore, VersionToken, open,
    testing::servers::{Dialect, StandIn},
};
use futures::TryStreamExt;
use logged::Log;
use scripted::{Asked, answer, header, refusal, scripted};

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

fn oss_spec(endpoint: &str) -> MountSpec {
    MountSpec::new("oss://bucket/p")
        .option("oss_endpoint", endpoint)
        .option("oss_allow_http", "true")
        .option("oss_region", "cn-hangzhou")
        .option("retries_max", "0")
}

fn oss(endpoint: &str) -> Arc<dyn UnderStore> {
    open(&oss_spec(endpoint).option("oss_access_key_id", "LTAI").option("oss_access_key_secret", "s")).unwrap()
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
                <NextContinuationToken>T%2B=</NextContinuationToken><KeyCount>3</KeyCount>\
                <Contents><Key>p/a+b%25</Key><Generation>1</Generation><MetaGeneration>1</MetaGeneration>\
                <LastModified>2015-10-21T07:28:00.123Z</LastModified><ETag>\"e\"</ETag><Size>5</Size></Contents>\
                <Contents><Key>p/a%2Bb</Key><Generation>2</Generation><Size>6</Size></Contents>\
                <CommonPrefixes><Prefix>p/d+e/</Prefix></CommonPrefixes></ListBucketResult>";
    let last = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let (endpoint, asked) = scripted(vec![answer(200, &[], list), answer(200, &[], last)]);
    let pages: Vec<_> = gcs(&endpoint).list(&StorePath::root(), "").try_collect().await.unwrap();
    assert!(
        asked.iter().nth(1).unwrap().contains("continuation-token=t%252b%3d http"),
        "the token is given back as it is"
    );
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

fn etag(tag: &str) -> VersionToken {
    VersionToken::new(tag.as_bytes()).unwrap()
}

/// OSS knows no `If-Match` on a put. One that it ignored would look like one that held.
#[tokio::test(flavor = "multi_thread")]
async fn oss_looks_before_it_replaces() {
    let head = |tag| answer(200, &[("etag", tag), MODIFIED], "");
    let (endpoint, asked) = scripted(vec![
        head("\"A\""),
        answer(200, &[("etag", "\"B\"")], ""),
        head("\"C\""),
        // Whose it is, in case it is ours.
        head("\"C\""),
    ]);
    let store = oss(&endpoint);
    let able = store.capabilities();
    assert_eq!((able.create_only, able.replace), (Compares::JustBefore, Compares::JustBefore));
    assert_eq!(put(&store, 3, &Condition::Replaces(etag("\"A\""))).await.unwrap(), etag("\"B\""));
    let refused = put(&store, 3, &Condition::Replaces(etag("\"A\""))).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");
    let heads: Vec<String> = asked.iter().take(4).collect();
    assert_eq!(heads.iter().filter(|head| head.starts_with("put")).count(), 1, "the second was not sent");
    assert!(heads.iter().all(|head| header(head, "if-match").is_none()));
}

/// That something is there is said once and is final; it was taken for a race that is worth another try. In a bucket that
/// keeps old versions nobody says it.
#[tokio::test(flavor = "multi_thread")]
async fn oss_creates_once() {
    let exists =
        refusal(409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten.");
    let theirs = answer(200, &[("etag", "\"A\""), MODIFIED], "");
    let versioning =
        |status: &str| answer(200, &[], &format!("<VersioningConfiguration>{status}</VersioningConfiguration>"));
    let nothing = || answer(200, &[], "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>");
    for status in ["<Status>Enabled</Status>", "<Status>Suspended</Status>"] {
        let (endpoint, _asked) = scripted(vec![nothing(), versioning(status), theirs.clone()]);
        let store = oss(&endpoint);
        store.check().await.unwrap();
        assert_eq!(store.capabilities().create_only, Compares::JustBefore);
        let refused = put(&store, 3, &Condition::MustNotExist).await.unwrap_err();
        assert!(matches!(refused, Error::AlreadyExists { .. }), "{refused:?}");
    }
    let written = answer(200, &[("etag", "\"B\"")], "");
    let (endpoint, asked) = scripted(vec![nothing(), versioning(""), exists, theirs, written]);
    let store = oss(&endpoint);
    store.check().await.unwrap();
    assert_eq!(store.capabilities().create_only, Compares::Atomically);
    let refused = put(&store, 3, &Condition::MustNotExist).await.unwrap_err();
    assert!(matches!(refused, Error::AlreadyExists { .. }), "{refused:?}");
    put(&store, 3, &Condition::MustNotExist).await.unwrap();
    let heads: Vec<String> = asked.iter().take(5).collect();
    assert!(heads[1].starts_with("get /bucket?versioning= "), "{}", heads[1]);
    let puts: Vec<_> = heads.iter().filter(|head| head.starts_with("put /bucket/p/f ")).collect();
    assert_eq!(puts.len(), 2);
    for head in puts {
        assert_eq!(header(head, "x-oss-forbid-overwrite"), Some("true"));
        assert_eq!(header(head, "x-oss-content-sha256"), Some("unsigned-payload"));
        let signature = header(head, "authorization").unwrap();
        assert!(signature.starts_with("oss4-hmac-sha256 credential=ltai/") && !signature.contains("additionalheaders"));
        assert!(signature.contains("/cn-hangzhou/oss/aliyun_v4_request,signature="), "{signature}");
    }
}

/// Nor does a deletion know one: what was replaced after it was copied stays.
#[tokio::test(flavor = "multi_thread")]
async fn oss_looks_before_it_deletes_what_was_renamed() {
    let head = |tag| answer(200, &[("etag", tag), MODIFIED], "");
    let nothing = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let copied = "<CopyObjectResult><ETag>\"A\"</ETag></CopyObjectResult>";
    let (endpoint, asked) = scripted(vec![
        head("\"A\""),
        head("\"A\""),
        refusal(404, "NoSuchKey", "no"),
        answer(200, &[], nothing),
        answer(200, &[], copied),
        head("\"A\""),
        head("\"REPLACED\""),
    ]);
    let refused = oss(&endpoint).rename(&path("a"), &path("b"), &Condition::Any).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");
    let heads: Vec<String> = asked.iter().take(7).collect();
    assert_eq!(header(&heads[4], "x-oss-copy-source"), Some("/bucket/p/a"));
    assert_eq!(header(&heads[4], "x-oss-copy-source-if-match"), Some("\"a\""));
    assert!(heads.iter().all(|head| !head.starts_with("delete")));
}

/// `encoding-type=url` holds of continuation tokens there.
#[tokio::test(flavor = "multi_thread")]
async fn oss_pages_are_continued_with_decoded_tokens() {
    let first = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
                 <NextContinuationToken>Cg%2FJi%3D%3D</NextContinuationToken>\
                 <Contents><Key>p%2Fa%20b</Key><ETag>\"A\"</ETag><Size>1</Size></Contents></ListBucketResult>";
    let last = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>\
                <Contents><Key>p%2Fc%2Bd</Key><ETag>\"B\"</ETag><Size>2</Size></Contents></ListBucketResult>";
    let (endpoint, asked) = scripted(vec![answer(200, &[], first), answer(200, &[], last)]);
    let pages: Vec<_> = oss(&endpoint).list(&StorePath::root(), "").try_collect().await.unwrap();
    let names: Vec<_> = pages.iter().flat_map(|page| &page.entries).map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["a b", "c+d"]);
    assert!(asked.iter().nth(1).unwrap().contains("continuation-token=cg%2fji%3d%3d http"));
}

#[tokio::test(flavor = "multi_thread")]
async fn oss_failures_are_told_apart() {
    let checked = async |status, code, message, more: &str| {
        let body = format!("<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>");
        let (endpoint, _asked) = scripted(vec![answer(status, &[], &body)]);
        oss(&endpoint).check().await.unwrap_err()
    };
    let error = checked(403, "InvalidAccessKeyId", "It does not exist in our records.", "").await;
    assert!(matches!(error, Error::WrongKeys { .. }) && error.to_string().contains("oss_access_key_id"), "{error}");
    let error = checked(403, "SecurityTokenExpired", "The security token has expired.", "").await;
    assert!(matches!(error, Error::WrongKeys { .. }) && error.to_string().contains("oss_security_token"), "{error}");
    let error = checked(404, "NoSuchBucket", "The specified bucket does not exist.", "").await;
    assert!(matches!(error, Error::MissingBucket { .. }) && error.to_string().contains("oss_endpoint"), "{error}");
    let error = checked(403, "RequestTimeTooSkewed", "The difference is too large.", "").await;
    assert!(matches!(error, Error::ClockSkew { .. }), "{error}");
    let error =
        checked(403, "AccessDenied", "You have no right to access this object because of bucket acl.", "").await;
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    let elsewhere = "The bucket you are attempting to access must be addressed using the specified endpoint.";
    let at = "<Endpoint>oss-cn-shenzhen.aliyuncs.com</Endpoint>";
    let error = checked(403, "AccessDenied", elsewhere, at).await.to_string();
    assert!(
        error.contains("the bucket is in oss-cn-shenzhen.aliyuncs.com") && error.contains("oss_endpoint"),
        "{error}"
    );
    let error = checked(400, "InvalidArgument", "Invalid signing region in Authorization header.", "").await;
    assert!(matches!(error, Error::WrongRegion { .. }) && error.to_string().contains("oss_region"), "{error}");
}

fn given(id: &str, minutes: i64) -> String {
    let until = chrono::Utc::now() + chrono::Duration::minutes(minutes);
    format!(
        r#"{{"AccessKeyId": "{id}", "AccessKeySecret": "s", "SecurityToken": "t-{id}", "Expiration": "{}", "Code": "Success"}}"#,
        until.format("%Y-%m-%dT%H:%M:%SZ")
    )
}

/// Answers so many checks.
fn checks(count: usize) -> (String, Asked) {
    let nothing = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let versioning = refusal(403, "AccessDenied", "You have no right to ask this.");
    scripted((0..count).flat_map(|_| [answer(200, &[], nothing), versioning.clone()]).collect())
}

/// Keys that are about to end are asked for anew, and those that are not are kept.
#[tokio::test(flavor = "multi_thread")]
async fn oss_has_the_keys_of_the_machines_role() {
    let (metadata, asked_for) = scripted(vec![
        answer(200, &[], "word"),
        answer(200, &[], "storage-role\n"),
        answer(200, &[], &given("first", 2)),
        answer(404, &[], ""),
        answer(200, &[], "storage-role"),
        answer(200, &[], &given("second", 60)),
    ]);
    let (endpoint, asked) = checks(2);
    let store = open(&oss_spec(&endpoint).option("oss_metadata_endpoint", &metadata)).unwrap();
    store.check().await.unwrap();
    // Such that are about to end are asked for anew, and not more often than ten times in a second.
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    store.check().await.unwrap();
    let heads: Vec<String> = asked.iter().take(4).collect();
    let shown: Vec<_> = heads.iter().map(|head| header(head, "x-oss-security-token").unwrap()).collect();
    assert!(shown.is_sorted() && shown[2..] == ["t-second"; 2], "{shown:?}");
    for (head, token) in heads.iter().zip(shown) {
        let id = token.strip_prefix("t-").unwrap();
        assert!(header(head, "authorization").unwrap().contains(&format!("credential={id}/")));
    }
    let heads: Vec<String> = asked_for.iter().take(6).collect();
    let first: Vec<_> = heads.iter().map(|head| head.split(" http").next().unwrap()).collect();
    let roles = "get /latest/meta-data/ram/security-credentials/";
    let role = format!("{roles}storage-role");
    assert_eq!(first, ["put /latest/api/token", roles, &role, "put /latest/api/token", roles, &role]);
    assert_eq!(header(&heads[2], "x-aliyun-ecs-metadata-token"), Some("word"));
    assert_eq!(
        header(&heads[5], "x-aliyun-ecs-metadata-token"),
        None,
        "a machine that knows of no word is asked without"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn oss_takes_on_a_role_with_the_token_of_a_pod() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "oidc+token\n").unwrap();
    let denied = r#"{"Code": "AuthenticationFail.OIDCToken.Expired", "Message": "This token is expired."}"#;
    let assumed = format!(r#"{{"RequestId": "r", "Credentials": {}}}"#, given("pod", 60));
    let (sts, _asked_for) = scripted(vec![answer(400, &[], denied), answer(200, &[], &assumed)]);
    let (endpoint, asked) = checks(1);
    let spec = oss_spec(&endpoint)
        .option("oss_sts_endpoint", &sts)
        .option("oss_role_arn", "acs:ram::1:role/r")
        .option("oss_oidc_provider_arn", "acs:ram::1:oidc-provider/p")
        .option("oss_oidc_token_file", file.path().to_str().unwrap());
    let store = open(&spec).unwrap();
    let error = store.check().await.unwrap_err();
    assert!(matches!(error, Error::MissingKeys { .. }) && error.to_string().contains("token is expired"), "{error}");
    store.check().await.unwrap();
    assert_eq!(header(&asked.recv().unwrap(), "x-oss-security-token"), Some("t-pod"));
}

/// Keys, tokens, and signatures made with them are in no log, no error and no `Debug`, whoever is spoken to.
#[tokio::test]
async fn nothing_secret_is_shown_in_any_dialect() {
    let log = Log::of_process();
    let refused = || vec![refusal(403, "SignatureDoesNotMatch", "no"); 2];
    let gcs = |endpoint: &str| {
        MountSpec::new("gs://bucket").option("google_base_url", endpoint).option("google_allow_http", "true")
    };
    let specs: [&dyn Fn(&str) -> MountSpec; 4] = [
        &|endpoint| {
            MountSpec::new("s3://bucket")
                .option("aws_endpoint", endpoint)
                .option("aws_allow_http", "true")
                .option("aws_access_key_id", "hidden-id")
                .option("aws_secret_access_key", "hidden-secret")
                .option("aws_session_token", "hidden-token")
        },
        &|endpoint| gcs(endpoint).option("google_hmac_access_id", "hidden-id").option("google_hmac_secret", "hidden"),
        &|endpoint| gcs(endpoint).option("google_bearer_token", "hidden-token"),
        &|endpoint| {
            oss_spec(endpoint)
                .option("oss_access_key_id", "hidden-id")
                .option("oss_access_key_secret", "hidden-secret")
                .option("oss_security_token", "hidden-token")
        },
    ];
    for spec in specs {
        let (endpoint, asked) = scripted(refused());
        let spec = spec(&endpoint);
        let store = open(&spec).unwrap();
        let error = store.check().await.unwrap_err();
        assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
        let sent = asked.recv().unwrap();
        assert!(sent.contains("hidden"), "keys or tokens were sent");
        let signature = header(&sent, "authorization").unwrap();
        let signature = signature.rsplit("signature=").next().unwrap();
        let text = format!("{spec:?} {store:?} {error} {error:?} {}", log.text());
        assert!(!text.contains("hidden") && !text.contains(signature), "{text}");
    }
    assert!(!log.text().is_empty(), "nothing is logged at all");
}

async fn checked(spec: MountSpec) -> Error {
    open(&spec).unwrap().check().await.unwrap_err()
}

/// The same mistakes by every dialect, each with the names of its own options.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_mount_is_told_apart() {
    let rows = [
        (Dialect::Gcs, "gs", "google", ["google_hmac_access_id", "google_hmac_secret", "google_base_url"]),
        (Dialect::Oss, "oss", "oss", ["oss_access_key_id", "oss_access_key_secret", "oss_endpoint"]),
    ];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for (dialect, scheme, family, [id, secret, endpoint]) in rows {
        let server = StandIn::start(dialect).await.unwrap();
        let good = server.mount("");
        let advised = |error: &Error, option: &str| {
            let text = error.to_string();
            assert!(text.contains(option) && !text.contains("aws_") && !text.contains("hidden"), "{text}");
        };
        for option in [id, secret] {
            let error = checked(good.clone().option(option, "hidden")).await;
            assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
            advised(&error, family);
        }
        let elsewhere = MountSpec { uri: format!("{scheme}://no-such-bucket"), ..good.clone() };
        let error = checked(elsewhere).await;
        assert!(matches!(&error, Error::MissingBucket { bucket, .. } if bucket == "no-such-bucket"), "{error:?}");
        advised(&error, endpoint);
        let error = checked(good.clone().option(endpoint, &closed)).await;
        assert!(matches!(&error, Error::Unreachable { endpoint, .. } if endpoint.starts_with(&closed)), "{error:?}");
        advised(&error, endpoint);
        let error = checked(server.keyless("").option(format!("{family}_skip_signature"), "true")).await;
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        if dialect == Dialect::Oss {
            let error = checked(good.clone().option("oss_region", "cn-nowhere")).await;
            assert!(matches!(error, Error::WrongRegion { .. }), "{error:?}");
            advised(&error, "oss_region");
            let error = checked(server.keyless("").option("oss_metadata_endpoint", &closed)).await;
            assert!(matches!(error, Error::MissingKeys { .. }), "{error:?}");
            advised(&error, "oss_access_key_id");
        } else {
            let error = checked(server.keyless("").option("google_bearer_token", "hidden")).await;
            assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
            advised(&error, "google_service_account");
        }
        server.stop().unwrap();
    }
}
