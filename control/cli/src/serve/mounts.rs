//! Mounts given on the command line of `local` and `master`: flags to specifications, and into the namespace.
//!
//! `--option k=v` belongs to the `--mount` or `--root` before it, which only the order of the flags says; so it is
//! read from the indices of the parsed matches.

use crate::args::{MountAddArgs, MountFlags, parse_time};
use crate::error::CliError;
use citius_client::{Client, MountInfo, MountOptions, SecretText};
use clap::ArgMatches;

/// An under-store to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountFlag {
    /// Where; `/` for the root.
    pub(crate) path: String,
    /// What.
    pub(crate) uri: String,
    /// With which options.
    pub(crate) options: Vec<(String, SecretText)>,
}

/// The mounts of a command line, the root's first if it has one.
pub(crate) fn from_flags(flags: &MountFlags, matches: &ArgMatches) -> Result<Vec<MountFlag>, CliError> {
    let indices = |name| matches.indices_of(name).into_iter().flatten();
    let mut mounts = Vec::new();
    if let (Some(uri), Some(at)) = (&flags.root, indices("root").next_back()) {
        mounts.push((at, MountFlag { path: "/".into(), uri: whole_uri(uri)?, options: Vec::new() }));
    }
    for (text, at) in flags.mount.iter().zip(indices("mount")) {
        let (path, uri) =
            text.split_once('=').filter(|(path, uri)| !path.is_empty() && !uri.is_empty()).ok_or_else(|| {
                CliError::usage(format!("--mount {text:?} should be PATH=URI, as in --mount /data=./some/folder"))
            })?;
        mounts.push((at, MountFlag { path: path.to_owned(), uri: whole_uri(uri)?, options: Vec::new() }));
    }
    for (text, at) in flags.option.iter().zip(indices("option")) {
        let (_, mount) =
            mounts.iter_mut().filter(|(mount_at, _)| *mount_at < at).max_by_key(|(mount_at, _)| *mount_at).ok_or_else(
                || {
                    let key = text.split('=').next().unwrap_or_default();
                    CliError::usage(format!(
                        "--option {key}=… stands before any --mount: put it behind the mount it is for"
                    ))
                },
            )?;
        add_option(&mut mount.options, text)?;
    }
    Ok(mounts.into_iter().map(|(_, mount)| mount).collect())
}

/// The options of one mount.
pub(crate) fn read_options(texts: &[String]) -> Result<Vec<(String, SecretText)>, CliError> {
    let mut options = Vec::new();
    texts.iter().try_for_each(|text| add_option(&mut options, text))?;
    Ok(options)
}

fn add_option(options: &mut Vec<(String, SecretText)>, text: &str) -> Result<(), CliError> {
    let (key, value) = read_option(text)?;
    if options.iter().any(|(known, _)| known.eq_ignore_ascii_case(&key)) {
        return Err(CliError::usage(format!("--option {key} is given twice for one mount: leave one of them away")));
    }
    options.push((key, value));
    Ok(())
}

/// Reads `key=value` or `key=@file`. The value is never repeated in an error: it may be a secret.
fn read_option(text: &str) -> Result<(String, SecretText), CliError> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| CliError::usage("an --option should be KEY=VALUE, as in --option aws_region=eu-central-1"))?;
    let value = match value.strip_prefix('@') {
        Some(file) => {
            let content = std::fs::read_to_string(file).map(SecretText::from);
            let content =
                content.map_err(|error| CliError::usage(format!("--option {key}: cannot read {file}: {error}")))?;
            content.expose().trim_end_matches('\n').into()
        }
        None => value.into(),
    };
    Ok((key.to_owned(), value))
}

/// A folder given by a relative path becomes absolute, as it is used: master and workers have their own working
/// directories, and `..` behind a symbolic link is not what it looks like. A path that is absolute stays as it is given.
pub(crate) fn whole_uri(uri: &str) -> Result<String, CliError> {
    let uri = &*citius_control::with_small_scheme(uri);
    let is_scheme = uri.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    let folder = match uri.strip_prefix("file:") {
        Some(rest) if !rest.starts_with('/') => rest,
        Some(_) => return Ok(uri.to_owned()),
        None if is_scheme => return Ok(uri.to_owned()),
        None => uri,
    };
    let path = std::path::absolute(folder)
        .map_err(|error| CliError::usage(format!("{folder:?} is no path of a folder: {error}")))?;
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    // Of what does not exist there is nothing to resolve; that it does not is told by the mount.
    let path = if climbs { std::fs::canonicalize(&path).unwrap_or(path) } else { path };
    path.into_os_string().into_string().map_err(|path| {
        CliError::usage(format!("the path {} is not UTF-8, so it cannot be mounted", path.to_string_lossy()))
    })
}

