//! `citius mv`, `rm`, `mkdir`.

use crate::args::{MkdirArgs, MvArgs, RmArgs};
use crate::error::CliError;
use citius_client::{Client, EntryKind, Status};

/// Renames; into the target if that is a directory, as mv(1) does.
pub(crate) fn mv(client: &Client, args: &MvArgs) -> Result<(), CliError> {
    let to = match client.stat(&args.to) {
        Ok(info) if info.kind == EntryKind::Directory => {
            let name = args.from.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            format!("{}/{name}", args.to.trim_end_matches('/'))
        }
        Ok(_) => args.to.clone(),
        Err(error) if error.status() == Status::NotFound => args.to.clone(),
        Err(error) => return Err(error.into()),
    };
    Ok(client.rename(&args.from, &to, args.force)?)
}

/// Removes.
pub(crate) fn rm(client: &Client, args: &RmArgs) -> Result<(), CliError> {
    super::for_each(&args.paths, |path| match client.delete(path, args.recursive) {
        Err(error) if args.force && error.status() == Status::NotFound => Ok(()),
        Err(error) if error.status() == Status::NotEmpty => {
            Err(CliError::failure(format!("{error}. To remove it with all that is in it: citius rm -r {path}")))
        }
        result => Ok(result?),
    })
}

/// Makes directories.
pub(crate) fn mkdir(client: &Client, args: &MkdirArgs) -> Result<(), CliError> {
    super::for_each(&args.paths, |path| Ok(client.mkdir(path, args.parents)?))
}
