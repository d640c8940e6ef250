"""Free blocks, given out from the front: files lie in the order of the nodes, in one piece where possible."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ext4img.errors import BuildError


class BlockRange(NamedTuple):
    """`length` blocks of the disk from `start` on."""

    start: int
    length: int


class Allocator:
    """Gives out blocks of the `free` pieces, which are in ascending order and not adjacent.

    A request is taken from the current piece. Where it does not fit there, it is taken from one that
    was left behind for the same reason, or else from the next untouched one that is long enough, and
    that is then the current piece. Only a request that no piece could hold is split.
    """

    def __init__(self, free: Iterable[BlockRange]) -> None:
        pieces = [piece for piece in free if piece.length] or [BlockRange(0, 0)]
        self._starts = [piece.start for piece in pieces]
        self._lengths = [piece.length for piece in pieces]
        self.free_blocks = sum(self._lengths)
        self._current = 0
        self._untouched = 1  # the first that was never current nor left behind
        self._behind: list[int] = []
        self._longest_behind = 0

    def take(self, count: int) -> list[BlockRange]:
        """`count` blocks, in as few pieces as can be; BuildError where so many are not free."""
        if count > self.free_blocks:
            raise BuildError(f"{count} blocks are needed where {self.free_blocks} are free")
        if not count:
            return []
        self.free_blocks -= count
        if self._lengths[self._current] < count and not self._move_on(count):
            return self._split(count)
        return [self._cut(self._current, count)]

    def take_whole(self, count: int) -> int | None:
        """The first of `count` blocks, at least one, in one piece; None where `take` is to find or refuse them."""
        current = self._current
        if self._lengths[current] < count:
            return None
        start = self._starts[current]
        self._starts[current] = start + count
        self._lengths[current] -= count
        self.free_blocks -= count
        return start

    def left(self) -> list[BlockRange]:
        """What is still free, in ascending order."""
        return [BlockRange(start, length) for start, length in zip(self._starts, self._lengths, strict=True) if length]

    def _cut(self, position: int, count: int) -> BlockRange:
        start = self._starts[position]
        self._starts[position] += count
        self._lengths[position] -= count
        return BlockRange(start, count)

    def _move_on(self, count: int) -> bool:
        """Make a piece of at least `count` blocks the current one; False where there is none."""
        lengths = self._lengths
        if self._longest_behind >= count:
            found = next(position for position in self._behind if lengths[position] >= count)
            self._behind.remove(found)
            self._behind.append(self._current)
        else:
            untouched = range(self._untouched, len(lengths))
            found = next((position for position in untouched if lengths[position] >= count), -1)
            if found < 0:
                return False
            self._behind += [self._current, *range(self._untouched, found)]
            self._untouched = found + 1
        self._current = found
        self._tidy()
        return True

    def _split(self, count: int) -> list[BlockRange]:
        """From the current piece, the untouched ones, and last from those left behind."""
        pieces = []
        positions = [self._current, *range(self._untouched, len(self._lengths)), *self._behind]
        for position in positions:
            if count and self._lengths[position]:
                pieces.append(self._cut(position, min(count, self._lengths[position])))
                count -= pieces[-1].length
        self._behind = positions[1:]
        self._untouched = len(self._lengths)
        self._tidy()
        return pieces

    def _tidy(self) -> None:
        self._behind = [position for position in self._behind if self._lengths[position]]
        self._longest_behind = max((self._lengths[position] for position in self._behind), default=0)
