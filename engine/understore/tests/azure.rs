//! What only Azure has: accounts, tokens of many kinds, blocks that belong to a key, directories that are blobs, copies that
//! take their time, and listings that can or cannot begin in the middle.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod sas;
mod scripted;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use citius_understore::{
    Condition, Depth, Error, ErrorClass, FileId, MountSpec, Settled, StagedBody, StagedRecord, StorePath, UnderStore,
    VersionToken, open,
};
use futures::TryStreamExt;

use self::sas::account_sas;
use self::scripted::{Asked, answer, header, refusal, scripted};

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

async fn put_if(
    store: &Arc<dyn UnderStore>,
    at: &str,
    content: Vec<u8>,
    id: u8,
    condition: &Condition,
) -> citius_understore::Result<VersionToken> {
    let mut staged = store.stage(&path(at), FileId([id; 16]), None).await?;
    staged.write(Bytes::from(content)).await?;
    staged.publish(condition).await
}

async fn names(store: &Arc<dyn UnderStore>, dir: &str) -> Vec<String> {
    let pages: Vec<_> = store.list(&path(dir), "").try_collect().await.unwrap();
    assert!(pages.iter().all(|page| page.refused.is_empty()), "{pages:?}");
    let entries = pages.into_iter().flat_map(|page| page.entries);
    entries.map(|entry| if entry.stat.is_file() { entry.name } else { entry.name + "/" }).collect()
}

async fn get(store: &Arc<dyn UnderStore>, at: &str) -> Vec<u8> {
    let stat = store.stat(&path(at)).await.unwrap();
    let mut landed = Vec::new();
    let mut landing = |_: u64, bytes: &[u8]| landed.extend_from_slice(bytes);
    store.read(&path(at), &stat.token, 0..stat.len, &mut landing).await.unwrap();
    landed
}

async fn checked(spec: MountSpec) -> Error {
    open(&spec).unwrap().check().await.unwrap_err()
}

mod on_azurite {
    use citius_understore::testing::servers::Azurite;
    use object_store::{
        Attribute, AttributeValue, ObjectStore, ObjectStoreExt, PutOptions,
        azure::{MicrosoftAzure, MicrosoftAzureBuilder},
        path::Path,
    };

    use super::*;

    /// One server for the tests that only look; starting one takes seconds.
    #[tokio::test(flavor = "multi_thread")]
    async fn on_one_server() {
        let server = Azurite::start().await.unwrap();
        what_is_wrong_with_a_mount_is_told_apart(&server).await;
        a_token_gives_the_rights_that_it_gives(&server).await;
        folders_of_other_programs_are_directories(&server).await;
        secrets_are_in_no_text(&server);
        futures::join!(
            a_writer_who_died_is_outlived(&server),
            a_lost_answer_is_found_out(&server),
            a_writer_who_comes_between_ends_an_upload(&server),
        );
        server.stop().unwrap();
    }

    async fn what_is_wrong_with_a_mount_is_told_apart(server: &Azurite) {
        let good = server.mount("");
        open(&good).unwrap().check().await.unwrap();
        open(&server.mount("no/keys/yet")).unwrap().check().await.unwrap();

        let error = checked(good.clone().option("azure_storage_account_key", "aGlkZGVuLXZhbHVl")).await;
        assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
        assert!(error.to_string().contains("azure_storage_account_key"), "{error}");
        assert!(!format!("{error} {error:?}").contains("aGlkZGVuLXZhbHVl"));

        let elsewhere = MountSpec { uri: "az://no-such-container".into(), ..good.clone() };
        let error = checked(elsewhere).await;
        assert!(matches!(&error, Error::MissingBucket { bucket, .. } if bucket == "no-such-container"), "{error:?}");
        assert!(error.to_string().starts_with("container \"no-such-container\" does not exist"), "{error}");

        let error = checked(good.clone().option("azure_storage_endpoint", "http://no-such-account.invalid")).await;
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("no storage account has this address"), "{error}");

