//! From what a user writes (`/data=s3://bucket`, options) to a store at work.
//!
//! The registry below is the only place that knows all systems; a new one is a line in it and a file of its own.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use crate::{
    Error, Result, Secret, UnderStore,
    alias::Alias,
    azure, hdfs,
    local::LocalStore,
    mounted, opendal,
    read_only::ReadOnly,
    redact, s3,
    secret::{is_shown, shown_value},
    sftp, swift, webdav,
};

/// What is to be mounted.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct MountSpec {
    /// `s3://bucket/prefix`, `file:///folder`, or the absolute path of a folder.
    pub uri: String,
    /// Options by name, all treated as secrets.
    pub options: BTreeMap<String, Secret>,
    /// Whether writes are refused.
    pub read_only: bool,
}

impl MountSpec {
    /// A writable mount without options.
    pub fn new(uri: impl Into<String>) -> Self {
        Self { uri: uri.into(), options: BTreeMap::new(), read_only: false }
    }

    /// Adds an option.
    pub fn option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.insert(name.into(), Secret::new(value));
        self
    }

    /// A mount with these options.
    #[cfg(test)]
    pub(crate) fn with(uri: &str, options: &[(&str, &str)]) -> Self {
        options.iter().fold(Self::new(uri), |spec, (name, value)| spec.option(*name, *value))
    }

    /// The URI without what must not be shown.
    pub fn redacted_uri(&self) -> String {
        redact(&self.uri)
    }

    /// The options as they may be listed: values of all but a few known harmless ones are `***`.
    pub fn redacted_options(&self) -> BTreeMap<String, String> {
        self.options
            .iter()
            .map(|(name, value)| {
                let shown = if is_shown(name) { shown_value(value.expose()) } else { value.to_string() };
                (name.clone(), shown)
            })
            .collect()
    }
}

/// Options as a mount has them.
#[cfg(test)]
pub(crate) fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    MountSpec::with("", pairs).options
}

impl fmt::Debug for MountSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountSpec")
            .field("uri", &self.redacted_uri())
            .field("options", &self.redacted_options())
            .field("read_only", &self.read_only)
            .finish()
    }
}

/// One kind of under-store.
struct System {
    /// One that ends in a plus sign is the beginning of schemes.
    schemes: &'static [&'static str],
    /// Other names for its options, and what gives an option its own name.
    aliases: &'static [Alias],
    translate: fn(&MountSpec) -> Result<MountSpec>,
    open: fn(&MountSpec) -> Result<Arc<dyn UnderStore>>,
}

impl System {
    /// One that has but one name for each option.
    const fn new(schemes: &'static [&'static str], open: fn(&MountSpec) -> Result<Arc<dyn UnderStore>>) -> Self {
        Self { schemes, aliases: &[], translate: |spec| Ok(spec.clone()), open }
    }

    /// One whose options have other names, too.
    const fn also(self, aliases: &'static [Alias], translate: fn(&MountSpec) -> Result<MountSpec>) -> Self {
        Self { aliases, translate, ..self }
    }

    fn speaks(&self, scheme: &str) -> bool {
        self.schemes.iter().any(|own| *own == scheme || (own.ends_with('+') && scheme.starts_with(own)))
    }

    fn open(&self, spec: &MountSpec) -> Result<Arc<dyn UnderStore>> {
        let opened = (self.translate)(spec).and_then(|spec| (self.open)(&spec));
        opened.map_err(|error| match error {
            // What is near an alias is near none of our own names, whose words are not like those of other programs.
            Error::UnknownOption { uri, option, advice } => {
                let aliases: Vec<_> = self.aliases.iter().map(|alias| alias.name).collect();
                let advice = nearest(&option, &aliases).map_or(advice, did_you_mean);
                Error::UnknownOption { uri, option, advice }
            }
            other => other,
        })
    }
}

