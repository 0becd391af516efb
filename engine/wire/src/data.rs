//! Messages between a client and a worker's shard.
//!
//! ```text
//! client                                shard
//!   Hello{token, shard}          ->              the acceptor hands the socket to the shard it names
//!                                <-     Welcome
//!   Attach{capability}           ->
//!                                <-     Attached{handle}
//!   Read{handle, offset, length} ->              any number in flight, answered in any order
//!                                <-     ReadReply{offset, crcs} + payload
//! ```
//!
//! Offsets are of the file, and one request stays within one block. Reads are answered in whole sectors, with the
//! checksum of each; the last sector of a file may be short.

use crate::capability::Hidden;
use crate::cluster::Counters as CountersReply;
use crate::codec::Request;
use crate::frame::Kind;
use crate::ids::{ClientId, Epoch, FileKey, Handle, WorkerId};
use crate::token::Token;
use core::fmt;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Deserialize, Serialize};

/// The most bytes one read or write carries.
pub const TRANSFER_BYTES_MAX: u32 = 4 << 20;

const _: () = assert!(TRANSFER_BYTES_MAX as usize + crate::units::SECTOR_BYTES * 2 <= crate::frame::PAYLOAD_BYTES_MAX);

/// Opens a connection to a shard or a master.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub struct Hello {
    /// What lets it in.
    pub token: Token,
    /// Who asks.
    pub client: ClientId,
    /// The shard to talk to; ignored by a master.
    pub shard: u16,
}

/// Says who answered.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The worker; 0 for a master.
    pub worker: WorkerId,
    /// The newest epoch it knows.
    pub epoch: Epoch,
    /// Its shards.
    pub shards: u16,
    /// The release that runs there, for messages.
    pub release: String,
}

impl Request for Hello {
    const KIND: Kind = Kind::Hello;
    type Reply = Welcome;
}

/// Makes a capability a handle of this connection.
#[derive(Archive, Serialize, Deserialize, Clone)]
pub struct Attach {
    /// As `open` or `create` gave it.
    pub capability: Vec<u8>,
}

impl fmt::Debug for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attach").field("capability", &Hidden(&self.capability)).finish()
    }
}

/// The handle.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Names the capability on this connection.
    pub handle: Handle,
}

impl Request for Attach {
    const KIND: Kind = Kind::Attach;
    type Reply = Attached;
}

/// Gives a handle back.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Detach {
    /// Which.
    pub handle: Handle,
}

/// It is done.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {}

impl Request for Detach {
    const KIND: Kind = Kind::Detach;
    type Reply = Done;
}

/// Asks for bytes of one block.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The file, as attached.
    pub handle: Handle,
    /// At most [`TRANSFER_BYTES_MAX`], and within the block.
    pub length: u32,
    /// In the file.
    pub offset: u64,
    /// What the worker should do about its cache.
    pub mode: ReadMode,
}

/// What a read does to the cache.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[repr(u8)]
pub enum ReadMode {
    /// What is fetched is kept.
    #[default]
    Cache = 1,
    /// What is fetched is not kept.
    NoCache = 2,
    /// As `Cache`, but sectors whose checksum the reader refused are fetched anew.
    Refetch = 3,
    /// Nothing is fetched: what is not here is `NotFound`. For a worker that asks the former owner of a block.
    Resident = 4,
}

/// Answers a read; the payload holds the bytes from `offset` on.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ReadReply {
    /// Where the payload starts: the start of the first sector that was asked for.
    pub offset: u64,
    /// The CRC32 of each sector of the payload.
    pub crcs: Box<[u32]>,
}

/// [`ReadReply`] as a shard writes it: the same archive, with the checksums borrowed from their table.
#[derive(Archive, Serialize)]
pub struct ReadReplyView<'a> {
    /// See [`ReadReply::offset`].
    pub offset: u64,
    /// See [`ReadReply::crcs`].
    #[rkyv(with = InlineAsBox)]
    pub crcs: &'a [u32],
}

impl Request for Read {
    const KIND: Kind = Kind::Read;
    type Reply = ReadReply;
}

/// Puts the payload into one block of a file being written, each byte once, each block in order.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Write {
    /// The file, as attached, with the right to write.
    pub handle: Handle,
    /// In the file; the end of what was written to this block so far.
    pub offset: u64,
}