        let keyless = MountSpec {
            options: good.options.clone().into_iter().filter(|(name, _)| name != "azure_storage_account_key").collect(),
            ..good.clone()
        };
        let error = checked(keyless.clone().option("azure_skip_signature", "true")).await;
        // Azurite says of no signature what it says of a wrong one.
        assert!(matches!(error, Error::PermissionDenied { .. } | Error::WrongKeys { .. }), "{error:?}");
        // A machine that has no identity: nobody listens where it would be asked for.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = checked(keyless.option("azure_msi_endpoint", &closed)).await;
        assert!(matches!(error, Error::MissingKeys { .. }), "{error:?}");
        let error = checked(good.option("azure_storage_endpoint", &closed)).await;
        assert!(matches!(&error, Error::Unreachable { endpoint, .. } if *endpoint == closed), "{error:?}");
    }

    fn with_token(server: &Azurite, token: &str) -> MountSpec {
        MountSpec::new(format!("azure://{}/sas", server.container()))
            .option("azure_storage_account_name", server.account())
            .option("azure_storage_endpoint", server.endpoint())
            .option("azure_allow_http", "true")
            .option("azure_storage_sas_key", token)
    }

    async fn a_token_gives_the_rights_that_it_gives(server: &Azurite) {
        let sas = |rights, from, to| account_sas(server.account(), server.key(), rights, from, to);
        let store = open(&with_token(server, &sas("rwdlac", -1, 1))).unwrap();
        store.check().await.unwrap();
        put_if(&store, "a b%/f+1", vec![7; 9 << 20], 1, &Condition::MustNotExist).await.unwrap();
        // The service reads the source of a copy by the token too.
        store.rename(&path("a b%/f+1"), &path("g"), &Condition::MustNotExist).await.unwrap();
        assert_eq!(get(&store, "g").await, vec![7; 9 << 20]);
        assert_eq!(names(&store, "").await, ["g"]);

        let reader = open(&with_token(server, &sas("rl", -1, 1))).unwrap();
        assert_eq!(get(&reader, "g").await.len(), 9 << 20);
        let error = put_if(&reader, "h", vec![1], 2, &Condition::Any).await.unwrap_err();
        assert!(error.class() == ErrorClass::PermissionDenied && error.refuses_publication(), "{error:?}");
        let error = reader.delete_file(&path("g")).await.unwrap_err();
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");

        for (from, to) in [(-2, -1), (1, 2)] {
            let error = checked(with_token(server, &sas("rwdlac", from, to))).await;
            assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
        }
        let error = checked(with_token(server, &sas("rl", -1, 1).replace("sp=rl", "sp=rwdl"))).await;
        assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("sig="), "{error:?}");
    }

    fn raw(server: &Azurite) -> MicrosoftAzure {
        MicrosoftAzureBuilder::new()
            .with_account(server.account())
            .with_access_key(server.key())
            .with_endpoint(server.endpoint())
            .with_allow_http(true)
            .with_container_name(server.container())
            .build()
            .unwrap()
    }

    /// An empty blob that says that it is a folder is one, whether anything is under its name or not, and so is a name that
    /// ends in a slash. What is no folder stays a file, although it is empty.
    async fn folders_of_other_programs_are_directories(server: &Azurite) {
        let raw = raw(server);
        let folder = || {
            let folder = (Attribute::Metadata("Hdi_isfolder".into()), AttributeValue::from("true"));
            let attributes = [folder].into_iter().collect();
            PutOptions { attributes, ..PutOptions::default() }
        };
        for key in ["theirs/d", "theirs/d/e", "theirs/empty"] {
            raw.put_opts(&Path::from(key), "".into(), folder()).await.unwrap();
        }
        for key in ["theirs/d/f", "theirs/d-x", "theirs/file"] {
            raw.put(&Path::from(key), "".into()).await.unwrap();
        }
        let store = open(&server.mount("theirs")).unwrap();
        assert_eq!(names(&store, "").await, ["d/", "d-x", "empty/", "file"]);
        assert_eq!(names(&store, "d").await, ["e/", "f"]);
        assert!(names(&store, "empty").await.is_empty());
        assert!(!store.stat(&path("empty")).await.unwrap().is_file());
        assert!(matches!(store.mkdir(&path("empty")).await, Err(Error::AlreadyExists { .. })));
        let error = put_if(&store, "empty", vec![1], 1, &Condition::MustNotExist).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
        assert!(matches!(store.delete_dir(&path("d"), Depth::Empty).await, Err(Error::NotEmpty { .. })));

        store.rename(&path("d"), &path("moved"), &Condition::MustNotExist).await.unwrap();
        store.rename(&path("empty"), &path("moved/empty"), &Condition::MustNotExist).await.unwrap();
        assert_eq!(names(&store, "").await, ["d-x", "file", "moved/"]);
        assert_eq!(names(&store, "moved").await, ["e/", "empty/", "f"]);
        store.delete_dir(&path("moved/e"), Depth::Empty).await.unwrap();
        store.delete_dir(&path("moved"), Depth::Recursive).await.unwrap();
        assert_eq!(names(&store, "").await, ["d-x", "file"]);
        let left: Vec<_> = raw.list(Some(&Path::from("theirs"))).try_collect().await.unwrap();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    fn secrets_are_in_no_text(server: &Azurite) {
        let sas = account_sas(server.account(), server.key(), "rl", -1, 1);
        let signature = sas.rsplit_once("sig=").unwrap().1.to_owned();
        for (spec, secret) in [(server.mount("p"), server.key()), (with_token(server, &sas), signature.as_str())] {
            let store = open(&spec).unwrap();
            let text = format!("{spec:?} {store:?} {} {:?}", store.uri(), spec.redacted_options());
            assert!(!text.contains(secret), "the secret is in {text}");
        }
    }

    fn limit_ms(record: &StagedRecord) -> u64 {
        match record.body {
            StagedBody::Upload { publish_by_ms: Some(publish_by_ms), .. } => publish_by_ms,
            _ => panic!("nine MiB are an upload, and Azure's are bounded by time: {record:?}"),
        }
    }

    fn now_ms() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
    }

    /// A writer dies with all its parts sent. Whoever settles waits until it can be no more, whoever writes there meanwhile
    /// is not disturbed, and when the dead one wakes up it publishes nothing.
    async fn a_writer_who_died_is_outlived(server: &Azurite) {
        let store = open(&server.mount("died")).unwrap();
        let mut dead = store.stage(&path("f"), FileId([1; 16]), None).await.unwrap();
        dead.write(Bytes::from(vec![1; 9 << 20])).await.unwrap();
        let begun = StagedRecord::decode(&dead.begun().encode()).unwrap();
        let sealed = StagedRecord::decode(&dead.seal().await.unwrap().encode()).unwrap();
        let limit_ms = limit_ms(&sealed);
        assert!(limit_ms > now_ms());
        // Of what was only begun nothing can be published: that takes the seal.
        assert_eq!(store.settle(&begun).await.unwrap(), Settled::Absent);
        assert!(matches!(
            store.publish(&begun, &Condition::Any).await,
            Err(Error::BadRecord { .. } | Error::Store { .. })
        ));

        let mut next = store.stage(&path("f"), FileId([2; 16]), None).await.unwrap();
        next.write(Bytes::from(vec![2; 9 << 20])).await.unwrap();
        let settling = {
            let (store, sealed) = (Arc::clone(&store), sealed.clone());
            tokio::spawn(async move { store.settle(&sealed).await.unwrap() })
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!settling.is_finished(), "absence was promised while it could still be published");
        assert_eq!(settling.await.unwrap(), Settled::Absent);
        assert!(now_ms() > limit_ms);
        assert!(matches!(dead.publish(&Condition::Any).await, Err(Error::Expired { .. })));
        assert!(matches!(store.publish(&sealed, &Condition::Any).await, Err(Error::Expired { .. })));
        next.publish(&Condition::MustNotExist).await.unwrap();
        assert_eq!(get(&store, "f").await, vec![2; 9 << 20]);
    }

    /// A publication happened and nobody heard of it.
    async fn a_lost_answer_is_found_out(server: &Azurite) {
        let store = open(&server.mount("lost")).unwrap();
        let mut staged = store.stage(&path("f"), FileId([3; 16]), None).await.unwrap();
        staged.write(Bytes::from(vec![3; 9 << 20])).await.unwrap();
        let record = StagedRecord::decode(&staged.seal().await.unwrap().encode()).unwrap();
        let token = store.publish(&record, &Condition::MustNotExist).await.unwrap();
        // Nothing is waited for, and what was published can be published again.
        assert_eq!(store.settle(&record).await.unwrap(), Settled::Published(token.clone()));
        assert_eq!(staged.publish(&Condition::MustNotExist).await.unwrap(), token);
        assert_eq!(store.publish(&record, &Condition::Any).await.unwrap(), token);
        assert_eq!(get(&store, "f").await, vec![3; 9 << 20]);
    }

    /// Azure drops the blocks of all who write to a key when one of them is done. Nobody's parts end up in another's file.
    async fn a_writer_who_comes_between_ends_an_upload(server: &Azurite) {
        let store = open(&server.mount("between")).unwrap();
        let mut slow = store.stage(&path("f"), FileId([4; 16]), None).await.unwrap();
        slow.write(Bytes::from(vec![4; 9 << 20])).await.unwrap();
        slow.seal().await.unwrap();
        put_if(&store, "f", vec![5; 17 << 20], 5, &Condition::Any).await.unwrap();
        let error = slow.publish(&Condition::Any).await.unwrap_err();
        assert!(matches!(&error, Error::Conflict { reason, .. } if reason.contains("dropped the parts")), "{error:?}");
        assert_eq!(get(&store, "f").await, vec![5; 17 << 20]);
    }
}

