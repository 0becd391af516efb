//! A small server of the wire, in this process, with real sockets: a master and workers over the same files. It keeps
//! everything in memory, and misbehaves on request. What it refuses, it refuses as the messages' documentation says.

use crate::memory;
use citius_wire::units::{SECTOR_BYTES, block_count, block_length};
use citius_wire::*;
use rustix::fd::OwnedFd;
use rustix::fs::SealFlags;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const SHARDS: u16 = 2;
const KEY: MacKey = MacKey([5; 32]);
pub(crate) const TOKEN: Token = Token([9; 32]);

/// What one request of a kind meets instead of a plain answer.
#[derive(Clone, Debug)]
pub(crate) enum Misbehave {
    /// The answer comes late.
    Delay(Duration),
    /// The connection closes before anything is done.
    CloseBefore,
    /// The connection closes after it is done, without an answer.
    CloseAfter,
    /// It fails.
    Fail(Failure),
    /// It fails, late.
    FailAfter(Duration, Failure),
    /// A bit of the payload, or of the mapped block, is flipped.
    Corrupt,
    /// Part of the payload comes, then the connection closes.
    CutPayload,
    /// No sense: an answer to a question with another id.
    WrongId,
}

#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) key: FileKey,
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) block_bytes: u32,
    pub(crate) place: Place,
    pub(crate) persistence: Persistence,
    pub(crate) epoch: Epoch,
}

#[derive(Default)]
struct Writing {
    path: String,
    block_bytes: u32,
    write_type: WriteType,
    blocks: BTreeMap<u32, Vec<u8>>,
    sealed: BTreeMap<u32, u32>,
    maps: HashMap<u32, OwnedFd>,
    staged: u32,
    published: Option<FileKey>,
    is_aborted: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) files: Mutex<BTreeMap<String, Stored>>,
    pub(crate) rings: Mutex<Vec<Ring>>,
    faults: Mutex<HashMap<u8, VecDeque<Misbehave>>>,
    requests: Mutex<HashMap<u8, u64>>,
    writing: Mutex<HashMap<FileKey, Writing>>,
    answered: Mutex<HashMap<(ClientId, u64), Result<Outcome, Failure>>>,
    /// Mutations that were done, not counting answers from memory.
    pub(crate) mutations: Mutex<Vec<Operation>>,
    /// Blocks brought into memory by capability.
    pub(crate) warmed: Mutex<Vec<(String, u32)>>,
    pub(crate) list_page: AtomicU64,
    keys: AtomicU64,
    pub(crate) lease_ms: AtomicU64,
    pub(crate) capability_ms: AtomicU64,
    stop: AtomicBool,
    /// How often making a directory named `busy` fails.
    pub(crate) busy: AtomicU64,
    /// Not 0: the next listing's connection breaks after its first page.
    pub(crate) cut_pages: AtomicU64,
    pub(crate) detached: AtomicU64,
    pub(crate) connections: AtomicU64,
}

pub(crate) struct Server {
    pub(crate) state: Arc<State>,
    pub(crate) master: String,
    pub(crate) members: Vec<Member>,
    _dir: tempfile::TempDir,
}

