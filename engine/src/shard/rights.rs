//! What a connection may do: capabilities checked once, then named by handles; and which bytes a request means.
//!
//! Pure: time comes in as an argument.

use super::readahead::Readahead;
use citius_understore::{StorePath, VersionToken};
use citius_wire::units::{SECTOR_BYTES, block_length};
use citius_wire::{Access, BlockId, Failure, Handle, MacKey, Origin, Right, Status, TRANSFER_BYTES_MAX};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Capabilities attached to one connection.
pub(crate) const HANDLES_MAX: usize = 64 << 10;

/// A capability that was checked, as one connection uses it.
pub(crate) struct Attached {
    /// What it allows.
    pub(crate) right: Arc<Right>,
    /// Where the file is in its under-store.
    pub(crate) path: StorePath,
    /// The version that fetches are conditional on; `None` if the file is in no under-store.
    pub(crate) token: Option<VersionToken>,
    /// What its reads look like.
    pub(crate) readahead: Readahead,
}

/// The handles of one connection.
#[derive(Default)]
pub(crate) struct Handles {
    slots: Vec<Option<Rc<Attached>>>,
    free: Vec<u32>,
}

impl Handles {
    /// Checks a capability and names it.
    ///
    /// # Errors
    /// As [`Attached::check`]; `Busy` past [`HANDLES_MAX`].
    pub(crate) fn attach(&mut self, capability: &[u8], keys: &[MacKey], now_ms: u64) -> Result<Handle, Failure> {
        let attached = Rc::new(Attached::check(capability, keys, now_ms)?);
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < HANDLES_MAX => {
                self.slots.push(None);
                self.slots.len() as u32 - 1
            }
            None => {
                return Err(Failure::new(
                    Status::Busy,
                    format!("{HANDLES_MAX} files are attached to one connection: detach some"),
                ));
            }
        };
        self.slots[slot as usize] = Some(attached);
        Ok(Handle(slot))
    }

    /// Forgets a handle.
    ///
    /// # Errors
    /// `InvalidArgument` if there is none such.
    pub(crate) fn detach(&mut self, handle: Handle) -> Result<(), Failure> {
        let slot = self.slots.get_mut(handle.0 as usize).and_then(Option::take);
        slot.map(|_| self.free.push(handle.0)).ok_or_else(|| no_such(handle))
    }

    /// The file behind a handle, while its capability lasts.
    ///
    /// # Errors
    /// `InvalidArgument` for no such handle, `CapabilityExpired`.
    pub(crate) fn get(&self, handle: Handle, now_ms: u64) -> Result<&Rc<Attached>, Failure> {
        let attached = self.slots.get(handle.0 as usize).and_then(Option::as_ref).ok_or_else(|| no_such(handle))?;
        if now_ms >= attached.right.expires_ms {
            return Err(Failure::new(
                Status::CapabilityExpired,
                "the capability is past its time: open the file again",
            ));
        }
        Ok(attached)
    }
}

/// What an under-store says of the path or the version of a right.
fn refused(right: &Right, error: &citius_understore::Error) -> Failure {
    crate::failure::of_store("attaching", &right.path, error)
}

fn no_such(handle: Handle) -> Failure {
    Failure::new(Status::InvalidArgument, format!("no file is attached as {handle} to this connection"))
}

/// Bytes of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The block.
    pub(crate) block: BlockId,
    /// Where the block begins in the file.
    pub(crate) block_start: u64,
    /// Bytes of the whole block.
    pub(crate) block_length: u32,
    /// Which bytes of the block, in whole sectors but for the end of the file.
    pub(crate) range: Range<u32>,
}

impl Wanted {
    /// Where the wanted bytes begin in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.block_start + u64::from(self.range.start)
    }
}

impl Attached {
    /// What a capability allows, if it is a good one.
    ///
    /// # Errors
    /// `CapabilityForged`, `CapabilityExpired`; `InvalidName` for a path that no under-store can have.
    pub(crate) fn check(capability: &[u8], keys: &[MacKey], now_ms: u64) -> Result<Self, Failure> {
        let right = Right::check(capability, keys, now_ms)?;
        let path = StorePath::parse(&right.path).map_err(|error| refused(&right, &error))?;
        let token = match &right.origin {
            Origin::UnderStore { token } => Some(VersionToken::new(token).map_err(|error| refused(&right, &error))?),
            Origin::Memory { .. } | Origin::Writer { .. } => None,
        };
        Ok(Self { right: Arc::new(right), path, token, readahead: Readahead::default() })
    }

