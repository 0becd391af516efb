//! Logins by Keystone, on a real one: every way that the options know, what is wrong with one, and tokens that end.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use citius_understore::{
    Condition, Error, FileId, MountSpec, StorePath, UnderStore, open,
    testing::{
        is_alone, run_alone,
        servers::{Keystone, Person, Tokens, call},
    },
};
use futures::TryStreamExt;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::sleep};

const PATIENCE: Duration = Duration::from_secs(60);

async fn started(tokens: Tokens) -> Keystone {
    let server = Keystone::start(tokens).await.unwrap();
    println!("keystone {}", server.version());
    server
}

fn path(name: &str) -> StorePath {
    StorePath::parse(name).unwrap()
}

/// Lists what is mounted, as the check of a mount does, which waits five seconds and no longer: less than Python may need for
/// two logins on a machine that does much else.
async fn look(store: &Arc<dyn UnderStore>) -> Result<(), Error> {
    store.list(&StorePath::root(), "").try_next().await.map(drop)
}

/// Writes a file and reads it back, by a login of its own.
async fn works(way: &str, spec: &MountSpec) {
    let store = open(spec).unwrap();
    look(&store).await.unwrap_or_else(|error| panic!("{way}: {error}"));
    let (name, content) = (path(&way.replace(' ', "-")), Bytes::from(way.to_owned()));
    let mut staged = store.stage(&name, FileId([1; 16]), None).await.unwrap();
    staged.write(content.clone()).await.unwrap();
    staged.publish(&Condition::Any).await.unwrap();
    let stat = store.stat(&name).await.unwrap();
    let mut found = Vec::new();
    let mut landing = |_: u64, bytes: &[u8]| found.extend_from_slice(bytes);
    store.read(&name, &stat.token, 0..stat.len, &mut landing).await.unwrap();
    assert_eq!(found, content, "{way}");
}

/// An application credential of a person's for its project: its id and its secret.
async fn application(server: &Keystone, person: &Person, name: &str) -> (String, String) {
    let user = server.find("user", &person.name).await.unwrap();
    let path = format!("/users/{user}/application_credentials");
    let asked = json!({ "application_credential": { "name": name } });
    let made = server.ask(person, Method::POST, &path, &asked).await.unwrap();
    let of = |field: &str| made["application_credential"][field].as_str().unwrap().to_owned();
    (of("id"), of("secret"))
}

/// Changes a user as the administrator may.
async fn change_user(server: &Keystone, name: &str, change: Value) {
    let path = format!("/users/{}", server.find("user", name).await.unwrap());
    server.ask(server.admin(), Method::PATCH, &path, &json!({ "user": change })).await.unwrap();
}

/// A folder with a file of clouds.
struct Clouds(TempDir);

impl Clouds {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("clouds.yaml")
    }

    /// JSON is YAML.
    fn write(&self, clouds: &Value) {
        let fresh = self.0.path().join("fresh");
        fs::write(&fresh, json!({ "clouds": clouds }).to_string()).unwrap();
        fs::rename(fresh, self.file()).unwrap();
    }

    fn mount(&self, server: &Keystone, cloud: &str) -> MountSpec {
        let spec = server.unsigned("clouds").option("os_cloud", cloud);
        spec.option("os_client_config_file", self.file().display().to_string())
    }
}

