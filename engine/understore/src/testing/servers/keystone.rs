//! OpenStack Keystone, and a Swift that takes its tokens.

use std::{io, process::Command};

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls},
    http::{call, get},
    install::{Installed, install, scripts},
    ports::Ports,
    server::{Processes, Server},
    swift::{CONTAINER, Daemons},
};
use crate::MountSpec;

/// Where Swift is, in the catalog.
const REGION: &str = "here";
const DAY_SECONDS: u32 = 24 * 60 * 60;

/// What tokens are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// They are good for a day, and Swift asks about them each time: what is revoked ends at once.
    Revocable,
    /// They are good for so many seconds, and Swift believes them as long, as it does unless it is told otherwise.
    Ending(u32),
}

/// Whoever logs in by name and password, for a project of the same domain.
#[derive(Debug, Clone)]
pub struct Person {
    /// The domain of both.
    pub domain: String,
    /// The name of the project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
}

/// A running Keystone and a running Swift, with one person who may use that. Needs root.
#[derive(Debug)]
pub struct Keystone {
    guard: Guard,
    start: Command,
    folder: TempDir,
    installed: Installed,
    ports: Ports<1>,
    swift: Daemons,
    admin: Person,
    member: Person,
}

impl Keystone {
    /// Starts both, with passwords of their own.
    ///
    /// # Errors
    /// When one cannot be installed or does not answer; with the end of its log.
    pub async fn start(tokens: Tokens) -> io::Result<Self> {
        let installed = install("keystone").await?;
        let folder = fresh::folder("keystone")?;
        let ports = Ports::take()?;
        let person = |domain: &str, name: &str| {
            let [domain, name] = [domain, name].map(str::to_owned);
            Ok::<_, io::Error>(Person { domain, project: name.clone(), name, password: fresh::key()? })
        };
        let (admin, member) = (person("Default", "admin")?, person("Citius", "data")?);
        let (life, belief) = match tokens {
            Tokens::Revocable => (DAY_SECONDS, "-1".to_owned()),
            Tokens::Ending(seconds) => (seconds, seconds.to_string()),
        };
        let mut start = Command::new(scripts().join("keystone"));
        start
            .arg(folder.path())
            .args([ports[0].to_string(), life.to_string()])
            .env("CITIUS_TEST_KEYSTONE_PASSWORD", &admin.password);
        let guard = Guard::start(folder.path(), "keystone", Walls::PROCESSES, &start)?;
        let environment = [
            ("CITIUS_TEST_KEYSTONE_URL", url_of(&ports)),
            ("CITIUS_TEST_KEYSTONE_PASSWORD", admin.password.clone()),
            ("CITIUS_TEST_BELIEF_SECONDS", belief),
        ];
        let swift = Daemons::start(&environment).await?;
        let mut keystone = Self { guard, start, folder, installed, ports, swift, admin, member };
        keystone.wait().await?;
        keystone.furnish().await?;
        keystone.wait_for_swift().await?;
        Ok(keystone)
    }

    /// Where clients log in.
    pub fn auth_url(&self) -> String {
        url_of(&self.ports)
    }

    /// Who may do everything in Keystone, and has no part in Swift.
    pub fn admin(&self) -> &Person {
        &self.admin
    }

    /// Whose account the container is in.
    pub fn member(&self) -> &Person {
        &self.member
    }

