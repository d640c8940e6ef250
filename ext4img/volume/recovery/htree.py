"""The path through a directory's index to one leaf, which recovery follows and extends.

Readers use htree.HashTree. A writer must remember the index blocks on its path. Kernel: dx_probe,
dx_insert_block, ext4_dx_add_entry (fs/ext4/namei.c).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from ext4img.errors import CorruptionError, Place
from ext4img.structs.directory import (
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_NODE_ENTRIES_OFFSET,
    DX_ROOT_ENTRIES_OFFSET,
    DX_ROOT_INFO,
    DX_ROOT_INFO_OFFSET,
    EXT4_DIR_ENTRY,
)
from ext4img.volume.dir_entry import rec_len_to_disk
from ext4img.volume.htree import max_levels, parse_index_block, parse_index_root

ReadBlock = Callable[[int], tuple[int, bytearray]]
AppendNode = Callable[[], tuple[int, int, bytearray]]
WriteNode = Callable[[int, bytearray, int], None]
_LEVELS_OFFSET = DX_ROOT_INFO_OFFSET + DX_ROOT_INFO.offset_of("indirect_levels")


def index_limit(block: bytearray, base: int) -> tuple[int, int]:
    """(room, entries) of an index block."""
    limit, count = DX_COUNTLIMIT.unpack_tuple(block, base)
    return limit, count


@dataclass(slots=True)
class _IndexFrame:
    """One index block on the path: its place, where its entries begin, and the entry that is followed."""

    pblk: int
    block: bytearray
    base: int
    hashes: list[int]
    children: list[int]
    at: int = 0

    def store(self) -> None:
        """Put hashes and children back into the block."""
        limit = index_limit(self.block, self.base)[0]
        first = DX_COUNTLIMIT.pack((limit, len(self.hashes))) + self.children[0].to_bytes(4, "little")
        rest = b"".join(DX_ENTRY.pack(pair) for pair in zip(self.hashes[1:], self.children[1:], strict=True))
        self.block[self.base : self.base + len(first) + len(rest)] = first + rest

    @property
    def is_full(self) -> bool:
        return len(self.hashes) >= index_limit(self.block, self.base)[0]


class IndexPath:
    """From the root of directory `number` to a leaf.

    `read_block` gives verified blocks; index blocks end in `tail_size` bytes for a checksum.
    """

    def __init__(self, read_block: ReadBlock, number: int, large_dir: bool, tail_size: int) -> None:
        self._read = read_block
        self._tail_size = tail_size
        self._number = number
        self._max_levels = max_levels(large_dir)
        self.hash_version, _ = parse_index_root(read_block(0)[1], number, large_dir)
        self.hash = 0
        self._frames: list[_IndexFrame] = []

    def probe(self, major: int) -> None:
        """Go to the leaf for a major hash."""
        self.hash = major
        self._frames = []
        lblk, base, levels = 0, DX_ROOT_ENTRIES_OFFSET, 0
        while True:
            frame = self._frame(lblk, base)
            if not self._frames:
                levels = frame.block[_LEVELS_OFFSET]
            frame.at = max(bisect_right(frame.hashes, major) - 1, 0)
            self._frames.append(frame)
            if len(self._frames) > levels:
                return
            lblk, base = frame.children[frame.at], DX_NODE_ENTRIES_OFFSET

    @property
    def leaf(self) -> int:
        """Logical block of the leaf."""
        frame = self._frames[-1]
        return frame.children[frame.at]

    def advance(self) -> bool:
        """Move to the next leaf, if names of the same hash continue there (ext4_htree_next_block)."""
        level = len(self._frames) - 1
        while level >= 0 and self._frames[level].at + 1 >= len(self._frames[level].hashes):
            level -= 1
        if level < 0:
            return False
        frame = self._frames[level]
        following = frame.hashes[frame.at + 1]
        if not following & 1 or following & ~1 != self.hash:
            return False
        frame.at += 1
        for deeper in range(level + 1, len(self._frames)):
            above = self._frames[deeper - 1]
            self._frames[deeper] = self._frame(above.children[above.at], DX_NODE_ENTRIES_OFFSET)
        return True

    @property
    def is_full(self) -> bool:
        """Whether the last index block has no room for one more leaf."""
        return self._frames[-1].is_full

    def insert(self, hash_: int, lblk: int, write: WriteNode) -> None:
        """Add a leaf behind the present one."""
        frame = self._frames[-1]
        frame.hashes.insert(frame.at + 1, hash_)
        frame.children.insert(frame.at + 1, lblk)
        frame.store()
        write(frame.pblk, frame.block, frame.base)

    def grow(self, append: AppendNode, write: WriteNode) -> bool:
        """Make room in the full last index block. False if the path must be probed again."""
        level = len(self._frames) - 1
        while level > 0 and self._frames[level - 1].is_full:
            level -= 1
        frame = self._frames[level]
        if level == 0:
            if len(self._frames) >= self._max_levels:
                raise self._wrong("directory index is full")
            self._add_level(frame, append, write)
            return False
        above = self._frames[level - 1]
        lblk, pblk, block = append()
        half = len(frame.hashes) // 2
        self._new_node(block)
        other = _IndexFrame(pblk, block, DX_NODE_ENTRIES_OFFSET, frame.hashes[half:], frame.children[half:])
        middle = other.hashes[0]
        other.hashes[0] = 0
        del frame.hashes[half:], frame.children[half:]
        for node in (frame, other):
            node.store()
            write(node.pblk, node.block, node.base)
        if frame.at >= half:
            other.at = frame.at - half
            self._frames[level] = other
        above.hashes.insert(above.at + 1, middle)
        above.children.insert(above.at + 1, lblk)
        above.store()
        write(above.pblk, above.block, above.base)
        return level == len(self._frames) - 1

    def _add_level(self, root: _IndexFrame, append: AppendNode, write: WriteNode) -> None:
        lblk, pblk, block = append()
        self._new_node(block)
        node = _IndexFrame(pblk, block, DX_NODE_ENTRIES_OFFSET, root.hashes, root.children)
        node.store()
        root.hashes, root.children, root.at = [0], [lblk], 0
        root.store()
        root.block[_LEVELS_OFFSET] += 1
        write(node.pblk, node.block, node.base)
        write(root.pblk, root.block, root.base)

    def _new_node(self, block: bytearray) -> None:
        """Make `block` an index node without entries: an unused directory entry over all of it, then the limit."""
        size = len(block)
        limit = (size - DX_NODE_ENTRIES_OFFSET - self._tail_size) // DX_ENTRY.size
        block[: EXT4_DIR_ENTRY.size] = EXT4_DIR_ENTRY.pack((0, rec_len_to_disk(size, size), 0, 0))
        block[DX_NODE_ENTRIES_OFFSET : DX_NODE_ENTRIES_OFFSET + DX_COUNTLIMIT.size] = DX_COUNTLIMIT.pack((limit, 0))

    def _frame(self, lblk: int, base: int) -> _IndexFrame:
        pblk, block = self._read(lblk)
        hashes, children = parse_index_block(block, base, self._number)
        return _IndexFrame(pblk, block, base, hashes, children)

    def _wrong(self, reason: str) -> CorruptionError:
        return CorruptionError(reason, Place(inode=self._number, record=DX_ROOT_INFO.name))
