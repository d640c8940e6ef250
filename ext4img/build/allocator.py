"""Free blocks, given out from the front: files lie in the order of the nodes, in one piece where possible."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ext4img.errors import BuildError


class Piece(NamedTuple):
    """`length` blocks of the disk from `start` on."""

    start: int
    length: int


class Allocator:
    """Gives out blocks of the `free` pieces, which are in ascending order and not adjacent.

    A request is taken from the current piece. Where it does not fit there, from one that was left
    behind for the same reason, or else from the next piece that is long enough; only a request that
    no piece could hold is split.
    """

    def __init__(self, free: Iterable[Piece]) -> None:
        self._starts: list[int] = []
        self._counts: list[int] = []
        for start, count in free:
            if count:
                self._starts.append(start)
                self._counts.append(count)
        self.free_blocks = sum(self._counts)
        self._current = 0
        self._behind: list[int] = []
        self._most_behind = 0

    def take(self, count: int) -> list[Piece]:
        """`count` blocks, in as few pieces as can be; BuildError where so many are not free."""
        if count > self.free_blocks:
            raise BuildError(f"{count} blocks are needed where {self.free_blocks} are free")
        if not count:
            return []
        self.free_blocks -= count
        current = self._current
        if current < len(self._counts) and self._counts[current] >= count:
            return [self._cut(current, count)]
        if self._most_behind >= count:
            for position in self._behind:
                if self._counts[position] >= count:
                    piece = self._cut(position, count)
                    self._forget_used()
                    return [piece]
        for position in range(current, len(self._counts)):
            if self._counts[position] >= count:
                self._leave(current, position)
                return [self._cut(position, count)]
        return self._split(count)

    def left(self) -> list[Piece]:
        """What is still free, in ascending order."""
        return [Piece(start, count) for start, count in zip(self._starts, self._counts, strict=True) if count]

    def _cut(self, position: int, count: int) -> Piece:
        start = self._starts[position]
        self._starts[position] += count
        self._counts[position] -= count
        return Piece(start, count)

    def _leave(self, current: int, then: int) -> None:
        self._behind += [position for position in range(current, then) if self._counts[position]]
        self._most_behind = max((self._counts[position] for position in self._behind), default=0)
        self._current = then

    def _forget_used(self) -> None:
        self._behind = [position for position in self._behind if self._counts[position]]
        self._most_behind = max((self._counts[position] for position in self._behind), default=0)

    def _split(self, count: int) -> list[Piece]:
        """From the current piece on, and last from those left behind."""
        pieces = []
        for position in [*range(self._current, len(self._counts)), *self._behind]:
            if count and self._counts[position]:
                piece = self._cut(position, min(count, self._counts[position]))
                pieces.append(piece)
                count -= piece.length
        self._forget_used()
        return pieces