impl Server {
    /// A master and so many workers; `host` is what they say theirs is.
    pub(crate) fn start(workers: usize, host: &str) -> Self {
        let state = Arc::new(State::default());
        state.list_page.store(3, Ordering::Relaxed);
        state.lease_ms.store(60_000, Ordering::Relaxed);
        state.capability_ms.store(3_600_000, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let master = listen_tcp(&state, None);
        let mut members = Vec::new();
        for number in 1..=workers as u64 {
            let worker = WorkerId(number);
            let data_address = listen_tcp(&state, Some(worker));
            let socket_path = dir.path().join(format!("w{number}")).to_str().unwrap().to_owned();
            let listener = UnixListener::bind(&socket_path).unwrap();
            let of_worker = state.clone();
            std::thread::spawn(move || {
                for socket in listener.incoming() {
                    let of_connection = of_worker.clone();
                    if of_worker.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let Ok(socket) = socket else { break };
                    std::thread::spawn(move || serve(&of_connection, Some(worker), Socket::Unix(socket)));
                }
            });
            members.push(Member {
                worker,
                incarnation: Incarnation(1),
                data_address,
                socket_path,
                host: host.to_owned(),
                shards: SHARDS,
                weight: 1,
            });
        }
        let server = Self { state, master, members, _dir: dir };
        let all: Vec<usize> = (0..workers).collect();
        server.set_ring(1, &all);
        server
    }

    /// Makes these workers the ring of an epoch.
    pub(crate) fn set_ring(&self, epoch: u64, workers: &[usize]) {
        let members = workers.iter().map(|i| self.members[*i].clone()).collect();
        self.state.rings.lock().unwrap().push(Ring { epoch: Epoch(epoch), members });
    }

    /// Removes the Unix sockets, so that nobody can connect to them.
    pub(crate) fn remove_sockets(&self) {
        for member in &self.members {
            std::fs::remove_file(&member.socket_path).unwrap();
        }
    }

    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>, block_bytes: u32) -> FileKey {
        self.put_as(path, bytes, block_bytes, Persistence::Persisted, Epoch(0))
    }

    pub(crate) fn put_as(
        &self,
        path: &str,
        bytes: Vec<u8>,
        block_bytes: u32,
        persistence: Persistence,
        epoch: Epoch,
    ) -> FileKey {
        let key = self.state.new_key();
        let place = Place::of_path(MountId(1), path);
        let stored = Stored { key, bytes: Arc::new(bytes), block_bytes, place, persistence, epoch };
        self.state.files.lock().unwrap().insert(path.to_owned(), stored);
        key
    }

    pub(crate) fn bytes_of(&self, path: &str) -> Option<Arc<Vec<u8>>> {
        self.state.files.lock().unwrap().get(path).map(|stored| stored.bytes.clone())
    }

    /// The next requests of this kind meet these, one each.
    pub(crate) fn inject(&self, kind: Kind, faults: impl IntoIterator<Item = Misbehave>) {
        self.state.faults.lock().unwrap().entry(kind as u8).or_default().extend(faults);
    }

    /// Requests of a kind so far.
    pub(crate) fn requests(&self, kind: Kind) -> u64 {
        self.state.requests.lock().unwrap().get(&(kind as u8)).copied().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.master);
        for member in &self.members {
            let _ = TcpStream::connect(&member.data_address);
            let _ = UnixStream::connect(&member.socket_path);
        }
    }
}

fn listen_tcp(state: &Arc<State>, worker: Option<WorkerId>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let state = state.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let of_connection = state.clone();
            if state.stop.load(Ordering::Relaxed) {
                break;
            }
            let Ok(socket) = socket else { break };
            socket.set_nodelay(true).unwrap();
            std::thread::spawn(move || serve(&of_connection, worker, Socket::Tcp(socket)));
        }
    });
    address
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.read_exact(bytes),
            Self::Unix(socket) => socket.read_exact(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.write_all(bytes),
            Self::Unix(socket) => socket.write_all(bytes),
        }
    }

    fn send_descriptor(&mut self, bytes: &[u8], descriptor: &OwnedFd) -> io::Result<()> {
        use rustix::fd::AsFd as _;
        let Self::Unix(socket) = self else { panic!("a descriptor on TCP") };
        let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors)));
        let flags = rustix::net::SendFlags::empty();
        let sent = rustix::net::sendmsg(&*socket, &[IoSlice::new(bytes)], &mut control, flags)?;
        self.write_all(&bytes[sent..])
    }
}

