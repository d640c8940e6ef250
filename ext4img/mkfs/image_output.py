"""The output of a file system: a file that appears when it is complete, or a block device."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import suppress
from struct import Struct
from types import TracebackType
from typing import Self

from ext4img.errors import BuildError
from ext4img.progress import Progress

_WINDOW_BYTES = 1 << 20
_MAX_PIECES = 512  # below IOV_MAX
_ZEROS = bytes(_WINDOW_BYTES)
_BLKZEROOUT = 0x127F  # linux/fs.h
_RANGE = Struct("=QQ")


class ImageOutput:
    """Writes bytes in ascending order, adjacent ones together, and leaves gaps unwritten.

    A file gets `size` bytes. It is written under another name in the same directory, and only its
    owner may read it, because it holds every user's files. `commit` syncs it and gives it its name. A
    file of that name stays until then, and a failure leaves nothing behind. A block device must have
    at least `device_size` bytes. Its first `held_back` bytes, with the superblock, are zeroed first
    and written last. BuildError if the image cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int,
        *,
        device_size: int,
        overwrite: bool = False,
        device: bool = False,
        held_back: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self._size = size
        self._device_size = device_size
        self._overwrite = overwrite
        self._progress = progress
        self._pieces: list[bytes | bytearray] = []
        self._start = 0
        self._end = 0
        self._head: list[tuple[int, bytes]] = []
        self._temporary: str | None = None
        self._fd = -1
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            found = None
        except OSError as error:
            raise self._failed(error) from error
        self.is_device = found is not None and stat.S_ISBLK(found.st_mode)
        if device and not self.is_device:
            raise BuildError(f"{self.path}: not a block device")
        if self.is_device and not device:
            raise BuildError(f"{self.path}: is a block device, which is only overwritten on request")
        if found is not None and not self.is_device and not stat.S_ISREG(found.st_mode):
            raise BuildError(f"{self.path}: neither a regular file nor a block device")
        if found is not None and not self.is_device and not overwrite:
            raise BuildError(f"{self.path}: already exists")
        self._held_back = held_back if self.is_device else 0
        try:
            if self.is_device:
                self._open_device()
            else:
                self._open_file()
        except OSError as error:
            self._discard()
            raise self._failed(error) from error

    def _open_device(self) -> None:
        # O_EXCL refuses a device that is mounted or otherwise in use.
        self._fd = os.open(self.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        there = os.lseek(self._fd, 0, os.SEEK_END)
        if there < self._device_size:
            self._close()
            raise BuildError(f"{self.path}: has {there} bytes, the file system needs {self._device_size}")
        os.pwrite(self._fd, bytes(self._held_back), 0)

    def _open_file(self) -> None:
        directory, name = os.path.split(self.path)
        self._temporary = os.path.join(directory, f".{name[:200]}.{secrets.token_hex(4)}.partial")
        self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, self._size)

    def put(self, offset: int, data: bytes | bytearray) -> None:
        """Write at a byte offset, which must not be before the end of the last write."""
        if offset < self._held_back:
            self._head.append((offset, bytes(data)))
            return
        if offset != self._end or len(self._pieces) == _MAX_PIECES or self._end - self._start >= _WINDOW_BYTES:
            self._flush()
            self._start = offset
        self._pieces.append(data)
        self._end = offset + len(data)

    def zero(self, offset: int, length: int) -> None:
        """Write zeros to a device; in a file the gap reads as zeros."""
        if not self.is_device:
            return
        if length >= _WINDOW_BYTES and offset >= self._held_back and self._zero_out(offset, length):
            return
        while length:
            part = min(length, _WINDOW_BYTES)
            self.put(offset, _ZEROS[:part])
            offset += part
            length -= part

    def _zero_out(self, offset: int, length: int) -> bool:
        """Let the device zero a range itself; False if it can't."""
        try:
            fcntl.ioctl(self._fd, _BLKZEROOUT, _RANGE.pack(offset, length))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP):
                return False
            raise self._failed(error) from error
        return True

    def commit(self) -> None:
        """Sync everything, and give the file its name."""
        self._flush()
        try:
            os.fsync(self._fd)
            for offset, data in self._head:
                _write_all(self._fd, [data], offset)
            os.fsync(self._fd)
            self._close()
            if self._temporary is not None:
                self._move(self._temporary)
                self._temporary = None
        except OSError as error:
            raise self._failed(error) from error

    def _move(self, temporary: str) -> None:
        if self._overwrite:
            os.replace(temporary, self.path)
        else:
            try:
                os.link(temporary, self.path)  # unlike a rename it never replaces a file that was created meanwhile
            except FileExistsError:
                raise BuildError(f"{self.path}: already exists") from None
            except OSError:  # a file system without hard links
                if os.path.lexists(self.path):
                    raise BuildError(f"{self.path}: already exists") from None
                os.rename(temporary, self.path)
            else:
                os.unlink(temporary)
        directory = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _flush(self) -> None:
        if not self._pieces:
            return
        try:
            _write_all(self._fd, self._pieces, self._start)
        except OSError as error:
            raise self._failed(error) from error
        self._pieces = []
        if self._progress is not None:
            self._progress(self._end, self._size)

    def _failed(self, error: OSError) -> BuildError:
        return BuildError(f"{self.path}: {error.strerror or error}")

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def _discard(self) -> None:
        """Remove what was not committed."""
        self._close()
        if self._temporary is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)
            self._temporary = None


def _write_all(fd: int, pieces: list[bytes | bytearray] | list[bytes], offset: int) -> None:
    total = sum(map(len, pieces))
    written = os.pwritev(fd, pieces, offset)
    if written == total:
        return
    rest = memoryview(b"".join(pieces))[written:]
    offset += written
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest = rest[written:]
        offset += written
