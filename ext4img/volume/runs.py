"""Runs: which blocks of the disk hold which blocks of a file.

A run says whether its blocks are written, allocated but unwritten (they read as zeros), a hole,
or lost (the mapping that places them is damaged; only where problems are reported, not raised).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

WRITTEN = 0
UNWRITTEN = 1
HOLE = 2
LOST = 3
STATES = ("written", "unwritten", "hole", "lost")
LBLK_END = 1 << 32  # logical block numbers have 32 bits


class Run(NamedTuple):
    """`length` blocks of a file from logical block `lblk`, on the disk from `pblk` (0 if nowhere)."""

    lblk: int
    pblk: int
    length: int
    state: int

    @property
    def end(self) -> int:
        """The logical block after the last."""
        return self.lblk + self.length


Runs = tuple[Run, ...]


class Mapping(NamedTuple):
    """All that an inode's mapping takes up: its runs, and the blocks of the tree that holds them."""

    runs: Runs
    tree_blocks: frozenset[int]


def merged_runs(runs: list[Run]) -> Runs:
    """Neighbours that continue each other on disk become one run."""
    if not any(one[0] + one[2] == next_[0] and one[3] == next_[3] for one, next_ in pairwise(runs)):
        return tuple(runs)
    merged: list[Run] = []
    lblk, pblk, count, state = runs[0]
    for run in runs[1:]:
        next_lblk, next_pblk, next_count, next_state = run
        if next_lblk == lblk + count and next_state == state and (next_pblk == pblk + count or state == LOST):
            count += next_count
        else:
            merged.append(Run(lblk, pblk, count, state))
            lblk, pblk, count, state = run
    merged.append(Run(lblk, pblk, count, state))
    return tuple(merged)
