//! Mapped memory: blocks of a worker on this host, to read and to write.
//!
//! What is read is a sealed memfd: its length and its bytes can no longer change, by anyone. The seals are checked
//! before the map is made, because everything here rests on them: a slice of it is a Rust slice, a grain verified once
//! stays verified, and no access can fault past its end.
//!
//! ```text
//! crcs      one u32 a sector, from the worker, beside the descriptor
//! verified  one bit a grain (32 KiB): its sectors matched when this process first touched it
//! ```
#![allow(unsafe_code)]

use citius_wire::units::{BLOCK_BYTES_MAX, GRAIN_BYTES, SECTOR_BYTES, SECTORS_PER_GRAIN};
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, Ordering};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// Why a descriptor is not mapped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    #[error("the descriptor cannot be mapped: {0}")]
    Kernel(#[from] rustix::io::Errno),
    #[error("{0}")]
    Unfit(&'static str),
}

/// Memory of a descriptor, until it is dropped.
struct Map {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a map is plain memory that belongs to no thread.
unsafe impl Send for Map {}
// SAFETY: `Map` itself gives no access; the types around it say who may read and write.
unsafe impl Sync for Map {}

impl Map {
    /// Maps all of a memfd that is sealed against shrinking, as `seals` and `length` demand.
    fn new(descriptor: &OwnedFd, length: u32, seals: SealFlags, prot: ProtFlags) -> Result<Self, MapError> {
        if !rustix::fs::fcntl_get_seals(descriptor)?.contains(seals) {
            return Err(MapError::Unfit("the worker sent memory that is not sealed"));
        }
        let bytes = u64::try_from(rustix::fs::fstat(descriptor)?.st_size).unwrap_or(0);
        if bytes < u64::from(length) || bytes > u64::from(BLOCK_BYTES_MAX) || bytes == 0 {
            return Err(MapError::Unfit("the worker sent memory of another length than the block's"));
        }
        let bytes = bytes as usize;
        // The page tables are filled at once: one call instead of a fault for every page (or, of ordinary pages, for
        // every sixteenth), each of which costs what a small read does.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new map where the kernel chooses touches no memory of ours.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, prot, flags, descriptor.as_fd(), 0) }?;
        let base = NonNull::new(base.cast()).ok_or(MapError::Unfit("the kernel mapped it at address 0"))?;
        Ok(Self { base, bytes })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this is the map that `new` made, and whoever borrowed from it borrowed `self`.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(result.is_ok(), "munmap of our own map: {result:?}");
    }
}

/// A complete block of a worker on this host, with the checksums of its sectors.
pub(crate) struct MappedBlock {
    map: Map,
    length: u32,
    crcs: Box<[u32]>,
    verified: Box<[AtomicU64]>,
}

/// A sector of a mapped block that does not match its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadSector {
    /// Its first byte, in the block.
    pub(crate) start: u32,
}

/// What a read of mapped memory found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// All of it had been verified before.
    Warm,
    /// Some of it was verified now.
    First,
}

impl MappedBlock {
    /// Maps a block of `length` bytes.
    pub(crate) fn new(descriptor: &OwnedFd, length: u32, crcs: Vec<u32>) -> Result<Self, MapError> {
        if crcs.len() != (length as usize).div_ceil(SECTOR_BYTES) {
            return Err(MapError::Unfit("the worker sent another number of checksums than the block has sectors"));
        }
        let map = Map::new(descriptor, length, SealFlags::SHRINK | SealFlags::WRITE, ProtFlags::READ)?;
        let words = (length as usize).div_ceil(GRAIN_BYTES).div_ceil(64);
        Ok(Self { map, length, crcs: crcs.into(), verified: (0..words).map(|_| AtomicU64::new(0)).collect() })
    }

    /// Copies verified bytes from `start` on.
    ///
    /// Cost of a warm copy: one atomic load for every 2 MiB, and the copy. A first touch checks grain by grain, each
    /// copied while the check has it in the cache.
    ///
    /// # Errors
    /// The first sector that does not match; `into` holds nothing to be trusted then.
    pub(crate) fn copy(&self, start: u32, into: &mut [u8]) -> Result<Touch, BadSector> {
        let from = start as usize;
        let range = from..from + into.len();
        let bytes = &self.bytes()[range.clone()];
        if self.is_verified(&range) {
            into.copy_from_slice(bytes);
            return Ok(Touch::Warm);
        }
        let mut at = range.start;
        while at < range.end {
            let grain = at / GRAIN_BYTES;
            let end = ((grain + 1) * GRAIN_BYTES).min(range.end);
            self.verify_grain(grain)?;
            into[at - from..end - from].copy_from_slice(&self.bytes()[at..end]);
            at = end;
        }
        Ok(Touch::First)
    }

