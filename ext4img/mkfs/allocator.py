"""Allocating blocks from the front: files are in the order of the nodes, in one free_range if possible."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ext4img.errors import BuildError


class BlockRange(NamedTuple):
    """`length` blocks of the disk from `start` on."""

    start: int
    length: int


class Allocator:
    """Allocates blocks from the `free` ranges, which are in ascending order and not adjacent.

    A request is served from the current range. If it does not fit there, a range that was skipped
    before for the same reason becomes the current one, or else the next untouched range that is long
    enough. A request is split only if no range can hold it.
    """

    def __init__(self, free: Iterable[BlockRange]) -> None:
        ranges = [free_range for free_range in free if free_range.length] or [BlockRange(0, 0)]
        self._starts = [free_range.start for free_range in ranges]
        self._lengths = [free_range.length for free_range in ranges]
        self.free_blocks = sum(self._lengths)
        self._current = 0
        self._untouched = 1  # the first that was never current nor skipped
        self._skipped: list[int] = []
        self._longest_skipped = 0

    def take(self, count: int) -> list[BlockRange]:
        """`count` blocks, in as few ranges as possible; BuildError if fewer are free."""
        if count > self.free_blocks:
            raise BuildError(f"{count} blocks are needed, {self.free_blocks} are free")
        if not count:
            return []
        self.free_blocks -= count
        if self._lengths[self._current] < count and not self._change_range(count):
            return self._split(count)
        return [self._cut(self._current, count)]

    def take_whole(self, count: int) -> int | None:
        """The first of `count` (at least 1) blocks from the current range; None if they do not fit: use `take`."""
        current = self._current
        if self._lengths[current] < count:
            return None
        start = self._starts[current]
        self._starts[current] = start + count
        self._lengths[current] -= count
        self.free_blocks -= count
        return start

    def left(self) -> list[BlockRange]:
        """The ranges that are still free, ascending."""
        return [BlockRange(start, length) for start, length in zip(self._starts, self._lengths, strict=True) if length]

    def _cut(self, position: int, count: int) -> BlockRange:
        start = self._starts[position]
        self._starts[position] += count
        self._lengths[position] -= count
        return BlockRange(start, count)

    def _change_range(self, count: int) -> bool:
        """Make a range of at least `count` blocks the current one; False if there is none."""
        lengths = self._lengths
        if self._longest_skipped >= count:
            found = next(position for position in self._skipped if lengths[position] >= count)
            self._skipped.remove(found)
            self._skipped.append(self._current)
        else:
            untouched = range(self._untouched, len(lengths))
            found = next((position for position in untouched if lengths[position] >= count), -1)
            if found < 0:
                return False
            self._skipped += [self._current, *range(self._untouched, found)]
            self._untouched = found + 1
        self._current = found
        self._update_skipped()
        return True

    def _split(self, count: int) -> list[BlockRange]:
        """Allocate from the current range, then the untouched ones, last from the skipped ones."""
        ranges = []
        positions = [self._current, *range(self._untouched, len(self._lengths)), *self._skipped]
        for position in positions:
            if count and self._lengths[position]:
                ranges.append(self._cut(position, min(count, self._lengths[position])))
                count -= ranges[-1].length
        self._skipped = positions[1:]
        self._untouched = len(self._lengths)
        self._update_skipped()
        return ranges

    def _update_skipped(self) -> None:
        self._skipped = [position for position in self._skipped if self._lengths[position]]
        self._longest_skipped = max((self._lengths[position] for position in self._skipped), default=0)
