"""Finding a name's block in an indexed directory, as the kernel's dx_probe does.

The index is a tree of at most two levels below its root with large_dir, else one. Its blocks hold
sorted pairs of hash and logical block. Kernel: fs/ext4/namei.c.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator

from ext4img.errors import CorruptionError, Place
from ext4img.names.dirhash import UNSIGNED, dirhash
from ext4img.structs.directory import (
    DX_BLOCK_MASK,
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_HASH_SIPHASH,
    DX_HASH_TEA,
    DX_NODE_ENTRIES_OFFSET,
    DX_ROOT_ENTRIES_OFFSET,
    DX_ROOT_INFO,
    DX_ROOT_INFO_OFFSET,
    EXT4_HTREE_LEVEL,
    EXT4_HTREE_LEVEL_COMPAT,
)

ReadBlock = Callable[[int], bytes]


def max_levels(large_dir: bool) -> int:
    """How many levels of index blocks a directory can have, the root included (kernel: ext4_dir_htree_level)."""
    return EXT4_HTREE_LEVEL if large_dir else EXT4_HTREE_LEVEL_COMPAT


def parse_index_root(block: bytes | bytearray, inode: int, large_dir: bool) -> tuple[int, int]:
    """(hash version, levels below the root) of the index root in a directory's first block."""
    zero, version, info_length, levels, _ = DX_ROOT_INFO.unpack_tuple(block, DX_ROOT_INFO_OFFSET)
    if zero or info_length != DX_ROOT_INFO.size:
        raise _damaged("index root is malformed", inode, "reserved_zero")
    if version not in (*range(DX_HASH_TEA + 1), DX_HASH_SIPHASH):
        raise _damaged(f"index with hash version {version}", inode, "hash_version")
    if levels >= max_levels(large_dir):
        raise _damaged(f"index of {levels} levels", inode, "indirect_levels")
    return version, levels


def parse_index_block(block: bytes | bytearray, offset: int, inode: int) -> tuple[list[int], list[int]]:
    """Hashes and logical blocks of an index block's entries, which begin at `offset`.

    The first hash is 0: `limit` and `count` are in its place on disk.
    """
    limit, count = DX_COUNTLIMIT.unpack_tuple(block, offset)
    if count == 0 or count > limit or offset + limit * DX_ENTRY.size > len(block):
        raise _damaged(f"index block with {count} entries of {limit}", inode, "count")
    pairs = list(DX_ENTRY.iter_tuples(memoryview(block)[offset : offset + count * DX_ENTRY.size]))
    return [0, *(hash_ for hash_, _ in pairs[1:])], [lblk & DX_BLOCK_MASK for _, lblk in pairs]


def _damaged(reason: str, inode: int, field: str) -> CorruptionError:
    return CorruptionError(f"directory {reason}", Place(inode=inode, record=DX_ROOT_INFO.name, field=field))


class HashTree:
    """The index of one directory. `read_block` gives its logical blocks, verified."""

    def __init__(self, inode: int, read_block: ReadBlock, hash_unsigned: bool, large_dir: bool) -> None:
        self._inode = inode
        self._read = read_block
        root = read_block(0)
        version, self.levels = parse_index_root(root, inode, large_dir)
        self.uses_siphash = version == DX_HASH_SIPHASH
        self.hash_version = version + UNSIGNED if hash_unsigned and version <= DX_HASH_TEA else version
        self._root = parse_index_block(root, DX_ROOT_ENTRIES_OFFSET, inode)

    def major_hash(self, name: bytes, seed: tuple[int, int, int, int]) -> int:
        """The major hash of a name in this index; not for SipHash, which needs the directory's key."""
        return dirhash(name, self.hash_version, seed)[0]

    def blocks(self, major: int) -> Iterator[int]:
        """Logical blocks that may hold names of this major hash, in order.

        There are several if names of one hash continue in the next block, whose hash then is odd.
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
                raise _damaged(f"index reaches logical block {lblk} twice", self._inode, "block")
            seen.add(lblk)
            yield lblk
            following = self._next(path, major)
            if following is None:
                return
            path = following

    def _next(
        self, path: list[tuple[list[int], list[int], int]], major: int
    ) -> list[tuple[list[int], list[int], int]] | None:
        """The path to the next leaf, if the same hash continues there (ext4_htree_next_block)."""
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
        return parse_index_block(self._read(lblk), DX_NODE_ENTRIES_OFFSET, self._inode)
