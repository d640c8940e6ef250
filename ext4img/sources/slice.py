"""A part of another source: a partition, or an image at an offset."""

from __future__ import annotations

from ext4img.errors import SourceError
from ext4img.sources.base import Source, SourcePlace


class SliceSource(Source):
    """`length` bytes of `inner` from byte `offset` on; without `length`, up to its end.

    Closes `inner` when it is closed itself.
    """

    def __init__(self, inner: Source, offset: int, length: int | None = None) -> None:
        if offset < 0 or offset > inner.size:
            raise SourceError(f"{inner.name}: offset {offset} lies outside its {inner.size} bytes")
        left = inner.size - offset
        if length is not None and not 0 <= length <= left:
            raise SourceError(f"{inner.name}: {length} bytes at offset {offset} are more than the {left} that are left")
        self._inner = inner
        self._offset = offset
        self.size = left if length is None else length
        self.name = f"{inner.name} at offset {offset}"

    def read_at(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return self._inner.read_at(self._offset + offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        self._inner.read_into(self._offset + offset, buffer)

    @property
    def place(self) -> SourcePlace | None:
        inner = self._inner.place
        if inner is None or inner.end is None:  # a decompressor's: offsets are not those of the file
            return inner
        start = inner.start + self._offset
        return SourcePlace(inner.descriptor, start, start + self.size)

    def close(self) -> None:
        self._inner.close()
