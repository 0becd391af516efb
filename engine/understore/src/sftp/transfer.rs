//! Contents of files: requests for parts of them, many on their way at once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use russh_sftp::{client::error::Error as SftpError, protocol::StatusCode};
use tokio::task::JoinSet;

use super::{
    failed,
    session::{Session, Target},
};
use crate::{Error, Result, tree::Sink};

/// Requests of one file on their way at once: with parts of 255 KiB, 4 MiB.
const IN_FLIGHT_MAX: usize = 16;

/// A file or directory that the server holds open for us. Closed when it is dropped.
pub(super) struct OpenHandle {
    session: Arc<Session>,
    name: String,
    is_closed: bool,
}

impl OpenHandle {
    pub(super) fn new(session: Arc<Session>, name: String) -> Self {
        Self { session, name, is_closed: false }
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    /// Closes it and waits for it.
    async fn close(&mut self) -> Result<(), SftpError> {
        self.is_closed = true;
        self.session.sftp.close(self.name.clone()).await.map(drop)
    }
}

impl Drop for OpenHandle {
    fn drop(&mut self) {
        if self.is_closed {
            return;
        }
        // Where the runtime has ended, so has the connection, and the server closes what it held for it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (session, name) = (Arc::clone(&self.session), std::mem::take(&mut self.name));
        runtime.spawn(async move { session.sftp.close(name).await });
    }
}

/// The bytes of a part of a file, in order; fewer if the file is shorter.
pub(super) fn read(handle: OpenHandle, offset: u64, len: u64) -> impl Stream<Item = Result<Bytes, SftpError>> {
    let handle = Arc::new(handle);
    let part_bytes = u64::from(handle.session.read_bytes);
    let starts = (0..len.div_ceil(part_bytes)).map(move |part| part * part_bytes);
    let parts = starts.map(move |start| {
        let (handle, wanted) = (Arc::clone(&handle), part_bytes.min(len - start));
        async move { read_part(&handle, offset + start, wanted as u32).await }
    });
    stream::iter(parts).buffered(IN_FLIGHT_MAX)
}

/// One part, whole unless the file ends in it: a server may send less than was asked for.
async fn read_part(handle: &OpenHandle, offset: u64, len: u32) -> Result<Bytes, SftpError> {
    let mut part = BytesMut::new();
    while part.len() < len as usize {
        let (at, left) = (offset + part.len() as u64, len - part.len() as u32);
        match handle.session.sftp.read(handle.name(), at, left).await {
            Ok(data) if data.data.len() > left as usize => return Err(SftpError::UnexpectedPacket),
            Ok(data) if part.is_empty() && data.data.len() == len as usize => return Ok(data.data.into()),
            Ok(data) if !data.data.is_empty() => part.extend_from_slice(&data.data),
            Ok(_) => break,
            Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => break,
            Err(other) => return Err(other),
        }
    }
    Ok(part.freeze())
}

/// A file that is being written.
pub(super) struct Writer {
    handle: OpenHandle,
    target: Arc<Target>,
    /// What errors call the file.
    shown: String,
    offset: u64,
    /// Bytes that make no whole request yet.
    held: BytesMut,
    in_flight: JoinSet<Result<(), SftpError>>,
}

impl Writer {
    pub(super) fn new(handle: OpenHandle, target: Arc<Target>, shown: String) -> Self {
        Self { handle, target, shown, offset: 0, held: BytesMut::new(), in_flight: JoinSet::new() }
    }

    /// Sends a request when few enough are on their way.
    async fn send(&mut self, part: Vec<u8>) -> Result<()> {
        while self.in_flight.len() >= IN_FLIGHT_MAX {
            self.collect().await?;
        }
        let (session, handle, offset) = (Arc::clone(self.handle.session()), self.handle.name(), self.offset);
        self.offset += part.len() as u64;
        self.in_flight.spawn(async move { session.sftp.write(handle, offset, part).await.map(drop) });
        Ok(())
    }

    async fn collect(&mut self) -> Result<()> {
        match self.in_flight.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(self.failed(error)),
            Some(Err(_)) => Err(Error::Cancelled { path: self.shown.clone() }),
        }
    }

    fn failed(&self, error: SftpError) -> Error {
        failed(&self.target, &self.shown, error)
    }
}

#[async_trait]
impl Sink for Writer {
    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        let part_bytes = self.handle.session().write_bytes as usize;
        while !bytes.is_empty() {
            if self.held.is_empty() && bytes.len() >= part_bytes {
                let part = bytes.split_to(part_bytes);
                self.send(part.into()).await?;
                continue;
            }
            let taken = bytes.len().min(part_bytes - self.held.len());
            self.held.extend_from_slice(&bytes[..taken]);
            bytes.advance(taken);
            if self.held.len() == part_bytes {
                let part = self.held.split();
                self.send(part.into()).await?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        if !self.held.is_empty() {
            let part = self.held.split();
            self.send(part.into()).await?;
        }
        while !self.in_flight.is_empty() {
            self.collect().await?;
        }
        if self.handle.session().syncs {
            let synced = self.handle.session().sftp.fsync(self.handle.name()).await;
            synced.map_err(|error| self.failed(error))?;
        }
        // The answer may be the first word of a disk that is full.
        let closed = self.handle.close().await;
        closed.map_err(|error| self.failed(error))
    }
}
