//! Which file systems answer at once: those whose bytes are on this machine's own devices or in its memory.
//!
//! Any other may wait for a server that is slow, or away, or for a program: NFS, CephFS and GlusterFS, whatever is served
//! by FUSE. A kind that is not known is taken for one of these, which costs a change of thread and never a hang.

use rustix::fs::FsWord;

const EXT: FsWord = 0xef53;
const XFS: FsWord = 0x5846_5342;
const BTRFS: FsWord = 0x9123_683e;
const F2FS: FsWord = 0xf2f5_2010;
const TMPFS: FsWord = 0x0102_1994;
const RAMFS: FsWord = 0x8584_58f6;
const HUGETLBFS: FsWord = 0x9584_58f6;
const ZFS: FsWord = 0x2fc1_2fc1;
const BCACHEFS: FsWord = 0xca45_1a4e;
const JFS: FsWord = 0x3153_464a;
const NILFS: FsWord = 0x3434;
const MSDOS: FsWord = 0x4d44;
const EXFAT: FsWord = 0x2011_bab0;
const NTFS3: FsWord = 0x7366_746e;
const ISOFS: FsWord = 0x9660;
const UDF: FsWord = 0x1501_3346;
const SQUASHFS: FsWord = 0x7371_7368;
const EROFS: FsWord = 0xe0f5_e1e2;
/// What containers have for a root. Its layers lie in other file systems, and these are near in all that is usual.
const OVERLAY: FsWord = 0x794c_7630;

/// Whether a file system of this kind is near.
pub(super) fn answers_at_once(magic: FsWord) -> bool {
    is_kept_by_this_kernel(magic)
        || matches!(magic, RAMFS | HUGETLBFS | ZFS | BCACHEFS | JFS | NILFS | OVERLAY)
        || matches!(magic, MSDOS | EXFAT | NTFS3 | ISOFS | UDF | SQUASHFS | EROFS)
}

/// Whether the kernel of this machine itself makes every change in a file system of this kind, and stamps the directory
/// with its own clock: others hear of changes elsewhere only after a while (NFS), or are told what another program
/// cares to tell (FUSE), or show what lies in other file systems (overlayfs).
pub(super) fn is_kept_by_this_kernel(magic: FsWord) -> bool {
    matches!(magic, EXT | XFS | BTRFS | F2FS | TMPFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_a_server_or_a_program_is_far() {
        let (nfs, fuse, ceph, plan9, smb) = (0x6969, 0x6573_5546, 0x00c3_6400, 0x0102_1997, 0xfe53_4d42);
        let (unknown, lustre) = (0x1234_5678, 0x0bd0_0bd0);
        for magic in [nfs, fuse, ceph, plan9, smb, lustre, unknown] {
            assert!(!answers_at_once(magic) && !is_kept_by_this_kernel(magic), "{magic:x}");
        }
        assert!(answers_at_once(OVERLAY) && !is_kept_by_this_kernel(OVERLAY));
        assert!(answers_at_once(EXT) && is_kept_by_this_kernel(EXT));
    }
}
