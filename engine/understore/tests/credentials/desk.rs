//! Whoever gives out keys and tokens: counts them, tells the gate, and asks for another proof each time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use chrono::{SecondsFormat, TimeDelta, Utc};
use citius_understore::{
    MountSpec,
    testing::{
        Ran,
        servers::{Gate, Pass},
    },
};
use http::{Request, Response};
use tempfile::TempDir;

use crate::login::{use_store, use_store_alone};

/// How long what is given is good: so short that every mount soon asks for more.
pub(crate) const LIFE_S: i64 = 200;

/// Keys for a while.
pub(crate) struct Keys {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) token: String,
    /// RFC 3339.
    pub(crate) until: String,
}

impl Keys {
    /// As two clouds give them out, who call them alike but for these.
    pub(crate) fn json(&self, secret: &str, token: &str) -> String {
        let Self { id, secret: key, token: session, until } = self;
        serde_json::json!({"Code": "Success", "AccessKeyId": id, secret: key, token: session, "Expiration": until})
            .to_string()
    }
}

/// Gives to who shows the proof that lies in a file, which somebody replaces each time.
pub(crate) struct Desk {
    system: &'static str,
    pub(crate) gate: Gate,
    folder: TempDir,
    given: AtomicUsize,
    /// With what somebody logged in.
    kinds: Mutex<Vec<String>>,
}

impl Desk {
    pub(crate) fn new(system: &'static str, gate: Gate) -> Arc<Self> {
        let desk = Self {
            system,
            gate,
            folder: tempfile::tempdir().unwrap(),
            given: AtomicUsize::new(0),
            kinds: Mutex::default(),
        };
        desk.begin();
        Arc::new(desk)
    }

    /// A file of this name.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let file = self.folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of the proof.
    pub(crate) fn proof_file(&self) -> PathBuf {
        self.folder.path().join("proof")
    }

    /// Whether this is what lies in the file now.
    pub(crate) fn is_proof(&self, shown: &str) -> bool {
        shown == self.proof()
    }

    fn proof(&self) -> String {
        format!("hidden-proof-{}", self.given.load(Relaxed))
    }

    /// Forgets all that was given.
    fn begin(&self) {
        self.gate.close();
        self.given.store(0, Relaxed);
        fs::write(self.proof_file(), self.proof()).unwrap();
    }

    fn next(&self) -> usize {
        let number = self.given.fetch_add(1, Relaxed) + 1;
        fs::write(self.proof_file(), self.proof()).unwrap();
        number
    }

    pub(crate) fn give_keys(&self) -> Keys {
        let number = self.next();
        let until = (Utc::now() + TimeDelta::seconds(LIFE_S)).to_rfc3339_opts(SecondsFormat::Secs, true);
        let named = |what: &str| format!("hidden-{what}-{number}");
        let keys = Keys { id: named("id"), secret: named("secret"), token: named("token"), until };
        self.gate.admit(Pass::keys(&keys.id, &keys.secret, Some(&keys.token)));
        keys
    }

    pub(crate) fn give_token(&self) -> String {
        let token = format!("hidden-token-{}", self.next());
        self.gate.admit(Pass::token(&token));
        token
    }

    /// Has a mount log in as often as it must, and sees that what the second login gave was used.
    pub(crate) async fn logs_in(&self, kind: &str, spec: &MountSpec) {
        self.begin();
        use_store(&self.at(kind, spec)).await;
        self.say(kind);
    }

    /// The same in a process that begins with these variables.
    pub(crate) fn logs_in_alone(&self, kind: &str, spec: &MountSpec, variables: &[(&str, &str)]) {
        self.begin();
        use_store_alone(&self.at(kind, spec), variables);
        self.say(kind);
    }

    fn say(&self, kind: &str) {
        let (given, used) = (self.given.load(Relaxed), self.gate.used().len());
        assert!(given >= 2 && used >= 2, "{kind}: {given} logins, of which {used} were used");
        self.known(kind, &format!("{used} times"));
    }

    /// Says, and remembers, that a kind of credentials did what it is for.
    pub(crate) fn known(&self, kind: &str, how: &str) {
        println!("{}: {kind}: logged in, {how}", self.system);
        self.kinds.lock().unwrap().push(kind.to_owned());
    }

    /// Leaves the record of it, on a server of this version.
    pub(crate) fn keep(&self, server: &str) {
        Ran::login(self.system, server, self.kinds.lock().unwrap().clone()).keep();
    }

    /// Has a mount show what does not end, and sees that it was used.
    pub(crate) async fn is_let_in(&self, kind: &str, spec: &MountSpec, pass: Pass) {
        self.begin();
        self.gate.admit(pass);
        use_store(&self.at(kind, spec)).await;
        self.say_once(kind);
    }

    /// The same in a process that begins with these variables.
    pub(crate) fn is_let_in_alone(&self, kind: &str, spec: &MountSpec, variables: &[(&str, &str)], pass: Pass) {
        self.begin();
        self.gate.admit(pass);
        use_store_alone(&self.at(kind, spec), variables);
        self.say_once(kind);
    }

    fn say_once(&self, kind: &str) {
        assert_eq!((self.given.load(Relaxed), self.gate.used().len()), (0, 1), "{kind}");
        self.known(kind, "once");
    }

    /// Has a mount show what lies in a file, replaces that, and sees that what is there now is shown without another mount.
    pub(crate) async fn is_let_in_anew(&self, kind: &str, spec: &MountSpec, name: &str, kept: [(String, Pass); 2]) {
        self.begin();
        let [(first, pass), (second, next)] = kept;
        self.gate.admit(pass);
        self.file(name, &first);
        let store = citius_understore::open(&self.at(kind, spec)).unwrap();
        store.check().await.unwrap();
        crate::login::write_and_read(&*store, 1).await;
        let before = self.gate.used();
        self.gate.close();
        self.gate.admit(next);
        self.file(name, &second);
        crate::login::write_and_read(&*store, 2).await;
        let after = self.gate.used();
        assert!(before.len() == 1 && after.len() == 1 && before != after, "{kind}: {before:?}, {after:?}");
        self.known(kind, "and again after its file was replaced");
    }

    /// Each kind has a folder of its own.
    fn at(&self, kind: &str, spec: &MountSpec) -> MountSpec {
        let folder: String = kind.chars().map(|letter| if letter.is_alphanumeric() { letter } else { '-' }).collect();
        MountSpec { uri: format!("{}/{folder}", spec.uri), ..spec.clone() }
    }
}

/// An answer.
pub(crate) fn said(status: u16, text: impl Into<String>) -> Response<String> {
    Response::builder().status(status).body(text.into()).unwrap()
}

/// Method, scheme and host, and path, as one line.
pub(crate) fn line(asked: &Request<String>) -> String {
    let uri = asked.uri();
    format!("{} {}://{}{}", asked.method(), uri.scheme_str().unwrap(), uri.authority().unwrap(), uri.path())
}

pub(crate) fn header<'a>(asked: &'a Request<String>, name: &str) -> &'a str {
    asked.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Whether a form, or a query, has all of these.
pub(crate) fn has(form: &str, pairs: &[(&str, &str)]) -> bool {
    pairs.iter().all(|(name, value)| field(form, name) == *value)
}

/// A field of a form, or of a query.
pub(crate) fn field(form: &str, name: &str) -> String {
    let mut fields = url::form_urlencoded::parse(form.as_bytes());
    fields.find_map(|(found, value)| (found == name).then(|| value.into_owned())).unwrap_or_default()
}
