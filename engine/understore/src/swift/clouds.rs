//! Clouds by name: `clouds.yaml` of OpenStack's tools, and `secure.yaml`, which keeps their secrets apart.
//!
//! The first file that is there counts: that of `OS_CLIENT_CONFIG_FILE`, `clouds.yaml` in the working folder, in
//! `~/.config/openstack`, in `/etc/openstack`. What `secure.yaml` says of the same cloud goes before. Both are looked at again
//! while requests are made, so that whoever rotates keys there need not mount anew. A file that cannot be read for a moment,
//! because it is being written, leaves things as they were.
//!
//! Source: OpenStack SDK, "Configuring OpenStack SDK Applications".

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};

use super::{connect::Settings, login::Way};
use crate::{
    Result, Secret,
    key_file::{Stamp, stamp_of, text_of},
};

/// Ways to log in, as the files name them, that are gone here; with whether it is that of version 1.
const AUTH_TYPES: [(&str, bool); 5] = [
    ("password", false),
    ("v3password", false),
    ("v3applicationcredential", false),
    ("v1password", true),
    ("v1auth", true),
];

/// A cloud, and where it is described.
pub(super) struct Cloud {
    name: String,
    clouds: PathBuf,
    secure: PathBuf,
    /// What else the mount says, which goes before the files.
    own: Settings,
    seen: Mutex<[Stamp; 2]>,
}

impl Cloud {
    /// The cloud of this name, in `file` or where the tools look.
    pub(super) fn find(name: &str, file: Option<&str>, own: Settings) -> Result<Self> {
        let clouds = match file {
            Some(file) => Some(PathBuf::from(file)),
            None => places("clouds").find(|file| file.is_file()),
        };
        let Some(clouds) = clouds else {
            let looked: Vec<_> = places("clouds").map(|file| file.display().to_string()).collect();
            return Err(own.invalid("os_cloud", format!("there is no file of clouds: {}", looked.join(", "))));
        };
        let beside = clouds.with_file_name("secure.yaml");
        let named = env::var_os("OS_CLIENT_SECURE_FILE").map(PathBuf::from);
        let mut secure = named.into_iter().chain([beside.clone()]).chain(places("secure"));
        let secure = secure.find(|file| file.is_file()).unwrap_or(beside);
        Ok(Self { name: name.to_owned(), clouds, secure, own, seen: Mutex::default() })
    }

    /// How it is logged in there, as the files say now.
    pub(super) fn way(&self) -> Result<Way> {
        *self.seen.lock() = self.stamps();
        let found = self.read().map_err(|reason| self.own.invalid("os_cloud", reason))?;
        self.own.over(found).way()
    }

    /// Whether a file has changed since it was last read.
    pub(super) fn has_changed(&self) -> bool {
        *self.seen.lock() != self.stamps()
    }

    /// What the connection needs: a file of certificates, and whether certificates are looked at.
    pub(super) fn certificates(&self) -> Result<(Option<String>, bool)> {
        let found = self.read().map_err(|reason| self.own.invalid("os_cloud", reason))?;
        let verifies = found.get("verify").is_none_or(|value| !value.expose().eq_ignore_ascii_case("false"));
        Ok((found.get("cacert").map(|file| file.expose().to_owned()), verifies))
    }

    fn stamps(&self) -> [Stamp; 2] {
        [&self.clouds, &self.secure].map(|file| stamp_of(file))
    }

