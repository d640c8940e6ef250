"""Feature bits: their names, as dumpe2fs prints them, and which of them can be read.

The bits are from the kernel's fs/ext4/ext4.h (EXT4_FEATURE_*), the names from e2fsprogs'
lib/e2p/feature.c. Only `check_readable` refuses features; nothing else looks at unknown bits.
"""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

from ext4img.errors import UnsupportedFeatureError


class Compat(IntFlag):
    """s_feature_compat: software that does not know a bit may read and write."""

    DIR_PREALLOC = 0x0001
    IMAGIC_INODES = 0x0002
    HAS_JOURNAL = 0x0004
    EXT_ATTR = 0x0008
    RESIZE_INODE = 0x0010
    DIR_INDEX = 0x0020
    SPARSE_SUPER2 = 0x0200
    FAST_COMMIT = 0x0400
    STABLE_INODES = 0x0800
    ORPHAN_FILE = 0x1000


class Incompat(IntFlag):
    """s_feature_incompat: software that does not know a bit must not read."""

    COMPRESSION = 0x0001
    FILETYPE = 0x0002
    RECOVER = 0x0004
    JOURNAL_DEV = 0x0008
    META_BG = 0x0010
    EXTENTS = 0x0040
    BIT64 = 0x0080
    MMP = 0x0100
    FLEX_BG = 0x0200
    EA_INODE = 0x0400
    DIRDATA = 0x1000
    CSUM_SEED = 0x2000
    LARGEDIR = 0x4000
    INLINE_DATA = 0x8000
    ENCRYPT = 0x10000
    CASEFOLD = 0x20000


class RoCompat(IntFlag):
    """s_feature_ro_compat: software that does not know a bit may read, but not write."""

    SPARSE_SUPER = 0x0001
    LARGE_FILE = 0x0002
    BTREE_DIR = 0x0004
    HUGE_FILE = 0x0008
    GDT_CSUM = 0x0010
    DIR_NLINK = 0x0020
    EXTRA_ISIZE = 0x0040
    HAS_SNAPSHOT = 0x0080
    QUOTA = 0x0100
    BIGALLOC = 0x0200
    METADATA_CSUM = 0x0400
    REPLICA = 0x0800
    READONLY = 0x1000
    PROJECT = 0x2000
    SHARED_BLOCKS = 0x4000
    VERITY = 0x8000
    ORPHAN_PRESENT = 0x10000


_NAMES = {
    Compat.DIR_PREALLOC: "dir_prealloc",
    Compat.IMAGIC_INODES: "imagic_inodes",
    Compat.HAS_JOURNAL: "has_journal",
    Compat.EXT_ATTR: "ext_attr",
    Compat.RESIZE_INODE: "resize_inode",
    Compat.DIR_INDEX: "dir_index",
    Compat.SPARSE_SUPER2: "sparse_super2",
    Compat.FAST_COMMIT: "fast_commit",
    Compat.STABLE_INODES: "stable_inodes",
    Compat.ORPHAN_FILE: "orphan_file",
}
_INCOMPAT_NAMES = {
    Incompat.COMPRESSION: "compression",
    Incompat.FILETYPE: "filetype",
    Incompat.RECOVER: "needs_recovery",
    Incompat.JOURNAL_DEV: "journal_dev",
    Incompat.META_BG: "meta_bg",
    Incompat.EXTENTS: "extent",
    Incompat.BIT64: "64bit",
    Incompat.MMP: "mmp",
    Incompat.FLEX_BG: "flex_bg",
    Incompat.EA_INODE: "ea_inode",
    Incompat.DIRDATA: "dirdata",
    Incompat.CSUM_SEED: "metadata_csum_seed",
    Incompat.LARGEDIR: "large_dir",
    Incompat.INLINE_DATA: "inline_data",
    Incompat.ENCRYPT: "encrypt",
    Incompat.CASEFOLD: "casefold",
}
_RO_COMPAT_NAMES = {
    RoCompat.SPARSE_SUPER: "sparse_super",
    RoCompat.LARGE_FILE: "large_file",
    RoCompat.BTREE_DIR: "btree_dir",
    RoCompat.HUGE_FILE: "huge_file",
    RoCompat.GDT_CSUM: "uninit_bg",
    RoCompat.DIR_NLINK: "dir_nlink",
    RoCompat.EXTRA_ISIZE: "extra_isize",
    RoCompat.HAS_SNAPSHOT: "has_snapshot",
    RoCompat.QUOTA: "quota",
    RoCompat.BIGALLOC: "bigalloc",
    RoCompat.METADATA_CSUM: "metadata_csum",
    RoCompat.REPLICA: "replica",
    RoCompat.READONLY: "read-only",
    RoCompat.PROJECT: "project",
    RoCompat.SHARED_BLOCKS: "shared_blocks",
    RoCompat.VERITY: "verity",
    RoCompat.ORPHAN_PRESENT: "orphan_present",
}

