"""An image that is already in memory."""

from __future__ import annotations

from ext4img.sources.base import Source


class BytesSource(Source):
    """Bytes, a bytearray or a memoryview. The buffer must not change while it is read."""

    def __init__(self, data: bytes | bytearray | memoryview, name: str = "bytes") -> None:
        self._view = memoryview(data).cast("B").toreadonly()
        self.name = name
        self.size = len(self._view)

    def read_at(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return bytes(self._view[offset : offset + length])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        buffer[:] = self._view[offset : offset + len(buffer)]
