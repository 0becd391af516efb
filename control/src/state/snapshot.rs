//! The state as bytes.
//!
//! ```text
//!  0              8          12            16
//!  | "CITIUSST"   | version  | reserved 0  | pieces: (length u32 | rkyv archive of Piece)… the last one is End |
//! ```
//!
//! Little endian. Pieces keep an archive far below the reach of rkyv's 32-bit offsets, and the memory of writer and
//! reader near that of the state. The same state always gives the same bytes: maps are written in order of their keys,
//! sessions and fates from old to new, inodes by slot, with the free slots in the order they will be used.
//!
//! Checksums are the raft log's business; what is read here is only checked to be a state.

use super::command::{MountOptions, Reply};
use super::files::{Fate, FileSlot, Phase, Remains, WrittenFile};
use super::intents::{Claim, Intent, IntentId, Intents};
use super::mounts::{Mount, Mounts};
use super::namespace::{Inode, Links, Namespace, Stored};
use super::sessions::{Answer, Session};
use super::workers::{Worker, Workers};
use super::{Identity, State};
use citius_wire::{
    ClientId, ClusterId, Epoch, FileKey, MacKey, MountId, NamespacePath, Place, Ring, Serial, WriteType,
};
use rkyv::{Archive, Deserialize, Serialize, rancor};
use std::io::{self, Read, Write};

const MAGIC: [u8; 8] = *b"CITIUSST";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;

/// A piece is closed when it has about so many bytes.
const PIECE_BYTES: usize = 1 << 20;
/// The longest piece that is read: one item more than a full piece, and each item is bounded.
const PIECE_BYTES_MAX: u32 = 64 << 20;
/// What an item takes in an archive, beside its texts: an upper guess.
const ITEM_BYTES: usize = 256;
/// The most answers of one client in one piece.
const PIECE_ANSWERS_MAX: usize = 256;

#[derive(Archive, Serialize, Deserialize)]
enum Piece {
    Scalars(Scalars),
    Mounts(Vec<MountRecord>),
    Workers(Vec<Worker>),
    Rings(Vec<Ring>),
    Nodes(Vec<NodeRecord>),
    /// Free slots and their generations; the last one is used next.
    Free(Vec<(u32, u32)>),
    Remains(Vec<(FileKey, Remains)>),
    Fates(Vec<(FileKey, Fate)>),
    Intents(Vec<Intent>),
    Sessions(Vec<SessionRecord>),
    End,
}

#[derive(Archive, Serialize, Deserialize)]
struct Scalars {
    identity: Option<(ClusterId, Vec<MacKey>)>,
    mount_next: MountId,
    intent_next: IntentId,
    view_version: u64,
}

#[derive(Archive, Serialize, Deserialize)]
struct MountRecord {
    id: MountId,
    path: String,
    uri: String,
    options: MountOptions,
    read_only: bool,
    sync_interval_ms: i64,
}

#[derive(Archive, Serialize, Deserialize)]
struct NodeRecord {
    slot: u32,
    generation: u32,
    parent: u32,
    name: String,
    file: Option<Box<FileRecord>>,
    writer: Option<Box<FileRecord>>,
    mount: Option<MountId>,
    claim: Option<Claim>,
}

#[derive(Archive, Serialize, Deserialize)]
struct FileRecord {
    key: FileKey,
    mount: MountId,
    place: Place,
    write_type: WriteType,
    block_bytes: u32,
    length: u64,
    client: ClientId,
    lease_until_ms: u64,
    epoch: Epoch,
    created_ms: u64,
    modified_ms: u64,
    overwrite: bool,
    replaces: Option<Box<[u8]>>,
    phase: Phase,
}

/// Some answers of one client. Those of a client may fill several records, one after another.
#[derive(Archive, Serialize, Deserialize)]
struct SessionRecord {
    client: ClientId,
    floor: Serial,
    answers: Vec<(Serial, Answer)>,
}

impl State {
    /// Writes the state.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn snapshot(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        to.write_all(&head)?;