fn scripted_mount(endpoint: &str) -> MountSpec {
    MountSpec::new("az://c/p")
        .option("azure_storage_account_name", "acc")
        .option("azure_storage_endpoint", endpoint)
        .option("azure_allow_http", "true")
}

fn with_key(endpoint: &str) -> MountSpec {
    scripted_mount(endpoint).option("azure_storage_account_key", "a2V5")
}

const EMPTY: &str = "<?xml version=\"1.0\"?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>";

fn heads(asked: &Asked) -> Vec<String> {
    asked.try_iter().collect()
}

/// A service principal and a managed identity get tokens where they are told to, and show them.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_and_shown() {
    let token = |name: &str| {
        let body = format!(
            "{{\"token_type\":\"Bearer\",\"expires_in\":3600,\"expires_on\":\"4102444800\",\"resource\":\"r\",\"access_token\":\"{name}\"}}"
        );
        answer(200, &[("content-type", "application/json")], &body)
    };
    let (identity, asked_identity) = scripted(vec![token("of-principal"), token("of-machine")]);
    let (service, asked) = scripted(vec![answer(200, &[], EMPTY), answer(200, &[], EMPTY), answer(200, &[], EMPTY)]);

    let principal = scripted_mount(&service)
        .option("azure_tenant_id", "tenant")
        .option("azure_client_id", "client")
        .option("azure_client_secret", "secret")
        .option("azure_authority_host", format!("{identity}/"));
    open(&principal).unwrap().check().await.unwrap();
    assert_eq!(header(&asked.recv().unwrap(), "authorization"), Some("bearer of-principal"));
    assert!(asked_identity.recv().unwrap().starts_with("post /tenant/oauth2/v2.0/token"));

    let machine = scripted_mount(&service).option("azure_msi_endpoint", format!("{identity}/token"));
    open(&machine).unwrap().check().await.unwrap();
    assert_eq!(header(&asked.recv().unwrap(), "authorization"), Some("bearer of-machine"));
    let head = asked_identity.recv().unwrap();
    assert!(head.starts_with("get /token?") && header(&head, "metadata") == Some("true"), "{head}");

    let given = scripted_mount(&service).option("azure_storage_token", "given");
    open(&given).unwrap().check().await.unwrap();
    let head = asked.recv().unwrap();
    assert_eq!(header(&head, "authorization"), Some("bearer given"));
    assert!(header(&head, "x-ms-version").is_some() && header(&head, "x-ms-date").is_some(), "{head}");
}

