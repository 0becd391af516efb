//! What each start of a server needs anew: keys, a folder.

use std::{
    fs::File,
    io::{self, Read},
    process::{Command, Stdio},
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

/// What a command writes that ends by itself.
///
/// # Errors
/// With all that it said, when it is not there or fails.
pub(super) fn made_by(command: &mut Command) -> io::Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].concat();
    Err(io::Error::other(format!("{program}: {}: {}", output.status, String::from_utf8_lossy(&said))))
}

/// What `openssl` writes.
pub(super) fn openssl(arguments: &[&str]) -> io::Result<Vec<u8>> {
    made_by(Command::new("openssl").args(arguments))
}
