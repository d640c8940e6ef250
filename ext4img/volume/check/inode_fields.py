"""The check of one inode's fields against its type, the features, and each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ext4img.structs.extent import EXT4_EXT_MAGIC, EXT4_EXTENT_HEADER
from ext4img.structs.inode import (
    EXT4_APPEND_FL,
    EXT4_BOOT_LOADER_INO,
    EXT4_CASEFOLD_FL,
    EXT4_EA_INODE_FL,
    EXT4_ENCRYPT_FL,
    EXT4_EXTENTS_FL,
    EXT4_GRP_QUOTA_INO,
    EXT4_HUGE_FILE_FL,
    EXT4_IMAGIC_FL,
    EXT4_IMMUTABLE_FL,
    EXT4_INDEX_FL,
    EXT4_INLINE_DATA_FL,
    EXT4_INODE,
    EXT4_JOURNAL_INO,
    EXT4_RESIZE_INO,
    EXT4_ROOT_INO,
    EXT4_USR_QUOTA_INO,
    EXT4_VERITY_FL,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
)
from ext4img.structs.superblock import EXT4_OS_HURD
from ext4img.volume.features import Compat, Incompat, RoCompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.superblock import Superblock

_FLAGS_NEED = (
    ("EXT4_EXTENTS_FL", EXT4_EXTENTS_FL, Incompat.EXTENTS),
    ("EXT4_INLINE_DATA_FL", EXT4_INLINE_DATA_FL, Incompat.INLINE_DATA),
    ("EXT4_ENCRYPT_FL", EXT4_ENCRYPT_FL, Incompat.ENCRYPT),
    ("EXT4_EA_INODE_FL", EXT4_EA_INODE_FL, Incompat.EA_INODE),
    ("EXT4_VERITY_FL", EXT4_VERITY_FL, RoCompat.VERITY),
    ("EXT4_HUGE_FILE_FL", EXT4_HUGE_FILE_FL, RoCompat.HUGE_FILE),
    ("EXT4_INDEX_FL", EXT4_INDEX_FL, Compat.DIR_INDEX),
    ("EXT4_IMAGIC_FL", EXT4_IMAGIC_FL, Compat.IMAGIC_INODES),
)
LARGE_FILE_BYTES = 1 << 31
_KEPT = EXT4_IMMUTABLE_FL | EXT4_APPEND_FL
_LAYOUT = EXT4_EXTENTS_FL | EXT4_INLINE_DATA_FL
_SPECIAL = ("char", "block", "fifo", "socket")


class WrongField(NamedTuple):
    """What is wrong with a field, and its name. A `remark` is tolerated, by e2fsck as well."""

    reason: str
    field: str
    remark: bool = False


def wrong_fields(superblock: Superblock, inode: StoredInode, raw: bytes) -> Iterator[WrongField]:
    """All that is wrong with the fields of an inode in use, whose bytes are `raw`.

    What __ext4_iget refuses is not among it: reading the inode reports that.
    """
    flags, features = inode.flags, superblock.features
    reserved = inode.number < superblock.first_inode and inode.number != EXT4_ROOT_INO
    if inode.type == "unknown" and not reserved:
        yield WrongField(f"i_mode is {inode.mode:#o}, which has no file type", "i_mode")
    for name, flag, feature in _FLAGS_NEED:
        if flags & flag and feature not in features:
            # ext4 looks at the one with its feature only, at the other for files only, e2fsck at neither.
            tolerated = flag == EXT4_HUGE_FILE_FL or (flag == EXT4_VERITY_FL and not inode.is_file)
            yield WrongField(f"{name} is set without the feature", "i_flags", remark=tolerated)
    yield from _wrong_for_type(inode)
    if inode.dtime and inode.links:
        yield WrongField(f"in use, but has a deletion time ({inode.dtime})", "i_dtime")
    yield from _unused_fields(superblock, inode, raw)
    if not flags & _LAYOUT and Incompat.EXTENTS in features and inode.type in ("file", "dir"):
        magic, entries, capacity, depth, _ = EXT4_EXTENT_HEADER.unpack_tuple(inode.block_area)
        if magic == EXT4_EXT_MAGIC and entries <= capacity <= 4 and depth <= 5:
            yield WrongField("EXT4_EXTENTS_FL is not set, but i_block is an extent tree", "i_flags")


def _wrong_for_type(inode: StoredInode) -> Iterator[WrongField]:
    flags, kind = inode.flags, inode.type
    if flags & EXT4_INDEX_FL and kind != "dir":
        yield WrongField("EXT4_INDEX_FL is set, but it is not a directory", "i_flags")
    if flags & EXT4_CASEFOLD_FL and kind != "dir":
        yield WrongField("EXT4_CASEFOLD_FL is set, but it is not a directory", "i_flags")
    if flags & EXT4_EA_INODE_FL and kind != "file":
        yield WrongField("EXT4_EA_INODE_FL is set, but it is not a regular file", "i_flags")
    if kind in _SPECIAL:
        if inode.size:
            yield WrongField(f"a special file of {inode.size} bytes", "i_size_lo")
        if flags & _LAYOUT:
            yield WrongField("a special file with extents or inline data", "i_flags")
        if flags & _KEPT:
            yield WrongField("a special file that is immutable or append-only", "i_flags", remark=True)


def _unused_fields(superblock: Superblock, inode: StoredInode, raw: bytes) -> Iterator[WrongField]:
    """Fields that must be zero without their feature. The Hurd uses them in another way."""
    record, features = EXT4_INODE.unpack(raw), superblock.features
    if record.i_obso_faddr:
        yield WrongField(f"i_obso_faddr is {record.i_obso_faddr}, but fragments do not exist", "i_obso_faddr")
    if inode.is_file and inode.size >= LARGE_FILE_BYTES and RoCompat.LARGE_FILE not in features:
        yield WrongField(f"a file of {inode.size} bytes without the large_file feature", "i_size_high")
    if inode.xattr_block and Compat.EXT_ATTR not in features:
        yield WrongField(f"attribute block {inode.xattr_block} without the ext_attr feature", "i_file_acl_lo")
    if inode.is_dir and record.i_size_high and Incompat.LARGEDIR not in features:
        yield WrongField(f"i_size_high of a directory is {record.i_size_high}", "i_size_high")
    if superblock.creator_os == EXT4_OS_HURD:
        return
    if record.l_i_file_acl_high and Incompat.BIT64 not in features:
        yield WrongField(f"l_i_file_acl_high is {record.l_i_file_acl_high} without 64bit", "l_i_file_acl_high")
    if record.l_i_blocks_high and RoCompat.HUGE_FILE not in features:
        yield WrongField(f"l_i_blocks_high is {record.l_i_blocks_high} without huge_file", "l_i_blocks_high")


def wrong_reserved_inode(superblock: Superblock, number: int, raw: bytes) -> WrongField | None:
    """What is wrong with an inode below the first that is not reserved, other than the root.

    Those that belong to no feature of this file system are unused.
    """
    record = EXT4_INODE.unpack(raw)
    kind = record.i_mode & S_IFMT
    quota = superblock.quota_inodes if RoCompat.QUOTA in superblock.features else ()
    if number == superblock.journal_inode or number in quota:
        wrong = kind != S_IFREG
    elif number in (EXT4_USR_QUOTA_INO, EXT4_GRP_QUOTA_INO, EXT4_JOURNAL_INO):
        wrong = bool(record.i_links_count or record.i_blocks_lo or any(record.i_block[:4]))
    elif number == EXT4_BOOT_LOADER_INO:
        wrong = kind == S_IFDIR
    elif number == EXT4_RESIZE_INO:
        wrong = kind not in (0, S_IFREG)
    else:
        wrong = bool(record.i_mode)
    return WrongField(f"a reserved inode of mode {record.i_mode:#o}", "i_mode") if wrong else None