        let scalars = Scalars {
            identity: self.identity.as_ref().map(|identity| (identity.cluster, identity.keys.clone())),
            mount_next: self.mounts.next,
            intent_next: self.intents.next,
            view_version: self.view_version,
        };
        write_piece(to, &Piece::Scalars(scalars))?;
        write_all(to, self.mounts().map(MountRecord::of), MountRecord::bytes, Piece::Mounts)?;
        write_all(to, self.workers().cloned(), |worker| member_bytes(&worker.member), Piece::Workers)?;
        let rings = self.workers.rings().map(|(ring, _)| Ring::clone(ring));
        write_all(to, rings, |ring| ring.members.iter().map(member_bytes).sum(), Piece::Rings)?;
        write_all(to, self.namespace.stored().map(|node| self.node_record(&node)), NodeRecord::bytes, Piece::Nodes)?;
        write_all(to, self.namespace.stored_free(), |_| 0, Piece::Free)?;
        let remains = self.remains().map(|(key, remains)| (key, remains.clone()));
        write_all(to, remains, |(_, remains)| remains.store_path.len() + remains.record.len(), Piece::Remains)?;
        write_all(to, self.fates.iter(), |_| 0, Piece::Fates)?;
        write_all(
            to,
            self.intents().cloned(),
            |intent| 2 * (intent.store_path.len() + intent.store_path_to.len()),
            Piece::Intents,
        )?;
        write_all(to, self.session_records(), SessionRecord::bytes, Piece::Sessions)?;
        write_piece(to, &Piece::End)
    }

    /// Reads what [`State::snapshot`] wrote, wholly.
    ///
    /// # Errors
    /// Those of `from`; `Unsupported` for another version, `InvalidData` for what is no state.
    pub fn restore(from: &mut dyn Read) -> io::Result<Self> {
        let mut head = [0; HEAD_BYTES];
        from.read_exact(&mut head)?;
        if head[..8] != MAGIC {
            return Err(invalid("it does not begin as one"));
        }
        let version = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if version != VERSION {
            let text = format!(
                "the snapshot is of version {version}, and this release reads {VERSION}: run the release that wrote it"
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let mut parts = Parts::default();
        while parts.take(read_piece(from)?)? {}
        if from.read(&mut [0])? != 0 {
            return Err(invalid("something follows its end"));
        }
        parts.build()
    }

    fn node_record(&self, node: &Stored<'_>) -> NodeRecord {
        let file = |slot: Option<FileSlot>| slot.map(|slot| Box::new(FileRecord::of(self.files.get(slot))));
        NodeRecord {
            slot: node.slot,
            generation: node.generation,
            parent: node.parent,
            name: node.name.to_owned(),
            file: file(node.links.file),
            writer: file(node.links.writer),
            mount: node.links.mount,
            claim: node.links.claim,
        }
    }

    fn session_records(&self) -> impl Iterator<Item = SessionRecord> {
        self.sessions.iter().flat_map(|(client, session)| {
            let count = session.answers.len().div_ceil(PIECE_ANSWERS_MAX).max(1);
            (0..count).map(move |i| SessionRecord {
                client: *client,
                floor: session.floor,
                answers: session.answers.iter().skip(i * PIECE_ANSWERS_MAX).take(PIECE_ANSWERS_MAX).cloned().collect(),
            })
        })
    }
}

/// What was read so far.
#[derive(Default)]
struct Parts {
    scalars: Option<Scalars>,
    mounts: Vec<MountRecord>,
    workers: Vec<Worker>,
    rings: Vec<Ring>,
    nodes: Vec<NodeRecord>,
    free: Vec<(u32, u32)>,
    remains: Vec<(FileKey, Remains)>,
    fates: Vec<(FileKey, Fate)>,
    intents: Vec<Intent>,
    sessions: Vec<SessionRecord>,
}

impl Parts {
    /// Takes a piece; whether more follow.
    fn take(&mut self, piece: Piece) -> io::Result<bool> {
        match piece {
            Piece::Scalars(scalars) => {
                if self.scalars.replace(scalars).is_some() {
                    return Err(invalid("it begins twice"));
                }
            }
            Piece::Mounts(items) => self.mounts.extend(items),
            Piece::Workers(items) => self.workers.extend(items),
            Piece::Rings(items) => self.rings.extend(items),
            Piece::Nodes(items) => self.nodes.extend(items),
            Piece::Free(items) => self.free.extend(items),
            Piece::Remains(items) => self.remains.extend(items),
            Piece::Fates(items) => self.fates.extend(items),
            Piece::Intents(items) => self.intents.extend(items),
            Piece::Sessions(items) => self.sessions.extend(items),
            Piece::End => return Ok(false),
        }
        Ok(true)
    }

    fn build(self) -> io::Result<State> {
        let mut state = State::new();
        let scalars = self.scalars.ok_or_else(|| invalid("it has no beginning"))?;
        state.identity = scalars.identity.map(|(cluster, keys)| Identity { cluster, keys });
        state.view_version = scalars.view_version;
        let mounts = self.mounts.into_iter().map(MountRecord::into_mount);
        state.mounts = Mounts {
            next: scalars.mount_next,
            by_id: mounts
                .map(|mount| mount.map(|mount| (mount.id, mount)))
                .collect::<Option<_>>()
                .ok_or_else(|| invalid("a mount is at no path"))?,
        };
        state.workers = Workers::restore(self.workers, self.rings).ok_or_else(|| invalid("it has no ring"))?;
        state.intents = Intents {
            next: scalars.intent_next,
            by_id: self.intents.into_iter().map(|intent| (intent.id, intent)).collect(),
        };
        state.remains = self.remains.into_iter().collect();
        for (key, fate) in self.fates {
            if state.fates.get(key).is_some() {
                return Err(invalid("a write ended twice"));
            }
            state.fates.record(key, fate);
        }
        restore_names(&mut state, self.nodes, &self.free)?;
        restore_sessions(&mut state, self.sessions)?;
        Ok(state)
    }
}

fn restore_names(state: &mut State, nodes: Vec<NodeRecord>, free: &[(u32, u32)]) -> io::Result<()> {
    let mut links = Vec::with_capacity(nodes.len());
    let mut names = Vec::with_capacity(nodes.len());
    for node in nodes {
        let inode = Inode::of_slot(node.slot, node.generation);
        let mut file = |record: Option<Box<FileRecord>>| -> io::Result<Option<FileSlot>> {
            let Some(record) = record else { return Ok(None) };
            let file = record.into_file(inode);
            if !state.workers.hold_at(file.epoch) || state.files.find(file.key).is_some() {
                return Err(invalid("a file has no ring, or is there twice"));
            }
            Ok(Some(state.files.insert(file)))
        };
        let (file, writer) = (file(node.file)?, file(node.writer)?);
        let has_mount = node.mount.is_none_or(|id| state.mounts.by_id.contains_key(&id));
        if !has_mount || node.claim.is_some_and(|claim| !state.intents.by_id.contains_key(&claim.intent)) {
            return Err(invalid("a name belongs to a mount or an intent that is not there"));
        }
        links.push((
            node.slot,
            node.generation,
            node.parent,
            Links { file, writer, mount: node.mount, claim: node.claim },
        ));
        names.push(node.name);
    }
    let stored: Vec<Stored<'_>> = links
        .into_iter()
        .zip(&names)
        .map(|((slot, generation, parent, links), name)| Stored { slot, generation, parent, name, links })
        .collect();
    state.namespace = Namespace::restore(&stored, free).ok_or_else(|| invalid("its names make no tree"))?;
    Ok(())
}

fn restore_sessions(state: &mut State, records: Vec<SessionRecord>) -> io::Result<()> {
    let mut sessions: Vec<(ClientId, Session)> = Vec::new();
    for record in records {
        match sessions.last_mut() {
            Some((client, session)) if *client == record.client => session.answers.extend(record.answers),
            _ => sessions.push((record.client, Session { answers: record.answers.into(), floor: record.floor })),
        }
    }
    for (client, session) in sessions {
        if !state.sessions.restore(client, session) {
            return Err(invalid("the answers to a client are not in order"));
        }
    }
    Ok(())
}

impl MountRecord {
    fn of(mount: &Mount) -> Self {
        Self {
            id: mount.id,
            path: mount.path.as_str().to_owned(),
            uri: mount.uri.clone(),
            options: mount.options.clone(),
            read_only: mount.read_only,
            sync_interval_ms: mount.sync_interval_ms,
        }
    }

    fn into_mount(self) -> Option<Mount> {
        Some(Mount {
            id: self.id,
            path: NamespacePath::parse(&self.path).ok()?,
            uri: self.uri,
            options: self.options,
            read_only: self.read_only,
            sync_interval_ms: self.sync_interval_ms,
        })
    }

    fn bytes(&self) -> usize {
        let options: usize = self.options.0.iter().map(|(name, value)| name.len() + value.expose().len()).sum();
        self.path.len() + self.uri.len() + options
    }
}

impl NodeRecord {
    fn bytes(&self) -> usize {
        let file = |file: &Option<Box<FileRecord>>| file.as_ref().map_or(0, |file| ITEM_BYTES + file.record_bytes());
        self.name.len() + file(&self.file) + file(&self.writer)
    }
}

impl FileRecord {
    fn of(file: &WrittenFile) -> Self {
        Self {
            key: file.key,
            mount: file.mount,
            place: file.place,
            write_type: file.write_type,
            block_bytes: file.block_bytes,
            length: file.length,
            client: file.client,
            lease_until_ms: file.lease_until_ms,
            epoch: file.epoch,
            created_ms: file.created_ms,
            modified_ms: file.modified_ms,
            overwrite: file.overwrite,
            replaces: file.replaces.clone(),
            phase: file.phase.clone(),
        }
    }

    fn into_file(self, inode: Inode) -> WrittenFile {
        WrittenFile {
            key: self.key,
            inode,
            mount: self.mount,
            place: self.place,
            write_type: self.write_type,
            block_bytes: self.block_bytes,
            length: self.length,
            client: self.client,
            lease_until_ms: self.lease_until_ms,
            epoch: self.epoch,
            created_ms: self.created_ms,
            modified_ms: self.modified_ms,
            overwrite: self.overwrite,
            replaces: self.replaces,
            phase: self.phase,
        }
    }

    fn record_bytes(&self) -> usize {
        match &self.phase {
            Phase::Staging(staged) => staged.record.len(),
            Phase::Intent(intended) => intended.record.len(),
            Phase::Writing | Phase::Complete => 0,
        }
    }
}

impl SessionRecord {
    fn bytes(&self) -> usize {
        let texts = self.answers.iter().map(|(_, answer)| match answer {
            Ok(Reply::Condition { replaces: Some(token) }) => token.len(),
            Ok(_) => 0,
            Err(failure) => failure.message.len(),
        });
        texts.map(|text| text + ITEM_BYTES).sum()
    }
}

fn member_bytes(member: &citius_wire::Member) -> usize {
    ITEM_BYTES + member.data_address.len() + member.socket_path.len() + member.host.len()
}

/// Writes items in pieces.
fn write_all<T>(
    to: &mut dyn Write,
    items: impl Iterator<Item = T>,
    text_bytes: impl Fn(&T) -> usize,
    piece: impl Fn(Vec<T>) -> Piece,
) -> io::Result<()> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for item in items {
        bytes += ITEM_BYTES + text_bytes(&item);
        chunk.push(item);
        if bytes >= PIECE_BYTES {
            write_piece(to, &piece(std::mem::take(&mut chunk)))?;
            bytes = 0;
        }
    }
    if chunk.is_empty() { Ok(()) } else { write_piece(to, &piece(chunk)) }
}

fn write_piece(to: &mut dyn Write, piece: &Piece) -> io::Result<()> {
    let archive = rkyv::to_bytes::<rancor::Error>(piece).map_err(io::Error::other)?;
    let length = u32::try_from(archive.len()).ok().filter(|length| *length <= PIECE_BYTES_MAX);
    let length = length.expect("items are bounded, and so are pieces");
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&archive)
}

fn read_piece(from: &mut dyn Read) -> io::Result<Piece> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > PIECE_BYTES_MAX {
        return Err(invalid("a piece is too long"));
    }
    let mut archive = vec![0; length as usize];
    from.read_exact(&mut archive)?;
    rkyv::from_bytes::<Piece, rancor::Error>(&archive).map_err(|_| invalid("a piece is none"))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot of the state is damaged: {why}"))
}
