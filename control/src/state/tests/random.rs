//! Random commands: invariants after each, two replicas that stay the same, and a naive model of what everyone sees.

use super::*;
use citius_wire::units;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};

/// A step, in small numbers: what they stand for depends on the state, so that many steps make sense.
#[derive(Clone, Debug)]
enum Step {
    Create {
        client: u8,
        path: usize,
        write_type: usize,
        overwrite: bool,
        replaces: bool,
        old_key: Option<u8>,
    },
    Renew(u8),
    Complete(u8, u64),
    Abort(u8, bool),
    Stage(u8),
    Intend(u8, u64),
    Publish(u8),
    Fail(u8),
    Clean,
    Delete(usize, bool),
    Rename(usize, usize, bool),
    Mkdir(usize, bool),
    Finish(u8, u8),
    Register(u64, u64),
    Gone(u64, u64),
    Mount(usize),
    Unmount(usize),
    SetOptions(usize),
    /// Sends a command of the past again.
    Again(u8),
    Wait(u64),
    /// Replaces the second replica by its snapshot.
    Restart,
}

const PATHS: [&str; 14] = [
    "/",
    "/a",
    "/a/f",
    "/a/g",
    "/a/d",
    "/a/d/f",
    "/a/d/g",
    "/b",
    "/b/f",
    "/data",
    "/data/f",
    "/data/d/f",
    "/data/d",
    "/c",
];

