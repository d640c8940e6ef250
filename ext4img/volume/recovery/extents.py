"""Extent trees during recovery: ranges come and go in memory, and trees are written once, at the end.

A fast commit of a big file can hold thousands of ranges; a tree rewritten for each would take
quadratic time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from ext4img.errors import CorruptionError, LimitError, NotFoundError, Place
from ext4img.structs.extent import (
    EXT4_EXT_MAGIC,
    EXT4_EXTENT,
    EXT4_EXTENT_HEADER,
    EXT4_EXTENT_IDX,
    EXT4_EXTENT_TAIL,
    EXT_INIT_MAX_LEN,
)
from ext4img.structs.inode import EXT4_EXTENTS_FL
from ext4img.volume import checksum
from ext4img.volume.inode import StoredInode
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.recovery.editor import RecoveryEditor
from ext4img.volume.runs import LBLK_END, LOST, UNWRITTEN, Run

BLOCK_AREA_SIZE = 60
MOST_RUNS = 500_000
_ENTRY_SIZE = EXT4_EXTENT.size


def node_room(node_size: int) -> int:
    """Entries that fit into an extent node of so many bytes; the rest holds a block's checksum."""
    return (node_size - EXT4_EXTENT_HEADER.size) // _ENTRY_SIZE


def empty_root() -> bytes:
    """i_block of a file without blocks."""
    header = EXT4_EXTENT_HEADER.pack((EXT4_EXT_MAGIC, 0, node_room(BLOCK_AREA_SIZE), 0, 0))
    return header + bytes(BLOCK_AREA_SIZE - len(header))


