//! A client that speaks bare frames, over either door.

use crate::cluster::{KEY, TOKEN};
use citius_engine::store::verify_sectors;
use citius_wire::{
    Attach, ClientId, Done, Encoder, Failure, Flags, FrameBuffer, Handle, Head, Hello, Prelude, Read, ReadMode,
    Request, Right, Write,
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How long any answer may take; far more than it needs, on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Peer {
    pub(crate) socket: OwnedFd,
    input: FrameBuffer,
    next: u64,
    descriptors: Vec<OwnedFd>,
}

/// One answer.
pub(crate) struct Answer {
    prelude: Prelude,
    header: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Answer {
    pub(crate) fn id(&self) -> u64 {
        self.prelude.request_id
    }

    /// What it failed with, whatever was asked.
    pub(crate) fn failure(&self) -> Failure {
        assert!(self.prelude.flags.has(Flags::FAILED));
        Head { prelude: self.prelude, header: &self.header }.read().unwrap()
    }

    pub(crate) fn read<R: Request>(&self) -> Result<R::Reply, Failure> {
        Head { prelude: self.prelude, header: &self.header }.read_reply::<R>()
    }
}

impl Peer {
    /// A connection without a word said.
    pub(crate) fn silent(socket: impl Into<OwnedFd>) -> Self {
        let socket = socket.into();
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).unwrap();
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)).unwrap();
        Self { socket, input: FrameBuffer::new(64 << 10), next: 1, descriptors: Vec::new() }
    }

    pub(crate) fn hello(socket: impl Into<OwnedFd>) -> Self {
        let mut peer = Self::silent(socket);
        peer.ask(&Hello { token: TOKEN, client: ClientId([1; 16]), shard: 0 }).unwrap();
        peer
    }

    pub(crate) fn send_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::NOSIGNAL).unwrap();
            bytes = &bytes[count..];
        }
    }

    pub(crate) fn send<R: Request>(&mut self, request: &R) -> u64 {
        self.send_with(request, &[])
    }

    pub(crate) fn send_with<R: Request>(&mut self, request: &R, payload: &[u8]) -> u64 {
        let id = self.next;
        self.next += 1;
        let mut bytes = Vec::new();
        Encoder::default().request(&mut bytes, id, request, payload.len());
        bytes.extend_from_slice(payload);
        self.send_bytes(&bytes);
        id
    }

    /// Sends many requests at once.
    pub(crate) fn send_all<R: Request>(&mut self, requests: impl IntoIterator<Item = R>) {
        let (mut bytes, mut encoder) = (Vec::new(), Encoder::default());
        for request in requests {
            encoder.request(&mut bytes, self.next, &request, 0);
            self.next += 1;
        }
        self.send_bytes(&bytes);
    }

    /// The next answer; `None` if the connection has ended.
    pub(crate) fn receive(&mut self) -> Option<Answer> {
        loop {
            if let Some((head, payload)) = self.input.next_frame().unwrap() {
                let answer = Answer { prelude: head.prelude, header: head.header.to_vec(), payload: payload.to_vec() };
                assert!(answer.prelude.flags.has(Flags::REPLY));
                return Some(answer);
            }
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(self.input.spare())];
            let received = match recvmsg(&self.socket, &mut slices, &mut ancillary, RecvFlags::empty()) {
                Ok(received) => received.bytes,
                Err(rustix::io::Errno::CONNRESET) => 0,
                Err(error) => panic!("no answer came: {error}"),
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    self.descriptors.extend(rights);
                }
            }
            if received == 0 {
                return None;
            }
            self.input.filled(received);
        }
    }

    pub(crate) fn ask<R: Request>(&mut self, request: &R) -> Result<R::Reply, Failure> {
        self.ask_with(request, &[])
    }

    pub(crate) fn ask_with<R: Request>(&mut self, request: &R, payload: &[u8]) -> Result<R::Reply, Failure> {
        let id = self.send_with(request, payload);
        let answer = self.receive().expect("the connection ended in place of an answer");
        assert_eq!(answer.id(), id);
        answer.read::<R>()
    }

    /// The descriptor that came with the last answer.
    pub(crate) fn descriptor(&mut self) -> OwnedFd {
        assert_eq!(self.descriptors.len(), 1);
        self.descriptors.remove(0)
    }

    pub(crate) fn attach(&mut self, right: &Right) -> Handle {
        self.try_attach(&right.sign(&KEY)).unwrap()
    }

    pub(crate) fn try_attach(&mut self, capability: &[u8]) -> Result<Handle, Failure> {
        Ok(self.ask(&Attach { capability: capability.to_vec() })?.handle)
    }

    /// Reads, checks the answer against its checksums, and gives the bytes that were asked for.
    pub(crate) fn read(&mut self, handle: Handle, offset: u64, length: u32) -> Result<Vec<u8>, Failure> {
        self.read_as(ReadMode::Cache, handle, offset, length)
    }

    pub(crate) fn read_as(
        &mut self,
        mode: ReadMode,
        handle: Handle,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, Failure> {
        self.send(&Read { handle, offset, length, mode });
        let answer = self.receive().expect("the connection ended in place of an answer");
        let reply = answer.read::<Read>()?;
        assert_eq!(verify_sectors(&answer.payload, &reply.crcs), Ok(()), "sectors match their checksums");
        let start = (offset - reply.offset) as usize;
        let end = (start + length as usize).min(answer.payload.len());
        Ok(answer.payload[start..end].to_vec())
    }

    pub(crate) fn write(&mut self, handle: Handle, offset: u64, bytes: &[u8]) -> Result<Done, Failure> {
        self.ask_with(&Write { handle, offset }, bytes)
    }
}