fn any_step() -> impl Strategy<Value = Step> {
    let path = || 0..PATHS.len();
    prop_oneof![
        16 => (0_u8..2, path(), 0_usize..3, any::<bool>(), prop::bool::weighted(0.2), prop::option::weighted(0.05, any::<u8>()))
            .prop_map(|(client, path, write_type, overwrite, replaces, old_key)| Step::Create {
                client, path, write_type, overwrite, replaces, old_key
            }),
        2 => any::<u8>().prop_map(Step::Renew),
        10 => (any::<u8>(), 0_u64..4).prop_map(|(file, blocks)| Step::Complete(file, blocks)),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(file, expired)| Step::Abort(file, expired)),
        5 => any::<u8>().prop_map(Step::Stage),
        5 => (any::<u8>(), 1_u64..4).prop_map(|(file, worker)| Step::Intend(file, worker)),
        5 => any::<u8>().prop_map(Step::Publish),
        1 => any::<u8>().prop_map(Step::Fail),
        1 => Just(Step::Clean),
        4 => (path(), any::<bool>()).prop_map(|(path, recursive)| Step::Delete(path, recursive)),
        5 => (path(), path(), any::<bool>()).prop_map(|(from, to, overwrite)| Step::Rename(from, to, overwrite)),
        2 => (path(), any::<bool>()).prop_map(|(path, parents)| Step::Mkdir(path, parents)),
        8 => (any::<u8>(), 0_u8..6).prop_map(|(intent, result)| Step::Finish(intent, result)),
        3 => (1_u64..4, 1_u64..4).prop_map(|(worker, life)| Step::Register(worker, life)),
        1 => (1_u64..4, 1_u64..4).prop_map(|(worker, life)| Step::Gone(worker, life)),
        1 => path().prop_map(Step::Mount),
        1 => path().prop_map(Step::Unmount),
        1 => path().prop_map(Step::SetOptions),
        3 => any::<u8>().prop_map(Step::Again),
        2 => (0_u64..80_000).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// The two replicas, and a model: the path of each file that everyone sees.
struct Cluster {
    one: State,
    two: State,
    seen: BTreeMap<String, FileKey>,
    now_ms: u64,
    /// Names of commands that were done and of those that were refused.
    tally: BTreeSet<(&'static str, bool)>,
    past: Vec<Command>,
    minted: u32,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            one: State::new(),
            two: State::new(),
            seen: BTreeMap::new(),
            now_ms: 1_000_000,
            tally: BTreeSet::new(),
            past: Vec::new(),
            minted: 0,
        };
        for change in [init(), mount_add("/data"), register(1, 1), register(2, 1)] {
            cluster.apply(&Command { caller: None, change });
        }
        cluster
    }

    /// One of the files there are, or a key there is not.
    fn pick(&self, number: u8) -> (FileKey, Option<ClientId>) {
        let files: Vec<&WrittenFile> = self.one.files.iter().collect();
        let file = (!files.is_empty()).then(|| files[usize::from(number) % files.len()]);
        file.map_or((key(0xff), None), |file| (file.key, Some(file.client)))
    }

    fn mount_at(&self, at: &str) -> MountId {
        self.one.mount_of(&path(at)).unwrap().id
    }

    /// The command of a step; `None` if it is none.
    fn command(&mut self, step: &Step) -> Option<Command> {
        let mut client = None;
        let mut of = |(file, writer): (FileKey, Option<ClientId>)| {
            client = writer;
            file
        };
        let change = match *step {
            Step::Create { client: who, path, write_type, overwrite, replaces, old_key } => {
                client = Some([ALICE, BOB][usize::from(who)]);
                self.minted += 1;
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&self.minted.to_le_bytes());
                let file = old_key.map_or(FileKey(bytes), |number| self.pick(number).0);
                Change::Create(Create {
                    mount: self.mount_at(PATHS[path]),
                    overwrite,
                    replaces: replaces.then(|| b"v0".to_vec()),
                    ..create(file, PATHS[path], WriteType::ALL[write_type])
                })
            }
            Step::Renew(file) => Change::Renew { file: of(self.pick(file)), lease_ms: LEASE_MS },
            Step::Complete(file, blocks) => {
                Change::Complete { file: of(self.pick(file)), length: blocks * u64::from(BLOCK_BYTES_MIN) }
            }
            Step::Abort(file, true) => Change::Abort { file: self.pick(file).0, reason: AbortReason::LeaseExpired },
            Step::Abort(file, false) => Change::Abort { file: of(self.pick(file)), reason: AbortReason::Writer },
            Step::Stage(file) => stage(self.pick(file).0),
            Step::Intend(file, worker) => Change::PublishIntent {
                file: self.pick(file).0,
                length: 5,
                record: RECORD.to_vec(),
                publisher: publisher(worker, 1),
            },
            Step::Publish(file) => Change::PublishDone { file: self.pick(file).0, token: vec![file] },
            Step::Fail(file) => Change::PublishFailed { file: self.pick(file).0 },
            Step::Clean => Change::RemainsCleaned { file: self.one.remains().next()?.0 },
            Step::Delete(path, recursive) => {
                client = Some(BOB);
                let action = Action::Delete { path: PATHS[path].to_owned(), recursive };
                Change::IntentBegin { mount: self.mount_at(PATHS[path]), action }
            }
            Step::Rename(from, to, overwrite) => {
                client = Some(ALICE);
                let action = Action::Rename { from: PATHS[from].to_owned(), to: PATHS[to].to_owned(), overwrite };
                Change::IntentBegin { mount: self.mount_at(PATHS[from]), action }
            }
            Step::Mkdir(path, parents) => {
                let action = Action::Mkdir { path: PATHS[path].to_owned(), parents };
                Change::IntentBegin { mount: self.mount_at(PATHS[path]), action }
            }
            Step::Finish(number, result) => {
                let intents: Vec<IntentId> = self.one.intents().map(|intent| intent.id).collect();
                let intent = *intents.get(usize::from(number) % intents.len().max(1))?;
                let result = match result {
                    0 => Err(Failure::new(Status::NotFound, "nothing is there")),
                    1 => Err(Failure::new(Status::Unavailable, "nobody answers")),
                    _ => Ok(()),
                };
                Change::IntentDone { intent, result }
            }
            Step::Register(worker, life) => register(worker, life),
            Step::Gone(worker, life) => Change::WorkerGone { worker: WorkerId(worker), incarnation: Incarnation(life) },
            Step::Mount(at) => mount_add(PATHS[at]),
            Step::Unmount(at) => Change::MountRemove { path: PATHS[at].to_owned() },
            Step::SetOptions(at) => mount_set(PATHS[at], "x"),
            Step::Again(number) => return self.past.get(usize::from(number) % self.past.len()).cloned(),
            Step::Wait(ms) => {
                self.now_ms += ms;
                return None;
            }
            Step::Restart => {
                let bytes = snapshot_of(&self.two);
                assert!(bytes == snapshot_of(&self.one), "replicas are the same to the byte");
                self.two = State::restore(&mut bytes.as_slice()).unwrap();
                return None;
            }
        };
        let serial = Serial(self.past.len() as u64 + 1);
        let caller = client.map(|client| Caller { client, serial });
        Some(Command { caller, change })
    }

    fn apply(&mut self, command: &Command) {
        let command = Command::decode(&command.encode()).unwrap();
        let before = essence(&self.one);
        let renamed = match &command.change {
            Change::IntentDone { intent, .. } => self.one.intent(*intent).map(|intent| intent.action.clone()),
            _ => None,
        };
        let writers: BTreeMap<FileKey, String> =
            self.one.files.iter().map(|file| (file.key, self.one.path_of(file).as_str().to_owned())).collect();
        let is_again = command.caller.is_some_and(|caller| self.one.answer(caller) != Ok(None));

        let result = self.one.apply(&command, self.now_ms);
        assert_eq!(self.two.apply(&command, self.now_ms), result, "replicas answer the same");
        self.one.validate();
        self.two.validate();
        match &result {
            Ok(applied) if !is_again => {
                self.model(&command.change, applied, renamed.as_ref(), &writers);
            }
            _ => assert!(essence(&self.one) == before, "a refusal, and an answer given again, changes nothing"),
        }
        self.tally.insert((name_of(&command.change), result.is_ok()));
        self.compare();
        self.past.push(command);
    }

    /// What a done change means for what everyone sees.
    fn model(
        &mut self,
        change: &Change,
        applied: &Applied,
        finished: Option<&Action>,
        writers: &BTreeMap<FileKey, String>,
    ) {
        match change {
            Change::Complete { file, .. } => {
                self.seen.insert(writers[file].clone(), *file);
            }
            Change::PublishDone { file, .. } => {
                if let Some(path) = writers.get(file) {
                    self.seen.remove(path);
                }
            }
            Change::IntentBegin { action: Action::Delete { path: deleted, .. }, .. } => {
                self.seen.retain(|text, _| !path(text).is_under(&path(deleted)));
            }
            Change::IntentDone { result: Ok(()), .. } => {
                if let Some(Action::Rename { from, to, .. }) = finished {
                    self.seen.remove(to);
                    let moved: Vec<String> =
                        self.seen.keys().filter(|text| path(text).is_under(&path(from))).cloned().collect();
                    for text in moved {
                        let file = self.seen.remove(&text).unwrap();
                        self.seen.insert(format!("{to}{}", &text[from.len()..]), file);
                    }
                }
            }
            _ => {}
        }
        for effect in &applied.effects {
            if let Effect::Forget { file, .. } | Effect::Rekey { from: file, .. } = effect {
                assert!(self.one.file(*file).is_none(), "blocks are given up with their file only");
            }
        }
    }

    /// Compares what everyone sees with the model, path by path and directory by directory.
    fn compare(&self) {
        let deleting: Vec<NamespacePath> = self
            .one
            .intents()
            .filter(|intent| matches!(intent.action, Action::Delete { .. }))
            .flat_map(|intent| intent.action.paths().map(path).collect::<Vec<_>>())
            .collect();
        let mounts: Vec<(NamespacePath, MountId)> =
            self.one.mounts().map(|mount| (mount.path.clone(), mount.id)).collect();
        let expected = |at: &NamespacePath| {
            let is_below_file = self.seen.keys().any(|file| file != at.as_str() && at.is_under(&path(file)));
            let is_above = |other: &NamespacePath| other != at && other.is_under(at);
            if deleting.iter().any(|gone| at.is_under(gone)) || is_below_file {
                Seen::Hidden
            } else if let Some((_, id)) = mounts.iter().find(|(mount, _)| mount == at) {
                Seen::Mount(*id)
            } else if let Some(file) = self.seen.get(at.as_str()) {
                Seen::File(*file)
            } else if self.seen.keys().any(|file| is_above(&path(file)))
                || mounts.iter().any(|(mount, _)| is_above(mount))
            {
                Seen::Implied
            } else {
                Seen::None
            }
        };
        let mut all: BTreeSet<NamespacePath> = PATHS.iter().map(|text| path(text)).collect();
        all.extend(self.seen.keys().map(|text| path(text)));
        let parents: Vec<NamespacePath> = all.iter().filter_map(NamespacePath::parent).collect();
        all.extend(parents);
        for at in &all {
            let resolution = self.one.resolve(at).unwrap();
            assert_eq!(seen(resolution.overlay), expected(at), "{at}");
            let mount =
                mounts.iter().filter(|(mount, _)| at.is_under(mount)).max_by_key(|(mount, _)| mount.as_str().len());
            assert_eq!(Some(resolution.mount.id), mount.map(|(_, id)| *id), "{at}");
            assert_eq!(Some(resolution.store_path), at.relative_to(&resolution.mount.path));
            if !matches!(expected(at), Seen::Hidden | Seen::File(_)) {
                let listed: Vec<(String, Seen)> =
                    self.one.children(at, "").map(|(name, overlay)| (name.to_owned(), seen(overlay))).collect();
                let names = all.iter().filter(|child| child.parent().as_ref() == Some(at));
                let known: Vec<(String, Seen)> = names
                    .map(|child| (child.name().unwrap().to_owned(), expected(child)))
                    .filter(|(_, seen)| *seen != Seen::None)
                    .collect();
                assert_eq!(listed, known, "children of {at}");
            }
        }
        assert_eq!(self.seen.len(), self.one.files.iter().filter(|file| file.is_complete()).count());
        for file in self.one.files.iter().filter(|file| file.is_complete()) {
            let ring = self.one.ring_of(file.epoch).unwrap();
            let is_owner_gone = |index| {
                let owner = &ring.members[ring.owner(file.place, index).unwrap().member];
                !self.one.is_live(Publisher { worker: owner.worker, incarnation: owner.incarnation })
            };
            let blocks = units::block_count(file.length, file.block_bytes) as u32;
            assert_eq!(self.one.is_lost(file), (0..blocks).any(is_owner_gone));
        }
    }
}

