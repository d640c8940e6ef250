"""Extent trees during recovery: runs are changed in memory, and trees are written once, at the end.

A fast commit of a big file can hold thousands of ranges. Rewriting the tree for each would take
quadratic time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from ext4img.errors import CorruptionError, LimitError, NotFoundError, Place
from ext4img.structs.extent import EXT4_EXTENT_HEADER, EXT4_EXTENT_IDX
from ext4img.structs.inode import EXT4_EXTENTS_FL
from ext4img.volume.extent_tree import build_tree, extents_needed, extents_of_run, tree_levels
from ext4img.volume.inode import StoredInode
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.recovery.editor import RecoveryEditor
from ext4img.volume.runs import LBLK_END, LOST, UNWRITTEN, Run

MAX_RUNS = 500_000


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
        """The inode's runs, sorted. CorruptionError for a damaged tree, NotFoundError without one."""
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
        """Map `run`, and unmap any blocks that were mapped there."""
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
        """Drop the inode's runs: the caller replaces its i_block."""
        self._held -= len(self._runs.pop(number, ()))
        self._nodes.pop(number, None)
        self._counts.pop(number, None)
        self._changed.discard(number)

    def blocks(self, number: int) -> int:
        """Blocks of the inode's runs and of their tree."""
        self.runs(number)
        blocks, extents = self._counts[number]
        return blocks + sum(tree_levels(extents, self._editor.superblock.block_size))

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
                raise CorruptionError(
                    "the extent tree is damaged; recovery does not change it", Place(inode=inode.number)
                )
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
        """The runs that overlap first to end are runs[low:high]; also their parts before and behind that range."""
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
        removed, added, before = _count(runs[low:high]), _count(piece), self._counts[number]
        self._counts[number] = (before[0] - removed[0] + added[0], before[1] - removed[1] + added[1])
        runs[low:high] = piece
        self._changed.add(number)

    def _hold(self, count: int) -> None:
        self._held += count
        if self._held > MAX_RUNS:
            raise LimitError(f"recovery would change files with more than {MAX_RUNS} extents in all")

    def _store(self, number: int) -> None:
        editor = self._editor
        runs = self._runs[number]
        spare = list(self._nodes[number])
        near = runs[0].pblk if runs else 0
        seed = editor.inode_seed(number) if editor.has_checksums else None
        extents = (
            extent
            for lblk, pblk, length, state in runs
            for extent in extents_of_run(lblk, pblk, min(length, LBLK_END - lblk), state == UNWRITTEN)
        )
        root, blocks = build_tree(
            extents,
            lambda: spare.pop() if spare else editor.allocate(near),
            editor.superblock.block_size,
            seed,
        )
        for pblk, block in blocks:
            editor.write(pblk, block)
        editor.change_inode(number, i_block=root)
        self._nodes[number] = [pblk for pblk, _ in blocks]


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


def _count(runs: list[Run]) -> tuple[int, int]:
    """(blocks, extents) of some runs."""
    return sum(run.length for run in runs), sum(extents_needed(run.length, run.state == UNWRITTEN) for run in runs)
