//! Many files brought into memory, from one thread.
//!
//! ```text
//! paths ──many to a call──► master: opened ──► in line ──by owner──► lanes, one connection each ──► told
//!                                                                      │ trouble
//!                                                                      └──► the slow way, File::load, tries again
//! ```
//! A file costs a share of a call to the master, and a request and an answer a block, which travel with those of others.
//!
//! - At most `at_once` blocks are on their way, [`LANE_BLOCKS_MAX`] of them on one connection, which is how many requests a
//!   worker lets wait there.
//! - At most [`OPENS_MAX`] files are open ahead, and no more are opened while as many as may be loaded at once wait for the
//!   slow way: what is held does not grow with the number of files.
//! - Each file is told of once, when none of its blocks is on its way any more.
//! - When none of those that went the slow way could be loaded, no other goes it until a block arrives: thousands of files
//!   do not wait one after the other for a cluster that is away.

use crate::client::{Client, Shared};
use crate::connection::Fault;
use crate::dispatch::no_worker_runs;
use crate::error::Error;
use crate::file::File;
use crate::namespace::normal;
use crate::peer::{Checkout, Lease, Peer};
use crate::retry::is_retryable;
use crate::routes::Routes;
use crate::version::{Version, answer, question};
use citius_wire::{Epoch, Failure, NamespacePath, Owner, Ring, Status, Warm, WorkerId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Files opened by one call to the master, and open ahead of their blocks' being asked for.
const OPENS_MAX: usize = 128;
/// Blocks that are asked for on one connection at once: requests that a worker lets wait there.
const LANE_BLOCKS_MAX: usize = 256;
/// Files that go the slow way at a time.
const SLOW_THREADS_MAX: usize = 64;
/// How long answers are waited for before it is looked whether there are more files.
const TICK: Duration = Duration::from_millis(10);
/// How long a worker may say nothing before the master is asked whether it still lives, and how often it is.
const SILENCE_MAX: Duration = Duration::from_secs(2);

impl Client {
    /// Brings many files into memory, with so many blocks at once, and returns when all are there or have failed.
    ///
    /// `next` gives the files. It may wait for one only where it is told so; that it has none then ends the loading, and
    /// otherwise it is asked again. `done` is told of each file, in any order, with the file's bytes or why it failed.
    pub fn load_all<T: AsRef<str> + Send>(
        &self,
        at_once: usize,
        next: impl FnMut(bool) -> Option<T>,
        done: impl FnMut(T, Result<u64, Error>),
    ) {
        let loader = Loader {
            client: &self.0,
            at_once: at_once.max(1),
            next,
            done,
            files: HashMap::new(),
            id_next: 0,
            line: VecDeque::new(),
            lanes: HashMap::new(),
            on_the_way: 0,
            slow: Vec::new(),
            is_hopeless: false,
            ring_asked_at: Instant::now(),
        };
        loader.run();
    }
}

struct Loader<'a, T, Next, Done> {
    client: &'a Arc<Shared>,
    at_once: usize,
    next: Next,
    done: Done,
    files: HashMap<u64, Loading<T>>,
    id_next: u64,
    /// Files with blocks that are not asked for yet.
    line: VecDeque<u64>,
    lanes: HashMap<(WorkerId, u16), Lane>,
    /// Blocks that are asked for and not answered.
    on_the_way: usize,
    /// Files that met trouble which may pass.
    slow: Vec<(T, Version)>,
    /// Whether it did not pass for any of those that were tried last.
    is_hopeless: bool,
    ring_asked_at: Instant,
}

/// A file of which blocks are asked for.
struct Loading<T> {
    file: T,
    version: Version,
    /// The first block that is not asked for.
    next: u32,
    /// Blocks that are asked for and not answered.
    on_the_way: u32,
    trouble: Option<Trouble>,
}

impl Lane {
    /// What went wrong on its connection.
    fn failed(&self, fault: Fault) -> Error {
        Error::of_fault(fault, self.connection.peer().name())
    }
}

impl<T> Loading<T> {
    fn is_in_line(&self) -> bool {
        self.trouble.is_none() && self.next < self.version.block_count()
    }
}

