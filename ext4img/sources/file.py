"""Regular files and block devices, by positional reads."""

from __future__ import annotations

import errno
import os
import stat

from ext4img.errors import SourceError
from ext4img.sources.base import Source, SourcePlace

# One system call moves at most 0x7ffff000 bytes on Linux (read(2)).
_MAX_READ_BYTES = 1 << 30


class FileSource(Source):
    """A regular file or block device, opened read-only; or a descriptor of one, which stays open.

    The file's access time is not changed (O_NOATIME) if the process owns the file: the kernel grants
    that to owners only. System errors are raised as SourceError, with their errno.
    """

    def __init__(self, path: str | os.PathLike[str] | bytes | int) -> None:
        self._owned = not isinstance(path, int)
        if isinstance(path, int):
            self.name = f"descriptor {path}"
            self._descriptor = path
        else:
            self.name = os.fsdecode(path)
            self._descriptor = _open(path, self.name)
        try:
            self.size = _size(self._descriptor, self.name)
        except BaseException:
            self.close()
            raise

    @property
    def is_block_device(self) -> bool:
        """Whether it is no regular file."""
        return stat.S_ISBLK(os.fstat(self._descriptor).st_mode)

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            self._check(offset, length)
        try:
            data = os.pread(self._descriptor, length if length < _MAX_READ_BYTES else _MAX_READ_BYTES, offset)
        except OSError as error:
            raise self._failed(error, offset) from error
        if len(data) == length:
            return data
        whole = bytearray(length)
        whole[: len(data)] = data
        self._fill(offset, memoryview(whole), len(data))
        return bytes(whole)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        if offset < 0 or offset + length > self.size:
            self._check(offset, length)
        if length > _MAX_READ_BYTES:
            self._fill(offset, buffer, 0)
            return
        try:
            got = os.preadv(self._descriptor, (buffer,), offset)
        except OSError as error:
            raise self._failed(error, offset) from error
        if got != length:
            self._fill(offset, buffer, got)

    def _fill(self, offset: int, buffer: memoryview, done: int) -> None:
        while done < len(buffer):
            try:
                got = os.preadv(self._descriptor, [buffer[done : done + _MAX_READ_BYTES]], offset + done)
            except OSError as error:
                raise self._failed(error, offset + done) from error
            if got == 0:  # it shrank since it was opened
                raise self._short(offset, len(buffer), done)
            done += got

    def _failed(self, error: OSError, offset: int) -> SourceError:
        if self._descriptor < 0:
            return SourceError(errno.EBADF, "the image has been closed", self.name)
        return SourceError(error.errno, f"{error.strerror} at byte offset {offset:#x}", self.name)

    @property
    def place(self) -> SourcePlace | None:
        return SourcePlace(self._descriptor, 0, self.size) if self._descriptor >= 0 else None

    def close(self) -> None:
        if self._owned and self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def _open(path: str | os.PathLike[str] | bytes, name: str) -> int:
    # O_NONBLOCK: otherwise opening a fifo would wait for a writer, before it is refused.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            return os.open(path, flags | getattr(os, "O_NOATIME", 0))
        except PermissionError:
            return os.open(path, flags)
    except OSError as error:
        raise SourceError(error.errno, error.strerror, name) from error
    except ValueError as error:  # NUL in the path
        raise SourceError(errno.EINVAL, str(error), name) from error


def _size(descriptor: int, name: str) -> int:
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return os.fstat(descriptor).st_size
        if stat.S_ISBLK(mode):
            # st_size of a device is 0; lseek knows its end.
            return os.lseek(descriptor, 0, os.SEEK_END)
    except OSError as error:
        raise SourceError(error.errno, error.strerror, name) from error
    if stat.S_ISDIR(mode):
        raise SourceError(errno.EISDIR, "is a directory, not an image or block device", name)
    raise SourceError(errno.EINVAL, "is neither a regular file nor a block device", name)
