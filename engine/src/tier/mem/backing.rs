//! What kind of page a block is made of, and which kinds this machine grants.

use super::mapping::Mapping;
use super::memfd::Memfd;
use citius_wire::units::PAGE_BYTES;
use core::fmt;
use std::fs;

/// The kinds of page behind a block, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// 2 MiB pages of the system's hugepage pool. They never swap and never fragment; `sendfile` and FUSE passthrough
    /// do not work with them.
    Hugetlb,
    /// Ordinary shared memory that the kernel backs with transparent 2 MiB pages where it can.
    Thp,
    /// Ordinary 4 KiB pages.
    Small,
}

/// What the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackingChoice {
    /// The best that the machine grants.
    #[default]
    Best,
    /// This one, with as many pages as it has.
    Only(Backing),
}

impl Backing {
    /// The name that configuration, status and documents use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hugetlb => "hugetlb",
            Self::Thp => "thp",
            Self::Small => "small",
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Pages of the system's pool that are free and promised to nobody; 0 where there is no pool.
pub(super) fn hugepages_available() -> usize {
    let read = |name: &str| -> usize {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    read("free_hugepages").saturating_sub(read("resv_hugepages"))
}

/// Pages in the system's pool, used or not.
pub(super) fn hugepages_total() -> usize {
    fs::read_to_string("/proc/sys/vm/nr_hugepages").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether shared memory gets transparent hugepages here, found by asking for one page and looking at what came.
///
/// The setting alone does not say: it may be on and the kernel built without, or the memory too fragmented.
pub(super) fn is_thp_granted() -> bool {
    let Ok(memfd) = Memfd::create(Backing::Thp, "citius-probe", PAGE_BYTES) else { return false };
    let Ok(map) = Mapping::writable(&memfd) else { return false };
    // SAFETY: the page is mapped for as long as `map` lives.
    let populated = unsafe { libc::madvise(map.start().as_ptr().cast(), PAGE_BYTES, libc::MADV_POPULATE_WRITE) } == 0;
    populated
        && fs::read_to_string("/proc/self/smaps")
            .is_ok_and(|smaps| maps_a_hugepage(&smaps, map.start().as_ptr() as usize))
}

/// Reads from smaps whether the mapping at `address` has shared memory mapped by a hugepage.
fn maps_a_hugepage(smaps: &str, address: usize) -> bool {
    let head = format!("{address:x}-");
    smaps
        .lines()
        .skip_while(|line| !line.starts_with(&head))
        .find_map(|line| line.strip_prefix("ShmemPmdMapped:"))
        .is_some_and(|size| size.trim() != "0 kB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaps_of_the_right_mapping() {
        let smaps = "1000-2000 rw-s x\nShmemPmdMapped:        0 kB\n20000-40000 rw-s y\nRss: 1 kB\nShmemPmdMapped:     2048 kB\n";
        assert!(!maps_a_hugepage(smaps, 0x1000));
        assert!(maps_a_hugepage(smaps, 0x20000));
        assert!(!maps_a_hugepage(smaps, 0x30000));
    }
}