# The incompatible features that are supported here. The kernel never had an on-disk format for
# COMPRESSION, DIRDATA is Lustre's, and JOURNAL_DEV is not a file system.
READABLE = (
    Incompat.FILETYPE
    | Incompat.RECOVER
    | Incompat.META_BG
    | Incompat.EXTENTS
    | Incompat.BIT64
    | Incompat.MMP
    | Incompat.FLEX_BG
    | Incompat.EA_INODE
    | Incompat.CSUM_SEED
    | Incompat.LARGEDIR
    | Incompat.INLINE_DATA
    | Incompat.ENCRYPT
    | Incompat.CASEFOLD
)
# The features of ext3; any other makes it ext4 (the rule of blkid, util-linux libblkid/src/superblocks/ext.c).
_EXT3_INCOMPAT = int(Incompat.FILETYPE | Incompat.RECOVER | Incompat.META_BG)
_EXT3_RO_COMPAT = int(RoCompat.SPARSE_SUPER | RoCompat.LARGE_FILE | RoCompat.BTREE_DIR)


class Features(NamedTuple):
    """The three feature words of a superblock. `names` lists them in dumpe2fs' order and words."""

    compat: Compat
    incompat: Incompat
    ro_compat: RoCompat

    @classmethod
    def from_words(cls, compat: int, incompat: int, ro_compat: int) -> Features:
        """From the superblock's words; unknown bits are kept."""
        return cls(Compat(compat), Incompat(incompat), RoCompat(ro_compat))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all set bits; an unknown one is FEATURE_C12 (compat), _I (incompat), _R (ro)."""
        return (
            *_bit_names(self.compat, _NAMES, "C"),
            *_bit_names(self.incompat, _INCOMPAT_NAMES, "I"),
            *_bit_names(self.ro_compat, _RO_COMPAT_NAMES, "R"),
        )

    @property
    def type(self) -> str:
        """ext2, ext3 or ext4, by the features in use."""
        if int(self.incompat) & ~_EXT3_INCOMPAT or int(self.ro_compat) & ~_EXT3_RO_COMPAT:
            return "ext4"
        return "ext3" if Compat.HAS_JOURNAL in self else "ext2"

    def __contains__(self, feature: object) -> bool:
        # Plain integers: `&` of flags creates an enumeration member each time, and this is called often.
        if isinstance(feature, Incompat):
            return int.__and__(self.incompat, feature) != 0
        if isinstance(feature, RoCompat):
            return int.__and__(self.ro_compat, feature) != 0
        if isinstance(feature, Compat):
            return int.__and__(self.compat, feature) != 0
        return isinstance(feature, str) and feature in self.names

    def __str__(self) -> str:
        return " ".join(self.names)

    def unknown_ro_compat(self) -> tuple[str, ...]:
        """Names of unknown read-only compatible features, which do not hinder reading."""
        return _bit_names(self.ro_compat & ~sum(_RO_COMPAT_NAMES), _RO_COMPAT_NAMES, "R")


def _bit_names(
    word: int, names: dict[Compat, str] | dict[Incompat, str] | dict[RoCompat, str], kind: str
) -> tuple[str, ...]:
    known = {int(bit): name for bit, name in names.items()}
    bits = [1 << n for n in range(32) if word >> n & 1]
    return tuple(known.get(bit, f"FEATURE_{kind}{bit.bit_length() - 1}") for bit in bits)


def check_readable(features: Features) -> None:
    """UnsupportedFeatureError for a file system with unknown incompatible features."""
    if Incompat.JOURNAL_DEV in features:
        raise UnsupportedFeatureError(
            "this is an external journal device (journal_dev), not a file system", ("journal_dev",)
        )
    # As plain numbers: the complement of an IntFlag has only the bits that are defined.
    refused = _bit_names(int(features.incompat) & ~int(READABLE), _INCOMPAT_NAMES, "I")
    if refused:
        raise UnsupportedFeatureError(f"unsupported incompatible features: {', '.join(refused)}", refused)