    /// What the files say of it, by the names of our options.
    fn read(&self) -> Result<BTreeMap<String, Secret>, String> {
        let mut found = BTreeMap::new();
        let mut is_there = false;
        for file in [&self.clouds, &self.secure] {
            let Some(mut clouds) = clouds_in(file)? else { continue };
            if let Some(described) = clouds.remove(&self.name) {
                is_there |= *file == self.clouds;
                found.extend(described.into_options());
            } else if *file == self.clouds {
                let others: Vec<_> = clouds.into_keys().collect();
                return Err(format!("{} has no cloud {}, but {}", file.display(), self.name, others.join(", ")));
            }
        }
        if !is_there {
            return Err(format!("{} is not there", self.clouds.display()));
        }
        let is_v1 = match found.remove("auth_type") {
            None => false,
            Some(kind) => match AUTH_TYPES.iter().find(|(known, _)| *known == kind.expose()) {
                Some((_, is_v1)) => *is_v1,
                None => {
                    let known = AUTH_TYPES.map(|(known, _)| known).join(", ");
                    return Err(format!("auth_type {} is none of {known}", kind.expose()));
                }
            },
        };
        if let Some(profile) = found.remove("profile")
            && !found.contains_key("os_auth_url")
        {
            let profile = profile.expose();
            return Err(format!(
                "its auth_url is left to the profile {profile}, which only those tools know; write it"
            ));
        }
        if is_v1 {
            for (old, new) in
                [("os_auth_url", "swift_auth_url"), ("os_username", "swift_user"), ("os_password", "swift_key")]
            {
                if let Some(value) = found.remove(old) {
                    found.insert(new.to_owned(), value);
                }
            }
        }
        Ok(found)
    }
}

/// Where the tools look for a file of this name.
fn places(name: &str) -> impl Iterator<Item = PathBuf> {
    let home = env::home_dir().map(|home| home.join(".config/openstack"));
    let folders = [Some(PathBuf::from(".")), home, Some(PathBuf::from("/etc/openstack"))];
    let name = format!("{name}.yaml");
    folders.into_iter().flatten().map(move |folder| folder.join(&name))
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    clouds: BTreeMap<String, Described>,
}

/// What a file says of a cloud, as far as it concerns us.
#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    auth: BTreeMap<String, Option<Text>>,
    auth_type: Option<Text>,
    region_name: Option<Text>,
    interface: Option<Text>,
    /// The same, by its old name.
    endpoint_type: Option<Text>,
    profile: Option<Text>,
    cacert: Option<Text>,
    verify: Option<Text>,
}

impl Described {
    fn into_options(self) -> impl Iterator<Item = (String, Secret)> {
        let auth = self.auth.into_iter().map(|(name, value)| {
            // By the name that projects had before.
            let name = name.strip_prefix("tenant_").map_or(name.clone(), |rest| format!("project_{rest}"));
            (format!("os_{name}"), value)
        });
        let others = [
            ("auth_type", self.auth_type),
            ("os_region_name", self.region_name),
            ("os_interface", self.interface.or(self.endpoint_type)),
            ("profile", self.profile),
            ("cacert", self.cacert),
            ("verify", self.verify),
        ];
        let others = others.into_iter().map(|(name, value)| (name.to_owned(), value));
        auth.chain(others).filter_map(|(name, value)| Some((name, value?.0)))
    }
}

/// A scalar, whatever it looks like.
struct Text(Secret);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