impl Request for Write {
    const KIND: Kind = Kind::Write;
    type Reply = Done;
}

/// Says that a block of a file being written is whole.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Seal {
    /// The file.
    pub handle: Handle,
    /// The block.
    pub index: u32,
    /// Bytes of the block: less than a whole one only for the last of a file.
    pub length: u32,
}

impl Request for Seal {
    const KIND: Kind = Kind::Seal;
    type Reply = Done;
}

/// Tells the publisher (the worker of block 0) that a block is sealed, in order, so that it can stage it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Stage {
    /// The file.
    pub handle: Handle,
    /// The block.
    pub index: u32,
    /// Its bytes.
    pub length: u32,
}

impl Request for Stage {
    const KIND: Kind = Kind::Stage;
    type Reply = Done;
}

/// The publisher says that it has staged a block: its worker may evict it, because it is in the under-store.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Staged {
    /// The file.
    pub handle: Handle,
    /// The block.
    pub index: u32,
}

impl Request for Staged {
    const KIND: Kind = Kind::Staged;
    type Reply = Done;
}

/// Asks the publisher to make the file whole in the under-store. The answer is the acknowledgement of close.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Publish {
    /// The file.
    pub handle: Handle,
    /// Its length; all its blocks are staged.
    pub length: u64,
}

/// The file is in the under-store.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its key from now on.
    pub file: FileKey,
}

impl Request for Publish {
    const KIND: Kind = Kind::Publish;
    type Reply = Published;
}

/// Brings one whole block into memory.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Load {
    /// The file.
    pub handle: Handle,
    /// The block.
    pub index: u32,
}

impl Request for Load {
    const KIND: Kind = Kind::Load;
    type Reply = Done;
}

/// Brings one whole block into memory, for whom reads nothing of the file here: its capability is used once and becomes
/// no handle.
#[derive(Archive, Serialize, Deserialize, Clone)]
pub struct Warm {
    /// As `open` gave it.
    pub capability: Vec<u8>,
    /// The block.
    pub index: u32,
}

impl fmt::Debug for Warm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capability = Hidden(&self.capability);
        f.debug_struct("Warm").field("capability", &capability).field("index", &self.index).finish()
    }
}

impl Request for Warm {
    const KIND: Kind = Kind::Warm;
    type Reply = Done;
}

/// Forgets the clean blocks of a file in this shard.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Free {
    /// The file.
    pub handle: Handle,
}

/// How much was forgotten.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// Bytes that are no longer cached.
    pub bytes: u64,
}

impl Request for Free {
    const KIND: Kind = Kind::Free;
    type Reply = Freed;
}

/// Asks what this shard holds of a file.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Resident {
    /// The file.
    pub handle: Handle,
}

/// One block that is, at least in part, in a tier of this shard.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResidentBlock {
    /// Which block.
    pub index: u32,
    /// Valid bytes in memory.
    pub memory_bytes: u64,
    /// Whether all of it is valid.
    pub complete: bool,
    /// Whether it is in no under-store yet.
    pub dirty: bool,
}

/// What is here.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ResidentReply {
    /// In order of their indexes.
    pub blocks: Vec<ResidentBlock>,
}

impl Request for Resident {
    const KIND: Kind = Kind::Resident;
    type Reply = ResidentReply;
}

/// Asks for a read-only descriptor of one block; completes the block first. Unix socket only.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Map {
    /// The file.
    pub handle: Handle,
    /// The block.
    pub index: u32,
}

/// The descriptor rides beside this frame: a sealed memfd of one block, never to change.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Bytes of the block; the mapping is whole pages, zero past this.
    pub length: u32,
    /// The CRC32 of each sector.
    pub crcs: Vec<u32>,
}

impl Request for Map {
    const KIND: Kind = Kind::Map;
    type Reply = Mapped;
}

/// Asks for a descriptor to write one block through. Unix socket only. [`Seal`] gives it back: unmap it first.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct MapWrite {
    /// The file, with the right to write.
    pub handle: Handle,
    /// The block.
    pub index: u32,
}

impl Request for MapWrite {
    const KIND: Kind = Kind::MapWrite;
    type Reply = Done;
}

/// Asks a shard what it counted.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct CountersRequest {}

impl Request for CountersRequest {
    const KIND: Kind = Kind::Counters;
    type Reply = CountersReply;
}
