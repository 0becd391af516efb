//! Other workers: blocks of theirs that this one needs, to publish a file or because they are its own now.
//!
//! A link is kept to each shard of a worker that was asked, for as long as it lives. The right that is shown to a peer
//! is signed here, as the master would sign it: workers hold its keys.

use super::link::Link;
use crate::store::verify_sectors;
use bytes::Bytes;
use citius_wire::{
    Attach, ClientId, Detach, Failure, Handle, Hello, MacKey, Owner, Read, ReadMode, Right, Ring, Staged, Status,
    TRANSFER_BYTES_MAX, Token, WorkerId,
};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A shard of another worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub(crate) address: String,
    pub(crate) shard: u16,
}

impl Peer {
    /// The owner of a block, in its ring.
    pub(super) fn of(ring: &Ring, owner: Owner) -> Self {
        Self { address: ring.members[owner.member].data_address.clone(), shard: owner.shard }
    }
}

/// What is asked of a peer, and how.
pub(super) struct Asking<'a> {
    /// The file and what may be done with it.
    pub(super) right: &'a Right,
    /// What signs the right.
    pub(super) key: MacKey,
    /// What the peer does about bytes that it does not have.
    pub(super) mode: ReadMode,
    /// How long each answer may take.
    pub(super) patience: Duration,
}

/// The links to other workers.
pub(super) struct Peers {
    token: Token,
    worker: WorkerId,
    links: Mutex<HashMap<Peer, Arc<Link>>>,
}

impl Peers {
    pub(super) fn new(token: Token, worker: WorkerId) -> Self {
        Self { token, worker, links: Mutex::default() }
    }

    /// Bytes of one block of a file, compared with their checksums.
    pub(super) async fn read(&self, peer: &Peer, asking: &Asking<'_>, range: Range<u64>) -> Result<Bytes, Failure> {
        let (link, handle) = self.attach(peer, asking).await?;
        let read = read_by(&link, handle, peer, asking, range).await;
        // Also after a failure: the link stays, and what is attached to it would pile up.
        let detached = link.call(&Detach { handle }, asking.patience).await;
        read.and_then(|bytes| detached.map(|_| bytes))
    }

    /// Tells the shard that holds a block that its under-store has it.
    pub(super) async fn tell_staged(&self, peer: &Peer, asking: &Asking<'_>, index: u32) -> Result<(), Failure> {
        let (link, handle) = self.attach(peer, asking).await?;
        link.call(&Staged { handle, index }, asking.patience).await?;
        link.call(&Detach { handle }, asking.patience).await?;
        Ok(())
    }

    async fn attach(&self, peer: &Peer, asking: &Asking<'_>) -> Result<(Arc<Link>, Handle), Failure> {
        let link = self.link(peer).await?;
        let attach = Attach { capability: asking.right.sign(&asking.key) };
        let handle = link.call(&attach, asking.patience).await?.handle;
        Ok((link, handle))
    }

    async fn link(&self, peer: &Peer) -> Result<Arc<Link>, Failure> {
        let known = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.retain(|_, link| !link.is_dead());
            links.get(peer).map(Arc::clone)
        };
        if let Some(link) = known {
            return Ok(link);
        }
        let mut client = [0xff; 16];
        client[..8].copy_from_slice(&self.worker.0.to_le_bytes());
        let hello = Hello { token: self.token.clone(), client: ClientId(client), shard: peer.shard };
        // With no lock held: a peer that does not answer keeps nobody from the others. Of two links made at once, one
        // ends with what it was made for.
        let (link, _) = Link::connect(&peer.address, &hello).await?;
        let link = Arc::new(link);
        self.links.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.clone(), Arc::clone(&link));
        Ok(link)
    }
}

async fn read_by(
    link: &Link,
    handle: Handle,
    peer: &Peer,
    asking: &Asking<'_>,
    range: Range<u64>,
) -> Result<Bytes, Failure> {
    let address = &peer.address;
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    let mut offset = range.start;
    while offset < range.end {
        let length = (range.end - offset).min(u64::from(TRANSFER_BYTES_MAX)) as u32;
        let answer = link.ask(&Read { handle, length, offset, mode: asking.mode }, asking.patience).await?;
        let reply = answer.head().read_reply::<Read>()?;
        verify_sectors(&answer.payload, &reply.crcs).map_err(|sector| {
            let words = format!("sector {sector} of {length} bytes at {offset} came damaged from {address}");
            Failure::new(Status::Corrupt, words)
        })?;
        if reply.offset != offset || answer.payload.len() != length as usize {
            return Err(Failure::new(Status::Protocol, format!("{address} answered another range than was asked")));
        }
        bytes.extend_from_slice(&answer.payload);
        offset += u64::from(length);
    }
    Ok(Bytes::from(bytes))
}