/// What a file met. No more of its blocks are asked for.
enum Trouble {
    /// It is loaded the slow way.
    Passing(Error),
    /// Trying again is of no use.
    Fatal(Error),
}

/// One connection to a shard.
struct Lane {
    connection: Checkout,
    /// Whose blocks were asked for, by the ids of the requests.
    asked: HashMap<u64, u64>,
    has_queued: bool,
    answered_at: Instant,
}

impl<T, Next, Done> Loader<'_, T, Next, Done>
where
    T: AsRef<str> + Send,
    Next: FnMut(bool) -> Option<T>,
    Done: FnMut(T, Result<u64, Error>),
{
    fn run(mut self) {
        loop {
            let is_ended = self.admit();
            self.ask();
            if self.on_the_way > 0 {
                self.receive();
            } else if !self.slow.is_empty() {
                self.go_slowly();
            } else if is_ended && self.line.is_empty() {
                break;
            }
        }
        for (_, lane) in self.lanes {
            lane.connection.give_back(&self.client.dialer);
        }
    }

    /// Opens more files, if there is reason to. Whether there are no more: that is known only when nothing else is to do.
    fn admit(&mut self) -> bool {
        if self.line.len() > OPENS_MAX / 2 || self.slow.len() >= self.at_once {
            return false;
        }
        let is_idle = self.on_the_way == 0 && self.line.is_empty() && self.slow.is_empty();
        let mut fresh = Vec::new();
        while fresh.len() < OPENS_MAX - self.line.len() {
            let may_wait = is_idle && fresh.is_empty();
            let Some(file) = (self.next)(may_wait) else { return self.open(fresh, may_wait) };
            match normal(file.as_ref()) {
                Ok(path) => fresh.push((file, path)),
                Err(error) => (self.done)(file, Err(error)),
            }
        }
        self.open(fresh, false)
    }

    fn open(&mut self, fresh: Vec<(T, NamespacePath)>, is_ended: bool) -> bool {
        if fresh.is_empty() {
            return is_ended;
        }
        let questions: Vec<_> = fresh.iter().map(|(_, path)| question(self.client, path)).collect();
        let outcomes = self.client.operate_all(&questions);
        for ((file, path), outcome) in fresh.into_iter().zip(outcomes) {
            let opened = answer(self.client, &path, outcome);
            match opened.and_then(|opened| Version::of(self.client, &path, opened)) {
                Ok(version) if version.block_count() == 0 => (self.done)(file, Ok(0)),
                Ok(version) => {
                    let loading = Loading { file, version, next: 0, on_the_way: 0, trouble: None };
                    self.files.insert(self.id_next, loading);
                    self.line.push_back(self.id_next);
                    self.id_next += 1;
                }
                Err(error) => (self.done)(file, Err(error)),
            }
        }
        false
    }

    /// Asks for as many blocks as may be on their way.
    fn ask(&mut self) {
        while self.on_the_way < self.at_once
            && let Some(&id) = self.line.front()
        {
            let loading = self.files.get_mut(&id).expect("a file in line is not told of yet");
            match ask_one(self.client, &mut self.lanes, id, loading) {
                Ok(Asked::Yes) => {
                    loading.next += 1;
                    loading.on_the_way += 1;
                    self.on_the_way += 1;
                    if loading.next == loading.version.block_count() {
                        self.line.pop_front();
                    }
                }
                // Its owner has enough to do. Who is in line behind it waits with it, until there is an answer.
                Ok(Asked::NoRoom) => break,
                Err(trouble) => {
                    loading.trouble = Some(trouble);
                    self.line.pop_front();
                    self.settle(id);
                }
            }
        }
        let deadline = self.client.deadline();
        let queued = self.lanes.iter_mut().filter(|(_, lane)| lane.has_queued);
        let broken: Vec<_> = queued
            .filter_map(|(&shard, lane)| {
                lane.has_queued = false;
                let fault = lane.connection.flush(deadline).err()?;
                Some((shard, lane.failed(fault)))
            })
            .collect();
        for (shard, error) in broken {
            self.break_off(shard, || Trouble::Passing(error.clone()));
        }
    }

    /// Waits for answers, not for long, and takes those that are there.
    fn receive(&mut self) {
        let busy: Vec<_> = self.lanes.iter().filter(|(_, lane)| !lane.asked.is_empty()).map(|(&at, _)| at).collect();
        let mut polled: Vec<_> = busy
            .iter()
            .map(|shard| PollFd::from_borrowed_fd(self.lanes[shard].connection.socket(), PollFlags::IN))
            .collect();
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as _ };
        match poll(&mut polled, Some(&tick)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => thread::sleep(TICK),
        }
        let ready: Vec<_> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(polled);
        for (shard, is_ready) in busy.into_iter().zip(ready) {
            if is_ready {
                self.take_answers(shard);
            } else {
                self.look_at_clock(shard);
            }
        }
    }

    fn take_answers(&mut self, shard: (WorkerId, u16)) {
        let deadline = self.client.deadline();
        loop {
            let lane = self.lanes.get_mut(&shard).expect("a lane that was polled");
            let answered = match lane.connection.receive(0, deadline) {
                Ok(prelude) => lane.asked.remove(&prelude.request_id),
                Err(fault) => {
                    let error = lane.failed(fault);
                    return self.break_off(shard, || Trouble::Passing(error.clone()));
                }
            };
            let Some(id) = answered else {
                let error = lane.failed(Fault::Unexpected("it answered a question that was not asked"));
                return self.break_off(shard, || Trouble::Fatal(error.clone()));
            };
            lane.answered_at = Instant::now();
            let is_last = lane.connection.buffered() == 0;
            let trouble = match lane.connection.reply::<Warm>() {
                Ok(_) => {
                    self.is_hopeless = false;
                    None
                }
                Err(fault) => Some(judge(self.client, fault, lane.connection.peer())),
            };
            self.answered(id, trouble);
            if is_last {
                return;
            }
        }
    }

    /// Gives a connection up on which there is no answer: when its worker is not in the ring any more, or for as long as an
    /// answer may take.
    fn look_at_clock(&mut self, shard: (WorkerId, u16)) {
        let allowed = self.client.transfer_deadline().allowed();
        let lane = &self.lanes[&shard];
        let silent_for = lane.answered_at.elapsed();
        if silent_for > allowed {
            let error = lane.failed(Fault::TimedOut(allowed));
            return self.break_off(shard, || Trouble::Fatal(error.clone()));
        }
        if silent_for < SILENCE_MAX || self.ring_asked_at.elapsed() < SILENCE_MAX {
            return;
        }
        let error = lane.failed(Fault::TimedOut(silent_for));
        self.ring_asked_at = Instant::now();
        // A master that does not answer says nothing about the worker.
        let Ok(routes) = self.client.fetch_ring(Epoch(0), self.client.deadline()) else { return };
        if !routes.shards().any(|member| member == shard) {
            self.break_off(shard, || Trouble::Passing(error.clone()));
        }
    }

    /// Closes a connection. The files whose blocks were asked for on it have such a trouble.
    fn break_off(&mut self, shard: (WorkerId, u16), trouble: impl Fn() -> Trouble) {
        let lane = self.lanes.remove(&shard).expect("it is closed once");
        lane.connection.peer().close_idle();
        for id in lane.asked.into_values() {
            self.answered(id, Some(trouble()));
        }
    }

    /// A block is not on its way any more.
    fn answered(&mut self, id: u64, trouble: Option<Trouble>) {
        let loading = self.files.get_mut(&id).expect("a file with blocks on their way is not told of yet");
        loading.on_the_way -= 1;
        self.on_the_way -= 1;
        if loading.is_in_line() && trouble.is_some() {
            self.line.retain(|&in_line| in_line != id);
        }
        match (&loading.trouble, &trouble) {
            (None, _) | (Some(Trouble::Passing(_)), Some(Trouble::Fatal(_))) => loading.trouble = trouble,
            _ => {}
        }
        self.settle(id);
    }

    /// Tells of a file, if none of its blocks is on its way or in line.
    fn settle(&mut self, id: u64) {
        let loading = &self.files[&id];
        if loading.on_the_way > 0 || loading.is_in_line() {
            return;
        }
        let Loading { file, version, trouble, .. } = self.files.remove(&id).expect("it was just looked at");
        match trouble {
            None => (self.done)(file, Ok(version.info.length)),
            Some(Trouble::Passing(_)) if !self.is_hopeless => self.slow.push((file, version)),
            Some(Trouble::Passing(error) | Trouble::Fatal(error)) => {
                let error = error.at(&version.path);
                (self.done)(file, Err(error));
            }
        }
    }

    /// Loads what met trouble, each file by itself.
    fn go_slowly(&mut self) {
        let (client, threads) = (self.client, self.slow.len().min(SLOW_THREADS_MAX));
        let files = Mutex::new(core::mem::take(&mut self.slow).into_iter());
        let (sender, receiver) = mpsc::channel();
        let one = || files.lock().unwrap_or_else(PoisonError::into_inner).next();
        thread::scope(|scope| {
            for _ in 0..threads {
                let (sender, one) = (sender.clone(), &one);
                scope.spawn(move || {
                    while let Some((file, version)) = one() {
                        let length = version.info.length;
                        let loaded = File::of(client, version).load().map(|()| length);
                        // Who receives does so until the last sender is gone.
                        drop(sender.send((file, loaded)));
                    }
                });
            }
            drop(sender);
            self.is_hopeless = true;
            for (file, loaded) in receiver {
                self.is_hopeless &= loaded.as_ref().is_err_and(|error| error.status().is_retryable());
                (self.done)(file, loaded);
            }
        });
    }
}