/// What goes back for one request, beside its header.
#[derive(Default)]
struct Extra {
    payload: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

/// One connection of a worker, or of the master.
struct Session<'a> {
    state: &'a State,
    worker: Option<WorkerId>,
    shard: u16,
    client: ClientId,
    handles: HashMap<u32, Right>,
    is_unix: bool,
}

fn serve(state: &State, worker: Option<WorkerId>, mut socket: Socket) {
    state.connections.fetch_add(1, Ordering::Relaxed);
    let is_unix = matches!(socket, Socket::Unix(_));
    let mut session = Session { state, worker, shard: 0, client: ClientId([0; 16]), handles: HashMap::new(), is_unix };
    // A broken connection is how the other side says goodbye.
    let _ = session.run(&mut socket);
}

impl Session<'_> {
    fn run(&mut self, socket: &mut Socket) -> io::Result<()> {
        let mut encoder = Encoder::default();
        loop {
            let mut prelude = [0; PRELUDE_BYTES];
            socket.read_exact(&mut prelude)?;
            let prelude = Prelude::parse(&prelude).unwrap();
            let mut header = vec![0; prelude.header_len as usize];
            socket.read_exact(&mut header)?;
            prelude.verify(&header).unwrap();
            let mut payload = vec![0; prelude.payload_len as usize];
            socket.read_exact(&mut payload)?;
            *self.state.requests.lock().unwrap().entry(prelude.kind as u8).or_default() += 1;
            let fault = self.state.faults.lock().unwrap().get_mut(&(prelude.kind as u8)).and_then(VecDeque::pop_front);
            let mut id = prelude.request_id;
            let mut out = Vec::new();
            match &fault {
                Some(Misbehave::CloseBefore) => return Ok(()),
                Some(Misbehave::Delay(delay)) => std::thread::sleep(*delay),
                Some(Misbehave::WrongId) => id += 1_000_000,
                Some(Misbehave::Fail(failure) | Misbehave::FailAfter(_, failure)) => {
                    if let Some(Misbehave::FailAfter(delay, _)) = &fault {
                        std::thread::sleep(*delay);
                    }
                    encoder.failure(&mut out, prelude.kind, id, failure);
                    socket.write_all(&out)?;
                    continue;
                }
                _ => {}
            }
            let head = Head { prelude, header: &header };
            let corrupt = matches!(fault, Some(Misbehave::Corrupt));
            if prelude.kind == Kind::List {
                self.list(&head.read::<List>().unwrap(), id, &mut encoder, socket)?;
                continue;
            }
            let extra = self.answer(&head, &payload, id, corrupt, &mut encoder, &mut out);
            match fault {
                Some(Misbehave::CloseAfter) => return Ok(()),
                Some(Misbehave::CutPayload) => {
                    out.extend_from_slice(&extra.payload[..extra.payload.len() / 2]);
                    return socket.write_all(&out);
                }
                _ => {}
            }
            match extra.descriptor {
                Some(descriptor) => socket.send_descriptor(&out, &descriptor)?,
                None => {
                    out.extend_from_slice(&extra.payload);
                    socket.write_all(&out)?;
                }
            }
        }
    }

    fn answer(
        &mut self,
        head: &Head<'_>,
        payload: &[u8],
        id: u64,
        corrupt: bool,
        encoder: &mut Encoder,
        out: &mut Vec<u8>,
    ) -> Extra {
        macro_rules! reply {
            ($request:ty, $result:expr) => {{
                let result: Result<<$request as Request>::Reply, Failure> = $result;
                encoder.reply::<$request>(out, id, &result);
                Extra::default()
            }};
        }
        match head.prelude.kind {
            Kind::Hello => {
                let hello = head.read::<Hello>().unwrap();
                self.client = hello.client;
                self.shard = hello.shard;
                let allowed = hello.token.matches(&TOKEN);
                let refused = Failure::new(Status::Unauthenticated, "the token is wrong");
                let worker = self.worker.unwrap_or(WorkerId(0));
                let welcome =
                    Welcome { worker, epoch: self.state.ring().epoch, shards: SHARDS, release: "test".into() };
                reply!(Hello, if allowed { Ok(welcome) } else { Err(refused) })
            }
            Kind::Batch => {
                let batch = head.read::<Batch>().unwrap();
                let results = batch.operations.into_iter().enumerate();
                let results = results.map(|(i, operation)| self.operate(batch.first.0 + i as u64, operation)).collect();
                reply!(Batch, Ok(BatchReply { results }))
            }
            Kind::Attach => reply!(Attach, self.attach(&head.read::<Attach>().unwrap())),
            Kind::Detach => {
                let detach = head.read::<Detach>().unwrap();
                self.state.detached.fetch_add(1, Ordering::Relaxed);
                assert!(self.handles.remove(&detach.handle.0).is_some());
                reply!(Detach, Ok(Done {}))
            }
            Kind::Read => match self.read(&head.read::<Read>().unwrap(), corrupt) {
                Ok((reply, payload)) => {
                    encoder.encode(out, Kind::Read, Flags::REPLY, id, &reply, payload.len());
                    Extra { payload, descriptor: None }
                }
                Err(failure) => reply!(Read, Err(failure)),
            },
            Kind::Map => match self.map(&head.read::<Map>().unwrap(), corrupt) {
                Ok((reply, descriptor)) => {
                    encoder.encode(out, Kind::Map, Flags::REPLY.with(Flags::DESCRIPTOR), id, &reply, 0);
                    Extra { payload: Vec::new(), descriptor: Some(descriptor) }
                }
                Err(failure) => reply!(Map, Err(failure)),
            },
            Kind::MapWrite => match self.map_write(&head.read::<MapWrite>().unwrap()) {
                Ok(descriptor) => {
                    encoder.encode(out, Kind::MapWrite, Flags::REPLY.with(Flags::DESCRIPTOR), id, &Done {}, 0);
                    Extra { payload: Vec::new(), descriptor: Some(descriptor) }
                }
                Err(failure) => reply!(MapWrite, Err(failure)),
            },
            Kind::Write => reply!(Write, self.write(&head.read::<Write>().unwrap(), payload)),
            Kind::Seal => reply!(Seal, self.seal(&head.read::<Seal>().unwrap())),
            Kind::Stage => reply!(Stage, self.stage(&head.read::<Stage>().unwrap())),
            Kind::Publish => reply!(Publish, self.publish(&head.read::<Publish>().unwrap())),
            Kind::Load => {
                let load = head.read::<Load>().unwrap();
                reply!(Load, self.stored(&self.right(load.handle), load.index).map(|_| Done {}))
            }
            Kind::Warm => reply!(Warm, self.warm(&head.read::<Warm>().unwrap())),
            Kind::Free => reply!(Free, Ok(Freed { bytes: 10 })),
            Kind::Resident => reply!(Resident, self.resident(&head.read::<Resident>().unwrap())),
            kind => panic!("unexpected {kind:?}"),
        }
    }

    fn attach(&mut self, attach: &Attach) -> Result<Attached, Failure> {
        let right = Right::check(&attach.capability, &[KEY], now_ms())?;
        let handle = self.handles.len() as u32 + 7 + (self.handles.keys().max().copied().unwrap_or(0));
        self.handles.insert(handle, right);
        Ok(Attached { handle: Handle(handle) })
    }

    fn warm(&self, warm: &Warm) -> Result<Done, Failure> {
        let right = Right::check(&warm.capability, &[KEY], now_ms())?;
        self.stored(&right, warm.index)?;
        self.state.warmed.lock().unwrap().push((right.path, warm.index));
        Ok(Done {})
    }

    fn right(&self, handle: Handle) -> Right {
        self.handles.get(&handle.0).expect("a handle of this connection").clone()
    }

    /// The file of a right, if this shard owns the block and the file is still the one that was opened.
    fn stored(&self, right: &Right, index: u32) -> Result<Stored, Failure> {
        let ring = match &right.origin {
            Origin::Memory { epoch } => self.state.ring_of(*epoch)?,
            _ => self.state.ring(),
        };
        self.check_owner(&ring, right.place, index)?;
        let files = self.state.files.lock().unwrap();
        match files.get(&right.path) {
            Some(stored) if stored.key == right.file => Ok(stored.clone()),
            _ => Err(Failure::new(Status::VersionChanged, "the file changed")),
        }
    }

    fn check_owner(&self, ring: &Ring, place: Place, index: u32) -> Result<(), Failure> {
        let owner = ring.owner(place, index).unwrap();
        if Some(ring.members[owner.member].worker) == self.worker && owner.shard == self.shard {
            return Ok(());
        }
        Err(Failure::wrong_epoch(self.state.ring()))
    }

    fn read(&self, read: &Read, corrupt: bool) -> Result<(ReadReply, Vec<u8>), Failure> {
        assert!(read.length > 0 && read.length <= TRANSFER_BYTES_MAX);
        let block_bytes = u64::from(self.right(read.handle).block_bytes);
        let index = (read.offset / block_bytes) as u32;
        let stored = self.stored(&self.right(read.handle), index)?;
        let sector = SECTOR_BYTES as u64;
        let block_end = ((u64::from(index) + 1) * block_bytes).min(stored.bytes.len() as u64);
        let start = read.offset / sector * sector;
        let end = (read.offset + u64::from(read.length)).next_multiple_of(sector).min(block_end);
        assert!(read.offset + u64::from(read.length) <= block_end, "a read stays within its block and file");
        let mut payload = stored.bytes[start as usize..end as usize].to_vec();
        let crcs = payload.chunks(SECTOR_BYTES).map(crc32fast::hash).collect();
        if corrupt {
            let last = payload.len() - 1;
            payload[last] ^= 1;
        }
        Ok((ReadReply { offset: start, crcs }, payload))
    }

    fn map(&self, map: &Map, corrupt: bool) -> Result<(Mapped, OwnedFd), Failure> {
        assert!(self.is_unix);
        let stored = self.stored(&self.right(map.handle), map.index)?;
        let start = u64::from(map.index) * u64::from(stored.block_bytes);
        let length = block_length(stored.bytes.len() as u64, stored.block_bytes, map.index);
        let mut bytes = stored.bytes[start as usize..start as usize + length as usize].to_vec();
        let crcs = bytes.chunks(SECTOR_BYTES).map(crc32fast::hash).collect();
        if corrupt {
            bytes[0] ^= 1;
        }
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        Ok((Mapped { length, crcs }, memory::memfd(&bytes, u64::from(length).next_multiple_of(2 << 20), seals)))
    }

    fn resident(&self, resident: &Resident) -> Result<ResidentReply, Failure> {
        let right = self.right(resident.handle);
        let ring = self.state.ring();
        let mine = |index: &u32| self.check_owner(&ring, right.place, *index).is_ok();
        let count = block_count(right.length, right.block_bytes) as u32;
        let block = |index| ResidentBlock { index, memory_bytes: 1, complete: false, dirty: false };
        Ok(ResidentReply { blocks: (0..count).filter(mine).map(block).collect() })
    }

    /// A file being written, if this shard owns the block.
    fn with_writing<T>(
        &self,
        handle: Handle,
        index: u32,
        act: impl FnOnce(&mut Writing) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let right = self.right(handle);
        assert_eq!(right.access, Access::Write);
        let Origin::Writer { epoch, .. } = &right.origin else { panic!("a writer's origin") };
        self.check_owner(&self.state.ring_of(*epoch)?, right.place, index)?;
        let mut writing = self.state.writing.lock().unwrap();
        let file = writing.get_mut(&right.file).expect("a file being written");
        if file.is_aborted {
            return Err(Failure::new(Status::Aborted, "the file was given up"));
        }
        act(file)
    }

    fn write(&self, write: &Write, payload: &[u8]) -> Result<Done, Failure> {
        let block_bytes = u64::from(self.right(write.handle).block_bytes);
        let index = (write.offset / block_bytes) as u32;
        self.with_writing(write.handle, index, |file| {
            let block = file.blocks.entry(index).or_default();
            // What was in flight behind a write that failed does not follow on what is there.
            if write.offset % block_bytes != block.len() as u64 {
                return Err(Failure::new(Status::InvalidArgument, "each byte once, in order"));
            }
            block.extend_from_slice(payload);
            assert!(block.len() as u64 <= block_bytes);
            Ok(Done {})
        })
    }

    fn map_write(&self, map: &MapWrite) -> Result<OwnedFd, Failure> {
        assert!(self.is_unix);
        self.with_writing(map.handle, map.index, |file| {
            let seals = SealFlags::SHRINK | SealFlags::GROW;
            let descriptor = memory::memfd(&[], u64::from(file.block_bytes), seals);
            file.maps.insert(map.index, descriptor.try_clone().unwrap());
            Ok(descriptor)
        })
    }

    fn seal(&self, seal: &Seal) -> Result<Done, Failure> {
        self.with_writing(seal.handle, seal.index, |file| {
            if let Some(descriptor) = file.maps.remove(&seal.index) {
                memory::seal(&descriptor, SealFlags::WRITE);
                let mut bytes = vec![0; seal.length as usize];
                let mut at = 0;
                while at < bytes.len() {
                    at += rustix::io::pread(&descriptor, &mut bytes[at..], at as u64).unwrap();
                }
                file.blocks.insert(seal.index, bytes);
            }
            assert_eq!(file.blocks[&seal.index].len(), seal.length as usize);
            file.sealed.insert(seal.index, seal.length);
            Ok(Done {})
        })
    }

    fn stage(&self, stage: &Stage) -> Result<Done, Failure> {
        self.with_writing(stage.handle, 0, |file| {
            assert_eq!(file.sealed[&stage.index], stage.length, "only sealed blocks are staged");
            if stage.index > file.staged {
                return Err(Failure::new(Status::InvalidArgument, "staged out of order"));
            }
            file.staged = file.staged.max(stage.index + 1);
            Ok(Done {})
        })
    }

    fn publish(&self, publish: &Publish) -> Result<Published, Failure> {
        let key = self.state.new_key();
        let file = self.with_writing(publish.handle, 0, |file| {
            assert_eq!(file.staged as usize, file.sealed.len(), "all is staged");
            if let Some(key) = file.published {
                return Ok((key, None));
            }
            file.published = Some(key);
            Ok((key, Some(whole(file, publish.length))))
        })?;
        if let (key, Some((path, bytes, block_bytes))) = &file {
            let place = Place::of_path(MountId(1), path);
            let stored = Stored {
                key: *key,
                bytes: Arc::new(bytes.clone()),
                block_bytes: *block_bytes,
                place,
                persistence: Persistence::Persisted,
                epoch: Epoch(0),
            };
            self.state.files.lock().unwrap().insert(path.clone(), stored);
        }
        Ok(Published { file: file.0 })
    }

    fn operate(&self, serial: u64, operation: Operation) -> Result<Outcome, Failure> {
        if !operation.is_mutation() {
            return self.state.look(&operation);
        }
        let id = (self.client, serial);
        if let Some(result) = self.state.answered.lock().unwrap().get(&id) {
            return result.clone();
        }
        let result = self.state.change(&operation);
        if !result.as_ref().is_err_and(|failure| failure.status.is_retryable()) {
            self.state.mutations.lock().unwrap().push(operation);
            self.state.answered.lock().unwrap().insert(id, result.clone());
        }
        result
    }

    fn list(&self, list: &List, id: u64, encoder: &mut Encoder, socket: &mut Socket) -> io::Result<()> {
        let entries: Vec<FileInfo> = {
            let files = self.state.files.lock().unwrap();
            let prefix = if list.path == "/" { "/".to_owned() } else { format!("{}/", list.path) };
            let names = files.iter().filter_map(|(path, stored)| {
                let name = path.strip_prefix(&prefix)?;
                (name > list.after.as_str()).then(|| info(name, stored))
            });
            let limit = if list.limit == 0 { usize::MAX } else { list.limit as usize };
            names.take(limit).collect()
        };
        let page = self.state.list_page.load(Ordering::Relaxed) as usize;
        let pages = entries.chunks(page).count().max(1);
        for number in 0..pages {
            let entries = entries.iter().skip(number * page).take(page).cloned().collect();
            let more = if number + 1 < pages { Flags::MORE } else { Flags::default() };
            if number > 0 && self.state.cut_pages.swap(0, Ordering::Relaxed) > 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let mut out = Vec::new();
            encoder.encode(&mut out, Kind::List, Flags::REPLY.with(more), id, &ListPage { entries, unnameable: 1 }, 0);
            socket.write_all(&out)?;
        }
        Ok(())
    }
}

