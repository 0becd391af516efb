//! Where the master is and what lets a client in.

use crate::error::Error;
use citius_wire::{Status, Token};
use std::io;
use std::path::Path;

/// The file of a home that says `HOST:PORT` while its master runs.
const ENDPOINT_FILE: &str = "endpoint";
/// The file of a home that holds the token.
const TOKEN_FILE: &str = "token";
/// The most bytes read of either file.
const FILE_BYTES_MAX: u64 = 4096;

/// A master's address and the token for it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `HOST:PORT` of the metadata listener.
    pub master: String,
    /// What lets a client in.
    pub token: Token,
}

impl Endpoint {
    /// Reads both from the home of a `citius` that runs on this machine.
    ///
    /// # Errors
    /// `NotFound` without a home; `Unavailable` if nothing runs there; `PermissionDenied` or `Unauthenticated` if the
    /// token cannot be read or is none.
    pub fn from_home(home: &Path) -> Result<Self, Error> {
        let shown = home.display();
        if !home.is_dir() {
            return Err(Error::new(
                Status::NotFound,
                format!("there is no Citius home at {shown}: start one with `citius local --home {shown}`"),
            ));
        }
        let text = read(&home.join(ENDPOINT_FILE)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(
                Status::Unavailable,
                format!("no Citius runs in {shown}: start it with `citius local --home {shown}`"),
            ),
            _ => unreadable(&home.join(ENDPOINT_FILE), &error),
        })?;
        let master = text.trim().to_owned();
        if master.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            return Err(Error::new(
                Status::InvalidArgument,
                format!("{shown}/{ENDPOINT_FILE} holds {master:?} instead of HOST:PORT: restart Citius there"),
            ));
        }
        Ok(Self { master, token: Self::token_from_file(&home.join(TOKEN_FILE))? })
    }

    /// Reads a token file.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied` or another class of why it cannot be read; `Unauthenticated` if it holds none.
    pub fn token_from_file(path: &Path) -> Result<Token, Error> {
        let text = read(path).map_err(|error| unreadable(path, &error))?;
        Token::from_hex(&text).ok_or_else(|| {
            Error::new(
                Status::Unauthenticated,
                format!("{} holds no token: 64 hexadecimal digits are expected", path.display()),
            )
        })
    }
}

fn read(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    let (status, hint) = match error.kind() {
        io::ErrorKind::NotFound => (Status::NotFound, ": start Citius there, or name the right file"),
        io::ErrorKind::PermissionDenied => (Status::PermissionDenied, ": only the user who runs Citius may read it"),
        _ => (Status::Unavailable, ""),
    };
    Error::new(status, format!("cannot read {}: {error}{hint}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_have_no_endpoint_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let status = || Endpoint::from_home(&home).unwrap_err().status();
        assert_eq!(status(), Status::NotFound);
        std::fs::create_dir(&home).unwrap();
        assert_eq!(status(), Status::Unavailable);
        std::fs::write(home.join("endpoint"), "nonsense\n").unwrap();
        assert_eq!(status(), Status::InvalidArgument);
        std::fs::write(home.join("endpoint"), "127.0.0.1:19998\n").unwrap();
        assert_eq!(status(), Status::NotFound);
        std::fs::write(home.join("token"), "short").unwrap();
        assert_eq!(status(), Status::Unauthenticated);
        std::fs::write(home.join("token"), format!("{}\n", Token([7; 32]).to_hex())).unwrap();
        let endpoint = Endpoint::from_home(&home).unwrap();
        assert_eq!(endpoint.master, "127.0.0.1:19998");
        assert!(endpoint.token.matches(&Token([7; 32])));
    }
}