    /// The right to write, if that is what was given.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub(crate) fn for_writing(&self) -> Result<&Arc<Right>, Failure> {
        match self.right.access {
            Access::Write => Ok(&self.right),
            Access::Read => Err(Failure::new(
                Status::PermissionDenied,
                format!("{} was opened for reading, not for writing", self.right.path),
            )),
        }
    }

    /// A whole block of a file whose length is known.
    ///
    /// # Errors
    /// `InvalidArgument` past the end.
    pub(crate) fn whole_block(&self, index: u32) -> Result<Wanted, Failure> {
        let right = &self.right;
        let length = block_length(right.length, right.block_bytes, index);
        if length == 0 {
            return Err(Failure::new(
                Status::InvalidArgument,
                format!("{} has no block {index}: it has {} bytes", right.path, right.length),
            ));
        }
        Ok(Wanted {
            block: BlockId { file: right.file, index },
            block_start: u64::from(index) * u64::from(right.block_bytes),
            block_length: length,
            range: 0..length,
        })
    }

    /// What a read asks for, widened to sectors. `block_length_known` is what a shard knows of a block that is being
    /// written, whose file has no length yet.
    ///
    /// # Errors
    /// `InvalidArgument` if it is empty, longer than a transfer, crosses a block or begins past the end.
    pub(crate) fn read_range(
        &self,
        offset: u64,
        length: u32,
        block_length_known: impl FnOnce(BlockId) -> Option<u32>,
    ) -> Result<Wanted, Failure> {
        let right = &self.right;
        let refuse = |why: &str| {
            Failure::new(
                Status::InvalidArgument,
                format!("a read of {length} bytes at {offset} of {}: {why}", right.path),
            )
        };
        if length == 0 || length > TRANSFER_BYTES_MAX {
            return Err(refuse("it should have 1 byte to 4 MiB"));
        }
        let block_bytes = u64::from(right.block_bytes);
        let index = u32::try_from(offset / block_bytes).map_err(|_| refuse("no file is so long"))?;
        let block = BlockId { file: right.file, index };
        let block_length = match right.origin {
            Origin::Writer { .. } => block_length_known(block).unwrap_or(0),
            Origin::UnderStore { .. } | Origin::Memory { .. } => block_length(right.length, right.block_bytes, index),
        };
        let start = (offset % block_bytes) as u32;
        if start >= block_length {
            return Err(refuse("it begins past the end"));
        }
        if start + length > right.block_bytes {
            return Err(refuse("it crosses the end of a block"));
        }
        let sector = SECTOR_BYTES as u32;
        let end = (start + length).next_multiple_of(sector).min(block_length);
        Ok(Wanted {
            block,
            block_start: u64::from(index) * block_bytes,
            block_length,
            range: start / sector * sector..end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use citius_wire::{FileKey, MountId, Place};

    fn right(length: u64) -> Right {
        Right {
            file: FileKey([1; 16]),
            place: Place(1),
            mount: MountId(1),
            path: "f".into(),
            origin: Origin::UnderStore { token: vec![1] },
            length,
            block_bytes: 2 << 20,
            access: Access::Read,
            user: String::new(),
            expires_ms: 100,
        }
    }

    fn attached(length: u64) -> Rc<Attached> {
        let key = MacKey([1; 32]);
        let mut handles = Handles::default();
        let handle = handles.attach(&right(length).sign(&key), &[key], 0).unwrap();
        Rc::clone(handles.get(handle, 0).unwrap())
    }

    #[test]
    fn handles_are_reused_expire_and_do_not_reach_others() {
        let key = MacKey([1; 32]);
        let capability = right(1).sign(&key);
        let keys = [key];
        let mut handles = Handles::default();
        let (a, b) = (handles.attach(&capability, &keys, 0).unwrap(), handles.attach(&capability, &keys, 0).unwrap());
        assert_ne!(a, b);
        assert!(handles.get(a, 99).is_ok());
        assert_eq!(handles.get(a, 100).err().unwrap().status, Status::CapabilityExpired);
        handles.detach(a).unwrap();
        assert_eq!(handles.get(a, 0).err().unwrap().status, Status::InvalidArgument);
        assert!(handles.detach(a).is_err());
        assert_eq!(handles.attach(&capability, &keys, 0).unwrap(), a);
        assert!(handles.get(Handle(99), 0).is_err());
    }

    #[test]
    fn reads_widen_to_sectors_and_stop_at_the_end() {
        let file = attached((2 << 20) + 5000);
        let range =
            |offset, length| file.read_range(offset, length, |_| None).map(|wanted| (wanted.block.index, wanted.range));
        assert_eq!(range(0, 1).unwrap(), (0, 0..4096));
        assert_eq!(range(4095, 2).unwrap(), (0, 0..8192));
        assert_eq!(range((2 << 20) + 4096, 4096).unwrap(), (1, 4096..5000));
        assert_eq!(range((2 << 20) - 1, 1).unwrap(), (0, (2 << 20) - 4096..2 << 20));
        for (offset, length) in [(0, 0), (0, (4 << 20) + 1), ((2 << 20) - 1, 2), ((2 << 20) + 5000, 1), (u64::MAX, 1)] {
            assert_eq!(range(offset, length).unwrap_err().status, Status::InvalidArgument, "{offset} {length}");
        }
        assert_eq!(file.whole_block(1).unwrap().range, 0..5000);
        assert!(file.whole_block(2).is_err());
        assert_eq!(file.for_writing().unwrap_err().status, Status::PermissionDenied);
    }
}
