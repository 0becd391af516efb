//! What `ci/servers/install` has installed.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A system that is on this machine.
#[derive(Debug, Clone)]
pub(super) struct Installed {
    pub(super) version: String,
    /// What was unpacked for it; Debian packages have no such folder.
    pub(super) folder: PathBuf,
}

/// Where the scripts of the servers are.
pub(super) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/servers")
}

/// Installs a system unless it is there. The first time takes as long as its download.
pub(super) async fn install(system: &'static str) -> io::Result<Installed> {
    tokio::task::spawn_blocking(move || {
        let output = Command::new(scripts().join("install")).arg(system).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("{system} cannot be installed: {}", said.trim())));
        }
        let line = String::from_utf8_lossy(&output.stdout);
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, version, folder] => Ok(Installed { version: version.to_owned(), folder: folder.into() }),
            _ => Err(io::Error::other(format!("ci/servers/install {system} said \"{}\"", line.trim()))),
        }
    })
    .await
    .map_err(io::Error::other)?
}