/// A token that has expired before its time is fetched anew, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_renewed() {
    let token = |name: &str| {
        let body = format!("{{\"token_type\":\"Bearer\",\"expires_in\":3600,\"access_token\":\"{name}\"}}");
        answer(200, &[("content-type", "application/json")], &body)
    };
    let (identity, _asked) = scripted(vec![token("old"), token("new")]);
    let expired = || refusal(401, "InvalidAuthenticationInfo", "Lifetime validation failed. The token is expired.");
    let (service, asked) = scripted(vec![expired(), answer(200, &[], EMPTY), expired(), expired()]);
    let spec = scripted_mount(&service)
        .option("azure_tenant_id", "tenant")
        .option("azure_client_id", "client")
        .option("azure_client_secret", "secret")
        .option("azure_authority_host", &identity);
    let store = open(&spec).unwrap();
    store.check().await.unwrap();
    let shown: Vec<_> = heads(&asked).iter().map(|head| header(head, "authorization").unwrap().to_owned()).collect();
    assert_eq!(shown, ["bearer old", "bearer new"]);
    let error = store.check().await.unwrap_err();
    assert!(matches!(&error, Error::WrongKeys { reason, .. } if reason.contains("the token has expired")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_told_from_a_wrong_key() {
    let body = "<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate.\
                </Message><AuthenticationErrorDetail>Request date header too old: 'x'</AuthenticationErrorDetail></Error>";
    let (endpoint, _asked) = scripted(vec![answer(403, &[], body)]);
    let error = checked(with_key(&endpoint)).await;
    assert!(matches!(error, Error::ClockSkew { .. }), "{error:?}");
}

/// A service of before 2026 does not know where a listing is to begin: it is asked once, and from then on read from its
/// start, of which nothing is shown that was not asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_begins_in_the_middle_where_it_can() {
    let page = |names: &[&str], next: &str| {
        let blob = |name: &&str| {
            format!(
                "<Blob><Name>p/{name}</Name><Properties><Etag>0x1</Etag><Content-Length>1</Content-Length></Properties></Blob>"
            )
        };
        let blobs: String = names.iter().map(blob).collect();
        let body =
            format!("<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>");
        answer(200, &[], &body)
    };
    let unknown =
        refusal(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.");
    let old = vec![unknown, page(&["a", "b"], "more"), page(&["c", "d"], ""), page(&["a", "b", "c", "d"], "")];
    let (endpoint, asked) = scripted(old);
    let store = open(&with_key(&endpoint)).unwrap();
    for _ in 0..2 {
        let pages: Vec<_> = store.list(&StorePath::root(), "b").try_collect().await.unwrap();
        let names: Vec<_> = pages.iter().flat_map(|page| &page.entries).map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["c", "d"]);
    }
    let starts: Vec<_> =
        heads(&asked).iter().map(|head| head.lines().next().unwrap().contains("startfrom=p%2fb")).collect();
    assert_eq!(starts, [true, false, false, false]);

    let (endpoint, asked) = scripted(vec![page(&["b", "c"], "")]);
    let store = open(&with_key(&endpoint)).unwrap();
    let pages: Vec<_> = store.list(&StorePath::root(), "b").try_collect().await.unwrap();
    assert_eq!(pages[0].entries.len(), 1);
    assert_eq!(header(&asked.recv().unwrap(), "x-ms-version"), Some("2026-02-06"));
}

/// Azure may copy by and by. What it has not finished is not believed, what fails deletes nothing, and a copy of an earlier
/// call is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_believed_when_it_is_done() {
    let blob = |status: &str| {
        let mut headers = vec![("etag", "\"0x1\""), ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")];
        if !status.is_empty() {
            headers.push(("x-ms-copy-status", status));
        }
        answer(200, &headers, "")
    };
    let none = || answer(404, &[("x-ms-error-code", "BlobNotFound")], "");
    let start = || answer(202, &[("x-ms-copy-status", "pending")], "");
    // Looks at the source twice and at the target, which has nothing under its name either.
    let looks = || vec![blob(""), blob(""), none(), answer(200, &[], EMPTY)];

    let done = [start(), blob("pending"), blob("success"), answer(202, &[], "")];
    let (endpoint, asked) = scripted(looks().into_iter().chain(done).collect());
    let store = open(&with_key(&endpoint)).unwrap();
    store.rename(&path("a"), &path("b"), &Condition::MustNotExist).await.unwrap();
    let heads = heads(&asked);
    let copy = heads.iter().find(|head| head.starts_with("put /c/p/b")).unwrap();
    assert_eq!(header(copy, "x-ms-copy-source"), Some(format!("{endpoint}/c/p/a").as_str()));
    assert_eq!((header(copy, "x-ms-source-if-match"), header(copy, "if-none-match")), (Some("\"0x1\""), Some("*")));
    let delete = heads.last().unwrap();
    assert!(delete.starts_with("delete /c/p/a") && header(delete, "if-match") == Some("\"0x1\""), "{delete}");

    let failed = [start(), blob("failed")];
    let (endpoint, asked) = scripted(looks().into_iter().chain(failed).collect());
    let store = open(&with_key(&endpoint)).unwrap();
    store.rename(&path("a"), &path("b"), &Condition::MustNotExist).await.unwrap_err();
    assert!(!self::heads(&asked).iter().any(|head| head.starts_with("delete")));

    let again = [refusal(409, "PendingCopyOperation", "m"), blob("pending"), blob("success"), start(), blob("success")];
    let (endpoint, asked) = scripted(looks().into_iter().chain(again).chain([answer(202, &[], "")]).collect());
    let store = open(&with_key(&endpoint)).unwrap();
    store.rename(&path("a"), &path("b"), &Condition::Any).await.unwrap();
    assert_eq!(self::heads(&asked).iter().filter(|head| head.starts_with("put /c/p/b")).count(), 2);
}

/// As S3's: who may not write is told at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_put_refused_is_known_not_to_have_happened() {
    let denied = || answer(403, &[("x-ms-error-code", "AuthorizationPermissionMismatch")], "");
    let gone = || answer(404, &[("x-ms-error-code", "BlobNotFound")], "");
    for (answers, is_known) in [(vec![denied(), gone()], true), (vec![answer(503, &[], ""), denied(), gone()], false)] {
        let (endpoint, _asked) = scripted(answers);
        let error = put_if(&open(&with_key(&endpoint)).unwrap(), "f", vec![7], 1, &Condition::Any).await.unwrap_err();
        assert_eq!(error.refuses_publication(), is_known, "{error:?}");
        assert_eq!(error.class(), ErrorClass::PermissionDenied);
    }
}
