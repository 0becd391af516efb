//! A server in a process of its own, so that its CPU time is nobody else's.
//!
//! The child prints one line, the port that it listens on, and ends when its standard input does: so it outlives its
//! parent in no case, not even when that is killed.

use crate::cpu;
use crate::raw::Serve;
use anyhow::{Context as _, Result};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts this program again, as the server of a baseline.
    pub(crate) fn start(serve: &Serve) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(program)
            .arg("serve")
            .args(serve.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the server of a baseline")?;
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().context("the server has no standard output")?);
        stdout.read_line(&mut line).context("reading the server's port")?;
        let port = line.trim().parse().with_context(|| format!("the server said {line:?} instead of its port"));
        // From here on the child is ended by `drop`, also if it said nonsense.
        let mut server = Self { child, address: (Ipv4Addr::LOCALHOST, 0).into() };
        server.address.set_port(port?);
        Ok(server)
    }

    /// CPU time that it used so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        cpu::process_time(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It is ours, and if it is gone already there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side: says the port, and ends the process with standard input.
pub(crate) fn announce(listener: &TcpListener) -> Result<()> {
    writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
    std::thread::Builder::new().name("parent".to_owned()).spawn(|| {
        // An error ends the wait as well as the end does.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    })?;
    Ok(())
}
