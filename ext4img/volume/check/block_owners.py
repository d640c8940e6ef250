"""The owners of all blocks, as columns of runs: memory grows with the runs that the image really has.

Sorting the runs finds blocks with two owners. A bitmap would need memory for as many blocks as the
superblock claims, and could not name the first owner.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy

FILE_SYSTEM = 0
"""The owner of superblocks, descriptors, bitmaps and inode tables."""


class Overlap(NamedTuple):
    """Blocks `start` to `end` - 1 have two owners (inode numbers, or FILE_SYSTEM)."""

    start: int
    end: int
    first: int
    second: int


class BlockOwners:
    """Runs of blocks with their owners (inode numbers, or FILE_SYSTEM)."""

    def __init__(self) -> None:
        self._starts = array("Q")
        self._ends = array("Q")
        self._owners = array("I")

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, count: int, owner: int) -> None:
        """Note that `owner` uses `count` blocks from `start` on."""
        self._starts.append(start)
        self._ends.append(start + count)
        self._owners.append(owner)

    def overlaps(self) -> Iterator[Overlap]:
        """Each run that begins within an earlier one, paired with the earlier run that reaches furthest."""
        import numpy

        starts, ends, owners = self._sorted()
        if not len(starts):
            return
        reach = numpy.maximum.accumulate(ends)
        late = numpy.flatnonzero(starts[1:] < reach[:-1]) + 1
        if not len(late):
            return
        # The earlier run that reaches furthest is the last one that raised the maximum.
        raised = numpy.flatnonzero(numpy.concatenate(([True], reach[1:] > reach[:-1])))
        holders = raised[numpy.searchsorted(raised, late - 1, side="right") - 1]
        for index, holder in zip(late.tolist(), holders.tolist(), strict=True):
            end = min(int(ends[index]), int(ends[holder]))
            yield Overlap(int(starts[index]), end, int(owners[holder]), int(owners[index]))

    def files_past(self, end: int) -> Iterator[tuple[int, int, int]]:
        """(start, end, owner) of the runs of files that reach past block `end`."""
        import numpy

        starts, ends, owners = self._sorted()
        for index in numpy.flatnonzero((ends > end) & (owners != FILE_SYSTEM)).tolist():
            yield max(int(starts[index]), end), int(ends[index]), int(owners[index])

    def used(self, unit: int, first: int) -> tuple[numpy.ndarray[Any, Any], numpy.ndarray[Any, Any]]:
        """Starts and ends of the used parts, merged, in units of `unit` blocks from block `first` on."""
        import numpy

        starts, ends, _ = self._sorted()
        if not len(starts):
            return starts, ends
        low = numpy.maximum(starts, first) - first
        starts = low // unit
        ends = (numpy.maximum(ends, first) - first + (unit - 1)) // unit
        reach = numpy.maximum.accumulate(ends)
        begins = numpy.concatenate(([True], starts[1:] > reach[:-1]))
        last = numpy.concatenate((numpy.flatnonzero(begins)[1:] - 1, [len(starts) - 1]))
        return starts[begins], reach[last]

    def _sorted(self) -> tuple[numpy.ndarray[Any, Any], numpy.ndarray[Any, Any], numpy.ndarray[Any, Any]]:
        import numpy

        starts = numpy.frombuffer(self._starts, numpy.uint64).astype(numpy.int64)
        ends = numpy.frombuffer(self._ends, numpy.uint64).astype(numpy.int64)
        owners = numpy.frombuffer(self._owners, numpy.uint32)
        order = numpy.argsort(starts, kind="stable")
        return starts[order], ends[order], owners[order]
