//! What only Swift has: logins of two kinds, tokens that end, large objects with segments beside them.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod scripted;

use bytes::Bytes;
use citius_understore::{Error, FileId, MountSpec, StorePath, open};

use self::scripted::{Asked, answer, header, scripted};

fn heads(asked: &Asked) -> Vec<String> {
    asked.try_iter().collect()
}

async fn checked(spec: MountSpec) -> Error {
    open(&spec).unwrap().check().await.unwrap_err()
}

fn v1(auth_url: &str) -> MountSpec {
    MountSpec::new("swift://c/p")
        .option("swift_auth_url", auth_url)
        .option("swift_user", "account:user")
        .option("swift_key", "hidden-value")
        .option("swift_allow_http", "true")
}

fn login_to(storage: &str, token: &str, lifetime: &str) -> Vec<u8> {
    let url = format!("{storage}/v1/AUTH_a/");
    answer(200, &[("x-auth-token", token), ("x-storage-url", &url), ("x-auth-token-expires", lifetime)], "")
}

fn listing() -> Vec<u8> {
    answer(200, &[("content-type", "application/json")], "[]")
}

/// One login serves many requests; a token is renewed when it is refused, however young it is, and before it ends. The story:
/// a request whose own token was refused within a second of its login was sent again with that very token.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_kept_and_renewed() {
    let (storage, asked) = scripted(vec![listing(), listing(), answer(401, &[], ""), listing(), listing()]);
    let (auth, logins) = scripted(vec![login_to(&storage, "one", "86400"), login_to(&storage, "two", "1")]);
    let store = open(&v1(&auth)).unwrap();
    store.check().await.unwrap();
    store.check().await.unwrap();
    store.check().await.unwrap();
    let tokens: Vec<_> = heads(&asked).iter().map(|head| header(head, "x-auth-token").unwrap().to_owned()).collect();
    assert_eq!(tokens, ["one", "one", "one", "two"]);
    let asked_for: Vec<_> = heads(&logins);
    assert_eq!(asked_for.len(), 2);
    assert_eq!(header(&asked_for[0], "x-auth-user"), Some("account:user"));
    // The second token has ended, and there is no third login.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let error = store.check().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_login_is_told_apart() {
    let (auth, _asked) = scripted(vec![answer(401, &[], ""), answer(404, &[], ""), answer(200, &[], "")]);
    let error = checked(v1(&auth)).await;
    assert!(matches!(error, Error::WrongKeys { .. }) && error.to_string().contains("swift_key"), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hidden"), "{error:?}");
    let error = checked(v1(&auth)).await;
    assert!(
        matches!(&error, Error::Unreachable { reason, .. } if reason.contains("nobody logs in there")),
        "{error:?}"
    );
    let error = checked(v1(&auth)).await;
    assert!(error.to_string().contains("without a token"), "{error}");

    let missing = [404, 204, 404].map(|status| answer(status, &[], ""));
    let others = [403, 401].map(|status| answer(status, &[], ""));
    let (storage, _asked) = scripted(missing.into_iter().chain(others).collect());
    let given = MountSpec::new("swift://c")
        .option("swift_storage_url", format!("{storage}/v1/AUTH_a"))
        .option("swift_token", "hidden-value")
        .option("swift_allow_http", "true");
    let error = checked(given.clone()).await;
    assert!(matches!(&error, Error::MissingBucket { bucket, .. } if bucket == "c"), "{error:?}");
    assert!(matches!(checked(given.clone()).await, Error::PermissionDenied { .. }));
    let error = checked(given).await;
    assert!(matches!(&error, Error::WrongKeys { reason, .. } if reason.contains("token was refused")), "{error:?}");
}

/// The story: while Swift started again, with its server of accounts as the last, a put and a listing were answered 404, and the
/// mount had no container.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_missing_only_where_its_account_is_there() {
    let answers = [answer(404, &[], ""), answer(204, &[], ""), answer(204, &[], ""), listing()];
    let (storage, asked) = scripted(answers.into());
    let (auth, _logins) = scripted(vec![login_to(&storage, "one", "86400")]);
    open(&v1(&auth)).unwrap().check().await.unwrap();
    let asked: Vec<_> = heads(&asked).iter().map(|head| head.split(['?', ' ']).take(2).collect::<String>()).collect();
    assert_eq!(asked, ["get/v1/auth_a/c", "head/v1/auth_a", "head/v1/auth_a/c", "get/v1/auth_a/c"]);
}

