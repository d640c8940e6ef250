"""Sources that misbehave: unreadable places, a log of what is asked for, an end in the middle.

After e2fsprogs' test_io: what a disk can do to its reader, on demand.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from ext4img.errors import SourceError
from ext4img.sources import Source


class FaultySource(Source):
    """`inner`, with the byte ranges (start, end) of `bad` unreadable.

    `accesses` holds (offset, length) of every read, failed ones included; from the read number
    `stop_after` on all of them fail.
    """

    def __init__(self, inner: Source, bad: Iterable[tuple[int, int]] = (), stop_after: int | None = None) -> None:
        self._inner = inner
        self.bad = list(bad)
        self.stop_after = stop_after
        self.accesses: list[tuple[int, int]] = []
        self.name = f"faulty {inner.name}"
        self.size = inner.size

    def read_at(self, offset: int, length: int) -> bytes:
        self._allow(offset, length)
        return self._inner.read_at(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._allow(offset, len(buffer))
        self._inner.read_into(offset, buffer)

    def _allow(self, offset: int, length: int) -> None:
        self._check(offset, length)
        self.accesses.append((offset, length))
        stopped = self.stop_after is not None and len(self.accesses) > self.stop_after
        if stopped or any(offset < end and start < offset + length for start, end in self.bad):
            raise SourceError(errno.EIO, f"{os.strerror(errno.EIO)} at byte offset {offset:#x}", self.name)


class StutteringFile:
    """A file object whose read brings at most `most` bytes, and at the end none."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data = data
        self._most = most
        self._position = 0
        self.reads = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._data)}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, length: int = -1, /) -> bytes:
        self.reads += 1
        count = self._most if length < 0 else min(length, self._most)
        piece = self._data[self._position : self._position + count]
        self._position += len(piece)
        return piece