/// Everything that can be mounted.
const REGISTRY: &[System] = &[
    System::new(&["file"], open_local),
    System::new(&["s3", "s3a"], |spec| Ok(Arc::new(s3::open_aws(&spec.uri, &spec.options)?)))
        .also(s3::AWS_ALIASES, s3::translate_aws),
    System::new(&["gs", "gcs"], |spec| Ok(Arc::new(s3::open_gcs(&spec.uri, &spec.options)?)))
        .also(s3::GCS_ALIASES, s3::translate_gcs),
    System::new(&["oss"], |spec| Ok(Arc::new(s3::open_oss(&spec.uri, &spec.options)?)))
        .also(s3::OSS_ALIASES, s3::translate_oss),
    System::new(&["hdfs"], |spec| Ok(Arc::new(hdfs::open(spec)?))),
    System::new(&["abfs", "abfss", "wasb", "wasbs", "az", "azure"], |spec| {
        Ok(Arc::new(azure::open(&spec.uri, &spec.options)?))
    })
    .also(azure::ALIASES, azure::translate),
    System::new(&["http", "https", "webdav", "webdavs", "dav", "davs"], |spec| Ok(Arc::new(webdav::open(spec)?)))
        .also(webdav::ALIASES, webdav::translate),
    System::new(&[opendal::SCHEME], |spec| Ok(Arc::new(opendal::open(spec)?))),
    System::new(&["nfs", "glusterfs", "cephfs"], mounted::open),
    System::new(&["sftp"], |spec| Ok(Arc::new(sftp::open(spec)?))),
    System::new(&["swift"], |spec| Ok(Arc::new(swift::open(&spec.uri, &spec.options)?)))
        .also(swift::ALIASES, swift::translate),
    #[cfg(feature = "testing")]
    System::new(&["example"], |spec| Ok(Arc::new(crate::testing::example::open(spec)?))),
    #[cfg(feature = "testing")]
    System::new(&["memory"], |spec| Ok(crate::memory::MemoryStore::named(&spec.uri))),
];

/// The options of our own that a name is an alias of, over all systems.
pub(crate) fn aliased(name: &str) -> impl Iterator<Item = &'static str> {
    let aliases = REGISTRY.iter().flat_map(|system| system.aliases);
    aliases.filter(move |alias| alias.name.eq_ignore_ascii_case(name)).map(|alias| alias.own)
}

/// Opens a store. Nothing is asked of it yet: call [`UnderStore::check`] next, which finds within seconds whether it works.
/// Must be called inside a tokio runtime where the store is a network one.
pub fn open(spec: &MountSpec) -> Result<Arc<dyn UnderStore>> {
    let spec = &MountSpec { uri: with_small_scheme(&spec.uri).into_owned(), ..spec.clone() };
    let scheme = if spec.uri.starts_with('/') { "file" } else { scheme_of(spec)? };
    let system = REGISTRY.iter().find(|system| system.speaks(scheme)).ok_or_else(|| Error::UnknownScheme {
        uri: spec.redacted_uri(),
        scheme: scheme.to_owned(),
        known: known_schemes(),
    })?;
    let store = system.open(spec)?;
    Ok(if spec.read_only { Arc::new(ReadOnly::new(store)) } else { store })
}

fn known_schemes() -> String {
    let schemes: Vec<_> = REGISTRY
        .iter()
        .flat_map(|system| system.schemes)
        .map(|name| match name.strip_suffix('+') {
            Some(name) => format!("{name}+SERVICE:"),
            None => format!("{name}:"),
        })
        .collect();
    schemes.join(", ")
}

/// A URI with its scheme in small letters: it means the same in capitals. Whoever keeps URIs keeps this.
pub fn with_small_scheme(uri: &str) -> Cow<'_, str> {
    match uri.split_once(':') {
        Some((scheme, rest)) if !scheme.contains('/') && scheme.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            format!("{}:{rest}", scheme.to_ascii_lowercase()).into()
        }
        _ => uri.into(),
    }
}

fn scheme_of(spec: &MountSpec) -> Result<&str> {
    match spec.uri.split_once(':') {
        Some((scheme, _)) if !scheme.is_empty() && !scheme.contains('/') => Ok(scheme),
        _ => Err(Error::InvalidUri {
            uri: spec.redacted_uri(),
            reason: "it is neither an absolute path nor of the form scheme://…".into(),
        }),
    }
}