/// What such a file says of a person.
fn described(server: &Keystone, person: &Person) -> Value {
    json!({ "region_name": server.region(), "auth": {
        "auth_url": server.auth_url(), "username": person.name, "user_domain_name": person.domain,
        "password": person.password, "project_name": person.project, "project_domain_name": person.domain,
    } })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_log_in_leads_to_the_files() {
    let server = started(Tokens::Revocable).await;
    let person = server.member().clone();
    let Person { domain, project, name, password } = &person;
    let at = |prefix: &str| server.unsigned(prefix).option("os_auth_url", server.auth_url());
    works("names and domains", &server.mount("p")).await;

    let user_id = server.find("user", name).await.unwrap();
    let project_id = server.find("project", project).await.unwrap();
    let domain_id = server.find("domain", domain).await.unwrap();
    let ids = at("p").option("os_user_id", &user_id).option("os_password", password);
    works("ids", &ids.clone().option("os_project_id", &project_id)).await;
    let domains = at("p").option("os_username", name).option("os_user_domain_id", &domain_id);
    let domains = domains.option("os_password", password).option("os_project_name", project);
    works("domains by id", &domains.option("os_project_domain_id", &domain_id)).await;

    // As Hadoop names them, with domains that it has no names for.
    let hadoop = [("auth.url", format!("{}/auth/tokens", server.auth_url())), ("tenant", project.clone())];
    let hadoop = hadoop.into_iter().chain([("username", name.clone()), ("password", password.clone())]);
    let provider = MountSpec::new(format!("swift://{}.rack/p", server.container()));
    let provider =
        hadoop.fold(provider, |spec, (name, value)| spec.option(format!("fs.swift.service.rack.{name}"), value));
    let provider = provider.option("os_user_domain_name", domain).option("os_project_domain_name", domain);
    works("a provider of Hadoop", &provider.option("swift_allow_http", "true")).await;

    let in_default = Person { domain: "Default".to_owned(), project: "plain".to_owned(), ..person.clone() };
    let in_default = Person { name: "plain-user".to_owned(), ..in_default };
    server.invite(&in_default).await.unwrap();
    let plain = at("p").option("os_username", "plain-user").option("os_password", password);
    let plain = plain.option("os_project_name", "plain");
    let error = look(&open(&plain).unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::MissingBucket { .. }), "each project has an account of its own: {error}");

    let (id, secret) = application(&server, &person, "citius").await;
    let secret_of = |spec: MountSpec| spec.option("os_application_credential_secret", &secret);
    works("application id", &secret_of(at("p").option("os_application_credential_id", &id))).await;
    let named = at("p").option("os_application_credential_name", "citius");
    works("application name", &secret_of(named.clone().option("os_user_id", &user_id))).await;
    let user = named.option("os_username", name).option("os_user_domain_name", domain);
    works("application and user by name", &secret_of(user)).await;

    let clouds = Clouds::new();
    clouds.write(&json!({
        "password": described(&server, &person),
        "application": {
            "auth_type": "v3applicationcredential",
            "auth": {
                "auth_url": server.auth_url(), "application_credential_id": id, "application_credential_secret": secret,
            },
        },
    }));
    works("cloud by password", &clouds.mount(&server, "password")).await;
    works("cloud by application", &clouds.mount(&server, "application")).await;

    let alluxio = server.unsigned("p").option("fs.swift.auth.method", "keystonev3");
    let alluxio = alluxio.option("fs.swift.auth.url", format!("{}/auth/tokens", server.auth_url()));
    let alluxio = alluxio.option("fs.swift.tenant", &project_id).option("fs.swift.user", &user_id);
    works("names of Alluxio", &alluxio.option("fs.swift.password", password)).await;
    server.stop().unwrap();
}

/// In processes whose environment is what `openrc` of OpenStack's tools makes it.
#[test]
fn the_environment_logs_in() {
    const THIS: &str = "the_environment_logs_in";
    let runtime = Runtime::new().unwrap();
    if is_alone(THIS) {
        let spec = MountSpec::new(std::env::var("TEST_URI").unwrap()).option("swift_allow_http", "true");
        return runtime.block_on(works("environment", &spec));
    }
    let server = runtime.block_on(started(Tokens::Revocable));
    let person = server.member();
    let (id, secret) = runtime.block_on(application(&server, person, "citius"));
    let clouds = Clouds::new();
    clouds.write(&json!({ "ours": described(&server, person) }));
    let (auth_url, file) = (server.auth_url(), clouds.file().display().to_string());
    let ways: [&[(&str, &str)]; 3] = [
        &[
            ("OS_AUTH_URL", &auth_url),
            ("OS_USERNAME", &person.name),
            ("OS_USER_DOMAIN_NAME", &person.domain),
            ("OS_PASSWORD", &person.password),
            ("OS_PROJECT_NAME", &person.project),
            ("OS_PROJECT_DOMAIN_NAME", &person.domain),
            ("OS_REGION_NAME", server.region()),
            ("OS_INTERFACE", "public"),
            ("OS_IDENTITY_API_VERSION", "3"),
        ],
        &[
            ("OS_AUTH_TYPE", "v3applicationcredential"),
            ("OS_AUTH_URL", &auth_url),
            ("OS_APPLICATION_CREDENTIAL_ID", &id),
            ("OS_APPLICATION_CREDENTIAL_SECRET", &secret),
        ],
        &[("OS_CLOUD", "ours"), ("OS_CLIENT_CONFIG_FILE", &file)],
    ];
    for way in ways {
        run_alone(THIS, &[way, &[("TEST_URI", &server.unsigned("environment").uri)]].concat());
    }
    server.stop().unwrap();
}

