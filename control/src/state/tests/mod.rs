//! Tests of the state: each rule by itself, and all of them under random commands.

#![allow(clippy::unwrap_used)]

mod cluster;
mod names;
mod random;
mod sessions;
mod snapshot;
mod twin;
mod write;

use super::sessions::Sessions;
use super::*;
use citius_wire::{
    ClientId, Epoch, Incarnation, Member, MountId, NamespacePath, Place, Serial, WorkerId, units::BLOCK_BYTES_MIN,
};

const ALICE: ClientId = ClientId([0xa1; 16]);
const BOB: ClientId = ClientId([0xb0; 16]);
/// The mount at `/`.
const ROOT: MountId = MountId(1);
/// The mount at `/data`.
const DATA: MountId = MountId(2);
const LEASE_MS: u32 = 60_000;
const RECORD: &[u8] = b"upload 7";

fn path(text: &str) -> NamespacePath {
    NamespacePath::parse(text).unwrap()
}

fn key(number: u8) -> FileKey {
    FileKey([number; 16])
}

fn publisher(worker: u64, incarnation: u64) -> Publisher {
    Publisher { worker: WorkerId(worker), incarnation: Incarnation(incarnation) }
}

fn member(worker: u64, incarnation: u64) -> Member {
    Member {
        worker: WorkerId(worker),
        incarnation: Incarnation(incarnation),
        data_address: format!("127.0.0.1:{}", 7000 + worker),
        socket_path: String::new(),
        host: "host".to_owned(),
        shards: 2,
        weight: 1 << 30,
    }
}

fn register(worker: u64, incarnation: u64) -> Change {
    Change::Register { member: member(worker, incarnation), backing: "small".to_owned(), memory_bytes: 1 << 30 }
}

fn spec(uri: &str) -> MountSpec {
    let secret = ("aws_secret_access_key".to_owned(), "hunter2".into());
    MountSpec { uri: uri.to_owned(), options: MountOptions(vec![secret]), read_only: false, sync_interval_ms: 0 }
}

fn init() -> Change {
    Change::Init { cluster: ClusterId([0xc1; 16]), keys: vec![MacKey([7; 32])], root: spec("file:///data/root") }
}

fn mount_add(path: &str) -> Change {
    Change::MountAdd { path: path.to_owned(), spec: spec("s3://bucket") }
}

fn mount_set(path: &str, region: &str) -> Change {
    let options = MountOptions(vec![("aws_region".to_owned(), region.into())]);
    Change::MountSet { path: path.to_owned(), options }
}

fn create(file: FileKey, path: &str, write_type: WriteType) -> Create {
    let mount = if path.starts_with("/data") { DATA } else { ROOT };
    Create {
        path: path.to_owned(),
        mount,
        place: Place::of_path(mount, path),
        file,
        write_type,
        block_bytes: BLOCK_BYTES_MIN,
        overwrite: false,
        replaces: None,
        lease_ms: LEASE_MS,
    }
}

fn overwrite(file: FileKey, path: &str, write_type: WriteType, replaces: Option<&[u8]>) -> Create {
    Create { overwrite: true, replaces: replaces.map(<[u8]>::to_vec), ..create(file, path, write_type) }
}

fn stage(file: FileKey) -> Change {
    Change::StageStarted { file, record: RECORD.to_vec(), publisher: Some(publisher(1, 1)) }
}

fn intend(file: FileKey) -> Change {
    Change::PublishIntent { file, length: 5, record: RECORD.to_vec(), publisher: publisher(1, 1) }
}

fn delete(path: &str, recursive: bool) -> Change {
    begin(Action::Delete { path: path.to_owned(), recursive })
}

fn rename(from: &str, to: &str, overwrite: bool) -> Change {
    begin(Action::Rename { from: from.to_owned(), to: to.to_owned(), overwrite })
}

fn mkdir(path: &str, parents: bool) -> Change {
    begin(Action::Mkdir { path: path.to_owned(), parents })
}

fn begin(action: Action) -> Change {
    let mount = if action.paths().next().unwrap().starts_with("/data") { DATA } else { ROOT };
    Change::IntentBegin { mount, action }
}

