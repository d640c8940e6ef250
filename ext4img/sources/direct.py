"""A block device read past the page cache.

What has been read of a device stays in its page cache, and a mounted file system writes its files'
contents to the disk beside that cache. So a device in use is read with O_DIRECT (open(2)): each read
gives what is on the disk at that moment.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import threading
from typing import Final

from ext4img.errors import SourceError
from ext4img.sources.file import FileSource

_BLKSSZGET: Final = 0x1268  # linux/fs.h: the logical sector's size in bytes, an int
_WINDOW_BYTES: Final = 1 << 20
_INT: Final = struct.Struct("i")


class DirectSource(FileSource):
    """A block device or regular file, opened with O_DIRECT. SourceError where the system cannot do that.

    Of a descriptor, which stays as it is, the same file is opened again.
    """

    def __init__(self, path: str | os.PathLike[str] | bytes | int) -> None:
        super().__init__(f"/proc/self/fd/{path}" if isinstance(path, int) else path)
        if isinstance(path, int):
            self.name = f"descriptor {path}"
        try:
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        except OSError as error:
            self.close()
            raise SourceError(
                error.errno, f"it cannot be read past the page cache: {error.strerror}", self.name
            ) from error
        self._sector = _sector_bytes(self._descriptor)
        self._local = threading.local()

    def read_at(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        # O_DIRECT wants memory, offset and length aligned; an anonymous mapping begins at a page.
        window = self._window()
        done, end = 0, offset + len(buffer)
        while done < len(buffer):
            start = (offset + done) // self._sector * self._sector
            wanted = min(_rounded_up(end - start, self._sector), len(window))
            try:
                got = os.preadv(self._descriptor, [window[:wanted]], start)
            except OSError as error:
                raise self._failed(error, start) from error
            part = window[offset + done - start : min(got, end - start)]
            if not part:
                raise self._short(offset, len(buffer), done)
            buffer[done : done + len(part)] = part
            done += len(part)

    def _window(self) -> memoryview:
        """An aligned buffer of the calling thread's own."""
        window: memoryview | None = getattr(self._local, "window", None)
        if window is None:
            window = self._local.window = memoryview(mmap.mmap(-1, _WINDOW_BYTES))
        return window


def _rounded_up(length: int, unit: int) -> int:
    return -(-length // unit) * unit


def _sector_bytes(descriptor: int) -> int:
    """The unit of direct reads: a device's logical sector; a file's is safely a page."""
    try:
        value = _INT.unpack(fcntl.ioctl(descriptor, _BLKSSZGET, bytes(_INT.size)))[0]
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise SourceError(error.errno, error.strerror) from error
        return mmap.PAGESIZE
    return max(int(value), 512)