class RecoveryExtents:
    """The mappings of the inodes that recovery changes, by inode number."""

    def __init__(self, editor: RecoveryEditor) -> None:
        self._editor = editor
        self._runs: dict[int, list[Run]] = {}
        self._nodes: dict[int, list[int]] = {}
        self._counts: dict[int, tuple[int, int]] = {}  # blocks and extents of the runs, kept up to date
        self._changed: set[int] = set()
        self._held = 0

    def runs(self, number: int) -> list[Run]:
        """The inode's runs, sorted. CorruptionError where its tree is damaged, NotFoundError without one."""
        known = self._runs.get(number)
        if known is not None:
            return known
        inode = self._editor.inode(number)
        if not inode.flags & EXT4_EXTENTS_FL:
            raise NotFoundError.at(f"inode {number}", "the inode has no extent tree")
        runs = list(self._mapped(inode))
        nodes = list(self._tree_blocks(inode.block_area))
        self._hold(len(runs))
        self._runs[number], self._nodes[number], self._counts[number] = runs, nodes, _count(runs)
        return runs

    def add(self, number: int, run: Run) -> None:
        """Map `run`, whatever was there before."""
        runs = self.runs(number)
        low, high, kept = self._cut(runs, run.lblk, run.end)
        before, after = kept
        piece = [*before, run, *after]
        if low:
            low -= 1
            piece.insert(0, runs[low])
        if high < len(runs):
            piece.append(runs[high])
            high += 1
        self._replace(number, low, high, list(_merged(piece)))

    def remove(self, number: int, first: int, end: int) -> None:
        """Unmap the logical blocks `first` to `end` - 1."""
        low, high, (before, after) = self._cut(self.runs(number), first, end)
        self._replace(number, low, high, [*before, *after])

    def forget(self, number: int) -> None:
        """The inode's i_block is being replaced by other means."""
        self._held -= len(self._runs.pop(number, ()))
        self._nodes.pop(number, None)
        self._counts.pop(number, None)
        self._changed.discard(number)

    def blocks(self, number: int) -> int:
        """Blocks of the inode's runs and of a tree for them."""
        self.runs(number)
        blocks, entries = self._counts[number]
        room = node_room(self._editor.superblock.block_size)
        while entries > node_room(BLOCK_AREA_SIZE):
            entries = -(-entries // room)
            blocks += entries
        return blocks

    def flush(self) -> None:
        """Write the trees that have changed."""
        for number in sorted(self._changed):
            self._store(number)
        self._changed.clear()

    def _mapped(self, inode: StoredInode) -> Iterator[Run]:
        editor = self._editor
        checks = Problems("strict" if editor.problems.verify else "off")
        for run in Mapper(editor.superblock, editor.blocks, editor.seed, checks).runs(inode):
            if run.state == LOST:
                raise CorruptionError("the extent tree is damaged, recovery leaves it alone", Place(inode=inode.number))
            yield run

    def _tree_blocks(self, node: bytes) -> Iterator[int]:
        """Blocks of a tree that `_mapped` found sound."""
        _, entries, _, depth, _ = EXT4_EXTENT_HEADER.unpack_tuple(node)
        if depth == 0:
            return
        for entry in EXT4_EXTENT_IDX.unpack_many(node, entries, EXT4_EXTENT_HEADER.size):
            child = entry.ei_leaf_lo | entry.ei_leaf_hi << 32
            yield child
            yield from self._tree_blocks(self._editor.read(child))

    def _cut(self, runs: list[Run], first: int, end: int) -> tuple[int, int, tuple[list[Run], list[Run]]]:
        """What overlaps first to end: runs[low:high], and what of it remains before and after."""
        low = bisect_right(runs, first, key=_start)
        if low and runs[low - 1].end > first:
            low -= 1
        high = bisect_left(runs, end, key=_start)
        before = [_part(run, run.lblk, first) for run in runs[low : min(low + 1, high)] if run.lblk < first]
        after = [_part(run, end, run.end) for run in runs[max(high - 1, low) : high] if run.end > end]
        return low, high, (before, after)

    def _replace(self, number: int, low: int, high: int, piece: list[Run]) -> None:
        runs = self._runs[number]
        self._hold(len(piece) - (high - low))
        gone, come, now = _count(runs[low:high]), _count(piece), self._counts[number]
        self._counts[number] = (now[0] - gone[0] + come[0], now[1] - gone[1] + come[1])
        runs[low:high] = piece
        self._changed.add(number)

    def _hold(self, count: int) -> None:
        self._held += count
        if self._held > MOST_RUNS:
            raise LimitError(f"recovery would change files of more than {MOST_RUNS} extents in all")

    def _store(self, number: int) -> None:
        editor = self._editor
        extents = [_packed(run) for run in _split(self._runs[number])]
        entries = [(int.from_bytes(raw[:4], "little"), raw) for raw in extents]
        room = node_room(editor.superblock.block_size)
        spare = list(self._nodes[number])
        near = self._runs[number][0].pblk if self._runs[number] else 0
        seed = editor.inode_seed(number) if editor.has_checksums else None
        used: list[int] = []
        depth = 0
        while len(entries) > node_room(BLOCK_AREA_SIZE):
            parents = []
            for start in range(0, len(entries), room):
                children = entries[start : start + room]
                block = spare.pop() if spare else editor.allocate(near)
                used.append(block)
                raw = [entry for _, entry in children]
                editor.write(block, _node(raw, depth, editor.superblock.block_size, seed))
                first = children[0][0]
                index = EXT4_EXTENT_IDX.pack((first, block & 0xFFFFFFFF, block >> 32, 0))
                parents.append((first, index))
            entries = parents
            depth += 1
        root = _node([entry for _, entry in entries], depth, BLOCK_AREA_SIZE, None)
        editor.change_inode(number, i_block=root)
        self._nodes[number] = used


def _start(run: Run) -> int:
    return run.lblk


def _part(run: Run, first: int, end: int) -> Run:
    return Run(first, run.pblk + first - run.lblk, end - first, run.state)


def _merged(runs: list[Run]) -> Iterator[Run]:
    last: Run | None = None
    for run in runs:
        if last is not None:
            if last.end == run.lblk and last.pblk + last.length == run.pblk and last.state == run.state:
                last = last._replace(length=last.length + run.length)
                continue
            yield last
        last = run
    if last is not None:
        yield last


def _most(run: Run) -> int:
    """Blocks of one extent at most; of unwritten ones one less."""
    return EXT_INIT_MAX_LEN - 1 if run.state == UNWRITTEN else EXT_INIT_MAX_LEN


def _count(runs: list[Run]) -> tuple[int, int]:
    """(blocks, extents) of some runs."""
    return sum(run.length for run in runs), sum(-(-run.length // _most(run)) for run in runs)


def _split(runs: list[Run]) -> Iterator[Run]:
    """Runs no longer than an extent can be."""
    for run in runs:
        most = _most(run)
        for first in range(run.lblk, min(run.end, LBLK_END), most):
            yield _part(run, first, min(first + most, run.end))


def _packed(run: Run) -> bytes:
    length = run.length + EXT_INIT_MAX_LEN if run.state == UNWRITTEN else run.length
    return EXT4_EXTENT.pack((run.lblk, length, run.pblk >> 32, run.pblk & 0xFFFFFFFF))


def _node(entries: list[bytes], depth: int, size: int, seed: int | None) -> bytes:
    room = node_room(size)
    header = EXT4_EXTENT_HEADER.pack((EXT4_EXT_MAGIC, len(entries), room, depth, 0))
    covered = (header + b"".join(entries)).ljust(EXT4_EXTENT_HEADER.size + room * _ENTRY_SIZE, b"\0")
    if seed is not None:
        covered += EXT4_EXTENT_TAIL.pack((checksum.extent_block(seed, covered),))
    return covered.ljust(size, b"\0")
