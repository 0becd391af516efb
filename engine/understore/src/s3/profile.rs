//! Profiles of Amazon's tools: `~/.aws/credentials` and `~/.aws/config`.
//!
//! A profile is read when a mount is opened, looked at again while requests are made, and read again when its files have
//! changed or its keys were refused: whoever rotates keys there need not mount anew. A file that cannot be read for a
//! moment, because it is being written, leaves the keys as they were.
//!
//! Source: AWS SDKs and Tools Reference Guide, "Format of the shared config and credentials files".

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    keys::{KeySource, NoKeys},
    v4::Keys,
};
use crate::{
    Secret,
    key_file::{LOOK_PAUSE, Stamp, stamp_of, text_of},
};

/// How long a change holds for requests that were signed before it.
const CHANGE_HOLDS: Duration = Duration::from_secs(60);
/// Settings that lead to keys by ways that are not gone here.
const OTHER_WAYS: [&str; 5] =
    ["credential_process", "sso_session", "sso_start_url", "source_profile", "credential_source"];

/// A profile, by name.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) name: String,
    pub(super) credentials: PathBuf,
    pub(super) config: PathBuf,
}

/// What a profile holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    settings: HashMap<String, Secret>,
    /// Whether either file has a section of this name.
    pub(super) is_there: bool,
}

impl Found {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(Secret::expose).filter(|value| !value.is_empty())
    }

    /// The keys that are written there, if any are.
    pub(super) fn keys(&self) -> Result<Option<Keys>, String> {
        match (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            (Some(id), Some(secret)) => {
                let token = self.get("aws_session_token").map(Secret::new);
                Ok(Some(Keys { id: Secret::new(id), secret: Secret::new(secret), token }))
            }
            (None, None) => Ok(None),
            _ => Err("it has one of aws_access_key_id and aws_secret_access_key; write both".to_owned()),
        }
    }

    /// The way to keys that this profile names and that is not gone here.
    pub(super) fn other_way(&self) -> Option<&'static str> {
        OTHER_WAYS.into_iter().find(|way| self.get(way).is_some())
    }
}

