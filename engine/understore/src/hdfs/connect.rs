//! From URI and options to an HDFS client, with a clear word for whatever is wrong with them.
//!
//! What the options leave open is taken from Hadoop's own places: `core-site.xml` and `hdfs-site.xml` in the folder of
//! `hdfs_conf_dir`, else of `HADOOP_CONF_DIR`, else of `HADOOP_HOME`; the user from `HADOOP_USER_NAME`, tickets from the
//! cache of `kinit`. Every other Hadoop setting may be given as an option by its own name and goes before the files.
//! Nothing is sent here: [`crate::UnderStore::check`] does.

use std::{collections::BTreeMap, path::Path};

use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use url::Url;

use super::Hdfs;
use crate::{Error, MountSpec, Result, Secret, StorePath, TrafficSettings, tree::Tree};

/// Where a name node listens unless it is told otherwise.
const PORT: u16 = 8020;
/// Rounds over name nodes, and the first pause between them in milliseconds, unless the settings say otherwise. Without a
/// second name node to turn to there is no use in the minutes that Hadoop waits; nor is there in a check.
const IN_HASTE: [(&str, &str); 2] =
    [("dfs.client.failover.max.attempts", "2"), ("dfs.client.failover.sleep.base.millis", "250")];
/// Whoever names a principal wants Kerberos, whatever the files say or do not say.
const WITH_KERBEROS: (&str, &str) = ("hadoop.security.authentication", "kerberos");
/// Hadoop's own settings, by their beginnings.
const SETTINGS: &[&str] = &["dfs.…", "hadoop.…", "ipc.…", "fs.…"];

const USER: &str = "hadoop_user";
const CONF_DIR: &str = "hdfs_conf_dir";
/// Alluxio's name for the same: files, divided by colons.
const CONF_FILES: &str = "alluxio.underfs.hdfs.configuration";
const REPLICATION: &str = "hdfs_replication";
const BLOCK_SIZE: &str = "hdfs_block_size";
const PRINCIPAL: &str = "kerberos_principal";
const KEYTAB: &str = "kerberos_keytab";
const CACHE: &str = "kerberos_cache";
const OPTIONS: &[&str] = &[USER, CONF_DIR, CONF_FILES, REPLICATION, BLOCK_SIZE, PRINCIPAL, KEYTAB, CACHE];

/// Reads `hdfs://namenode:port/folder`, `hdfs://nameservice/folder` or `hdfs:///folder`, and the options.
pub(crate) fn open(spec: &MountSpec) -> Result<Tree> {
    let shown = spec.redacted_uri();
    let (authority, root) = split_uri(&spec.uri, &shown)?;
    let (rules, own) = TrafficSettings::split(&spec.options, &shown)?;
    let settings = settings_of(&own, &shown)?;
    let options = write_options(&own, &shown)?;
    let (client, hasty) = connect(&authority, &settings, &own, &shown)?;
    let endpoint = format!("hdfs://{authority}");
    let hdfs = Hdfs { client, hasty, endpoint, root, options, dir_mode: 0o755 };
    Ok(Tree::new(shown, rules, Box::new(hdfs)))
}

/// The name node or name service, and the folder: an absolute path without a slash at its end.
fn split_uri(uri: &str, shown: &str) -> Result<(String, String)> {
    let refuse = |reason: &str| Err(Error::InvalidUri { uri: shown.to_owned(), reason: reason.to_owned() });
    let Some(("hdfs", rest)) = uri.split_once("://") else {
        return refuse("write hdfs://namenode:8020/folder, or hdfs://nameservice/folder");
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return refuse("a user does not belong in the URI; give it as the option hadoop_user");
    }
    if Url::parse(&format!("hdfs://{authority}/")).is_err() || authority.contains(['?', '#']) {
        return refuse("its host or port cannot be read; write hdfs://namenode:8020/folder");
    }
    let path = path.trim_end_matches('/');
    if path.starts_with('/') {
        return refuse("the path begins with two slashes; write hdfs://namenode:8020/folder");
    }
    match StorePath::parse(path) {
        Err(Error::Unnameable { reason, .. }) => refuse(&format!("the path cannot be used: {reason}")),
        _ if path.is_empty() => Ok((authority.to_owned(), String::new())),
        _ => Ok((authority.to_owned(), format!("/{path}"))),
    }
}