/// `file:///folder`, `file:/folder` or `/folder`. The path is taken as it is: `%20` is three characters, because
/// that is what folders are really called.
fn open_local(spec: &MountSpec) -> Result<Arc<dyn UnderStore>> {
    let invalid = |reason: &str| Error::InvalidUri { uri: spec.redacted_uri(), reason: reason.to_owned() };
    let rest = spec.uri.strip_prefix("file:").unwrap_or(&spec.uri);
    let folder = match rest.strip_prefix("//") {
        Some(authority) if !authority.starts_with('/') => {
            return Err(invalid("a host has no place in it; write file:///path/to/folder"));
        }
        Some(path) => path,
        None => rest,
    };
    if folder.is_empty() {
        return Err(invalid("no folder is named; write file:///path/to/folder"));
    }
    if let Some(option) = spec.options.keys().next() {
        return Err(Error::UnknownOption {
            uri: spec.redacted_uri(),
            option: option.clone(),
            advice: "folders take no options".into(),
        });
    }
    Ok(Arc::new(LocalStore::new(PathBuf::from(folder))?))
}

/// The advice for an option that is not known, where another is near it.
pub(crate) fn did_you_mean(option: &str) -> String {
    format!("did you mean {option}?")
}

/// The known name within two edits of `name`, in whatever letters.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    const EDITS_MAX: usize = 2;
    let name = name.to_ascii_lowercase();
    known
        .iter()
        .copied()
        .map(|other| (edits(&name, &other.to_ascii_lowercase()), other))
        .min()
        .filter(|best| best.0 <= EDITS_MAX)
        .map(|best| best.1)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substitution = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_schemes_and_shapes_are_told_apart() {
        assert!(matches!(open(&MountSpec::new("gopher://x")), Err(Error::UnknownScheme { .. })));
        for bad in ["", "relative/path", "file:", "file://", "file://host/x", "s3://"] {
            assert!(matches!(open(&MountSpec::new(bad)), Err(Error::InvalidUri { .. })), "{bad}");
        }
        assert!(open(&MountSpec::new("file:///")).is_ok());
        assert_eq!(open(&MountSpec::new("File:///Tmp")).unwrap().uri(), "file:///Tmp");
        let odd = MountSpec::new("/").option("aws_region", "x");
        assert!(matches!(open(&odd), Err(Error::UnknownOption { .. })));
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_opened_is_found_by_the_check() {
        let check = async |folder: &str| open(&MountSpec::new(folder)).unwrap().check().await;
        assert!(matches!(check("/no/such/folder").await, Err(Error::MissingFolder { .. })));
        assert!(matches!(check("/proc/version").await, Err(Error::NotAFolder { .. })));
        check("/").await.unwrap();
    }

    #[test]
    fn nothing_secret_is_printed() {
        let spec = MountSpec::new("s3://key:hidden1@b")
            .option("aws_secret_access_key", "hidden2")
            .option("aws_endpoint", "http://u:hidden3@h:1/")
            .option("aws_region", "shown");
        let text = format!("{spec:?} {}", open(&spec).unwrap_err());
        assert!(!text.contains("hidden") && text.contains("shown"), "{text}");
    }

    #[test]
    fn a_mount_by_aliases_is_the_mount_by_own_names() {
        let is_the_same = |uri: &str, pairs: &[(&str, &str, &str)]| {
            let by = |pick: fn(&(&str, &str, &str)) -> (String, String)| {
                pairs.iter().map(pick).fold(MountSpec::new(uri), |spec, (name, value)| spec.option(name, value))
            };
            let by_alias = by(|(alias, _, value)| ((*alias).to_owned(), (*value).to_owned()));
            let by_own = by(|(_, own, value)| ((*own).to_owned(), (*value).to_owned()));
            let scheme = scheme_of(&by_alias).unwrap();
            let system = REGISTRY.iter().find(|system| system.speaks(scheme)).unwrap();
            assert!((system.translate)(&by_alias).unwrap() == by_own, "{uri}");
            // One that says otherwise is no part of the same mount.
            let (alias, own, _) = pairs[0];
            let both = MountSpec::new(uri).option(alias, "hidden-1").option(own, "hidden-2");
            let error = open(&both).unwrap_err().to_string();
            assert!(error.contains(alias) && error.contains(own) && !error.contains("hidden"), "{error}");
        };
        is_the_same(
            "gs://b",
            &[
                ("fs.gcs.accessKeyId", "google_hmac_access_id", "id"),
                ("fs.gcs.secretAccessKey", "google_hmac_secret", "secret"),
                ("fs.gcs.credential.path", "google_application_credentials", "/f"),
                ("google.cloud.auth.service.account.json.keyfile", "google_service_account", "/f"),
            ],
        );
        is_the_same("gcs://b", &[("fs.gs.auth.service.account.json.keyfile", "google_service_account", "/f")]);
        is_the_same(
            "oss://b",
            &[
                ("fs.oss.accessKeyId", "oss_access_key_id", "id"),
                ("fs.oss.accessKeySecret", "oss_access_key_secret", "secret"),
                ("fs.oss.securityToken", "oss_security_token", "token"),
                ("fs.oss.endpoint", "oss_endpoint", "oss-cn-hangzhou.aliyuncs.com"),
            ],
        );
        is_the_same(
            "webdav://h/",
            &[
                ("alluxio.underfs.web.username", "webdav_user", "me"),
                ("alluxio.underfs.web.password", "webdav_password", "secret"),
            ],
        );
    }

    /// A value is no less secret by another name.
    #[test]
    fn aliases_show_and_hide_what_their_own_names_do() {
        for system in REGISTRY {
            for alias in system.aliases.iter().filter(|alias| !alias.own.is_empty()) {
                assert!(is_shown(alias.own) || !is_shown(alias.name), "{} is shown", alias.name);
            }
        }
        let secrets = [
            "s3a.secretKey",
            "fs.s3a.bucket.b.secret.key",
            "fs.gcs.secretAccessKey",
            "fs.oss.accessKeySecret",
            "fs.swift.password",
            "fs.azure.account.key.a.dfs.core.windows.net",
            "fs.azure.sas.c.a.blob.core.windows.net",
            "password",
            "token",
            "alluxio.underfs.web.password",
        ];
        let spec = secrets.iter().fold(MountSpec::new("s3://b"), |spec, name| spec.option(*name, "hidden"));
        let spec =
            spec.option("fs.s3a.endpoint", "key:hidden@h").option("alluxio.underfs.s3.endpoint", "http://shown:9000");
        let text = format!("{spec:?} {:?} {}", spec.redacted_options(), open(&spec).unwrap_err());
        assert!(!text.contains("hidden") && text.contains("http://shown:9000"), "{text}");
    }

    /// Who writes the names of another program means one of those.
    #[test]
    fn a_misspelt_alias_is_recognized() {
        for (uri, written, meant) in [
            ("s3://b", "fs.s3a.acces.key", "fs.s3a.access.key"),
            ("s3://b", "fs.s3a.bucket.b.acces.key", "fs.s3a.access.key"),
            ("s3://b", "s3a.acceskeyid", "s3a.accessKeyId"),
            ("gs://b", "fs.gcs.acessKeyId", "fs.gcs.accessKeyId"),
            ("oss://b", "fs.oss.accessKeySecrt", "fs.oss.accessKeySecret"),
            ("abfs://c@a.dfs.core.windows.net", "fs.azure.acount.key", "fs.azure.account.key"),
            ("swift://c", "fs.swift.pasword", "fs.swift.password"),
            ("webdav://h", "pasword", "password"),
            ("s3://b", "aws_acces_key_id", "aws_access_key_id"),
        ] {
            let error = open(&MountSpec::new(uri).option(written, "hidden")).unwrap_err().to_string();
            assert!(error.contains(&format!("did you mean {meant}?")), "{written}: {error}");
            assert!(!error.contains("hidden"), "{written}: {error}");
        }
        let error = open(&MountSpec::new("s3://b").option("fs.s3a.block.size", "1")).unwrap_err().to_string();
        assert!(error.contains("the usual ones are") && !error.contains("did you mean"), "{error}");
    }

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(nearest("aws_regoin", &["aws_region", "aws_endpoint"]), Some("aws_region"));
        assert_eq!(nearest("AWS_ENDPOINT", &["aws_region", "aws_endpoint"]), Some("aws_endpoint"));
        assert_eq!(nearest("accesskeyid", &["accessKeyId"]), Some("accessKeyId"));
        assert_eq!(nearest("colour", &["aws_region"]), None);
        assert_eq!((edits("kitten", "sitting"), edits("", "abc"), edits("a", "a")), (3, 3, 0));
    }
}
