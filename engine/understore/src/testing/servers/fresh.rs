//! What each start of a server needs anew: keys, a folder.

use std::{
    fs::File,
    io::{self, Read},
    process::Command,
};

use tempfile::TempDir;

/// A secret of hexadecimal digits, as many as make it base 64 too.
pub(super) fn key() -> io::Result<String> {
    let mut random = [0; 20];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The folder of one server.
pub(super) fn folder(system: &str) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(&format!("citius-{system}-")).tempdir()
}

/// What `openssl` writes.
pub(super) fn openssl(arguments: &[&str]) -> io::Result<Vec<u8>> {
    let output = Command::new("openssl").args(arguments).output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("openssl {}: {why}", arguments.join(" "))))
}