/// Swift tells of a large object that it could not find just as of one that it deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_is_still_there_is_not_deleted() {
    let says = |head: &str| match head.split(' ').next() {
        Some("HEAD") => answer(200, &[("etag", "\"e\""), ("x-static-large-object", "True")], ""),
        Some("DELETE") => answer(200, &[], r#"{"Response Status": "200 OK", "Number Not Found": 1, "Errors": []}"#),
        _ => listing(),
    };
    let storage = citius_understore::testing::servers::scripted(100, says).unwrap();
    let (auth, _logins) = scripted(vec![login_to(&storage, "one", "86400")]);
    let error = open(&v1(&auth)).unwrap().delete_file(&StorePath::parse("f").unwrap()).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

/// Segments of a large file are named after it. A key that leaves no room for them is one of small files alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_without_room_for_its_segments_is_refused_before_anybody_is_asked() {
    let (storage, asked) = scripted(vec![answer(403, &[], "")]);
    let spec = MountSpec::new("swift://c/p")
        .option("swift_storage_url", format!("{storage}/v1/AUTH_a"))
        .option("swift_token", "hidden-value")
        .option("swift_allow_http", "true");
    let store = open(&spec).unwrap();
    let write = async |bytes: usize| {
        let key = "n".repeat(199) + "/";
        let path = StorePath::parse(&(key.repeat(4) + &"n".repeat(bytes - 800 - "p/".len())));
        let mut staged = store.stage(&path.unwrap(), FileId([1; 16]), None).await.unwrap();
        staged.write(Bytes::from(vec![0; 9 << 20])).await.unwrap_err()
    };
    let refused = write(1000).await;
    assert!(matches!(refused, Error::Unnameable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("segments named after it"), "{refused}");
    assert!(heads(&asked).is_empty());
    // With room for them their container is asked for.
    let refused = write(900).await;
    assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
    assert_eq!(heads(&asked).len(), 1);
}

/// Whoever changes the keys in clouds.yaml need not mount anew, and one who is half done breaks nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_s_keys_are_rotated_in_its_file() {
    let (storage, asked) = scripted((0..4).map(|_| listing()).collect());
    let logins = ["one", "two"].map(|token| login_to(&storage, token, "86400")).into_iter().collect();
    let (auth, logins) = scripted(logins);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("clouds.yaml");
    let write = |user: &str| {
        let text = format!(
            "clouds: {{ours: {{auth_type: v1password, auth: {{auth_url: '{auth}', username: '{user}', password: hidden-value}}}}}}"
        );
        std::fs::write(&file, text).unwrap();
    };
    write("account:first");
    let spec = MountSpec::new("swift://c/p").option("cloud", "ours").option("swift_allow_http", "true");
    let store = open(&spec.option("os_client_config_file", file.display().to_string())).unwrap();
    let pause = || tokio::time::sleep(std::time::Duration::from_millis(1100));
    store.check().await.unwrap();
    std::fs::write(&file, "clouds: {ours: {auth: {password: 'hidden-").unwrap();
    pause().await;
    store.check().await.unwrap();
    write("account:second-one");
    pause().await;
    store.check().await.unwrap();
    store.check().await.unwrap();
    let tokens: Vec<_> = heads(&asked).iter().map(|head| header(head, "x-auth-token").unwrap().to_owned()).collect();
    assert_eq!(tokens, ["one", "one", "two", "two"]);
    let users: Vec<_> = heads(&logins).iter().map(|head| header(head, "x-auth-user").unwrap().to_owned()).collect();
    assert_eq!(users, ["account:first", "account:second-one"]);
}

/// Keystone, as its version 3 is documented: what a login answers.
fn keystone(token: &str, catalog: &str) -> Vec<u8> {
    let body = format!("{{\"token\":{{\"expires_at\":\"2100-01-01T00:00:00.000000Z\",\"catalog\":{catalog}}}}}");
    answer(201, &[("x-subject-token", token), ("content-type", "application/json")], &body)
}

