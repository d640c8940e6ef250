"""Inodes: from their record to plain words (kernel: __ext4_iget, fs/ext4/inode.c)."""

from __future__ import annotations

import stat
from typing import NamedTuple

from ext4img.errors import CorruptionError, Place
from ext4img.structs.inode import (
    EXT4_ENCRYPT_FL,
    EXT4_HUGE_FILE_FL,
    EXT4_INLINE_DATA_FL,
    EXT4_INODE,
    EXT4_INODE_EXTRA,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    SECTOR_SIZE,
)
from ext4img.structs.superblock import EXT4_GOOD_OLD_INODE_SIZE
from ext4img.structs.xattr import EXT4_XATTR_MAGIC
from ext4img.volume.features import Incompat, RoCompat
from ext4img.volume.superblock import Superblock

_TYPES = {
    S_IFREG: "file",
    S_IFDIR: "dir",
    S_IFLNK: "symlink",
    S_IFCHR: "char",
    S_IFBLK: "block",
    S_IFIFO: "fifo",
    S_IFSOCK: "socket",
}
KNOWN_TYPES = frozenset(kind >> 12 for kind in _TYPES)
"""The upper four bits of the modes that have a file type."""
_BILLION = 1_000_000_000
_XATTR_MAGIC = EXT4_XATTR_MAGIC.to_bytes(4, "little")


class StoredInode(NamedTuple):
    """An inode in plain words. Times are nanoseconds since 1970, sizes bytes.

    `mode` includes the type bits of stat(2). `sectors` counts units of 512 bytes (st_blocks). `flags`
    are those on disk (FS_*_FL). `crtime_ns` is None if the inode has no room for it. `block_area` is
    i_block, uninterpreted. `inline_xattrs` are the bytes behind the fixed part of the inode, that is
    behind 128 + `extra_size` bytes; empty unless attributes are there.
    """

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    links: int
    sectors: int
    flags: int
    generation: int
    version: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    crtime_ns: int | None
    dtime: int
    project_id: int
    xattr_block: int
    block_area: bytes
    extra_size: int
    inline_xattrs: bytes

    @property
    def type(self) -> str:
        """file, dir, symlink, char, block, fifo or socket; unknown for any other mode."""
        return _TYPES.get(self.mode & S_IFMT, "unknown")

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.mode & S_IFMT == S_IFDIR

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode & S_IFMT == S_IFREG

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode & S_IFMT == S_IFLNK

    @property
    def is_encrypted(self) -> bool:
        """Whether the encrypt flag is set: its contents, the names in it, or its target are encrypted."""
        return bool(self.flags & EXT4_ENCRYPT_FL)

    @property
    def has_inline_data(self) -> bool:
        """Whether the contents are in the inode itself (inline_data)."""
        return bool(self.flags & EXT4_INLINE_DATA_FL)

    @property
    def permissions(self) -> int:
        """The mode without its type bits."""
        return self.mode & 0o7777

    @property
    def rdev(self) -> tuple[int, int] | None:
        """(major, minor) of a device, from the old or the new encoding; else None."""
        if self.mode & S_IFMT not in (S_IFCHR, S_IFBLK):
            return None
        old = int.from_bytes(self.block_area[0:4], "little")
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        new = int.from_bytes(self.block_area[4:8], "little")
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00

    @property
    def mode_string(self) -> str:
        """The mode as `ls -l` shows it."""
        return stat.filemode(self.mode)


class InodeFormat(NamedTuple):
    """The superblock's values that decide how an inode is read."""

    inode_size: int
    block_size: int
    has_huge_file: bool
    has_64bit: bool
    has_large_dir: bool
    has_project: bool

    @classmethod
    def of(cls, superblock: Superblock) -> InodeFormat:
        """The format of a volume's inodes."""
        features = superblock.features
        return cls(
            superblock.inode_size,
            superblock.block_size,
            RoCompat.HUGE_FILE in features,
            Incompat.BIT64 in features,
            Incompat.LARGEDIR in features,
            RoCompat.PROJECT in features,
        )


