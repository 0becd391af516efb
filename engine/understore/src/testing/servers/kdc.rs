//! A Kerberos realm: MIT's key distribution center, with its database in a folder of its own.
//!
//! The library of Kerberos reads where its realms are from the file that `KRB5_CONFIG` names when a process first asks
//! for a ticket, so tests run their clients in a process that begins with it (`testing/process.rs`).

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{
    fresh,
    guard::{Guard, Walls},
    install::{Installed, install},
    ports::Ports,
    server::{Processes, Server},
};

const REALM: &str = "CITIUS.TEST";

/// A running key distribution center.
#[derive(Debug)]
pub struct Kdc {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    ports: Ports<1>,
}

impl Kdc {
    /// Starts it, without a principal.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let installed = install("kerberos").await?;
        let folder = fresh::folder("kdc")?;
        let ports = Ports::take()?;
        configure(folder.path(), ports[0])?;
        fresh::made_by(told(folder.path(), "kdb5_util").args(["-P", &fresh::key()?, "create", "-s"]))?;
        let guard = Guard::start(folder.path(), "kdc", Walls::PROCESSES, told(folder.path(), "krb5kdc").arg("-n"))?;
        let mut kdc = Self { guard, folder, installed, ports };
        let address = ("127.0.0.1", kdc.ports[0]);
        kdc.guard.ready(async || TcpStream::connect(address).await.map(drop)).await?;
        Ok(kdc)
    }

    /// The file that `KRB5_CONFIG` is to name.
    pub fn config(&self) -> PathBuf {
        config_of(self.folder.path())
    }

    /// The full name of a principal.
    pub fn principal(&self, name: &str) -> String {
        format!("{name}@{REALM}")
    }

    /// Makes a principal with new keys, which are all that the file holds.
    ///
    /// # Errors
    /// When it cannot be made, or is there already.
    pub fn keytab(&self, name: &str) -> io::Result<PathBuf> {
        let keytab = self.folder.path().join(format!("{}.keytab", name.replace('/', "-")));
        let ask = |query: &str| fresh::made_by(told(self.folder.path(), "kadmin.local").args(["-q", query]));
        ask(&format!("addprinc -randkey {name}"))?;
        ask(&format!("ktadd -k {} {name}", keytab.display()))?;
        if keytab.exists() { Ok(keytab) } else { Err(io::Error::other(format!("there is no principal {name}"))) }
    }

    /// Logs a principal in. The cache holds its ticket.
    ///
    /// # Errors
    /// When it is refused.
    pub fn ticket_cache(&self, name: &str, keytab: &Path) -> io::Result<PathBuf> {
        let cache = keytab.with_extension("tickets");
        fresh::made_by(
            told(self.folder.path(), "kinit").arg("-c").arg(&cache).arg("-k").arg("-t").arg(keytab).arg(name),
        )?;
        Ok(cache)
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.guard.stop()
    }
}

impl Server for Kdc {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard])
    }
}

fn config_of(folder: &Path) -> PathBuf {
    folder.join("krb5.conf")
}

fn configure(folder: &Path, port: u16) -> io::Result<()> {
    let shown = folder.display();
    // Nobody's tickets but those that a test names: the cache and the keytab that are looked for are not there.
    let clients = format!(
        "[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n \
         dns_canonicalize_hostname = false\n rdns = false\n udp_preference_limit = 1\n \
         default_ccache_name = FILE:{shown}/nobody.tickets\n default_client_keytab_name = FILE:{shown}/nobody.keytab\n\
         [realms]\n {REALM} = {{\n  kdc = 127.0.0.1:{port}\n }}\n"
    );
    let server = format!(
        "[realms]\n {REALM} = {{\n  kdc_listen = 127.0.0.1:{port}\n  kdc_tcp_listen = 127.0.0.1:{port}\n  \
         database_name = {shown}/principals\n  key_stash_file = {shown}/stash\n }}\n[logging]\n kdc = STDERR\n"
    );
    std::fs::write(config_of(folder), clients)?;
    std::fs::write(folder.join("kdc.conf"), server)
}

/// A program of Kerberos that knows this realm and no other.
fn told(folder: &Path, program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .env("KRB5_CONFIG", config_of(folder))
        .env("KRB5_KDC_PROFILE", folder.join("kdc.conf"))
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::null());
    command
}