    /// A slice of verified bytes.
    ///
    /// # Errors
    /// The first sector that does not match.
    pub(crate) fn view(&self, range: Range<usize>) -> Result<(&[u8], Touch), BadSector> {
        let bytes = &self.bytes()[range.clone()];
        if range.is_empty() || self.is_verified(&range) {
            return Ok((bytes, Touch::Warm));
        }
        for grain in range.start / GRAIN_BYTES..range.end.div_ceil(GRAIN_BYTES) {
            self.verify_grain(grain)?;
        }
        Ok((bytes, Touch::First))
    }

    /// Bytes whose grains were verified by [`MappedBlock::view`] before.
    pub(crate) fn verified(&self, range: Range<usize>) -> &[u8] {
        debug_assert!(range.is_empty() || self.is_verified(&range));
        &self.bytes()[range]
    }

    /// All bytes of the block, verified or not.
    fn bytes(&self) -> &[u8] {
        debug_assert!(self.length as usize <= self.map.bytes);
        // SAFETY: the map has at least `length` bytes and lives as long as `self`; the memfd under it is sealed
        // against shrinking and writing, so no byte of it changes or goes away.
        unsafe { core::slice::from_raw_parts(self.map.base.as_ptr(), self.length as usize) }
    }

    /// Whether all grains of a range, which is not empty, were verified.
    fn is_verified(&self, range: &Range<usize>) -> bool {
        let (mut grain, last) = (range.start / GRAIN_BYTES, range.end.saturating_sub(1) / GRAIN_BYTES);
        while grain <= last {
            let (word, first_bit) = (grain / 64, grain % 64);
            let bits = (last - grain + 1).min(64 - first_bit);
            let mask = (u64::MAX >> (64 - bits)) << first_bit;
            // Acquire is for nothing but symmetry: the bytes never change, and it is free where it matters.
            if self.verified[word].load(Ordering::Acquire) & mask != mask {
                return false;
            }
            grain += bits;
        }
        true
    }

    fn verify_grain(&self, grain: usize) -> Result<(), BadSector> {
        let (word, bit) = (&self.verified[grain / 64], 1_u64 << (grain % 64));
        if word.load(Ordering::Acquire) & bit != 0 {
            return Ok(());
        }
        let start = grain * GRAIN_BYTES;
        let end = (start + GRAIN_BYTES).min(self.length as usize);
        for (i, sector) in self.bytes()[start..end].chunks(SECTOR_BYTES).enumerate() {
            if crc32fast::hash(sector) != self.crcs[grain * SECTORS_PER_GRAIN + i] {
                return Err(BadSector { start: (start + i * SECTOR_BYTES) as u32 });
            }
        }
        word.fetch_or(bit, Ordering::Release);
        Ok(())
    }
}

impl core::fmt::Debug for MappedBlock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "MappedBlock({} bytes)", self.length)
    }
}

/// A block of a worker on this host that is being written, from its start on.
pub(crate) struct WritableBlock {
    map: Map,
    filled: u32,
    block_bytes: u32,
}

impl WritableBlock {
    /// Maps a fresh block.
    pub(crate) fn new(descriptor: &OwnedFd, block_bytes: u32) -> Result<Self, MapError> {
        let map = Map::new(descriptor, block_bytes, SealFlags::SHRINK, ProtFlags::READ | ProtFlags::WRITE)?;
        Ok(Self { map, filled: 0, block_bytes })
    }

    /// Appends as much as there is room for, and says how much that was.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min((self.block_bytes - self.filled) as usize);
        let end = self.filled as usize + count;
        assert!(end <= self.map.bytes);
        // SAFETY: the target is inside the map, which the memfd's seal keeps from shrinking. It may be mapped by the
        // worker too, which does not read it before it is sealed; no reference to it is ever made here.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.base.as_ptr().add(self.filled as usize), count);
        }
        self.filled = end as u32;
        count
    }
}