/// How a look at a mount fails; its words, which have no secret in them.
async fn refused(spec: &MountSpec) -> (Error, String) {
    let error = look(&open(spec).unwrap()).await.unwrap_err();
    let words = error.to_string();
    for (name, value) in &spec.options {
        let is_secret = ["password", "secret"].iter().any(|kind| name.contains(kind));
        assert!(!is_secret || !format!("{words} {error:?}").contains(value.expose()), "{words}");
    }
    println!("{words}");
    (error, words)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_login_is_told_in_words() {
    let server = started(Tokens::Revocable).await;
    let good = server.mount("p");
    let with = |name: &str, value: &str| good.clone().option(name, value);
    for (name, value) in [
        ("os_password", "not-the-password"),
        ("os_username", "nobody-here"),
        ("os_user_domain_name", "no-such-domain"),
        ("os_project_name", "no-such-project"),
        ("os_project_domain_name", "Default"),
    ] {
        let (error, words) = refused(&with(name, value)).await;
        assert!(matches!(error, Error::WrongKeys { .. }), "{name}: {error:?}");
        assert!(words.contains("HTTP 401") && words.contains("the project"), "{name}: {words}");
    }
    let no_project = good.options.iter().filter(|(name, _)| !name.starts_with("os_project"));
    let no_project = MountSpec { options: no_project.map(|(n, v)| (n.clone(), v.clone())).collect(), ..good.clone() };
    let (error, words) = refused(&no_project).await;
    assert!(matches!(error, Error::WrongRegion { .. }) && words.contains("of no project"), "{words}");
    let (error, words) = refused(&with("os_region_name", "nowhere")).await;
    assert!(
        matches!(error, Error::WrongRegion { .. }) && words.contains("nowhere") && words.contains("here"),
        "{words}"
    );
    let (error, words) = refused(&with("os_interface", "internal")).await;
    assert!(matches!(error, Error::WrongRegion { .. }) && words.contains("no internal object store"), "{words}");
    let (error, words) = refused(&with("os_auth_url", &server.auth_url().replace("/v3", "/identity/v3"))).await;
    assert!(matches!(error, Error::Unreachable { .. }) && words.contains("nobody logs in there"), "{words}");
    let (error, words) = refused(&MountSpec { uri: "swift://no-such-container".into(), ..good.clone() }).await;
    assert!(matches!(error, Error::MissingBucket { .. }) && words.contains("no-such-container"), "{words}");

    applications_that_are_refused(&server).await;
    roles_that_do_not_reach(&server).await;
    catalogs_that_do_not_tell(&server).await;
    server.stop().unwrap();
}

/// One whose secret is another's, one that is over, and one that is deleted.
async fn applications_that_are_refused(server: &Keystone) {
    let (id, secret) = application(server, server.member(), "one").await;
    let spec =
        server.unsigned("p").option("os_auth_url", server.auth_url()).option("os_application_credential_id", &id);
    let good = spec.clone().option("os_application_credential_secret", &secret);
    look(&open(&good).unwrap()).await.unwrap();
    let (error, _) = refused(&spec.option("os_application_credential_secret", "not-the-secret")).await;
    assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
    let user = server.find("user", &server.member().name).await.unwrap();
    let path = format!("/users/{user}/application_credentials/{id}");
    server.ask(server.member(), Method::DELETE, &path, &Value::Null).await.unwrap();
    let (error, words) = refused(&good).await;
    assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
    assert!(words.contains("os_application_credential_id"), "{words}");
}

/// Whoever has no role that Swift knows has a token, and may not look.
async fn roles_that_do_not_reach(server: &Keystone) {
    let Person { domain, .. } = server.member();
    let reader = Person { name: "reader".into(), password: "reads-a-little".into(), ..server.member().clone() };
    let domain_id = server.find("domain", domain).await.unwrap();
    let user = json!({ "name": reader.name, "password": reader.password, "domain_id": domain_id });
    let user = server.make("user", user).await.unwrap();
    let (project, role) =
        (server.find("project", &reader.project).await.unwrap(), server.find("role", "reader").await.unwrap());
    let path = format!("/projects/{project}/users/{user}/roles/{role}");
    server.ask(server.admin(), Method::PUT, &path, &Value::Null).await.unwrap();
    let spec = server.mount("p").option("os_username", &reader.name).option("os_password", &reader.password);
    let (error, words) = refused(&spec).await;
    assert!(matches!(error, Error::PermissionDenied { .. }) && words.contains("HTTP 403"), "{words}");
}

/// Two regions and none that is chosen; then no object store at all.
async fn catalogs_that_do_not_tell(server: &Keystone) {
    let service = server.find("service", "swift").await.unwrap();
    server.make("region", json!({ "id": "there" })).await.unwrap();
    let endpoint = json!({
        "service_id": service, "interface": "public", "region_id": "there", "url": "http://127.0.0.1:1/v1/AUTH_$(project_id)s",
    });
    server.make("endpoint", endpoint).await.unwrap();
    let good = server.mount("p");
    let any = good.options.iter().filter(|(name, _)| *name != "os_region_name");
    let any = MountSpec { options: any.map(|(name, value)| (name.clone(), value.clone())).collect(), ..good.clone() };
    let (error, words) = refused(&any).await;
    assert!(
        matches!(error, Error::WrongRegion { .. }) && words.contains("there") && words.contains("os_region_name"),
        "{words}"
    );
    look(&open(&good).unwrap()).await.unwrap();
    let path = format!("/services/{service}");
    server.ask(server.admin(), Method::DELETE, &path, &Value::Null).await.unwrap();
    let (error, words) = refused(&good).await;
    assert!(matches!(error, Error::WrongRegion { .. }) && words.contains("no public object store"), "{words}");
}

/// The status of a look at the container with a token.
async fn status_with(server: &Keystone, account: &str, token: &str) -> StatusCode {
    let request = Request::head(format!("{account}/{}", server.container())).header("x-auth-token", token);
    call(request.body(Bytes::new()).unwrap()).await.unwrap().status()
}

/// A token as another program gets it, and the account that it is good for.
async fn token_of(server: &Keystone, person: &Person) -> (String, String) {
    let login = server.log_in(person).await.unwrap();
    let document: Value = serde_json::from_slice(login.body()).unwrap();
    let services = document["token"]["catalog"].as_array().unwrap();
    let swift = services.iter().find(|service| service["type"] == "object-store").unwrap();
    let account = swift["endpoints"][0]["url"].as_str().unwrap().to_owned();
    (account, login.headers()["x-subject-token"].to_str().unwrap().to_owned())
}

/// A mount outlives its tokens: others of the same age are refused, and no request of the mount fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_outlives_its_tokens() {
    let server = started(Tokens::Ending(5)).await;
    let store = open(&server.mount("p")).unwrap();
    for _ in 0..3 {
        look(&store).await.unwrap();
        let (account, token) = token_of(&server, server.member()).await;
        let began = Instant::now();
        while status_with(&server, &account, &token).await != StatusCode::UNAUTHORIZED {
            assert!(began.elapsed() < PATIENCE, "a token of five seconds is good still");
            look(&store).await.unwrap();
            sleep(Duration::from_millis(200)).await;
        }
        look(&store).await.unwrap();
    }
    server.stop().unwrap();
}

