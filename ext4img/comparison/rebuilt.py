"""What a new image need not have in common with the backup, or the image, that it was made of.

A rebuild gives files other inode numbers and blocks, and directories other blocks. None of that is
seen by a program that uses the files, unless ciphertext depends on it: then it is a difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.body import Buffer
from ext4img.archive.entry import Entry, Segments
from ext4img.crypto.policy import NONCE_SIZE, parse_context
from ext4img.errors import Ext4Error
from ext4img.fs.filesystem import FileSystem
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_HUGE_FILE_FL, EXT4_INDEX_FL, EXT4_INLINE_DATA_FL

ADDED: Final = "lost+found directory"
_LAYOUT_FLAGS: Final = EXT4_EXTENTS_FL | EXT4_HUGE_FILE_FL | EXT4_INDEX_FL | EXT4_INLINE_DATA_FL
_UNIT_BYTES: Final = 1 << 10  # the smallest block


class RebuildRules:
    """Which differences between a backup and an image are no more than a rebuild makes.

    They are counted by kind: "inode number", "directory size", "link count" (of names that the backup has),
    "layout flag" (extents, index, inline data, huge file), "birth time" (that the source does not have),
    "hole" (of another block size), and the directory lost+found.
    """

    def __init__(self, info: BackupInfo, fs: FileSystem) -> None:
        self._other_blocks = info.block_size != fs.block_size
        self._other_uuid = info.uuid != fs.superblock.uuid
        self._depends: dict[bytes, bool] = {}  # by policy

    def kind(self, field: str, ours: Entry, theirs: Entry) -> str | None:
        """What to count a differing field of an entry as; None if it is a difference."""
        if field == "inode":
            # Names, targets and contents under these policies decrypt by the inode's number.
            return None if self._needs_inode(ours.context) else "inode number"
        if field == "size" and ours.type == theirs.type == "dir":
            return "directory size"
        if field == "links" and ((ours.type == theirs.type == "dir") or theirs.links < ours.links):
            # A new image counts its own names: without those that were not backed up, with its lost+found. A name
            # that only one of both has is a difference itself.
            return "link count"
        if field == "flags" and not (ours.flags ^ theirs.flags) & ~_LAYOUT_FLAGS:
            return "layout flag"
        if field == "crtime_ns" and ours.crtime_ns is None:  # the source has no room for one
            return "birth time"
        if field in ("segments", "unwritten") and self._other_blocks and ours.context is None:
            return "hole"
        if field == "unwritten" and _joined(ours.unwritten) == _joined(theirs.unwritten):
            return "unwritten extent"  # the same ranges in other pieces
        return None

    def is_lost(self, entry: Entry) -> bool:
        """Whether an encrypted entry depends on the UUID of the file system, and the image has another."""
        return self._other_uuid and self._needs_inode(entry.context)

    def may_add(self, entry: Entry) -> bool:
        """Whether a rebuild makes this although the source does not have it: every new image has a lost+found."""
        return entry.path == b"lost+found" and entry.type == "dir"

    def _needs_inode(self, context: bytes | None) -> bool:
        if context is None:
            return False
        policy = context[:-NONCE_SIZE]
        if policy not in self._depends:
            try:
                self._depends[policy] = parse_context(context, supported_only=False).policy.needs_inode_number
            except Ext4Error:
                self._depends[policy] = True  # an unknown policy may depend on anything
        return self._depends[policy]


def with_offsets(segments: Segments, chunks: Iterable[Buffer]) -> Iterator[tuple[int, memoryview]]:
    """(offset in the file, data) of chunks that hold the segments one after the other."""
    places = iter(segments)
    offset = end = 0
    for chunk in chunks:
        data = memoryview(chunk)
        while data:
            if offset == end:
                offset, length = next(places)
                end = offset + length
            part = data[: end - offset]
            yield offset, part
            offset += len(part)
            data = data[len(part) :]


def data_digest(parts: Iterable[tuple[int, memoryview]]) -> str:
    """A digest of a file's contents that is the same wherever zeros are holes: of all units that are not zero."""
    digest = hashlib.sha256()
    zeros = bytes(_UNIT_BYTES)
    for offset, part in parts:
        for at in range(0, len(part), _UNIT_BYTES):
            unit = part[at : at + _UNIT_BYTES]
            if unit != zeros[: len(unit)]:
                digest.update((offset + at).to_bytes(8, "little"))
                digest.update(unit)
    return digest.hexdigest()


def _joined(ranges: Segments) -> list[tuple[int, int]]:
    """The ranges, each joined with the one that it continues."""
    joined: list[tuple[int, int]] = []
    for offset, length in ranges:
        if joined and sum(joined[-1]) == offset:
            offset, length = joined[-1][0], joined.pop()[1] + length  # noqa: PLW2901 - the longer one
        joined.append((offset, length))
    return joined
