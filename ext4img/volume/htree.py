"""Finding a name's block in an indexed directory, as the kernel's dx_probe does.

The index is a tree of at most three levels below its root (large_dir; else one): pairs of hash and
logical block, sorted. Kernel: fs/ext4/namei.c.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator

from ext4img.errors import CorruptionError, Place
from ext4img.names.dirhash import UNSIGNED, dirhash
from ext4img.structs.directory import (
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_HASH_SIPHASH,
    DX_HASH_TEA,
    DX_NODE_ENTRIES_OFFSET,
    DX_ROOT_INFO,
    DX_ROOT_INFO_OFFSET,
)

# Levels of index blocks with the root, and so one more than indirect_levels (EXT4_HTREE_LEVEL).
MAX_LEVELS = 2
MAX_LEVELS_LARGE_DIR = 3
LBLK_MASK = 0x0FFFFFFF
ReadBlock = Callable[[int], bytes]


class HashTree:
    """The index of one directory. `read_block` gives verified logical blocks of it."""

    def __init__(self, inode: int, read_block: ReadBlock, hash_unsigned: bool, large_dir: bool) -> None:
        self._inode = inode
        self._read = read_block
        root = read_block(0)
        zero, version, info_length, levels, _ = DX_ROOT_INFO.unpack(root, DX_ROOT_INFO_OFFSET)
        if zero or info_length != DX_ROOT_INFO.size:
            raise self._wrong("index root is not one", "reserved_zero")
        if version not in (*range(DX_HASH_TEA + 1), DX_HASH_SIPHASH):
            raise self._wrong(f"index with hash version {version}", "hash_version")
        if levels >= (MAX_LEVELS_LARGE_DIR if large_dir else MAX_LEVELS):
            raise self._wrong(f"index of {levels} levels", "indirect_levels")
        self.levels = levels
        self.uses_siphash = version == DX_HASH_SIPHASH
        self.hash_version = version + UNSIGNED if hash_unsigned and version <= DX_HASH_TEA else version
        self._root = self._entries(root, DX_ROOT_INFO_OFFSET + DX_ROOT_INFO.size)

    def hash_of(self, name: bytes, seed: tuple[int, int, int, int]) -> int:
        """The major hash that the index has for a name; not of SipHash, which takes the directory's key."""
        return dirhash(name, self.hash_version, seed)[0]

    def blocks(self, major: int) -> Iterator[int]:
        """Logical blocks that may hold names of this major hash, in order.

        More than one where names of equal hash run over a block's end (low bit of the next hash).
        """
        path: list[tuple[list[int], list[int], int]] = []
        hashes, children = self._root
        for level in range(self.levels + 1):
            position = max(bisect_right(hashes, major) - 1, 0)
            path.append((hashes, children, position))
            if level < self.levels:
                hashes, children = self._node(children[position])
        seen: set[int] = set()
        while True:
            hashes, children, position = path[-1]
            lblk = children[position]
            if lblk in seen:
                raise self._wrong(f"index comes to logical block {lblk} twice", "block")
            seen.add(lblk)
            yield lblk
            following = self._next(path, major)
            if following is None:
                return
            path = following

    def _next(
        self, path: list[tuple[list[int], list[int], int]], major: int
    ) -> list[tuple[list[int], list[int], int]] | None:
        """The path to the next leaf, if it goes on with the same hash (ext4_htree_next_block)."""
        for level in reversed(range(len(path))):
            hashes, children, position = path[level]
            if position + 1 < len(children):
                break
        else:
            return None
        if hashes[position + 1] & ~1 != major:
            return None
        path = [*path[:level], (hashes, children, position + 1)]
        while len(path) <= self.levels:
            hashes, children, position = path[-1]
            hashes, children = self._node(children[position])
            path.append((hashes, children, 0))
        return path

    def _node(self, lblk: int) -> tuple[list[int], list[int]]:
        return self._entries(self._read(lblk), DX_NODE_ENTRIES_OFFSET)

    def _entries(self, block: bytes, offset: int) -> tuple[list[int], list[int]]:
        """Hashes and logical blocks of an index block; the first hash is 0, its place is the count's."""
        limit, count = DX_COUNTLIMIT.unpack_tuple(block, offset)
        if count == 0 or count > limit or offset + limit * DX_ENTRY.size > len(block):
            raise self._wrong(f"index block with {count} entries of {limit}", "count")
        raw = memoryview(block)[offset : offset + count * DX_ENTRY.size]
        pairs = list(DX_ENTRY.iter_unpack(raw))
        return [0, *(hash_ for hash_, _ in pairs[1:])], [lblk & LBLK_MASK for _, lblk in pairs]

    def _wrong(self, reason: str, field: str) -> CorruptionError:
        return CorruptionError(f"directory {reason}", Place(inode=self._inode, record=DX_ROOT_INFO.name, field=field))
