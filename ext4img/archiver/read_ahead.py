"""Small files are read in the order of the disk, neighbours together, and given out in the archive's order.

The files of a directory are mostly neighbours on the disk, too. So a batch of them takes a few large
reads instead of one for each file, and a spinning disk does not seek back and forth.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ext4img.errors import CorruptionError, SourceError
from ext4img.volume.blocks import BlockReader

WINDOW_BYTES: Final = 4 << 20
_GAP_BYTES: Final = 32 << 10  # a gap up to here is read, too: that costs less than another read
_READ_BYTES: Final = 1 << 20

Extent = tuple[int, int]
"""Byte offset on the volume, and length."""


class ReadBatch:
    """Extents that are read together, when the first of them is asked for."""

    __slots__ = ("_ahead", "_extents", "_found")

    def __init__(self, ahead: ReadAhead, extents: Iterable[Extent]) -> None:
        self._ahead = ahead
        self._extents = extents
        self._found: dict[Extent, memoryview] | None = None

    def get(self, extent: Extent) -> memoryview | None:
        """An extent's bytes. They stay valid until the second batch after this one is read.

        None if they could not be read with their neighbours. The caller then reads them alone, which
        shows whose block is damaged.
        """
        found = self._found
        if found is None:
            found = self._found = self._ahead.read(self._extents)
        return found.get(extent)


class ReadAhead:
    """Reads batches into two buffers in turn, 8 MiB in all."""

    def __init__(self, blocks: BlockReader) -> None:
        self._blocks = blocks
        self._buffers: list[memoryview] = []

    def read(self, extents: Iterable[Extent]) -> dict[Extent, memoryview]:
        """The bytes of those extents that fit into the buffer and can be read."""
        if not self._buffers:
            self._buffers = [memoryview(bytearray(WINDOW_BYTES)), memoryview(bytearray(WINDOW_BYTES))]
        self._buffers.reverse()
        buffer = self._buffers[0]
        found: dict[Extent, memoryview] = {}
        for group in _neighbours(extents):
            start = group[0][0]
            length = max(map(sum, group)) - start
            part, buffer = buffer[:length], buffer[length:]
            if len(part) < length:
                break
            try:
                self._blocks.read_bytes_into(start, part)
            except (SourceError, CorruptionError):
                continue  # each is then read alone, which shows whose block it is
            for extent in group:
                offset, size = extent
                found[extent] = part[offset - start : offset - start + size]
        return found


def _neighbours(extents: Iterable[Extent]) -> Iterable[list[Extent]]:
    """The extents in the order of the disk, grouped where the gap between two is small."""
    group: list[Extent] = []
    end = 0  # of the group
    for extent in sorted(extents):
        offset, length = extent
        if group and (offset > end + _GAP_BYTES or offset + length > group[0][0] + _READ_BYTES):
            yield group
            group = []
        end = max(end, offset + length) if group else offset + length
        group.append(extent)
    if group:
        yield group
