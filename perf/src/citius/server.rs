//! `citius local` in a process of its own.

use crate::context::Context;
use crate::cpu;
use crate::memory::word_at;
use anyhow::{Context as _, Result, bail, ensure};
use citius_client::raw::{Address, Connection, Deadline};
use citius_client::{Client, Config, CreateOptions, Endpoint, File, WriteType};
use citius_wire::{ClientId, Hello};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to be ready.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take to end.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// How long a call may take.
pub(crate) const CALL_PATIENCE: Duration = Duration::from_secs(120);
/// Memory beyond the working set: slabs, and what a block being written needs.
const SPARE_BYTES: usize = 256 << 20;
/// Bytes written by one call.
const CHUNK_BYTES: usize = 4 << 20;
/// The file that is read.
const WORKING_SET: &str = "/working-set";
/// Who the raw connections say they are.
const CLIENT: ClientId = ClientId([7; 16]);

/// A running Citius with one shard, all of it on the server's core.
#[derive(Debug)]
pub(crate) struct Citius {
    child: Child,
    home: tempfile::TempDir,
}

impl Citius {
    /// Starts it on the server's core, with memory for the working set. `None` if only baselines are to be measured.
    pub(crate) fn start(context: &Context) -> Result<Option<Self>> {
        Self::start_on(context, context.cores.server)
    }

    /// Starts it on its client's core alone, with the under-store on the other.
    pub(crate) fn start_by_client(context: &Context) -> Result<Option<Self>> {
        Self::start_on(context, context.cores.client)
    }

    fn start_on(context: &Context, core: usize) -> Result<Option<Self>> {
        let Some(program) = &context.citius else { return Ok(None) };
        let home = tempfile::Builder::new().prefix("citius-perf-").tempdir().context("making a home")?;
        let mut command = Command::new(program);
        command.arg("--home").arg(home.path()).args(["local", "--ephemeral", "--listen", "127.0.0.1:0"]);
        command.args(["--shards", "1", "--memory", &(context.working_set_bytes + SPARE_BYTES).to_string()]);
        cpu::confine(&mut command, core);
        let log = std::fs::File::create(home.path().join("stderr")).context("making a log")?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let mut started = Self { child: child.with_context(|| format!("starting {}", program.display()))?, home };
        started.wait_ready()?;
        Ok(Some(started))
    }

    /// Pages of the hugepage pool that it takes beside a baseline's.
    pub(crate) fn memory_bytes(working_set_bytes: usize) -> usize {
        working_set_bytes + SPARE_BYTES
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        while !self.home.path().join("endpoint").exists() {
            let ended = self.child.try_wait().context("looking after citius")?;
            if ended.is_some() || Instant::now() > deadline {
                let words = std::fs::read_to_string(self.home.path().join("stderr")).unwrap_or_default();
                bail!("citius is not ready: {}", words.trim());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Where its master is.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        Ok(Endpoint::from_home(self.home.path())?)
    }

    /// Runs a command of a user on it.
    pub(crate) fn command(&self, context: &Context, arguments: &[&str]) -> Result<()> {
        let program = context.citius.as_ref().context("there is no citius")?;
        let output = Command::new(program).arg("--home").arg(self.home.path()).args(arguments).output();
        let output = output.with_context(|| format!("running {}", program.display()))?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "citius {}: {}", arguments.join(" "), words.trim());
        Ok(())
    }

    /// A client of it.
    pub(crate) fn client(&self, config: Config) -> Result<Client> {
        Ok(Client::connect(self.endpoint()?, config)?)
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// CPU time that the whole process used so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        cpu::process_time(self.child.id())
    }

    /// How often its master synced its log so far.
    pub(crate) fn log_syncs(&self) -> Result<u64> {
        let address = self.client(Config::default())?.cluster()?.http_address;
        let mut stream = TcpStream::connect(&address).context("asking the master for its metrics")?;
        let token = self.endpoint()?.token.to_hex();
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        )?;
        let mut page = String::new();
        stream.read_to_string(&mut page).context("reading the master's metrics")?;
        let syncs = page.lines().find_map(|line| line.strip_prefix("citius_master_log_syncs_total "));
        syncs.context("the master does not say how often it synced its log")?.parse().context("its syncs")
    }

    /// Writes the words of a baseline's working set into its memory.
    pub(crate) fn fill(&self, bytes: usize) -> Result<()> {
        let client = self.client(Config::default())?;
        let options = CreateOptions { write_type: WriteType::MustCache, ..CreateOptions::default() };
        write_words(&client, WORKING_SET, bytes, options)
    }

    /// The working set, open.
    pub(crate) fn working_set(&self, config: Config) -> Result<File> {
        Ok(self.client(config)?.open(WORKING_SET)?)
    }

    /// A connection to its master, past the hello.
    pub(crate) fn master(&self) -> Result<Connection> {
        let endpoint = self.endpoint()?;
        Ok(Connection::connect(&Address::Tcp(endpoint.master), &self.hello()?, Deadline::after(CALL_PATIENCE))?)
    }

    /// A connection by TCP to its one shard, past the hello.
    pub(crate) fn shard(&self, file: &File) -> Result<Connection> {
        let place = file.locations(0..1)?.pop().context("the working set has no owner")?;
        Ok(Connection::connect(&Address::Tcp(place.address), &self.hello()?, Deadline::after(CALL_PATIENCE))?)
    }

    /// What a connection begins with.
    pub(crate) fn hello(&self) -> Result<Hello> {
        Ok(Hello { token: self.endpoint()?.token, client: CLIENT, shard: 0 })
    }
}

impl Drop for Citius {
    /// It is told to end so that it cleans up, and killed if it does not listen.
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + END_PATIENCE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Writes a file of which every word tells where it is.
pub(crate) fn write_words(client: &Client, path: &str, bytes: usize, options: CreateOptions) -> Result<()> {
    ensure!(bytes.is_multiple_of(8), "{bytes} bytes are not whole words");
    let mut writer = client.create(path, options)?;
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let words = (bytes / 8) as u64;
    let mut next = 0;
    while next < words {
        let end = words.min(next + (CHUNK_BYTES / 8) as u64);
        chunk.clear();
        chunk.extend((next..end).flat_map(|index| word_at(index).to_le_bytes()));
        writer.append(&chunk)?;
        next = end;
    }
    writer.close()?;
    Ok(())
}

/// Whether these bytes, from `offset` on, are what [`write_words`] wrote.
pub(crate) fn are_words(bytes: &[u8], offset: u64) -> bool {
    bytes.chunks_exact(8).zip(offset / 8..).all(|(word, index)| word == word_at(index).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_others() {
        let bytes: Vec<u8> = (3..9).flat_map(|index| word_at(index).to_le_bytes()).collect();
        assert!(are_words(&bytes, 24) && !are_words(&bytes, 32) && !are_words(&[0; 8], 0));
    }
}
