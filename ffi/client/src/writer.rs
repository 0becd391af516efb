//! A file being written, block by block, and acknowledged by its close.
//!
//! ```text
//! write ──► block i ──full──► Seal at its owner ──► Stage at the publisher ──► …
//! close ──► the last block ──► Publish at the publisher     (cache-through, through)
//!                          └─► Complete at the master       (must-cache)
//! ```
//!
//! Nothing is promised before [`Writer::close`] returns. The first failure is final: every later call gives it again,
//! the master is told to forget the file, and nobody ever sees a part of it.

use crate::client::{Client, Shared};
use crate::config::{ABORT_TIMEOUT, WRITE_PIECE_BYTES};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::lease::Lease;
use crate::namespace::normal;
use crate::publisher::Publisher;
use crate::routes::Routes;
use crate::sink::Sink;
use citius_wire::units::is_block_bytes;
use citius_wire::{Created, FileKey, NamespacePath, Operation, Outcome, Status, WriteType};
use core::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How a file is created.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateOptions {
    /// Whether a file that is there is replaced, at close and at once.
    pub overwrite: bool,
    /// Whether missing directories are made.
    pub parents: bool,
    /// What a returned close means.
    pub write_type: WriteType,
    /// Bytes of its blocks, in whole pages of 2 MiB; 0 for the default. Once in its under-store a file has blocks of the
    /// default size: a cache-through file of several others is not cached by its writing, but when it is read.
    pub block_bytes: u32,
}

/// A file that was written and acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its path.
    pub path: String,
    /// Its bytes.
    pub length: u64,
    /// Its version.
    pub version: FileKey,
    /// What was promised.
    pub write_type: WriteType,
}

/// Writes one file, from its start to its end. Dropping it without [`Writer::close`] gives the file up.
pub struct Writer {
    client: Arc<Shared>,
    path: NamespacePath,
    created: Created,
    routes: Arc<Routes>,
    lease: Lease,
    publisher: Publisher,
    /// The block being written, once more than a buffer of it is there.
    sink: Option<Sink>,
    index: u32,
    /// Bytes of this block that were taken, those in the buffer included.
    block_filled: u32,
    buffer: Vec<u8>,
    length: u64,
    failed: Option<Error>,
    is_settled: bool,
}

impl Client {
    /// Creates a file for writing. It is visible to nobody else until its writer is closed.
    ///
    /// # Errors
    /// `AlreadyExists` without `overwrite`, `FileBusy` while another writes the path, `ReadOnly`, or any class that a
    /// master answers with.
    pub fn create(&self, path: &str, options: CreateOptions) -> Result<Writer, Error> {
        let path = normal(path)?;
        let client = self.0.clone();
        let deadline = client.deadline();
        let operation = Operation::Create {
            path: path.to_string(),
            overwrite: options.overwrite,
            parents: options.parents,
            write_type: options.write_type,
            block_bytes: options.block_bytes,
        };
        let created = match client.operate(operation, deadline).map_err(|error| error.at(&path))? {
            Outcome::Created(created) if is_block_bytes(created.block_bytes) => *created,
            _ => return Err(client.unexpected("it was asked to create a file and gave another thing").at(&path)),
        };
        let kept = client.routes_of_epoch(created.epoch, deadline).and_then(|routes| {
            let lease = Duration::from_millis(u64::from(created.lease_ms));
            Ok((routes, client.leases.keep(&client, created.file, lease)?))
        });
        let (routes, lease) = match kept {
            Ok(kept) => kept,
            Err(error) => {
                abort(&client, created.file);
                return Err(error.at(&path));
            }
        };
        Ok(Writer {
            client,
            path,
            created,
            routes,
            lease,
            publisher: Publisher::default(),
            sink: None,
            index: 0,
            block_filled: 0,
            buffer: Vec::new(),
            length: 0,
            failed: None,
            is_settled: false,
        })
    }
}

impl Writer {
    /// The path being written.
    pub fn path(&self) -> &NamespacePath {
        &self.path
    }

    /// Bytes taken so far.
    pub fn position(&self) -> u64 {
        self.length
    }

    /// Takes all of `bytes`.
    ///
    /// # Errors
    /// The first failure of the file, now and ever after.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let count = self.take(bytes)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Ends the file. When it returns, what its write type promises holds.
    ///
    /// # Errors
    /// The first failure of the file. Then nothing was acknowledged: the file is given up, unless the failure came so
    /// late that it was whole already.
    pub fn close(mut self) -> Result<Written, Error> {
        self.check()?;
        let result = self.finish();
        let version = self.keep_failure(result)?;
        self.is_settled = true;
        Ok(Written { path: self.path.to_string(), length: self.length, version, write_type: self.created.write_type })
    }