/// The options that are Hadoop's own. Any other must be one of ours.
fn settings_of(options: &BTreeMap<String, Secret>, shown: &str) -> Result<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    for (name, value) in options {
        if SETTINGS.iter().any(|all| name.starts_with(all.trim_end_matches('…'))) {
            settings.insert(name.clone(), value.expose().to_owned());
        } else if !OPTIONS.contains(&name.as_str()) {
            return Err(TrafficSettings::unknown_option(name, &[OPTIONS, SETTINGS].concat(), shown));
        }
    }
    Ok(settings)
}

/// What files are created with; `dfs.replication` and `dfs.blocksize` mean the same to Hadoop.
fn write_options(options: &BTreeMap<String, Secret>, shown: &str) -> Result<WriteOptions> {
    let number = |names: [&str; 2]| {
        let mut given = names.iter().filter_map(|name| Some((*name, options.get(*name)?.expose())));
        let Some((name, value)) = given.next() else { return Ok(None) };
        if let Some((other, _)) = given.find(|(_, other)| *other != value) {
            return Err(Error::InvalidOption {
                uri: shown.to_owned(),
                option: other.to_owned(),
                reason: format!("{name} means the same and has another value; give one of the two"),
            });
        }
        let invalid = || Error::InvalidOption {
            uri: shown.to_owned(),
            option: name.to_owned(),
            reason: "it is not a number greater than zero (bytes, for a size)".into(),
        };
        value.parse::<u64>().ok().filter(|number| *number > 0).map(Some).ok_or_else(invalid)
    };
    let replication = number([REPLICATION, "dfs.replication"])?.map(|number| number.min(u64::from(u16::MAX)) as u32);
    let block_size = number([BLOCK_SIZE, "dfs.blocksize"])?;
    Ok(WriteOptions { replication, block_size, create_parent: false, overwrite: false, ..WriteOptions::default() })
}

/// A client, and of a name service one in haste.
fn connect(
    authority: &str,
    settings: &BTreeMap<String, String>,
    options: &BTreeMap<String, Secret>,
    shown: &str,
) -> Result<(Client, Option<Client>)> {
    let option = |name: &str| options.get(name).map(|value| value.expose().to_owned());
    let conf_dir = conf_dir(options, shown)?;
    check_kerberos(options, shown)?;
    let build = |authority: &str, is_hasty: bool| {
        let kerberos = options.contains_key(PRINCIPAL).then_some(WITH_KERBEROS);
        let defaults = IN_HASTE.into_iter().filter(|_| is_hasty).chain(kerberos);
        let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = settings.iter().map(|(name, value)| (name.clone(), value.clone()));
        let mut builder = ClientBuilder::new().with_config(defaults.chain(settings));
        if !authority.is_empty() {
            builder = builder.with_url(format!("hdfs://{authority}"));
        }
        if let Some(folder) = &conf_dir {
            builder = builder.with_config_dir(folder.clone());
        }
        if let Some(user) = option(USER) {
            builder = builder.with_user(user);
        }
        if let Some(principal) = option(PRINCIPAL) {
            builder = builder.with_kerberos_principal(principal);
        }
        if let Some(keytab) = option(KEYTAB) {
            builder = builder.with_kerberos_keytab(keytab);
        }
        if let Some(cache) = option(CACHE) {
            builder = builder.with_kerberos_cache(cache);
        }
        builder.build()
    };
    let has_port = authority.rsplit_once(':').is_some();
    let built = match build(authority, has_port) {
        // It is no name service of the settings, so it is a host.
        Err(HdfsError::InvalidArgument(_)) if !has_port && !authority.is_empty() => {
            build(&format!("{authority}:{PORT}"), true).map(|client| (client, None))
        }
        Ok(client) if has_port => Ok((client, None)),
        patient => patient.and_then(|client| Ok((client, Some(build(authority, true)?)))),
    };
    built.map_err(|error| match error {
        HdfsError::InvalidArgument(reason) if authority.is_empty() => Error::InvalidUri {
            uri: shown.to_owned(),
            reason: format!("no name node is named ({reason}); write hdfs://namenode:{PORT}/folder, or set {CONF_DIR}"),
        },
        HdfsError::InvalidArgument(reason) | HdfsError::InvalidPath(reason) => {
            Error::InvalidOption { uri: shown.to_owned(), option: PRINCIPAL.to_owned(), reason }
        }
        other => Error::InvalidOption {
            uri: shown.to_owned(),
            option: CONF_DIR.to_owned(),
            reason: format!("Hadoop's configuration cannot be used: {other}"),
        },
    })
}

