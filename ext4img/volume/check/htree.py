"""The index of a directory: every node in its bounds, every leaf once, every name under its hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ext4img.crypto.dirhash import dirhash
from ext4img.errors import CorruptionError, Place, SourceError
from ext4img.structs.directory import (
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_HASH_SIPHASH,
    DX_NODE_ENTRIES_OFFSET,
    DX_ROOT_INFO,
    DX_ROOT_INFO_OFFSET,
    DX_TAIL,
    EXT4_DIR_ENTRY,
    EXT4_DIR_ENTRY_HASH,
)
from ext4img.structs.inode import EXT4_CASEFOLD_FL, EXT4_INDEX_FL
from ext4img.volume.check.directories import stored_entries
from ext4img.volume.htree import LBLK_MASK
from ext4img.volume.inode import Inode
from ext4img.volume.mapping import WRITTEN
from ext4img.volume.volume import Volume

_MOST_HASH = 1 << 32
_ROOT_ENTRIES = DX_ROOT_INFO_OFFSET + DX_ROOT_INFO.size
HashOf = Callable[[bytes, bytes], int]


class Leaf(NamedTuple):
    """A leaf by the index: its logical block, the first hash in it, and the next leaf's first hash."""

    lblk: int
    first: int
    following: int


class IndexChecker:
    """Checks the index of one directory after the other."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._has_tails = volume.superblock.has_metadata_checksums

    def check(self, inode: Inode) -> None:
        """Nothing where the directory has no index."""
        if not inode.flags & EXT4_INDEX_FL or inode.has_inline_data:
            return
        tree = self._volume.index(inode)
        if tree is None:
            return  # what is wrong with its root has been noted
        count = -(-inode.size // self._volume.block_size)
        where: dict[int, int] = {}
        for run in self._volume.runs(inode):
            if run.state == WRITTEN and run.lblk < count:
                for lblk in range(run.lblk, min(run.end, count)):
                    where[lblk] = run.pblk + lblk - run.lblk
        if 0 not in where:
            return  # a hole, noted when the directory was listed
        seen = {0}
        for leaf in self._leaves(inode, 0, tree.levels, 0, _MOST_HASH, where, seen):
            self._check_leaf(inode, leaf, where[leaf.lblk], self._hash_of(inode, tree.hash_version))
        missing = sorted(set(where) - seen)
        if missing:
            self._found(inode, f"{len(missing)} blocks are not in the index, the first is logical block {missing[0]}")

    def _hash_of(self, inode: Inode, version: int) -> HashOf | None:
        """How names hash here; None where that needs a key or case folding."""
        if version == DX_HASH_SIPHASH and inode.is_encrypted:
            return lambda name, hashed: EXT4_DIR_ENTRY_HASH.unpack_tuple(hashed)[0]
        if version == DX_HASH_SIPHASH or inode.flags & EXT4_CASEFOLD_FL:
            return None
        seed = self._volume.superblock.hash_seed
        return lambda name, hashed: dirhash(name, version, seed)[0]

    def _leaves(
        self, inode: Inode, lblk: int, levels: int, first: int, following: int, where: dict[int, int], seen: set[int]
    ) -> Iterator[Leaf]:
        """The leaves below an index block; every block is gone into once."""
        try:
            block = self._volume.blocks.read(where[lblk])
        except (CorruptionError, SourceError):
            return  # noted when the directory was listed
        offset = DX_NODE_ENTRIES_OFFSET if lblk else _ROOT_ENTRIES
        limit, count = DX_COUNTLIMIT.unpack_tuple(block, offset)
        room = (len(block) - offset - self._has_tails * DX_TAIL.size) // DX_ENTRY.size
        if limit != room or not 0 < count <= limit:
            self._found(inode, f"index block with {count} entries of {limit}, there is room for {room}", where[lblk])
            if not 0 < count <= room:
                return
        entries = list(DX_ENTRY.iter_unpack(memoryview(block)[offset : offset + count * DX_ENTRY.size]))
        hashes = [first, *(hash_ for hash_, _ in entries[1:]), following]
        for position, (_, child) in enumerate(entries):
            child &= LBLK_MASK  # noqa: PLW2901 - the upper bits are reserved
            low, high = hashes[position], hashes[position + 1]
            if low > high:
                self._found(inode, f"index entry of hash {low:#x} stands before one of {high:#x}", where[lblk])
            if child not in where:
                self._found(inode, f"index names logical block {child}, which is not there", where[lblk])
            elif child in seen:
                self._found(inode, f"index comes to logical block {child} twice", where[lblk])
            else:
                seen.add(child)
                if levels:
                    yield from self._leaves(inode, child, levels - 1, low, high, where, seen)
                else:
                    yield Leaf(child, low, high)

    def _check_leaf(self, inode: Inode, leaf: Leaf, pblk: int, hash_of: HashOf | None) -> None:
        if hash_of is None:
            return
        try:
            block = self._volume.blocks.read(pblk)
        except (CorruptionError, SourceError):
            return  # noted when the directory was listed
        has_hash = bool(inode.is_encrypted and inode.flags & EXT4_CASEFOLD_FL)
        for entry in stored_entries(block):
            if not entry.inode or not entry.name:
                continue
            at = entry.offset + EXT4_DIR_ENTRY.size + (len(entry.name) + 3 & ~3)
            hashed = block[at : at + EXT4_DIR_ENTRY_HASH.size] if has_hash else b""
            if has_hash and len(hashed) < EXT4_DIR_ENTRY_HASH.size:
                continue  # noted when the directory was listed
            major = hash_of(entry.name, hashed) & ~1
            # An odd hash says that names of the hash below it run over from the leaf before.
            goes_on = leaf.following & 1 and major == leaf.following & ~1
            if not (leaf.first & ~1 <= major < leaf.following or goes_on):
                reason = f"name {entry.name!r} of hash {major:#x} in a leaf of {leaf.first:#x} to {leaf.following:#x}"
                self._found(inode, reason, pblk)

    def _found(self, inode: Inode, reason: str, block: int | None = None) -> None:
        place = Place(inode=inode.number, block=block, record=DX_ROOT_INFO.name)
        self._volume.problems.found(CorruptionError(f"directory: {reason}", place))