fn catalog(storage: &str) -> String {
    let endpoint = |interface: &str, region: &str, url: &str| {
        format!(
            "{{\"id\":\"1\",\"interface\":\"{interface}\",\"region\":\"{region}\",\"region_id\":\"{region}\",\"url\":\"{url}\"}}"
        )
    };
    let (here, there) = (format!("{storage}/v1/AUTH_a"), "http://127.0.0.1:1/other");
    let endpoints =
        [endpoint("public", "Here", &here), endpoint("admin", "Here", there), endpoint("public", "There", there)];
    format!(
        "[{{\"type\":\"identity\",\"name\":\"keystone\",\"endpoints\":[]}},\
         {{\"type\":\"object-store\",\"name\":\"swift\",\"endpoints\":[{}]}}]",
        endpoints.join(",")
    )
}

fn by_password(auth_url: &str) -> MountSpec {
    MountSpec::new("swift://c/p")
        .option("os_auth_url", auth_url)
        .option("os_username", "user")
        .option("os_password", "hidden-value")
        .option("os_project_name", "project")
        .option("swift_allow_http", "true")
}

#[tokio::test(flavor = "multi_thread")]
async fn keystone_is_asked_for_a_token_and_for_where_the_objects_are() {
    let (storage, asked) = scripted(vec![listing(), listing()]);
    let (auth, logins) = scripted(vec![
        keystone("by-password", &catalog(&storage)),
        keystone("by-application", &catalog(&storage)),
        keystone("x", &catalog(&storage)),
        keystone("x", "[]"),
        answer(
            401,
            &[],
            "{\"error\":{\"code\":401,\"message\":\"The request you have made requires authentication.\"}}",
        ),
    ]);
    open(&by_password(&auth).option("os_region_name", "Here")).unwrap().check().await.unwrap();
    assert_eq!(header(&asked.recv().unwrap(), "x-auth-token"), Some("by-password"));
    assert!(logins.recv().unwrap().starts_with("post /v3/auth/tokens "));

    let application = MountSpec::new("swift://c/p")
        .option("os_auth_url", format!("{auth}/v3/"))
        .option("os_application_credential_id", "id")
        .option("os_application_credential_secret", "hidden-value")
        .option("os_region_name", "Here")
        .option("os_interface", "publicURL")
        .option("swift_allow_http", "true");
    open(&application).unwrap().check().await.unwrap();
    assert_eq!(header(&asked.recv().unwrap(), "x-auth-token"), Some("by-application"));
    assert!(logins.recv().unwrap().starts_with("post /v3/auth/tokens "));

    let error = checked(by_password(&auth)).await;
    assert!(matches!(&error, Error::WrongRegion { reason, .. } if reason.contains("Here, There")), "{error:?}");
    let error = checked(by_password(&auth).option("os_region_name", "Here")).await;
    assert!(matches!(&error, Error::WrongRegion { reason, .. } if reason.contains("no project")), "{error:?}");
    let error = checked(by_password(&auth)).await;
    assert!(
        matches!(&error, Error::WrongKeys { reason, .. } if reason.contains("requires authentication")),
        "{error:?}"
    );
    assert!(!format!("{error} {error:?}").contains("hidden"), "{error:?}");
}

/// Large objects, on servers that keep their manifests in two ways.
mod large {
    use std::{ops::Range, sync::Arc};

    use bytes::Bytes;
    use citius_understore::{
        Condition, Depth, FileId, Page, StorePath, UnderStore,
        testing::servers::{CephGateway, CephStore, call},
    };
    #[cfg(feature = "more-servers")]
    use citius_understore::{Part, Remnant, Settled, StagedRecord, testing::servers::Swift};
    use futures::TryStreamExt;
    use http::Request;

    use super::*;

    fn path(text: &str) -> StorePath {
        StorePath::parse(text).unwrap()
    }

    async fn put(store: &Arc<dyn UnderStore>, at: &str, content: Vec<u8>, id: u8) {
        let mut staged = store.stage(&path(at), FileId([id; 16]), None).await.unwrap();
        staged.write(Bytes::from(content)).await.unwrap();
        staged.publish(&Condition::Any).await.unwrap();
    }

    async fn get(store: &Arc<dyn UnderStore>, at: &str) -> Vec<u8> {
        let len = store.stat(&path(at)).await.unwrap().len;
        part_of(store, at, 0..len).await
    }