/// Whose tickets are asked for, and by which keys, must be said together; and the keys be here.
fn check_kerberos(options: &BTreeMap<String, Secret>, shown: &str) -> Result<()> {
    let invalid = |option: &str, reason: &str| {
        Err(Error::InvalidOption { uri: shown.to_owned(), option: option.to_owned(), reason: reason.to_owned() })
    };
    if let Some(option) = [KEYTAB, CACHE].into_iter().find(|option| options.contains_key(*option))
        && options.get(PRINCIPAL).is_none_or(|principal| principal.expose().is_empty())
    {
        return invalid(option, "set kerberos_principal too: user@REALM, or service/host@REALM");
    }
    match options.get(KEYTAB) {
        Some(keytab) if !Path::new(keytab.expose().trim_start_matches("FILE:")).is_file() => {
            invalid(KEYTAB, "there is no such file on this machine; every machine that asks needs it")
        }
        _ => Ok(()),
    }
}

/// The folder of Hadoop's configuration, if an option names one. One that is not there would be taken for an empty one.
fn conf_dir(options: &BTreeMap<String, Secret>, shown: &str) -> Result<Option<String>> {
    let invalid = |option: &str, reason: &str| {
        Err(Error::InvalidOption { uri: shown.to_owned(), option: option.to_owned(), reason: reason.to_owned() })
    };
    let (option, folder) = match (options.get(CONF_DIR), options.get(CONF_FILES)) {
        (Some(_), Some(_)) => {
            return invalid(CONF_FILES, "hdfs_conf_dir says where they are, too; give one of the two");
        }
        (Some(folder), None) => (CONF_DIR, folder.expose().to_owned()),
        (None, Some(files)) => {
            let mut folders = files.expose().split(':').filter_map(|file| Path::new(file).parent());
            let first = folders.next().unwrap_or(Path::new(""));
            if folders.any(|folder| folder != first) {
                return invalid(CONF_FILES, "core-site.xml and hdfs-site.xml must lie in one folder");
            }
            (CONF_FILES, first.display().to_string())
        }
        (None, None) => return Ok(None),
    };
    if Path::new(&folder).is_dir() { Ok(Some(folder)) } else { invalid(option, "there is no such folder here") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(uri: &str, options: &[(&str, &str)]) -> Error {
        open(&MountSpec::with(uri, options)).unwrap_err()
    }

    #[test]
    fn hosts_services_and_folders() {
        let split = |uri| split_uri(uri, uri).unwrap();
        assert_eq!(split("hdfs://nn:9000/a/b/"), ("nn:9000".into(), "/a/b".into()));
        assert_eq!(split("hdfs://service"), ("service".into(), String::new()));
        assert_eq!(split("hdfs:///a%20b"), (String::new(), "/a%20b".into()));
        for bad in ["hdfs:/nn", "hdfs://me@nn/", "hdfs://nn:port/", "hdfs://nn//x", "hdfs://nn/a/../b", "hdfs://nn?x"] {
            assert!(matches!(split_uri(bad, bad), Err(Error::InvalidUri { .. })), "{bad}");
        }
    }

    #[test]
    fn wrong_options_are_named_and_secrets_are_not() {
        let error = refused("hdfs://nn:1/", &[("hadoop_usr", "hidden-value")]).to_string();
        assert!(error.contains("did you mean hadoop_user?") && !error.contains("hidden"), "{error}");
        let error = refused("hdfs://nn:1/", &[("colour", "x")]).to_string();
        assert!(error.contains("dfs.…") && error.contains(CONF_DIR) && error.contains("request_timeout"), "{error}");
        let error = refused("hdfs://nn:1/", &[("max_concurency", "1")]).to_string();
        assert!(error.contains("did you mean max_concurrency?"), "{error}");
        let error = refused("hdfs://nn:1/", &[(REPLICATION, "0")]);
        assert!(matches!(&error, Error::InvalidOption { option, .. } if option == REPLICATION), "{error}");
        let error = refused("hdfs://nn:1/", &[(CONF_DIR, "/no/such/folder")]);
        assert!(matches!(&error, Error::InvalidOption { option, .. } if option == CONF_DIR), "{error}");
        let error = refused("hdfs://nn:1/", &[(CONF_FILES, "/a/core-site.xml:/b/hdfs-site.xml")]);
        assert!(matches!(&error, Error::InvalidOption { option, .. } if option == CONF_FILES), "{error}");
        for (option, value) in [(KEYTAB, "/no/such/keytab"), (CACHE, "FILE:/no/such/cache")] {
            let error = refused("hdfs://nn:1/", &[(option, value)]).to_string();
            assert!(error.contains(option) && error.contains("set kerberos_principal too"), "{error}");
        }
        let error = refused("hdfs://nn:1/", &[(PRINCIPAL, "me@REALM"), (KEYTAB, "/no/such/keytab")]).to_string();
        assert!(error.contains(KEYTAB) && error.contains("no such file"), "{error}");
        let error = refused("hdfs:///folder", &[]).to_string();
        assert!(error.contains("no name node is named"), "{error}");
        let error = refused("hdfs://nn:1/", &[(BLOCK_SIZE, "1"), ("dfs.blocksize", "5")]).to_string();
        assert!(error.contains(BLOCK_SIZE) && error.contains("dfs.blocksize"), "{error}");
        let error = refused("hdfs://nn:1/", &[(CONF_DIR, "/a"), (CONF_FILES, "/b/hdfs-site.xml")]).to_string();
        assert!(error.contains(CONF_DIR) && error.contains(CONF_FILES), "{error}");
    }

    #[test]
    fn name_services_come_from_the_files_of_hadoop() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, pairs: &[(&str, &str)]| {
            let property = |(name, value): &(&str, &str)| {
                format!("<property><name>{name}</name><value>{value}</value></property>")
            };
            let properties: String = pairs.iter().map(property).collect();
            std::fs::write(folder.path().join(name), format!("<configuration>{properties}</configuration>")).unwrap();
        };
        file("core-site.xml", &[("fs.defaultFS", "hdfs://cluster")]);
        file("hdfs-site.xml", &[("dfs.ha.namenodes.cluster", "a,b"), ("dfs.namenode.rpc-address.cluster.a", "h:1")]);
        let folder = folder.path().display().to_string();
        for uri in ["hdfs:///x", "hdfs://cluster/x", "hdfs://host-without-a-port/x"] {
            open(&MountSpec::new(uri).option(CONF_DIR, &folder)).unwrap();
            let files = format!("{folder}/core-site.xml:{folder}/hdfs-site.xml");
            open(&MountSpec::new(uri).option(CONF_FILES, files)).unwrap();
        }
    }

    #[test]
    fn files_are_created_as_hadoop_or_we_are_told() {
        let options = |pairs: &[(&str, &str)]| {
            let options = pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect();
            write_options(&options, "").unwrap()
        };
        let plain = options(&[]);
        assert_eq!((plain.replication, plain.block_size, plain.overwrite), (None, None, false));
        let set = options(&[("dfs.replication", "2"), (BLOCK_SIZE, "1048576"), ("dfs.blocksize", "1048576")]);
        assert_eq!((set.replication, set.block_size), (Some(2), Some(1 << 20)));
    }

    #[test]
    fn the_document_lists_every_option() {
        let hadoop = ["dfs.replication", "dfs.blocksize"];
        crate::document::lists("HDFS", OPTIONS.iter().chain(SETTINGS).chain(&hadoop));
    }
}