/// Mounts each unless it is there already. Another under-store at the same path is refused.
pub(crate) fn ensure(client: &Client, mounts: &[MountFlag]) -> Result<(), CliError> {
    let known: Vec<MountInfo> = client.mounts()?;
    for mount in mounts.iter().filter(|mount| mount.path != "/") {
        let path = citius_client::NamespacePath::parse(&mount.path).map_err(citius_client::Error::from)?;
        match known.iter().find(|known| known.path == path.as_str()) {
            Some(known) if same_uri(&known.uri, &mount.uri) => {}
            Some(known) => {
                return Err(CliError::failure(format!(
                    "{path} is already a mount of {}, not of {}. Remove it first: citius mount rm {path}",
                    known.uri,
                    crate::output::redact_uri(&mount.uri)
                )));
            }
            None => drop(client.mount_add(&mount.path, &mount.uri, options(mount))?),
        }
    }
    Ok(())
}

fn same_uri(known: &str, asked: &str) -> bool {
    let bare = |uri: &str| {
        let bare = uri.strip_prefix("file://").or(uri.strip_prefix("file:")).unwrap_or(uri).trim_end_matches('/');
        whole_uri(bare).unwrap_or_else(|_| bare.to_owned())
    };
    bare(known) == bare(&crate::output::redact_uri(asked))
}

fn options(mount: &MountFlag) -> MountOptions {
    MountOptions { options: mount.options.clone(), ..MountOptions::default() }
}

/// What `citius mount add` asks for: path, URI, options.
pub(crate) fn add_request(args: &MountAddArgs) -> Result<(String, String, MountOptions), CliError> {
    let sync_interval_ms = match args.sync_interval.as_deref() {
        None => None,
        Some("never") => Some(-1),
        Some(text) => Some(
            parse_time(text)
                .map_err(|error| CliError::usage(format!("--sync-interval: {error}, or use 0 or never")))?
                .as_millis() as i64,
        ),
    };
    let options = MountOptions { options: read_options(&args.options)?, read_only: args.read_only, sync_interval_ms };
    Ok((args.path.clone(), whole_uri(&args.uri)?, options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::{CommandFactory, FromArgMatches};

    fn mounts(flags: &[&str]) -> Result<Vec<MountFlag>, CliError> {
        let matches = Cli::command().get_matches_from([&["citius", "local"], flags].concat());
        let cli = Cli::from_arg_matches(&matches).unwrap();
        let Command::Local(args) = cli.command else { unreachable!() };
        from_flags(&args.mounts, matches.subcommand_matches("local").unwrap())
    }

    #[test]
    fn options_belong_to_the_mount_before_them() {
        let found = mounts(&[
            "--mount",
            "/a=s3://a",
            "--option",
            "k=1",
            "--option=l=a=b",
            "--mount",
            "/b=s3://b",
            "--root",
            "s3://r",
            "--option",
            "k=2",
        ])
        .unwrap();
        let option = |k: &str, v: &str| (k.to_owned(), v.into());
        assert_eq!(found[0].options, [option("k", "2")]);
        assert_eq!(found[1].options, [option("k", "1"), option("l", "a=b")]);
        assert!(found[2].options.is_empty());
        assert_eq!((found[0].path.as_str(), found[1].uri.as_str()), ("/", "s3://a"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_the_value() {
        assert!(mounts(&["--mount", "/a"]).is_err());
        let error = mounts(&["--option", "secret=hunter2", "--mount", "/a=s3://a"]).unwrap_err();
        assert!(error.message().contains("secret") && !error.message().contains("hunter2"));
        let twice = ["--mount", "/a=s3://a", "--option", "k=hunter2", "--mount", "/b=s3://b", "--option", "k=1"];
        assert!(mounts(&twice).is_ok());
        let error = mounts(&[&twice[..], &["--option", "K=hunter2"]].concat()).unwrap_err();
        assert!(error.message().contains("--option K is given twice") && !error.message().contains("hunter2"));
        assert!(!read_option("hunter2").unwrap_err().message().contains("hunter2"));
    }

    #[test]
    fn folders_become_absolute_and_uris_stay() {
        let here = std::env::current_dir().unwrap();
        let here = here.to_str().unwrap();
        assert_eq!(whole_uri("./x").unwrap(), format!("{here}/x"));
        assert_eq!(whole_uri("file:x y").unwrap(), format!("{here}/x y"));
        assert_eq!(whole_uri("FILE:x y").unwrap(), format!("{here}/x y"));
        assert_eq!(whole_uri("S3A://Bucket").unwrap(), "s3a://Bucket");
        // `mount ls` showed what was typed, with a `..` in it.
        assert_eq!(whole_uri("./src/../tests").unwrap(), format!("{here}/tests"));
        assert_eq!(whole_uri("file:src/..").unwrap(), here);
        assert_eq!(whole_uri("file:///x").unwrap(), "file:///x");
        assert_eq!(whole_uri("s3://b/p").unwrap(), "s3://b/p");
        assert_eq!(whole_uri("/a:b").unwrap(), "/a:b");
    }

    #[test]
    fn the_same_folder_is_the_same_however_it_is_written() {
        assert!(same_uri("file:///a/b", "/a/b/") && same_uri("file:/a", "file:///a") && !same_uri("/a", "/b"));
    }
}
