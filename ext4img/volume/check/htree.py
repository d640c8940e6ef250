"""The check of a directory's index: every node within bounds, every leaf once, every name in the leaf of its hash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ext4img.errors import CorruptionError, Place, SourceError
from ext4img.names.dirhash import dirhashes
from ext4img.structs.directory import (
    DX_BLOCK_MASK,
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_HASH_SIPHASH,
    DX_NODE_ENTRIES_OFFSET,
    DX_ROOT_ENTRIES_OFFSET,
    DX_ROOT_INFO,
    DX_TAIL,
    EXT4_DIR_ENTRY_HASH,
)
from ext4img.structs.inode import EXT4_CASEFOLD_FL, EXT4_INDEX_FL
from ext4img.volume.check.directories import stored_entries
from ext4img.volume.dir_entry import BlockEntry, entry_size
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import WRITTEN, Runs
from ext4img.volume.volume import Volume

_HASH_END = 1 << 32
_MAX_PENDING = 4096  # names that are hashed together


class IndexLeaf(NamedTuple):
    """A leaf according to the index: its logical block, its first hash, and the next leaf's first hash."""

    lblk: int
    first: int
    following: int


class IndexChecker:
    """Checks the indexes of a volume's directories, one after the other."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._has_tails = volume.superblock.has_metadata_checksums

    def check(self, inode: StoredInode, runs: Runs) -> None:
        """Check the index of a directory whose blocks are `runs`, if it has one."""
        if not inode.flags & EXT4_INDEX_FL or inode.has_inline_data:
            return
        tree = self._volume.index(inode)
        if tree is None:
            return  # its damaged root has been reported
        count = -(-inode.size // self._volume.block_size)
        where: dict[int, int] = {}
        for run in runs:
            if run.state == WRITTEN and run.lblk < count:
                for lblk in range(run.lblk, min(run.end, count)):
                    where[lblk] = run.pblk + lblk - run.lblk
        if 0 not in where:
            return  # a hole, reported when the directory was listed
        seen = {0}
        leaves = self._leaves(inode, 0, tree.levels, 0, _HASH_END, where, seen)
        self._check_leaves(inode, leaves, where, tree.hash_version)
        missing = sorted(set(where) - seen)
        if missing:
            self._found(inode, f"{len(missing)} blocks are not in the index, the first is logical block {missing[0]}")

    def _check_leaves(
        self, inode: StoredInode, leaves: Iterator[IndexLeaf], where: dict[int, int], version: int
    ) -> None:
        """Check that every name is in the leaf of its hash. Many names are hashed at once."""
        stored = version == DX_HASH_SIPHASH and inode.is_encrypted
        folded = version == DX_HASH_SIPHASH or inode.flags & EXT4_CASEFOLD_FL
        pending: list[tuple[IndexLeaf, BlockEntry]] = []
        for leaf in leaves:
            try:
                block = self._volume.blocks.read(where[leaf.lblk])
            except (CorruptionError, SourceError):
                continue  # reported when the directory was listed
            if stored:
                for entry, major in _stored_hashes(block):
                    self._check_name(inode, leaf, where[leaf.lblk], entry, major)
            elif not folded:  # the others need a key, or case folding
                pending += [(leaf, entry) for entry in stored_entries(block) if entry.inode and entry.name]
                if len(pending) > _MAX_PENDING:
                    self._check_pending(inode, pending, where, version)
                    pending = []
        if pending:
            self._check_pending(inode, pending, where, version)

    def _check_pending(
        self, inode: StoredInode, pending: list[tuple[IndexLeaf, BlockEntry]], where: dict[int, int], version: int
    ) -> None:
        hashes = dirhashes([entry.name for _, entry in pending], version, self._volume.superblock.hash_seed)
        for (leaf, entry), (major, _) in zip(pending, hashes, strict=True):
            self._check_name(inode, leaf, where[leaf.lblk], entry, major)

    def _check_name(self, inode: StoredInode, leaf: IndexLeaf, pblk: int, entry: BlockEntry, major: int) -> None:
        # An odd first hash means that the names of the even hash below it continue from the leaf before.
        continues = leaf.following & 1 and major == leaf.following & ~1
        if not (leaf.first & ~1 <= major < leaf.following or continues):
            reason = f"name {entry.name!r} of hash {major:#x} in a leaf of {leaf.first:#x} to {leaf.following:#x}"
            self._found(inode, reason, pblk)

    def _leaves(
        self,
        inode: StoredInode,
        lblk: int,
        levels: int,
        first: int,
        following: int,
        where: dict[int, int],
        seen: set[int],
    ) -> Iterator[IndexLeaf]:
        """The leaves below an index block; every block is read once."""
        try:
            block = self._volume.blocks.read(where[lblk])
        except (CorruptionError, SourceError):
            return  # reported when the directory was listed
        offset = DX_NODE_ENTRIES_OFFSET if lblk else DX_ROOT_ENTRIES_OFFSET
        limit, count = DX_COUNTLIMIT.unpack_tuple(block, offset)
        room = (len(block) - offset - self._has_tails * DX_TAIL.size) // DX_ENTRY.size
        if limit != room or not 0 < count <= limit:
            self._found(inode, f"index block with {count} entries of {limit}, there is room for {room}", where[lblk])
            if not 0 < count <= room:
                return
        entries = list(DX_ENTRY.iter_unpack(memoryview(block)[offset : offset + count * DX_ENTRY.size]))
        hashes = [first, *(hash_ for hash_, _ in entries[1:]), following]
        for position, (_, child) in enumerate(entries):
            child &= DX_BLOCK_MASK  # noqa: PLW2901 - the upper bits are reserved
            low, high = hashes[position], hashes[position + 1]
            if low > high:
                self._found(inode, f"index entry of hash {low:#x} comes before one of {high:#x}", where[lblk])
            if child not in where:
                self._found(inode, f"index names logical block {child}, which does not exist", where[lblk])
            elif child in seen:
                self._found(inode, f"index reaches logical block {child} twice", where[lblk])
            else:
                seen.add(child)
                if levels:
                    yield from self._leaves(inode, child, levels - 1, low, high, where, seen)
                else:
                    yield IndexLeaf(child, low, high)

    def _found(self, inode: StoredInode, reason: str, block: int | None = None) -> None:
        place = Place(inode=inode.number, block=block, record=DX_ROOT_INFO.name)
        self._volume.problems.found(CorruptionError(f"directory: {reason}", place))


def _stored_hashes(block: bytes) -> Iterator[tuple[BlockEntry, int]]:
    """Entries of an encrypted case-insensitive directory, with the hash that is stored behind each name."""
    for entry in stored_entries(block):
        at = entry.offset + entry_size(len(entry.name))
        if entry.inode and entry.name and at + EXT4_DIR_ENTRY_HASH.size <= len(block):
            yield entry, EXT4_DIR_ENTRY_HASH.unpack_tuple(block, at)[0] & ~1