fn name_of(change: &Change) -> &'static str {
    match change {
        Change::Init { .. } => "Init",
        Change::MountAdd { .. } => "MountAdd",
        Change::MountRemove { .. } => "MountRemove",
        Change::MountSet { .. } => "MountSet",
        Change::Register { .. } => "Register",
        Change::WorkerGone { .. } => "WorkerGone",
        Change::Create(_) => "Create",
        Change::Renew { .. } => "Renew",
        Change::Complete { .. } => "Complete",
        Change::Abort { .. } => "Abort",
        Change::StageStarted { .. } => "StageStarted",
        Change::PublishIntent { .. } => "PublishIntent",
        Change::PublishDone { .. } => "PublishDone",
        Change::PublishFailed { .. } => "PublishFailed",
        Change::RemainsCleaned { .. } => "RemainsCleaned",
        Change::IntentBegin { action: Action::Mkdir { .. }, .. } => "Mkdir",
        Change::IntentBegin { action: Action::Delete { .. }, .. } => "Delete",
        Change::IntentBegin { action: Action::Rename { .. }, .. } => "Rename",
        Change::IntentDone { .. } => "IntentDone",
    }
}

fn run(steps: &[Step]) -> Cluster {
    let mut cluster = Cluster::new();
    for step in steps {
        if let Some(command) = cluster.command(step) {
            cluster.apply(&command);
        }
    }
    assert!(snapshot_of(&cluster.one) == snapshot_of(&cluster.two), "replicas are the same to the byte");
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn invariants_replicas_and_model_hold(steps in prop::collection::vec(any_step(), 1..150)) {
        run(&steps);
    }
}

/// The test above proves nothing about commands that never succeed in it.
#[test]
fn random_commands_reach_every_change() {
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(any_step(), 150);
    let mut tally = BTreeSet::new();
    for _ in 0..24 {
        let steps = strategy.new_tree(&mut runner).unwrap().current();
        tally.extend(run(&steps).tally);
    }
    for name in [
        "MountAdd",
        "MountRemove",
        "MountSet",
        "Create",
        "Renew",
        "Complete",
        "Abort",
        "StageStarted",
        "PublishIntent",
        "PublishDone",
        "Mkdir",
        "Delete",
        "Rename",
    ] {
        assert!(tally.contains(&(name, true)) && tally.contains(&(name, false)), "{name}: {tally:?}");
    }
    for name in ["Register", "WorkerGone", "PublishFailed", "RemainsCleaned", "IntentDone"] {
        assert!(tally.contains(&(name, true)), "{name}: {tally:?}");
    }
}
