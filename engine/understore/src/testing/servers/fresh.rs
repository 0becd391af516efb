//! What each start of a server needs anew: ports, keys, a folder.

use std::{
    fs::File,
    io::{self, Read},
    net::TcpListener,
};

use tempfile::TempDir;

/// Ports that nobody listens on, all different because they are held together.
pub(super) fn ports<const COUNT: usize>() -> io::Result<[u16; COUNT]> {
    let held: Vec<_> = (0..COUNT).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

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