impl core::fmt::Debug for WritableBlock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "WritableBlock({} of {} bytes)", self.filled, self.block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::MemfdFlags;

    fn memfd(bytes: &[u8], seals: SealFlags) -> OwnedFd {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, (bytes.len() as u64).next_multiple_of(4096).max(4096)).unwrap();
        let mut at = 0;
        while at < bytes.len() {
            at += rustix::io::pwrite(&fd, &bytes[at..], at as u64).unwrap();
        }
        seal(&fd, seals);
        fd
    }

    /// Seals memory that nobody maps. The kernel refuses for a moment while it is busy with one of the pages itself.
    fn seal(fd: &OwnedFd, seals: SealFlags) {
        const ATTEMPTS_MAX: usize = 20;
        let refusals = (0..ATTEMPTS_MAX).map_while(|_| rustix::fs::fcntl_add_seals(fd, seals).err());
        let refused = refusals.inspect(|errno| assert_eq!(*errno, rustix::io::Errno::BUSY)).count();
        assert!(refused < ATTEMPTS_MAX, "the pages stay in use");
    }

    fn sums(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks(SECTOR_BYTES).map(crc32fast::hash).collect()
    }

    const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE);

    #[test]
    fn memory_that_could_change_is_refused() {
        let bytes = vec![1; 8192];
        for seals in [SealFlags::SHRINK, SealFlags::WRITE, SealFlags::empty()] {
            assert!(MappedBlock::new(&memfd(&bytes, seals), 8192, sums(&bytes)).is_err());
        }
        let sealed = memfd(&bytes, SEALS);
        assert!(MappedBlock::new(&sealed, 8193, sums(&[1; 8193])).is_err(), "longer than the memfd");
        assert!(MappedBlock::new(&sealed, 8192, vec![0; 1]).is_err(), "a checksum is missing");
        assert!(MappedBlock::new(&sealed, 8192, sums(&bytes)).is_ok());
        assert!(WritableBlock::new(&memfd(&bytes, SealFlags::empty()), 8192).is_err());
    }

    #[test]
    fn written_bytes_arrive_and_end_at_the_block() {
        let fd = memfd(&[], SealFlags::SHRINK);
        let mut block = WritableBlock::new(&fd, 4000).unwrap();
        assert_eq!(block.append(&[7; 3000]), 3000);
        assert_eq!(block.append(&[8; 3000]), 1000);
        assert_eq!((block.append(&[9; 1]), block.filled), (0, 4000));
        drop(block);
        seal(&fd, SealFlags::WRITE);
        let mut found = vec![0; 4000];
        rustix::io::pread(&fd, &mut found, 0).unwrap();
        assert!(found[..3000].iter().all(|b| *b == 7) && found[3000..].iter().all(|b| *b == 8));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Reads in any order give the bytes, except that none touches a grain with a flipped bit and succeeds.
        #[test]
        fn reads_equal_the_bytes_and_never_a_damaged_grain(
            length in 1_usize..3_000_000,
            reads in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..300_000), 1..12),
            flip in any::<prop::sample::Index>(),
            damaged: bool,
        ) {
            let good: Vec<u8> = (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let crcs = sums(&good);
            let mut stored = good.clone();
            let flip = flip.index(length);
            if damaged {
                stored[flip] ^= 1;
            }
            let block = MappedBlock::new(&memfd(&stored, SEALS), length as u32, crcs).unwrap();
            for (start, count) in reads {
                let start = start.index(length);
                let end = (start + count).min(length);
                let mut into = vec![0; end - start];
                let grains = start / GRAIN_BYTES..end.div_ceil(GRAIN_BYTES);
                let is_hit = damaged && grains.contains(&(flip / GRAIN_BYTES));
                match block.copy(start as u32, &mut into) {
                    Ok(_) => {
                        prop_assert!(!is_hit);
                        prop_assert_eq!(&into[..], &good[start..end]);
                        prop_assert_eq!(block.copy(start as u32, &mut into), Ok(Touch::Warm));
                        prop_assert_eq!(block.view(start..end).unwrap().0, &good[start..end]);
                    }
                    Err(bad) => {
                        prop_assert!(is_hit);
                        prop_assert_eq!(bad.start as usize, flip / SECTOR_BYTES * SECTOR_BYTES);
                    }
                }
            }
        }
    }
}