/// What a snapshot of the state would hold, the sessions apart: what a refused command must leave as it was.
fn essence(state: &State) -> Vec<u8> {
    let mut copy = State::restore(&mut snapshot_of(state).as_slice()).unwrap();
    copy.sessions = Sessions::new();
    snapshot_of(&copy)
}

fn snapshot_of(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.snapshot(&mut bytes).unwrap();
    bytes
}

/// A state that is validated after each command.
struct World {
    state: State,
    now_ms: u64,
    serial: u64,
}

impl World {
    /// A cluster with a mount at `/data` and worker 1.
    fn new() -> Self {
        let mut world = Self { state: State::new(), now_ms: 1_000_000, serial: 0 };
        for change in [init(), mount_add("/data"), register(1, 1)] {
            world.done(change);
        }
        world
    }

    /// Applies a change as a fresh operation of a client.
    fn by(&mut self, client: ClientId, change: Change) -> Result<Applied, Failure> {
        self.serial += 1;
        self.apply(Some(Caller { client, serial: Serial(self.serial) }), change)
    }

    fn apply(&mut self, caller: Option<Caller>, change: Change) -> Result<Applied, Failure> {
        let before = essence(&self.state);
        let result = self.state.apply(&Command { caller, change }, self.now_ms);
        self.state.validate();
        if result.is_err() {
            assert!(essence(&self.state) == before, "a refusal changes nothing");
        }
        result
    }

    /// Applies a change of Alice's that must succeed, and gives its effects.
    #[track_caller]
    fn done(&mut self, change: Change) -> Vec<Effect> {
        self.by(ALICE, change).unwrap().effects
    }

    /// Applies a change of Alice's that must be refused.
    #[track_caller]
    fn refused(&mut self, change: Change) -> Status {
        let failure = self.by(ALICE, change).unwrap_err();
        assert!(failure.message.len() > 20, "{failure} says what, why, and what to do");
        failure.status
    }

    /// Begins an intent of Alice's.
    #[track_caller]
    fn begun(&mut self, change: Change) -> (IntentId, Vec<Effect>) {
        let applied = self.by(ALICE, change).unwrap();
        let Reply::Intent(id) = applied.reply else { panic!("{applied:?}") };
        (id, applied.effects)
    }

    fn finish(&mut self, intent: IntentId, result: Result<(), Failure>) -> Vec<Effect> {
        self.apply(None, Change::IntentDone { intent, result }).unwrap().effects
    }

    /// Puts a complete must-cache file of one block there.
    fn file(&mut self, file: FileKey, path: &str) {
        self.done(Change::Create(create(file, path, WriteType::MustCache)));
        self.done(Change::Complete { file, length: 5 });
    }

    /// What everyone sees at a path, in one word and the key of a file.
    fn seen(&self, text: &str) -> Seen {
        seen(self.state.resolve(&path(text)).unwrap().overlay)
    }

    fn listed(&self, dir: &str, after: &str) -> Vec<(&str, Seen)> {
        self.state.children(&path(dir), after).map(|(name, overlay)| (name, seen(overlay))).collect()
    }
}

/// An overlay that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    None,
    Hidden,
    Implied,
    Mount(MountId),
    File(FileKey),
}

fn seen(overlay: Overlay<'_>) -> Seen {
    match overlay {
        Overlay::None => Seen::None,
        Overlay::Hidden => Seen::Hidden,
        Overlay::Implied => Seen::Implied,
        Overlay::Mount(mount) => Seen::Mount(mount.id),
        Overlay::File(file) => Seen::File(file.key),
    }
}

/// The files whose blocks are to be dropped, and the writes that were aborted with why.
fn gone(effects: &[Effect]) -> (Vec<FileKey>, Vec<(FileKey, AbortReason)>) {
    let (mut forgotten, mut aborted) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::Forget { file, .. } => forgotten.push(*file),
            Effect::Aborted { file, reason } => aborted.push((*file, *reason)),
            _ => {}
        }
    }
    (forgotten, aborted)
}