/// Who is blocked for a moment loses every token. Keystone counts in seconds: a token of the very second in which others were
/// revoked is refused with them, so a mount that logged in at once was out for as long as it believed that token. And one whose
/// token was revoked within a second of its login took that for the token that came after.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_replaced() {
    let server = started(Tokens::Revocable).await;
    let store = open(&server.mount("p")).unwrap();
    for _ in 0..3 {
        look(&store).await.unwrap();
        let (account, token) = token_of(&server, server.member()).await;
        assert_eq!(status_with(&server, &account, &token).await, StatusCode::NO_CONTENT);
        for enabled in [false, true] {
            change_user(&server, &server.member().name, json!({ "enabled": enabled })).await;
        }
        look(&store).await.unwrap();
        assert_eq!(status_with(&server, &account, &token).await, StatusCode::UNAUTHORIZED, "it was not revoked");
    }
    server.stop().unwrap();
}

/// What is asked of a mount until it works again.
async fn works_again(store: &Arc<dyn UnderStore>) {
    let began = Instant::now();
    while let Err(error) = look(store).await {
        assert!(began.elapsed() < PATIENCE, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// By password, whose change ends every token at once, and by application credential, of which there are two for a while.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_without_a_new_mount() {
    let server = started(Tokens::Revocable).await;
    let mut person = server.member().clone();
    let clouds = Clouds::new();
    clouds.write(&json!({ "ours": described(&server, &person) }));
    let store = open(&clouds.mount(&server, "ours")).unwrap();
    look(&store).await.unwrap();

    person.password = "another-password-than-before".to_owned();
    change_user(&server, &person.name, json!({ "password": person.password })).await;
    let error = look(&store).await.unwrap_err();
    assert!(matches!(error, Error::WrongKeys { .. }), "the file has the old password: {error:?}");
    clouds.write(&json!({ "ours": described(&server, &person) }));
    works_again(&store).await;

    let (id, secret) = application(&server, &person, "first").await;
    let by = |id: &str, secret: &str| {
        json!({ "ours": { "auth_type": "v3applicationcredential", "region_name": server.region(), "auth": {
            "auth_url": server.auth_url(), "application_credential_id": id, "application_credential_secret": secret,
        } } })
    };
    clouds.write(&by(&id, &secret));
    sleep(Duration::from_millis(1100)).await;
    look(&store).await.unwrap();
    let (next_id, next_secret) = application(&server, &person, "second").await;
    clouds.write(&by(&next_id, &next_secret));
    let user = server.find("user", &person.name).await.unwrap();
    // It has asked with the second before the first is gone, and no request fails.
    sleep(Duration::from_millis(1100)).await;
    look(&store).await.unwrap();
    let path = format!("/users/{user}/application_credentials/{id}");
    server.ask(&person, Method::DELETE, &path, &Value::Null).await.unwrap();
    look(&store).await.unwrap();
    server.stop().unwrap();
}
