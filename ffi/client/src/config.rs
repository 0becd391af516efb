//! What a program may choose about its client, and the bounds that it may not.

use core::time::Duration;

/// The most requests in flight on one connection. Their frames together fit any socket buffer, so a client that
/// still sends never waits for a worker that waits for it to receive.
pub(crate) const PIPELINE_MAX: usize = 64;
/// Bytes that one pipelined read asks for: large enough to pay for its frame, small enough to be checked while it is
/// still in the processor's cache.
pub(crate) const READ_PIECE_BYTES: usize = 1 << 20;
/// Bytes that one pipelined write carries.
pub(crate) const WRITE_PIECE_BYTES: usize = 1 << 20;
/// Writes in flight before their answers are awaited.
pub(crate) const WRITE_WINDOW: usize = 4;
/// Sealed blocks that the publisher was told of and has not staged yet.
pub(crate) const STAGES_OUTSTANDING_MAX: usize = 4;
/// Bytes read at once, or in sequence, that make mapping a block worth completing it.
pub(crate) const MAP_READ_BYTES_MIN: u64 = 256 << 10;
/// Reads in one block that make mapping it worth completing it.
pub(crate) const MAP_AFTER_READS: u32 = 4;
/// Blocks of one file that may be mapped: 64 TiB of default blocks. Later ones are read inline.
pub(crate) const MAPPED_INDEX_MAX: u32 = 1 << 20;
/// Versions that one open file follows before its first byte, when the file is being replaced under it.
pub(crate) const VERSIONS_MAX: usize = 8;
/// Rings of past epochs kept for unpersisted files.
pub(crate) const RINGS_MAX: usize = 16;
/// Capabilities attached to one connection at a time.
pub(crate) const HANDLES_MAX: usize = 1024;
/// How long dropping an unfinished writer may take to tell the master.
pub(crate) const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a worker on this host is reached by its Unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Local {
    /// When its host name is ours and its socket can be connected to.
    #[default]
    Auto,
    /// Never: everything goes by TCP.
    Never,
    /// Always; a worker without a reachable socket is an error.
    Always,
}

/// How a client behaves. `Config::default()` suits every program that has no reason to choose.
#[derive(Clone, Debug)]
pub struct Config {
    /// What one call may take, with all its retries.
    pub timeout: Duration,
    /// What a call may take that waits for whole blocks to cross an under-store: a map, a load, the close of a writer.
    pub transfer_timeout: Duration,
    /// What one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Whether to use the Unix sockets of workers on this host.
    pub local: Local,
    /// Whether blocks of local workers may be mapped. Without it they are read by their Unix socket.
    pub map: bool,
    /// Whether what a read fetches is kept in the cache. Without it nothing is mapped for reads, since a map fills the
    /// cache.
    pub cache: bool,
    /// Blocks that stay mapped at a time, beside those that views hold.
    pub mapped_blocks_max: usize,
    /// Blocks that are mapped ahead of a sequential reader.
    pub readahead_blocks: u32,
    /// Connections to one shard, or to the master, that calls use at a time; a call waits for its turn.
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            transfer_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(5),
            local: Local::Auto,
            map: true,
            cache: true,
            mapped_blocks_max: 256,
            readahead_blocks: 2,
            connections_max: 64,
        }
    }
}