impl State {
    fn new_key(&self) -> FileKey {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        FileKey::of_version(MountId(9), "key", &number.to_le_bytes())
    }

    fn ring(&self) -> Ring {
        self.rings.lock().unwrap().last().unwrap().clone()
    }

    fn ring_of(&self, epoch: Epoch) -> Result<Ring, Failure> {
        if epoch == Epoch(0) {
            return Ok(self.ring());
        }
        let rings = self.rings.lock().unwrap();
        let ring = rings.iter().find(|ring| ring.epoch == epoch).cloned();
        ring.ok_or_else(|| Failure::new(Status::NotFound, "no such epoch"))
    }

    fn look(&self, operation: &Operation) -> Result<Outcome, Failure> {
        let find = |path: &String| {
            let files = self.files.lock().unwrap();
            files.get(path).cloned().ok_or_else(|| Failure::new(Status::NotFound, format!("{path} does not exist")))
        };
        match operation {
            Operation::Stat { path } => Ok(Outcome::Info(info(path, &find(path)?))),
            Operation::Ring { epoch } => Ok(Outcome::Ring(Box::new(self.ring_of(*epoch)?))),
            Operation::MountList => Ok(Outcome::Mounts(Vec::new())),
            Operation::Open { path, .. } => {
                let stored = find(path)?;
                let is_persisted = stored.persistence == Persistence::Persisted;
                if stored.persistence == Persistence::Lost {
                    return Err(Failure::new(Status::DataLost, "its only copies are gone"));
                }
                let epoch = if is_persisted { self.ring().epoch } else { stored.epoch };
                let origin =
                    if is_persisted { Origin::UnderStore { token: vec![1] } } else { Origin::Memory { epoch } };
                let right = self.right(path, &stored, origin, Access::Read);
                Ok(Outcome::Opened(Box::new(Opened {
                    info: info(path, &stored),
                    place: stored.place,
                    epoch,
                    expires_ms: right.expires_ms,
                    capability: right.sign(&KEY),
                })))
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn right(&self, path: &str, stored: &Stored, origin: Origin, access: Access) -> Right {
        Right {
            file: stored.key,
            place: stored.place,
            mount: MountId(1),
            path: path.to_owned(),
            origin,
            length: stored.bytes.len() as u64,
            block_bytes: stored.block_bytes,
            access,
            user: "test".into(),
            expires_ms: now_ms() + self.capability_ms.load(Ordering::Relaxed),
        }
    }

    fn change(&self, operation: &Operation) -> Result<Outcome, Failure> {
        match operation {
            Operation::Create { path, overwrite, write_type, block_bytes, .. } => {
                if !overwrite && self.files.lock().unwrap().contains_key(path) {
                    return Err(Failure::new(Status::AlreadyExists, format!("{path} exists")));
                }
                let file = self.new_key();
                let block_bytes = if *block_bytes == 0 { units::BLOCK_BYTES_DEFAULT } else { *block_bytes };
                let place = Place::of_path(MountId(1), path);
                let epoch = self.ring().epoch;
                let stored = Stored {
                    key: file,
                    bytes: Arc::default(),
                    block_bytes,
                    place,
                    persistence: Persistence::MemoryOnly,
                    epoch,
                };
                let right = self.right(path, &stored, Origin::Writer { write_type: *write_type, epoch }, Access::Write);
                let writing =
                    Writing { path: path.clone(), block_bytes, write_type: *write_type, ..Writing::default() };
                self.writing.lock().unwrap().insert(file, writing);
                Ok(Outcome::Created(Box::new(Created {
                    file,
                    place,
                    epoch,
                    block_bytes,
                    write_type: *write_type,
                    capability: right.sign(&KEY),
                    lease_ms: self.lease_ms.load(Ordering::Relaxed) as u32,
                })))
            }
            Operation::Complete { file, length } => {
                let mut writing = self.writing.lock().unwrap();
                let written = writing.get_mut(file).unwrap();
                assert_eq!(written.write_type, WriteType::MustCache);
                let (path, bytes, block_bytes) = whole(written, *length);
                let place = Place::of_path(MountId(1), &path);
                let stored = Stored {
                    key: *file,
                    bytes: Arc::new(bytes),
                    block_bytes,
                    place,
                    persistence: Persistence::MemoryOnly,
                    epoch: self.ring().epoch,
                };
                self.files.lock().unwrap().insert(path, stored);
                Ok(Outcome::Done)
            }
            Operation::Renew { file } | Operation::Abort { file } => {
                let mut writing = self.writing.lock().unwrap();
                let file = writing.get_mut(file).ok_or_else(|| Failure::new(Status::NotFound, "no such write"))?;
                if file.is_aborted {
                    return Err(Failure::new(Status::Aborted, "the file was deleted while it was written"));
                }
                file.is_aborted |= matches!(operation, Operation::Abort { .. });
                Ok(Outcome::Done)
            }
            Operation::Delete { path, .. } => {
                for file in self.writing.lock().unwrap().values_mut().filter(|file| file.path == *path) {
                    file.is_aborted = true;
                }
                self.files.lock().unwrap().remove(path);
                Ok(Outcome::Done)
            }
            Operation::Rename { from, to, .. } => {
                let mut files = self.files.lock().unwrap();
                let missing = || Failure::new(Status::NotFound, format!("{from} does not exist"));
                let stored = files.remove(from).ok_or_else(missing)?;
                files.insert(to.clone(), stored);
                Ok(Outcome::Done)
            }
            Operation::Mkdir { path, .. }
                if path.ends_with("busy")
                    && self.busy.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() =>
            {
                Err(Failure::new(Status::Busy, "not now"))
            }
            Operation::Mkdir { .. } | Operation::MountRemove { .. } => Ok(Outcome::Done),
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn whole(file: &Writing, length: u64) -> (String, Vec<u8>, u32) {
    assert_eq!(file.sealed.keys().copied().collect::<Vec<_>>(), (0..file.sealed.len() as u32).collect::<Vec<_>>());
    let bytes: Vec<u8> = file.blocks.values().flatten().copied().collect();
    assert_eq!(bytes.len() as u64, length);
    (file.path.clone(), bytes, file.block_bytes)
}

fn info(path: &str, stored: &Stored) -> FileInfo {
    FileInfo {
        path: path.to_owned(),
        kind: EntryKind::File,
        length: stored.bytes.len() as u64,
        modified_ms: 1,
        version: stored.key,
        persistence: stored.persistence,
        block_bytes: stored.block_bytes,
        mount: MountId(1),
        is_mount: false,
    }
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}