    async fn part_of(store: &Arc<dyn UnderStore>, at: &str, range: Range<u64>) -> Vec<u8> {
        let stat = store.stat(&path(at)).await.unwrap();
        let mut landed = Vec::new();
        let mut landing = |_: u64, bytes: &[u8]| landed.extend_from_slice(bytes);
        store.read(&path(at), &stat.token, range, &mut landing).await.unwrap();
        landed
    }

    /// A server as another program sees it.
    struct Other<'a> {
        auth_url: String,
        keys: (&'a str, &'a str),
        container: &'a str,
    }

    impl Other<'_> {
        async fn segments(&self) -> Vec<String> {
            let (user, key) = self.keys;
            let login = Request::get(&self.auth_url).header("x-auth-user", user).header("x-auth-key", key);
            let login = call(login.body(Bytes::new()).unwrap()).await.unwrap();
            let url = format!("{}/{}_segments", login.headers()["x-storage-url"].to_str().unwrap(), self.container);
            let list = Request::get(url).header("x-auth-token", &login.headers()["x-auth-token"]);
            let list = call(list.body(Bytes::new()).unwrap()).await.unwrap();
            String::from_utf8(list.body().to_vec()).unwrap().lines().map(str::to_owned).collect()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn on_ceph() {
        let server = CephGateway::start(CephStore::Memory).await.unwrap();
        let store = open(&server.swift_mount("p")).unwrap();
        let (auth_url, keys, container) = (server.swift_auth_url(), server.swift_keys(), server.container());
        let other = Other { auth_url, keys, container };
        no_segment_outlives_its_object(&other, &store).await;
        a_folder_moves_with_its_large_files(&other, &store).await;
        server.stop().unwrap();
    }

    #[cfg(feature = "more-servers")]
    #[tokio::test(flavor = "multi_thread")]
    async fn on_swift() {
        let mut server = Swift::start().await.unwrap();
        let store = open(&server.mount("p")).unwrap();
        what_is_wrong_with_a_mount_is_told_apart(&server).await;
        let other = Other { auth_url: server.auth_url(), keys: server.keys(), container: server.container() };
        no_segment_outlives_its_object(&other, &store).await;
        a_folder_moves_with_its_large_files(&other, &store).await;
        more_parts_than_a_manifest_holds_make_one_file(&store).await;
        a_published_file_is_never_swept(&store).await;
        // Its tokens are in the memory of what was killed.
        put(&store, "before", vec![1; 10], 1).await;
        server.restart().await.unwrap();
        assert_eq!(get(&store, "before").await, vec![1; 10]);
        server.stop().unwrap();
    }

    async fn no_segment_outlives_its_object(other: &Other<'_>, store: &Arc<dyn UnderStore>) {
        put(store, "large", vec![1; 9 << 20], 1).await;
        assert_eq!(other.segments().await.len(), 2);
        put(store, "large", vec![2; 17 << 20], 2).await;
        assert_eq!(other.segments().await.len(), 3, "those of what was replaced");
        store.rename(&path("large"), &path("moved"), &Condition::MustNotExist).await.unwrap();
        let left = other.segments().await;
        assert!(left.len() == 3 && left.iter().all(|name| name.starts_with("p/moved/")), "{left:?}");
        assert_eq!(get(store, "moved").await, vec![2; 17 << 20]);
        put(store, "moved", vec![3; 10], 3).await;
        assert!(other.segments().await.is_empty(), "a small file replaced it");
        put(store, "moved", vec![4; 9 << 20], 4).await;
        store.delete_file(&path("moved")).await.unwrap();
        assert!(other.segments().await.is_empty(), "it was deleted");
    }

    /// Ceph lists a large object by the length of its manifest's text and the digest of nothing. That was taken for its
    /// version, so a listing disagreed with a stat, and a folder with a large file in it could not be renamed.
    async fn a_folder_moves_with_its_large_files(other: &Other<'_>, store: &Arc<dyn UnderStore>) {
        for (number, name) in ["d/large", "d/e/large", "d/empty", "d/small"].into_iter().enumerate() {
            let len = if name.ends_with("large") { 9 << 20 } else { number - 2 };
            put(store, name, vec![number as u8; len], 10 + number as u8).await;
        }
        let pages: Vec<Page> = store.list(&path("d"), "").try_collect().await.unwrap();
        let entries: Vec<_> = pages.into_iter().flat_map(|page| page.entries).collect();
        assert_eq!(
            entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
            ["e", "empty", "large", "small"]
        );
        for entry in &entries[1..] {
            let stat = store.stat(&path("d").join(&entry.name).unwrap()).await.unwrap();
            assert_eq!((entry.stat.len, &entry.stat.token), (stat.len, &stat.token), "{}", entry.name);
        }
        store.rename(&path("d"), &path("n"), &Condition::MustNotExist).await.unwrap();
        assert_eq!(get(store, "n/large").await, vec![0; 9 << 20]);
        assert_eq!(get(store, "n/e/large").await, vec![1; 9 << 20]);
        assert!(store.stat(&path("d")).await.is_err_and(|error| error.is_not_found()));
        let left = other.segments().await;
        assert!(left.len() == 4 && left.iter().all(|name| name.starts_with("p/n/")), "{left:?}");
        store.delete_dir(&path("n"), Depth::Recursive).await.unwrap();
        assert!(other.segments().await.is_empty(), "all was deleted");
    }

    #[cfg(feature = "more-servers")]
    async fn what_is_wrong_with_a_mount_is_told_apart(server: &Swift) {
        let good = server.mount("");
        open(&good).unwrap().check().await.unwrap();
        let error = checked(good.clone().option("swift_key", "wrong")).await;
        assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
        let error = checked(MountSpec { uri: "swift://no-such-container".into(), ..good }).await;
        assert!(matches!(&error, Error::MissingBucket { bucket, .. } if bucket == "no-such-container"), "{error:?}");
    }

    #[cfg(feature = "more-servers")]
    async fn more_parts_than_a_manifest_holds_make_one_file(store: &Arc<dyn UnderStore>) {
        const PARTS: u32 = 1003;
        let mut staged = store.stage(&path("many"), FileId([5; 16]), None).await.unwrap();
        let record = staged.share().await.unwrap();
        let content = |number: u32| Bytes::from(number.to_be_bytes().to_vec());
        let numbers: Vec<u32> = (1..=PARTS).collect();
        for batch in numbers.chunks(32) {
            let puts = batch.iter().map(|number| store.put_part(&record, *number, vec![content(*number)]));
            let parts: Vec<Part> = futures::future::try_join_all(puts).await.unwrap();
            staged.adopt(parts).unwrap();
        }
        staged.seal().await.unwrap();
        staged.publish(&Condition::MustNotExist).await.unwrap();
        let whole: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        for name in ["many", "moved"] {
            if name == "moved" {
                store.rename(&path("many"), &path(name), &Condition::MustNotExist).await.unwrap();
            }
            assert_eq!(store.stat(&path(name)).await.unwrap().len, whole.len() as u64);
            // Of segments so small Swift sends one a second, after ten.
            for range in [0..32, 3990..4012, 2001..2010] {
                let expected = &whole[range.start as usize..range.end as usize];
                assert_eq!(part_of(store, name, range).await, expected);
            }
        }
        store.delete_file(&path("moved")).await.unwrap();
    }

    /// Who would have everything swept, and settles what is long published, takes nothing from it.
    #[cfg(feature = "more-servers")]
    async fn a_published_file_is_never_swept(store: &Arc<dyn UnderStore>) {
        let mut staged = store.stage(&path("kept"), FileId([6; 16]), None).await.unwrap();
        staged.write(Bytes::from(vec![6; 9 << 20])).await.unwrap();
        let record = StagedRecord::decode(&staged.seal().await.unwrap().encode()).unwrap();
        let token = staged.publish(&Condition::MustNotExist).await.unwrap();
        staged.abandon().await.unwrap();
        assert_eq!(store.settle(&record).await.unwrap(), Settled::Published(token));
        let swept = store.sweep(&|remnant| matches!(remnant, Remnant::Upload { .. })).await.unwrap();
        assert_eq!(swept.seen, 0);
        assert_eq!(get(store, "kept").await, vec![6; 9 << 20]);
        store.delete_file(&path("kept")).await.unwrap();
    }
}
