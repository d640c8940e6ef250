"""The check of each directory by itself: its blocks entry by entry, "." and "..", and its names."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from ext4img.errors import CorruptionError, Place, SourceError
from ext4img.structs.directory import (
    EXT4_DIR_ENTRY,
    EXT4_DIR_MIN_REC_LEN,
    EXT4_FT_DIR,
    EXT4_FT_MAX,
    EXT4_FT_UNKNOWN,
    EXT4_INLINE_DIR_PARENT,
)
from ext4img.structs.fscrypt import FSCRYPT_FNAME_MIN_MSG_LEN
from ext4img.structs.superblock import EXT4_OS_HURD
from ext4img.volume.dir_entry import BlockEntry, rec_len_from_disk
from ext4img.volume.features import Incompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import WRITTEN, Runs
from ext4img.volume.volume import Volume

_HEADER = EXT4_DIR_ENTRY.size
_DOTS = (b".", b"..")


@dataclass(slots=True)
class NameReferences:
    """All names of the volume, as columns: the inode, its directory, and its type (0: not given)."""

    children: array[int] = field(default_factory=lambda: array("I"))
    parents: array[int] = field(default_factory=lambda: array("I"))
    types: array[int] = field(default_factory=lambda: array("B"))
    dotdots: dict[int, int] = field(default_factory=dict)  # directory → the inode that its ".." names


class DirectoryChecker:
    """Checks directories of one volume, one after the other."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._problems = volume.problems
        self._has_filetype = Incompat.FILETYPE in volume.features
        self._is_hurd = volume.superblock.creator_os == EXT4_OS_HURD  # it has the feature, but sets no types
        self.references = NameReferences()

    def check(self, inode: StoredInode, runs: Runs) -> None:
        """Check a directory whose blocks are `runs`, and remember its names in `references`."""
        volume, references = self._volume, self.references
        # Listing reads and verifies every block, and reports malformed entries.
        names: set[bytes] = set()
        for entry in volume.directory(inode):
            references.children.append(entry.inode)
            references.parents.append(inode.number)
            references.types.append(entry.file_type & 0xFF)
            if entry.name in names:
                self._found(inode, f"duplicate name {entry.name!r}", None)
            names.add(entry.name)
            if inode.is_encrypted and len(entry.name) < FSCRYPT_FNAME_MIN_MSG_LEN:
                self._found(inode, f"encrypted name {entry.name!r} is too short", None)
            if not inode.is_encrypted and (b"/" in entry.name or b"\0" in entry.name):
                self._found(inode, f"impossible name {entry.name!r}", None)
            if entry.inode == inode.number:
                self._found(inode, f"entry {entry.name!r} names the directory itself", None)
        if inode.has_inline_data:
            (references.dotdots[inode.number],) = EXT4_INLINE_DIR_PARENT.unpack_tuple(inode.block_area)
        else:
            self._dots(inode, runs)

    def _dots(self, inode: StoredInode, runs: Runs) -> None:
        """Check that "." and ".." are the first two entries, and no others."""
        block_size = self._volume.block_size
        for number, (pblk, data) in enumerate(self._blocks(inode, runs)):
            entries = list(stored_entries(data))
            if number == 0:
                self._first_block(inode, pblk, entries)
                entries = entries[2:]
            for entry in entries:
                if entry.inode and entry.name in _DOTS:
                    self._found(inode, f"entry {entry.name!r} at byte {number * block_size + entry.offset}", pblk)
                elif entry.inode and self._has_filetype and entry.file_type >= EXT4_FT_MAX:
                    self._found(inode, f"entry {entry.name!r} has the unknown type {entry.file_type}", pblk)
                elif entry.inode and not self._has_filetype and entry.file_type:
                    self._found(inode, f"entry {entry.name!r} has type {entry.file_type} without the feature", pblk)
                elif entry.inode and self._has_filetype and not entry.file_type and not self._is_hurd:
                    place = Place(inode=inode.number, block=pblk, record=EXT4_DIR_ENTRY.name)
                    self._problems.remark(f"directory: entry {entry.name!r} has no type", place)

    def _first_block(self, inode: StoredInode, pblk: int, entries: list[BlockEntry]) -> None:
        for entry, name in zip(entries[:2], _DOTS, strict=False):
            if entry.name != name:
                self._found(inode, f"begins with {entry.name!r} instead of {name!r}", pblk)
            elif self._has_filetype and entry.file_type not in (EXT4_FT_UNKNOWN, EXT4_FT_DIR):
                self._found(inode, f"{name!r} has type {entry.file_type}", pblk)
        if len(entries) < 2:
            self._found(inode, "begins without '.' and '..'", pblk)
            return
        if entries[0].name == b"." and entries[0].inode != inode.number:
            self._found(inode, f"its '.' names inode {entries[0].inode}", pblk)
        if entries[1].name == b"..":
            self.references.dotdots[inode.number] = entries[1].inode

    def _blocks(self, inode: StoredInode, runs: Runs) -> Iterator[tuple[int, bytes]]:
        """(physical block, its bytes) of the readable blocks up to i_size."""
        end = -(-inode.size // self._volume.block_size)
        read = self._volume.blocks.read
        for run in runs:
            if run.state != WRITTEN:
                continue
            for pblk in range(run.pblk, run.pblk + min(run.length, max(end - run.lblk, 0))):
                try:
                    yield pblk, read(pblk)
                except (CorruptionError, SourceError):
                    continue  # reported when the directory was listed

    def _found(self, inode: StoredInode, reason: str, block: int | None) -> None:
        place = Place(inode=inode.number, block=block, record=EXT4_DIR_ENTRY.name)
        self._problems.found(CorruptionError(f"directory: {reason}", place))


def stored_entries(data: bytes) -> Iterator[BlockEntry]:
    """All entries of a block, also unused ones, up to the first with an impossible length."""
    end = len(data)
    offset = 0
    while offset + _HEADER <= end:
        number, rec_len, name_len, file_type = EXT4_DIR_ENTRY.unpack_tuple(data, offset)
        rec_len = rec_len_from_disk(rec_len, end)
        if rec_len < EXT4_DIR_MIN_REC_LEN or rec_len & 3 or offset + rec_len > end:
            return
        yield BlockEntry(offset, number, rec_len, data[offset + _HEADER : offset + _HEADER + name_len], file_type)
        offset += rec_len