impl Profile {
    /// Reads both files. What stands in `credentials` wins, as it does with Amazon's tools.
    pub(super) fn read(&self) -> Result<Found, String> {
        let mut found = Found::default();
        let in_config = match self.name.as_str() {
            "default" => vec!["default".to_owned(), "profile default".to_owned()],
            name => vec![format!("profile {name}")],
        };
        for (file, sections) in [(&self.config, in_config), (&self.credentials, vec![self.name.clone()])] {
            let Some(text) = text_of(file)? else { continue };
            let mut is_ours = false;
            for line in text.lines() {
                match Line::of(line) {
                    Line::Section(name) => {
                        is_ours = sections.contains(&name);
                        found.is_there |= is_ours;
                    }
                    Line::Setting(name, value) if is_ours => {
                        found.settings.insert(name, Secret::new(value));
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// What changes when the files do.
    fn stamp(&self) -> [Stamp; 2] {
        [&self.credentials, &self.config].map(|file| stamp_of(file))
    }
}

/// A line of a file.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// With single spaces.
    Section(String),
    /// Its name in small letters.
    Setting(String, &'a str),
    /// Empty, a comment, or part of a nested setting, of which none is wanted.
    Other,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        if line.starts_with(['#', ';', ' ', '\t']) {
            return Self::Other;
        }
        // A comment behind something begins with a space: keys may hold these characters.
        let end = [" #", " ;", "\t#", "\t;"].iter().filter_map(|begin| line.find(begin)).min().unwrap_or(line.len());
        let line = line[..end].trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return Self::Section(name.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
        }
        match line.split_once('=') {
            Some((name, value)) => Self::Setting(name.trim().to_ascii_lowercase(), value.trim()),
            None => Self::Other,
        }
    }
}

/// Keys that are written in a profile, as long as they stand there.
pub(super) struct ProfileKeys {
    profile: Profile,
    held: Mutex<Held>,
}

struct Held {
    keys: Arc<Keys>,
    stamp: [Stamp; 2],
    looked: Instant,
    changed: Option<Instant>,
}

impl ProfileKeys {
    /// The keys that were just read.
    pub(super) fn new(profile: Profile, keys: Keys) -> Self {
        let held = Held { keys: Arc::new(keys), stamp: profile.stamp(), looked: Instant::now(), changed: None };
        Self { profile, held: Mutex::new(held) }
    }

    /// Reads the files, if they have changed or `always`, and takes their keys if those are others.
    async fn look(&self, always: bool) {
        let (profile, old) = (self.profile.clone(), self.held.lock().stamp);
        let read = tokio::task::spawn_blocking(move || {
            let stamp = profile.stamp();
            (always || stamp != old).then(|| (stamp, profile.read().and_then(|found| found.keys())))
        });
        let Ok(Some((stamp, found))) = read.await else { return };
        match found {
            Ok(Some(keys)) => {
                let mut held = self.held.lock();
                held.stamp = stamp;
                if keys != *held.keys {
                    held.keys = Arc::new(keys);
                    held.changed = Some(Instant::now());
                    tracing::info!(profile = self.profile.name, "other keys stand in the profile, and are used");
                }
            }
            Ok(None) => tracing::warn!(profile = self.profile.name, "no keys stand in the profile any more"),
            Err(reason) => tracing::warn!(profile = self.profile.name, reason, "the profile cannot be read"),
        }
    }
}

#[async_trait]
impl KeySource for ProfileKeys {
    async fn keys(&self) -> Result<Arc<Keys>, NoKeys> {
        let is_due = {
            let mut held = self.held.lock();
            let is_due = held.looked.elapsed() >= LOOK_PAUSE;
            if is_due {
                held.looked = Instant::now();
            }
            is_due
        };
        if is_due {
            self.look(false).await;
        }
        Ok(Arc::clone(&self.held.lock().keys))
    }

    async fn renew(&self) -> bool {
        self.look(true).await;
        self.held.lock().changed.is_some_and(|at| at.elapsed() < CHANGE_HOLDS)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(credentials: &str, config: &str) -> Self {
            let home = Self(tempfile::tempdir().unwrap());
            fs::write(home.profile("").credentials, credentials).unwrap();
            fs::write(home.profile("").config, config).unwrap();
            home
        }

        fn profile(&self, name: &str) -> Profile {
            let (credentials, config) = (self.0.path().join("credentials"), self.0.path().join("config"));
            Profile { name: name.to_owned(), credentials, config }
        }
    }

    fn id(keys: &Keys) -> &str {
        keys.id.expose()
    }

    #[test]
    fn both_files_are_read_as_amazons_tools_do() {
        let home = Home::new(
            "# keys\n[default]\naws_access_key_id=D\naws_secret_access_key = a/b+c=;#d\n\n[ work ]\n\
             AWS_Access_Key_ID = W ; mine\naws_secret_access_key= s\naws_session_token=t # for a day\n",
            "[default]\nregion = eu-central-1\naws_access_key_id = OVERRIDDEN\n[profile  work]\nregion=us-west-2\n\
             s3 =\n  region = nested\n[work]\nregion = not-of-this-file\n[profile half]\naws_access_key_id = H\n\
             [profile sso]\nsso_session = corp\n",
        );
        let default = home.profile("default").read().unwrap();
        let keys = default.keys().unwrap().unwrap();
        assert_eq!((id(&keys), keys.secret.expose(), &keys.token), ("D", "a/b+c=;#d", &None));
        assert_eq!(default.get("region"), Some("eu-central-1"));
        let work = home.profile("work").read().unwrap();
        let keys = work.keys().unwrap().unwrap();
        assert_eq!((id(&keys), keys.secret.expose()), ("W", "s"));
        assert_eq!(keys.token.as_ref().map(Secret::expose), Some("t"));
        assert_eq!(work.get("region"), Some("us-west-2"));
        assert!(home.profile("half").read().unwrap().keys().is_err());
        assert_eq!(home.profile("sso").read().unwrap().other_way(), Some("sso_session"));
        let nobody = home.profile("nobody").read().unwrap();
        assert!(!nobody.is_there && nobody.keys().unwrap().is_none());
        assert!(!format!("{default:?} {work:?}").contains("a/b+c"));
    }

    /// Keys are rotated in the file: the new ones are used from the next look on, and a file that is half written, or gone
    /// for a moment, changes nothing.
    #[tokio::test(start_paused = true)]
    async fn rotated_keys_are_taken_up() {
        let text = |id| format!("[default]\naws_access_key_id={id}\naws_secret_access_key=s\n");
        let home = Home::new(&text("first"), "");
        let profile = home.profile("default");
        let source = ProfileKeys::new(profile.clone(), profile.read().unwrap().keys().unwrap().unwrap());
        let now = async || id(&source.keys().await.unwrap()).to_owned();
        assert!(!source.renew().await, "refused keys that still stand there are the only ones");
        fs::write(&profile.credentials, text("second-one")).unwrap();
        assert_eq!(now().await, "first");
        tokio::time::advance(LOOK_PAUSE).await;
        assert_eq!(now().await, "second-one");
        // Who was refused with the first keys a moment ago tries again with the second.
        assert!(source.renew().await);
        for broken in ["[default]\naws_access_key_id=thi", ""] {
            fs::write(&profile.credentials, broken).unwrap();
            tokio::time::advance(LOOK_PAUSE).await;
            assert_eq!(now().await, "second-one");
        }
        fs::remove_file(&profile.credentials).unwrap();
        tokio::time::advance(CHANGE_HOLDS).await;
        assert_eq!(now().await, "second-one");
        assert!(!source.renew().await);
        // Refused: read at once.
        fs::write(&profile.credentials, text("third")).unwrap();
        assert!(source.renew().await);
        assert_eq!(now().await, "third");
    }
}