/// None if there is no such file. What is wrong with one is told by its line alone: the text may be of a secret.
fn clouds_in(file: &Path) -> Result<Option<BTreeMap<String, Described>>, String> {
    let Some(text) = text_of(file)? else { return Ok(None) };
    let parsed = serde_saphyr::from_str::<File>(&text);
    let parsed = parsed.map_err(|error| {
        let line = error.location().map_or_else(String::new, |location| format!(", line {}", location.line()));
        format!("{}{line}: no clouds can be read from it", file.display())
    });
    parsed.map(|file| Some(file.clouds))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CLOUDS: &str = "
clouds:
  shared: &shared
    auth: {auth_url: 'https://k/identity', username: \"u\", project_name: p, user_domain_name: D}
    region_name: R
    interface: internal
  ours:
    <<: *shared
    region_name: S
  bare: {auth: {auth_url: https://k, application_credential_id: i, application_credential_secret: s}}
  old: {auth_type: v1password, auth: {auth_url: https://h/auth/v1.0, username: 'a:u', password: hidden-value}}
  number: {auth: {auth_url: https://k/v3, username: 12345, password: 007, tenant_name: null}, verify: false}
  vendor: {profile: rackspace, auth: {username: u, password: hidden-value}}
  ticket: {auth_type: v3kerberos, auth: {auth_url: https://k}}
other: [1, {a: b}]
";

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(clouds: &str, secure: &str) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            fs::write(folder.file("clouds.yaml"), clouds).unwrap();
            fs::write(folder.file("secure.yaml"), secure).unwrap();
            folder
        }

        fn file(&self, name: &str) -> String {
            self.0.path().join(name).display().to_string()
        }

        fn cloud(&self, name: &str) -> Cloud {
            Cloud::find(name, Some(&self.file("clouds.yaml")), Settings::default()).unwrap()
        }

        fn refused(&self, name: &str) -> String {
            let error = self.cloud(name).way().err().unwrap();
            assert!(!format!("{error:?}").contains("hidden"), "{error:?}");
            error.to_string()
        }
    }

    #[test]
    fn clouds_are_read_with_what_they_share_and_what_is_kept_apart() {
        let folder = Folder::new(CLOUDS, "clouds: {ours: {auth: {password: secret}}}");
        let ours = folder.cloud("ours").read().unwrap();
        let of = |name: &str| ours.get(name).map(Secret::expose);
        assert_eq!((of("os_auth_url"), of("os_username")), (Some("https://k/identity"), Some("u")));
        assert_eq!((of("os_password"), of("os_region_name")), (Some("secret"), Some("S")));
        assert_eq!((of("os_interface"), of("os_user_domain_name")), (Some("internal"), Some("D")));
        assert!(
            matches!(folder.cloud("ours").way().unwrap(), Way::Keystone { url, .. } if url == "https://k/identity/v3")
        );
        assert!(matches!(folder.cloud("bare").way().unwrap(), Way::Keystone { .. }));
        assert!(matches!(folder.cloud("old").way().unwrap(), Way::V1 { url, .. } if url == "https://h/auth/v1.0"));
        let number = folder.cloud("number");
        let read = number.read().unwrap();
        assert_eq!((read["os_username"].expose(), read["os_password"].expose()), ("12345", "007"));
        assert!(!read.contains_key("os_project_name"));
        assert_eq!(number.certificates().unwrap(), (None, false));
    }

    #[test]
    fn what_is_wrong_is_named_and_secrets_are_not() {
        let folder = Folder::new(CLOUDS, "");
        assert!(folder.refused("shared").contains("os_password"), "nothing is kept apart of it");
        assert!(folder.refused("none").contains("has no cloud none, but bare, number, old, ours"));
        assert!(folder.refused("vendor").contains("rackspace"));
        assert!(folder.refused("ticket").contains("v3kerberos"));
        for broken in ["clouds:\n  a: {auth: [hidden-value]}", "clouds:\n  a: 'hidden-value", "hidden-value"] {
            let error = Folder::new(broken, "").refused("a");
            assert!(error.contains("clouds.yaml, line ") && error.contains("no clouds can be read"), "{error}");
        }
        fs::remove_file(folder.file("clouds.yaml")).unwrap();
        assert!(folder.refused("ours").contains("is not there"));
    }

    /// Each alias stands for ten of the one before it: what is small to write would be more than memory holds.
    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut bomb = "a0: &a0 {x: y}\n".to_owned();
        for level in 1..12 {
            let ten = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{ten}]\n");
        }
        assert!(Folder::new(&bomb, "").refused("a").contains("no clouds can be read"));
    }

    #[test]
    fn a_change_is_seen_once() {
        let folder = Folder::new(CLOUDS, "clouds: {ours: {auth: {password: one}}}");
        let cloud = folder.cloud("ours");
        let first = cloud.way().unwrap();
        assert!(!cloud.has_changed());
        fs::write(folder.file("secure.yaml"), "clouds: {ours: {auth: {password: another}}}").unwrap();
        assert!(cloud.has_changed());
        assert!(cloud.way().unwrap() != first && !cloud.has_changed());
    }
}