    /// The container that was made.
    pub fn container(&self) -> &'static str {
        CONTAINER
    }

    /// Where the catalog has Swift.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// A mount of the container, or of a prefix in it, that does not say yet who asks.
    pub fn unsigned(&self, prefix: &str) -> MountSpec {
        MountSpec::new(format!("swift://{CONTAINER}/{prefix}")).option("swift_allow_http", "true")
    }

    /// The same by the member's password.
    pub fn mount(&self, prefix: &str) -> MountSpec {
        let Person { domain, project, name, password } = &self.member;
        self.unsigned(prefix)
            .option("os_auth_url", self.auth_url())
            .option("os_username", name)
            .option("os_user_domain_name", domain)
            .option("os_password", password)
            .option("os_project_name", project)
            .option("os_project_domain_name", domain)
            .option("os_region_name", REGION)
    }

    /// Their versions.
    pub fn version(&self) -> String {
        format!("{}, Swift {}", self.installed.version, self.swift.version())
    }

    /// Asks Keystone's own API, whose paths begin with `/`, for what a person may have of it. The answer is a document, or
    /// null.
    ///
    /// # Errors
    /// When the person cannot log in, or what is asked for is refused.
    pub async fn ask(&self, person: &Person, method: Method, path: &str, body: &Value) -> io::Result<Value> {
        let login = self.log_in(person).await?;
        let token = login.headers().get("x-subject-token").ok_or_else(|| io::Error::other("a login has no token"))?;
        let request = Request::builder().method(method).uri(format!("{}{path}", self.auth_url()));
        let request = request.header("x-auth-token", token).header("content-type", "application/json");
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let answer = call(request.body(body).map_err(io::Error::other)?).await?;
        let said = String::from_utf8_lossy(answer.body());
        if !answer.status().is_success() {
            return Err(io::Error::other(format!("{path} is answered by {}: {said}", answer.status())));
        }
        if said.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&said).map_err(io::Error::other) }
    }

    /// Makes something that has an id, as the administrator, and gives that. A kind's name is that of its collection,
    /// without the last letter.
    ///
    /// # Errors
    /// As [`Keystone::ask`].
    pub async fn make(&self, kind: &str, what: Value) -> io::Result<String> {
        let made = self.ask(&self.admin, Method::POST, &collection(kind), &json!({ kind: what })).await?;
        id_of(&made[kind])
    }

    /// The id of the only one of a kind that has this name.
    ///
    /// # Errors
    /// As [`Keystone::ask`], and when there is none or there are several.
    pub async fn find(&self, kind: &str, name: &str) -> io::Result<String> {
        let path = format!("{}?name={name}", collection(kind));
        let found = self.ask(&self.admin, Method::GET, &path, &Value::Null).await?;
        match found[format!("{kind}s")].as_array().map(Vec::as_slice) {
            Some([only]) => id_of(only),
            _ => Err(io::Error::other(format!("of {kind} {name} there is not one: {found}"))),
        }
    }

    /// Makes a person and its project, if that is not there, in a domain that is. It may use Swift.
    ///
    /// # Errors
    /// As [`Keystone::ask`].
    pub async fn invite(&self, person: &Person) -> io::Result<()> {
        let Person { domain, project, name, password } = person;
        let domain = self.find("domain", domain).await?;
        let project = match self.find("project", project).await {
            Ok(project) => project,
            Err(_) => self.make("project", json!({ "name": project, "domain_id": domain })).await?,
        };
        let user = json!({ "name": name, "domain_id": domain, "password": password });
        let (user, role) = (self.make("user", user).await?, self.find("role", "member").await?);
        let path = format!("/projects/{project}/users/{user}/roles/{role}");
        self.ask(&self.admin, Method::PUT, &path, &Value::Null).await.map(drop)
    }

    /// Ends both by SIGKILL and starts them again with the same ports, people and data; tokens from before are good still.
    ///
    /// # Errors
    /// As [`Keystone::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        self.guard = Guard::start(self.folder.path(), "keystone", Walls::PROCESSES, &self.start)?;
        self.swift.restart()?;
        self.wait().await?;
        self.wait_for_swift().await
    }

    /// Ends both.
    ///
    /// # Errors
    /// When a process of one is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.swift.stop()?;
        self.guard.stop()
    }

    async fn wait(&mut self) -> io::Result<()> {
        let url = self.auth_url();
        self.guard
            .ready(async || match get(&url).await?.status() {
                status if status.is_success() => Ok(()),
                status => Err(io::Error::other(format!("it is answered by {status}"))),
            })
            .await
    }

    /// Makes the member, and puts Swift into the catalog.
    async fn furnish(&self) -> io::Result<()> {
        self.make("domain", json!({ "name": self.member.domain })).await?;
        self.invite(&self.member).await?;
        let service = self.make("service", json!({ "type": "object-store", "name": "swift" })).await?;
        let url = self.swift.url("/v1/AUTH_$(project_id)s");
        let endpoint = json!({ "service_id": service, "interface": "public", "region_id": REGION, "url": url });
        self.make("endpoint", endpoint).await.map(drop)
    }

    /// What a login for the person's project is answered, with its token among the headers.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn log_in(&self, person: &Person) -> io::Result<Response<Bytes>> {
        log_in(&self.auth_url(), person).await
    }

    async fn wait_for_swift(&mut self) -> io::Result<()> {
        let (auth_url, member, accounts) = (self.auth_url(), &self.member, self.swift.url("/v1/AUTH_"));
        self.swift
            .wait(async || {
                let login = log_in(&auth_url, member).await?;
                let document: Value = serde_json::from_slice(login.body()).map_err(io::Error::other)?;
                let account = format!("{accounts}{}", id_of(&document["token"]["project"])?);
                let token = login.headers().get("x-subject-token").and_then(|token| token.to_str().ok());
                Ok((account, token.ok_or_else(|| io::Error::other("a login has no token"))?.to_owned()))
            })
            .await
    }
}

impl Server for Keystone {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard, self.swift.guard()])
    }
}

fn url_of(ports: &Ports<1>) -> String {
    format!("http://127.0.0.1:{}/v3", ports[0])
}

fn collection(kind: &str) -> String {
    format!("/{kind}s")
}

fn id_of(document: &Value) -> io::Result<String> {
    let id = document["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| io::Error::other(format!("there is no id in {document}")))
}

async fn log_in(auth_url: &str, person: &Person) -> io::Result<Response<Bytes>> {
    let Person { domain, project, name, password } = person;
    let domain = json!({ "name": domain });
    let user = json!({ "name": name, "domain": domain, "password": password });
    let auth = json!({ "auth": {
        "identity": { "methods": ["password"], "password": { "user": user } },
        "scope": { "project": { "name": project, "domain": domain } },
    } });
    let request = Request::post(format!("{auth_url}/auth/tokens")).header("content-type", "application/json");
    let answer = call(request.body(auth.to_string().into()).map_err(io::Error::other)?).await?;
    match answer.status() {
        status if status.is_success() => Ok(answer),
        status => Err(io::Error::other(format!("a login of {name} is answered by {status}"))),
    }
}