_core = EXT4_INODE.unpack_tuple
_extra = EXT4_INODE_EXTRA.unpack_tuple
_KNOWN_EXTRA_SIZE = EXT4_INODE_EXTRA.size
# Bytes of extra part that each field needs (EXT4_FITS_IN_INODE).
_CTIME, _MTIME, _ATIME, _CRTIME, _CRTIME_NS, _VERSION, _PROJECT = (
    field.offset + field.size for field in EXT4_INODE_EXTRA.fields[2:]
)


def _time_ns(seconds: int, extra: int) -> int:
    """Signed seconds, two epoch bits above them, 30 bits of nanoseconds (ext4_decode_extra_time)."""
    return (seconds + ((extra & 3) << 32)) * _BILLION + (extra >> 2)


def from_raw(number: int, raw: bytes, form: InodeFormat) -> StoredInode:
    """An inode from its `inode_size` bytes, whose checksum has been verified.

    CorruptionError for an impossible i_extra_isize.
    """
    (
        mode,
        uid,
        size,
        atime,
        ctime,
        mtime,
        dtime,
        gid,
        links,
        sectors,
        flags,
        version,
        block_area,
        generation,
        xattr_block,
        size_high,
        _,
        sectors_high,
        xattr_block_high,
        uid_high,
        gid_high,
        _,
        _,
    ) = _core(raw)
    extra_size = 0
    inline_xattrs = b""
    crtime_ns: int | None = None
    project_id = 0
    if form.inode_size > EXT4_GOOD_OLD_INODE_SIZE:
        stored_extra, _, ctime_x, mtime_x, atime_x, crtime, crtime_x, version_high, project = _extra(raw, 128)
        if stored_extra:
            if stored_extra & 3 or EXT4_GOOD_OLD_INODE_SIZE + stored_extra > form.inode_size:
                raise CorruptionError(
                    f"i_extra_isize is {stored_extra} in an inode of {form.inode_size} bytes",
                    Place(inode=number, record="ext4_inode", field="i_extra_isize"),
                )
            extra_size = stored_extra
            inline_xattrs = raw[EXT4_GOOD_OLD_INODE_SIZE + stored_extra :]
            if not inline_xattrs.startswith(_XATTR_MAGIC):
                inline_xattrs = b""
        else:
            # As in the kernel, unused extra space counts as having all known fields.
            extra_size = _KNOWN_EXTRA_SIZE
        if extra_size >= _PROJECT:
            if form.has_project:
                project_id = project
            version |= version_high << 32
            crtime_ns = _time_ns(crtime, crtime_x)
        else:  # rare: field by field
            if extra_size < _CTIME:
                ctime_x = 0
            if extra_size < _MTIME:
                mtime_x = 0
            if extra_size < _ATIME:
                atime_x = 0
            if extra_size >= _CRTIME:
                crtime_ns = _time_ns(crtime, crtime_x if extra_size >= _CRTIME_NS else 0)
            if extra_size >= _VERSION:
                version |= version_high << 32
    else:
        ctime_x = mtime_x = atime_x = 0
    kind = mode & S_IFMT
    if kind == S_IFREG or form.has_large_dir:
        size |= size_high << 32
    if form.has_huge_file:
        sectors |= sectors_high << 32
        if flags & EXT4_HUGE_FILE_FL:
            sectors *= form.block_size // SECTOR_SIZE
    if form.has_64bit:
        xattr_block |= xattr_block_high << 32
    return StoredInode(
        number,
        mode,
        uid | uid_high << 16,
        gid | gid_high << 16,
        size,
        links,
        sectors,
        flags,
        generation,
        version,
        _time_ns(atime, atime_x),
        _time_ns(mtime, mtime_x),
        _time_ns(ctime, ctime_x),
        crtime_ns,
        dtime,
        project_id,
        xattr_block,
        block_area,
        extra_size,
        inline_xattrs,
    )