/// Whether a block was asked for.
enum Asked {
    Yes,
    /// As much as may be is asked for where it belongs.
    NoRoom,
}

/// Queues the request for the next block of a file, on the connection to its owner.
fn ask_one<T>(
    client: &Arc<Shared>,
    lanes: &mut HashMap<(WorkerId, u16), Lane>,
    id: u64,
    loading: &Loading<T>,
) -> Result<Asked, Trouble> {
    let (version, deadline) = (&loading.version, client.deadline());
    let routes = version.routes(client, deadline).map_err(Trouble::Fatal)?;
    // The slow way waits for a worker.
    let owner = routes.owner(version.place(), loading.next).ok_or_else(|| Trouble::Passing(no_worker_runs()))?;
    let shard = (routes.ring().members[owner.member].worker, owner.shard);
    let lane = match lanes.entry(shard) {
        Entry::Occupied(lane) => lane.into_mut(),
        Entry::Vacant(place) => {
            let connection = connect(client, &routes, owner).map_err(|fault| {
                let peer = routes.peer(owner, &client.peers);
                Trouble::Passing(Error::of_fault(fault, peer.name()))
            })?;
            place.insert(Lane { connection, asked: HashMap::new(), has_queued: false, answered_at: Instant::now() })
        }
    };
    if lane.asked.len() >= LANE_BLOCKS_MAX {
        return Ok(Asked::NoRoom);
    }
    if lane.asked.is_empty() {
        lane.answered_at = Instant::now();
    }
    let warm = Warm { capability: version.right().capability.to_vec(), index: loading.next };
    lane.asked.insert(lane.connection.queue(&warm), id);
    lane.has_queued = true;
    Ok(Asked::Yes)
}

/// Connects to a shard. The connection is not counted among those of calls, so that loaders do not wait for each other's in a
/// circle.
fn connect(client: &Shared, routes: &Routes, owner: Owner) -> Result<Checkout, Fault> {
    loop {
        let peer = routes.peer(owner, &client.peers);
        match client.checkout(&peer, Lease::Long, client.deadline()) {
            Err(Fault::Refused(_)) if peer.is_unix() && routes.go_remote(owner) => {}
            connected => return connected,
        }
    }
}

/// What a failed answer means for its file.
fn judge(client: &Arc<Shared>, fault: Fault, peer: &Arc<Peer>) -> Trouble {
    let passes = match fault.status() {
        Status::WrongEpoch | Status::CapabilityExpired | Status::VersionChanged | Status::DataLost => true,
        _ => is_retryable(&fault),
    };
    if let Fault::Failed(Failure { ring: Some(ring), .. }) = &fault {
        client.adopt(Ring::clone(ring));
    }
    let error = Error::of_fault(fault, peer.name());
    if passes { Trouble::Passing(error) } else { Trouble::Fatal(error) }
}
