"""The check of quota files: the usage that they count for each user, group and project is the real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from struct import Struct
from typing import Final

from ext4img.errors import CorruptionError, Ext4Error, Place, SourceError
from ext4img.structs.inode import EXT4_EA_INODE_FL, EXT4_ROOT_INO, SECTOR_SIZE
from ext4img.structs.quota import (
    QT_BLKSIZE,
    QT_DISK_DQDBHEADER,
    QT_TREEDEPTH,
    QT_TREEOFF,
    V2_DISK_DQHEADER,
    V2_INITQMAGICS,
    V2R1_DISK_DQBLK,
)
from ext4img.volume.contents import Contents
from ext4img.volume.features import RoCompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import Volume

_KINDS: Final = ("user", "group", "project")
_VERSION: Final = 1
_references = Struct(f"<{QT_BLKSIZE // 4}I").unpack
MAX_DIFFERENCES: Final = 1000  # of one file that are reported


class QuotaChecker:
    """Sums up what inodes use, and compares that with the quota files. Memory: some 200 bytes for each id."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        superblock = volume.superblock
        self._files = superblock.quota_inodes if RoCompat.QUOTA in superblock.features else ()
        self._not_counted = {superblock.quota_inodes[2], superblock.orphan_file_inode}
        self._first_inode = superblock.first_inode
        self._bytes: tuple[Counter[int], ...] = tuple(Counter() for _ in _KINDS)
        self._inodes: tuple[Counter[int], ...] = tuple(Counter() for _ in _KINDS)

    def add(self, inode: StoredInode, value_inodes: int) -> None:
        """Count an inode in use, and the inodes that hold values of its attributes."""
        number = inode.number
        if not any(self._files) or inode.flags & EXT4_EA_INODE_FL or number in self._not_counted:
            return
        if number < self._first_inode and number != EXT4_ROOT_INO:
            return
        for kind, id_ in enumerate((inode.uid, inode.gid, inode.project_id)):
            self._bytes[kind][id_] += inode.sectors * SECTOR_SIZE
            self._inodes[kind][id_] += 1 + value_inodes

    def finish(self) -> None:
        """Compare the sums with the quota files."""
        for kind, number in enumerate(self._files):
            if number:
                try:
                    self._compare(kind, number)
                except SourceError as error:
                    self._volume.problems.unreadable(error, Place(inode=number))
                except Ext4Error as error:
                    reason = error.reason if isinstance(error, CorruptionError) else str(error)
                    self._found(number, f"{_KINDS[kind]} quota file: {reason}")

    def _compare(self, kind: int, number: int) -> None:
        contents = self._volume.contents(self._volume.inode(number))
        magic, version = V2_DISK_DQHEADER.unpack_tuple(contents.read(0, V2_DISK_DQHEADER.size).ljust(8, b"\0"))
        if magic != V2_INITQMAGICS[kind] or version != _VERSION:
            raise CorruptionError(f"magic {magic:#x}, version {version}", Place(inode=number))
        used_bytes, used_inodes = dict(self._bytes[kind]), dict(self._inodes[kind])
        told = 0
        for id_, counted_bytes, counted_inodes in _usage(contents, number):
            real_bytes, real_inodes = used_bytes.pop(id_, 0), used_inodes.pop(id_, 0)
            if (counted_bytes, counted_inodes) != (real_bytes, real_inodes) and told < MAX_DIFFERENCES:
                told += 1
                self._found(
                    number,
                    f"{_KINDS[kind]} quota counts {counted_bytes} bytes and {counted_inodes} inodes of {id_},"
                    f" which has {real_bytes} and {real_inodes}",
                )
        for id_, real_inodes in list(used_inodes.items())[: MAX_DIFFERENCES - told]:
            self._found(number, f"{_KINDS[kind]} quota does not count {id_}, which has {real_inodes} inodes")

    def _found(self, number: int, reason: str) -> None:
        self._volume.problems.found(CorruptionError(reason, Place(inode=number)))


def _usage(contents: Contents, inode: int) -> Iterator[tuple[int, int, int]]:
    """(id, bytes, inodes) of every entry. The tree's depth, and its blocks, each reached once, bound it."""
    count = contents.size // QT_BLKSIZE
    seen: set[int] = set()

    def read(block: int) -> bytes:
        if block >= count:
            raise CorruptionError(f"block {block} of {count}", Place(inode=inode))
        return contents.read(block * QT_BLKSIZE, QT_BLKSIZE)

    stack = [(QT_TREEOFF, 0)]
    while stack:
        block, depth = stack.pop()
        if block in seen:
            continue
        seen.add(block)
        data = read(block)
        if depth < QT_TREEDEPTH:
            stack += [(reference, depth + 1) for reference in dict.fromkeys(_references(data)) if reference]
            continue
        size = V2R1_DISK_DQBLK.size
        for at in range(QT_DISK_DQDBHEADER.size, QT_BLKSIZE - size + 1, size):
            if any(data[at : at + size]):
                entry = V2R1_DISK_DQBLK.unpack(data, at)
                yield entry.dqb_id, entry.dqb_curspace, entry.dqb_curinodes


__all__ = ["QuotaChecker"]