    /// Gives the file up, at once and not by its drop.
    pub fn abort(self) {
        drop(self);
    }

    /// Takes as much as this block has room for.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.check()?;
        let room = (self.created.block_bytes - self.block_filled) as usize;
        let part = &bytes[..bytes.len().min(room)];
        let result = self.fill(part);
        self.keep_failure(result)?;
        Ok(part.len())
    }

    /// Fills the block with bytes that fit, and ends it when it is full.
    fn fill(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        // The worker may have room only when blocks of other writers have reached their under-store.
        let deadline = self.client.transfer_deadline();
        self.block_filled += bytes.len() as u32;
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            if let Some(sink) = self.sink.as_mut().filter(|sink| sink.is_mapped()) {
                debug_assert!(self.buffer.is_empty());
                sink.append(&self.client, bytes, deadline)?;
                break;
            }
            if self.buffer.is_empty() && bytes.len() >= WRITE_PIECE_BYTES {
                let client = self.client.clone();
                let sink = self.open_sink(true, deadline)?;
                if !sink.is_mapped() {
                    let (piece, rest) = bytes.split_at(WRITE_PIECE_BYTES);
                    sink.append(&client, piece, deadline)?;
                    bytes = rest;
                }
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(WRITE_PIECE_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(part);
            bytes = rest;
            if self.buffer.len() == WRITE_PIECE_BYTES {
                self.flush_buffer(true, deadline)?;
            }
        }
        if self.block_filled == self.created.block_bytes {
            self.end_block()?;
        }
        Ok(())
    }

    /// The block being written. `map` says whether there is enough of it to be worth mapping.
    fn open_sink(&mut self, map: bool, deadline: Deadline) -> Result<&mut Sink, Error> {
        let sink = match self.sink.take() {
            Some(sink) => sink,
            None => {
                let map = map && self.client.config.map;
                Sink::open(&self.client, &self.routes, &self.created, self.index, map, deadline)?
            }
        };
        Ok(self.sink.insert(sink))
    }

    fn flush_buffer(&mut self, map: bool, deadline: Deadline) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = core::mem::take(&mut self.buffer);
        let client = self.client.clone();
        let result = self.open_sink(map, deadline).and_then(|sink| sink.append(&client, &buffer, deadline));
        self.buffer = buffer;
        self.buffer.clear();
        result
    }

    /// Seals this block and has it staged; the next write begins the next one.
    fn end_block(&mut self) -> Result<(), Error> {
        let deadline = self.client.deadline();
        self.flush_buffer(false, deadline)?;
        let Some(sink) = self.sink.take() else {
            return Err(Error::new(Status::Internal, "a block without bytes was to be sealed"));
        };
        let length = sink.seal(&self.client, self.client.deadline())?;
        debug_assert_eq!(length, self.block_filled);
        if self.created.write_type != WriteType::MustCache {
            self.publisher.stage(&self.client, &self.routes, &self.created, self.index, length)?;
        }
        self.block_filled = 0;
        self.index = self
            .index
            .checked_add(1)
            .ok_or_else(|| Error::new(Status::InvalidArgument, "the file has too many blocks: choose larger ones"))?;
        Ok(())
    }

    fn finish(&mut self) -> Result<FileKey, Error> {
        if self.block_filled > 0 {
            self.end_block()?;
        }
        if self.created.write_type != WriteType::MustCache {
            return self.publisher.publish(&self.client, &self.routes, &self.created, self.length);
        }
        let complete = Operation::Complete { file: self.created.file, length: self.length };
        match self.client.operate(complete, self.client.deadline())? {
            Outcome::Done => Ok(self.created.file),
            _ => Err(self.client.unexpected("it was asked to complete a file and gave another thing")),
        }
    }

    /// The failure that ended the file, if one did.
    fn check(&mut self) -> Result<(), Error> {
        if self.failed.is_none()
            && let Some(lost) = self.lease.lost()
        {
            self.failed = Some(lost.clone().at(&self.path));
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn keep_failure<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| {
            let error = error.at(&self.path);
            self.failed.get_or_insert(error).clone()
        })
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        Ok(self.take(bytes)?)
    }

    /// Promises nothing: only [`Writer::close`] does.
    fn flush(&mut self) -> io::Result<()> {
        Ok(self.check()?)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_settled {
            // The block's connection goes first, so that the worker does not hear of the end while bytes still come.
            self.sink = None;
            abort(&self.client, self.created.file);
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({}, {} bytes so far)", self.path, self.length)
    }
}

/// Tells the master to forget a file. If it does not hear, the lease's end will tell it.
fn abort(client: &Shared, file: FileKey) {
    let _ = client.operate(Operation::Abort { file }, Deadline::after(ABORT_TIMEOUT));
}
