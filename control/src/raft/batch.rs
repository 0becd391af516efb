//! An entry's payload: many commands and the time they were proposed.
//!
//! ```text
//!  0        1         4        8           16
//!  | kind 1 | 0 0 0   | count  | time_ms   | then `count` times: len u32, that many bytes |
//! ```
//! Little endian. `kind` tells the three payloads of the log apart (storage.rs); the bytes of a
//! batch are its payload, so an entry is encoded once and never copied on its way to the log.

use bytes::{BufMut, Bytes, BytesMut};

pub(crate) const KIND_BLANK: u8 = 0;
pub(crate) const KIND_BATCH: u8 = 1;
pub(crate) const KIND_MEMBERSHIP: u8 = 2;

const HEAD_BYTES: usize = 16;
const LEN_BYTES: usize = 4;

/// Commands of one entry, framed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Batch(Bytes);

/// Gathers commands for one entry.
pub(crate) struct BatchBuilder {
    bytes: BytesMut,
    count: u32,
}

/// The payload is not a batch that [`BatchBuilder`] made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadBatch;

/// Bytes that `commands` of these sizes take in an entry.
pub(crate) fn framed_bytes(commands: impl Iterator<Item = usize>) -> usize {
    HEAD_BYTES + commands.map(|bytes| LEN_BYTES + bytes).sum::<usize>()
}

impl BatchBuilder {
    pub(crate) fn new(bytes_expected: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(bytes_expected);
        bytes.put_bytes(0, HEAD_BYTES);
        BatchBuilder { bytes, count: 0 }
    }

    pub(crate) fn push(&mut self, command: &[u8]) {
        self.bytes.put_u32_le(command.len() as u32);
        self.bytes.put_slice(command);
        self.count += 1;
    }

    pub(crate) fn finish(mut self, time_ms: u64) -> Batch {
        self.bytes[0] = KIND_BATCH;
        self.bytes[4..8].copy_from_slice(&self.count.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&time_ms.to_le_bytes());
        Batch(self.bytes.freeze())
    }
}

impl Batch {
    /// Takes a payload whose kind is that of a batch. What it holds is checked by
    /// [`Batch::commands`].
    pub(crate) fn from_payload(payload: Bytes) -> Result<Batch, BadBatch> {
        if payload.len() < HEAD_BYTES || payload[..4] != [KIND_BATCH, 0, 0, 0] {
            return Err(BadBatch);
        }
        Ok(Batch(payload))
    }

    pub(crate) fn payload(&self) -> &Bytes {
        &self.0
    }

    pub(crate) fn len(&self) -> u32 {
        u32::from_le_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    pub(crate) fn time_ms(&self) -> u64 {
        let mut time = [0; 8];
        time.copy_from_slice(&self.0[8..16]);
        u64::from_le_bytes(time)
    }

    /// The commands in order; the whole frame is checked before the first is given out.
    pub(crate) fn commands(&self) -> Result<impl Iterator<Item = &[u8]>, BadBatch> {
        let mut rest = &self.0[HEAD_BYTES..];
        for _ in 0..self.len() {
            rest = split_command(rest).ok_or(BadBatch)?.1;
        }
        if !rest.is_empty() {
            return Err(BadBatch);
        }
        let mut rest = &self.0[HEAD_BYTES..];
        Ok(std::iter::from_fn(move || {
            let (command, after) = split_command(rest)?;
            rest = after;
            Some(command)
        }))
    }
}

fn split_command(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<LEN_BYTES>()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} commands, {} bytes)", self.len(), self.0.len())
    }
}

impl std::fmt::Display for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn batch(commands: &[Vec<u8>], time_ms: u64) -> Batch {
        let mut builder = BatchBuilder::new(0);
        for command in commands {
            builder.push(command);
        }
        builder.finish(time_ms)
    }

    /// The stored form is a promise to logs already written.
    #[test]
    fn golden_bytes() {
        let golden = [
            &[1, 0, 0, 0, 2, 0, 0, 0][..],
            &0x0102_0304_0506_0708u64.to_le_bytes(),
            &[3, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0, 0],
        ]
        .concat();
        let batch = batch(&[b"abc".to_vec(), Vec::new()], 0x0102_0304_0506_0708);
        assert_eq!(batch.payload()[..], golden[..]);
        assert_eq!(framed_bytes([3, 0].into_iter()), golden.len());
    }

    proptest! {
        #[test]
        fn round_trip(commands in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20), time_ms: u64) {
            let again = Batch::from_payload(batch(&commands, time_ms).payload().clone()).unwrap();
            prop_assert_eq!(again.time_ms(), time_ms);
            prop_assert_eq!(again.commands().unwrap().map(<[u8]>::to_vec).collect::<Vec<_>>(), commands);
        }

        /// Arbitrary bytes are refused or read within their bounds.
        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), honest_head: bool) {
            if honest_head && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&[1, 0, 0, 0, 3, 0, 0, 0]);
            }
            if let Ok(batch) = Batch::from_payload(Bytes::from(bytes))
                && let Ok(commands) = batch.commands()
            {
                prop_assert_eq!(commands.count(), batch.len() as usize);
            }
        }

        /// A frame cut anywhere is refused.
        #[test]
        fn a_cut_frame_is_refused(cut in 0usize..31) {
            let whole = batch(&[b"abc".to_vec(), b"defgh".to_vec()], 7).payload().clone();
            prop_assume!(cut < whole.len());
            let refused = match Batch::from_payload(whole.slice(..cut)) {
                Err(BadBatch) => true,
                Ok(batch) => batch.commands().is_err(),
            };
            prop_assert!(refused);
        }
    }
}
