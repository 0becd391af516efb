//! A small blocking client: one connection, one request at a time, unless a test wants otherwise.

use citius_wire::{
    Batch, BatchReply, ClientId, Encoder, EntryKind, Failure, FileInfo, Flags, FrameBuffer, Hello, List, ListPage,
    Opened, Operation, Outcome, Request, Serial, Status, Token, WriteType,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Serials of this process: no two clients of a test mean the same operation by one, whatever their ids.
static SERIALS: AtomicU64 = AtomicU64::new(1_000_000);
/// Serials that one client may use.
const SERIALS_PER_CLIENT: u64 = 1_000_000;

/// How long an answer may take: far longer than any should, so that a test fails and does not hang.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: FrameBuffer,
    encoder: Encoder,
    request_id: u64,
    pub(crate) serial: u64,
}

impl Client {
    /// Connects as client number `id`.
    pub(crate) fn connect(address: SocketAddr, token: &Token, id: u8) -> Result<Self, Failure> {
        let mut client = Self::connect_raw(address);
        client.ask(&Hello { token: token.clone(), client: ClientId([id; 16]), shard: 0 }).map(|_| client)
    }

    /// Connects and says nothing.
    pub(crate) fn connect_raw(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let serial = SERIALS.fetch_add(SERIALS_PER_CLIENT, Ordering::Relaxed);
        Self { stream, buffer: FrameBuffer::new(64 << 10), encoder: Encoder::default(), request_id: 0, serial }
    }

    pub(crate) fn send<R: Request>(&mut self, request: &R) -> u64 {
        self.request_id += 1;
        let mut out = Vec::new();
        self.encoder.request(&mut out, self.request_id, request, 0);
        self.stream.write_all(&out).unwrap();
        self.request_id
    }

    /// The next answer; `None` if the connection is closed.
    pub(crate) fn receive<R: Request>(&mut self) -> Option<(u64, bool, Result<R::Reply, Failure>)> {
        loop {
            if let Some(head) = self.buffer.next_head().unwrap() {
                let more = head.prelude.flags.has(Flags::MORE);
                let reply = if head.prelude.flags.has(Flags::FAILED) {
                    Err(head.read::<Failure>().unwrap())
                } else {
                    head.read_reply::<R>()
                };
                return Some((head.prelude.request_id, more, reply));
            }
            let count = self.stream.read(self.buffer.spare()).unwrap();
            if count == 0 {
                return None;
            }
            self.buffer.filled(count);
        }
    }

    pub(crate) fn ask<R: Request>(&mut self, request: &R) -> Result<R::Reply, Failure> {
        let id = self.send(request);
        let (answered, more, reply) = self.receive::<R>().expect("the connection is open");
        assert_eq!((answered, more), (id, false));
        reply
    }

    /// A batch under new serials.
    pub(crate) fn batch(&mut self, operations: Vec<Operation>) -> Vec<Result<Outcome, Failure>> {
        let first = self.serial;
        self.serial += operations.len() as u64;
        self.batch_at(first, operations)
    }

    /// A batch under serials of one's choice: a retry repeats those of the first try.
    pub(crate) fn batch_at(&mut self, first: u64, operations: Vec<Operation>) -> Vec<Result<Outcome, Failure>> {
        let count = operations.len();
        let BatchReply { results } = self.ask(&Batch { first: Serial(first), operations }).unwrap();
        assert_eq!(results.len(), count);
        results
    }

    pub(crate) fn one(&mut self, operation: Operation) -> Result<Outcome, Failure> {
        self.batch(vec![operation]).remove(0)
    }

    pub(crate) fn done(&mut self, operation: Operation) -> Result<(), Failure> {
        self.one(operation).map(|outcome| assert_eq!(outcome, Outcome::Done))
    }

    pub(crate) fn stat(&mut self, path: &str) -> Result<FileInfo, Failure> {
        match self.one(Operation::Stat { path: path.into() })? {
            Outcome::Info(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn open(&mut self, path: &str) -> Result<Opened, Failure> {
        match self.one(Operation::Open { path: path.into(), stale: None })? {
            Outcome::Opened(opened) => Ok(*opened),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn is_there(&mut self, path: &str) -> bool {
        match self.stat(path) {
            Ok(_) => true,
            Err(failure) if failure.status == Status::NotFound => false,
            Err(other) => panic!("{other}"),
        }
    }

    pub(crate) fn kind(&mut self, path: &str) -> EntryKind {
        self.stat(path).unwrap().kind
    }

    pub(crate) fn mkdir(&mut self, path: &str, parents: bool) -> Result<(), Failure> {
        self.done(Operation::Mkdir { path: path.into(), parents })
    }

    pub(crate) fn delete(&mut self, path: &str, recursive: bool) -> Result<(), Failure> {
        self.done(Operation::Delete { path: path.into(), recursive })
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str, overwrite: bool) -> Result<(), Failure> {
        self.done(Operation::Rename { from: from.into(), to: to.into(), overwrite })
    }

    pub(crate) fn create(&mut self, path: &str, write_type: WriteType) -> Result<citius_wire::Created, Failure> {
        self.create_as(path, write_type, false, false)
    }

    pub(crate) fn create_as(
        &mut self,
        path: &str,
        write_type: WriteType,
        overwrite: bool,
        parents: bool,
    ) -> Result<citius_wire::Created, Failure> {
        let operation = Operation::Create { path: path.into(), overwrite, parents, write_type, block_bytes: 0 };
        match self.one(operation)? {
            Outcome::Created(created) => Ok(*created),
            other => panic!("{other:?}"),
        }
    }

    /// Creates and completes a file that is in memory only.
    pub(crate) fn memory_file(&mut self, path: &str, length: u64) -> citius_wire::FileKey {
        let file = self.create(path, WriteType::MustCache).unwrap().file;
        self.done(Operation::Complete { file, length }).unwrap();
        file
    }

    pub(crate) fn mount(&mut self, path: &str, uri: &str, sync_interval_ms: Option<i64>) -> Result<(), Failure> {
        let (path, uri) = (path.to_owned(), uri.to_owned());
        let operation = Operation::MountAdd { path, uri, options: vec![], read_only: false, sync_interval_ms };
        self.one(operation).map(|outcome| assert!(matches!(outcome, Outcome::Mount(_)), "{outcome:?}"))
    }

    /// A whole listing, page by page.
    pub(crate) fn pages(&mut self, path: &str, after: &str, limit: u64) -> Result<Vec<ListPage>, Failure> {
        let id = self.send(&List { path: path.into(), after: after.into(), limit });
        let mut pages = Vec::new();
        loop {
            let (answered, more, page) = self.receive::<List>().expect("the connection is open");
            assert_eq!(answered, id);
            pages.push(page?);
            if !more {
                return Ok(pages);
            }
        }
    }

    pub(crate) fn list(&mut self, path: &str) -> Result<Vec<FileInfo>, Failure> {
        Ok(self.pages(path, "", 0)?.into_iter().flat_map(|page| page.entries).collect())
    }

    pub(crate) fn names(&mut self, path: &str) -> Vec<String> {
        self.list(path).unwrap().into_iter().map(|entry| entry.path).collect()
    }
}

pub(crate) fn status<T: std::fmt::Debug>(result: Result<T, Failure>) -> Status {
    let failure = result.unwrap_err();
    assert!(failure.message.len() > 15, "a failure has words: {failure:?}");
    failure.status
}
