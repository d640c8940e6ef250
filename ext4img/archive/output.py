"""Where an archive is written to: a file that appears only when it is complete, or a stream."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ext4img.errors import ArchiveError, Ext4Error
from ext4img.interruption import waiting

ArchiveDestination = str | bytes | os.PathLike[str] | os.PathLike[bytes] | BinaryIO


@contextmanager
def open_output(destination: ArchiveDestination, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write the archive to, in large pieces and with `write_all`.

    For a path, a temporary file beside it is written, readable by its owner only (it has every
    user's files). It is synced and renamed when the block ends, and removed if an exception ends
    it. A device, a fifo and a file object are written directly. ArchiveError if writing fails, or
    if the path exists and `overwrite` is not set.
    """
    if not isinstance(destination, (str, bytes, os.PathLike)):
        with _os_errors(str(getattr(destination, "name", "output"))):
            yield destination
            with waiting():
                destination.flush()
        return
    path = os.fsdecode(destination)
    with _os_errors(path):
        existing = _mode(path)
        if existing is not None and (stat.S_ISFIFO(existing) or stat.S_ISCHR(existing)):
            with waiting():
                file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed below
            with file:
                yield file
            return
        if existing is not None and (not overwrite or not stat.S_ISREG(existing)):
            raise ArchiveError(f"{path}: already exists")
        directory, name = os.path.split(path)
        temporary = os.path.join(directory, f".{name[:200]}.{secrets.token_hex(4)}.partial")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(fd, "wb", buffering=0) as file:
                yield file
                os.fsync(fd)
            if overwrite:
                os.replace(temporary, path)
            else:
                _rename_new(temporary, path)
        except BaseException:
            _remove(temporary)
            raise
        _sync_directory(directory or ".")


def write_all(output: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`, also if the file accepts only a part at once."""
    with waiting():  # for the reader of a pipe
        count: int | None = output.write(data)
        while count != len(data):
            if count is None:
                if isinstance(output, io.RawIOBase):
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                return  # file objects that return nothing have written all
            data = memoryview(data)[count:]
            count = output.write(data)


@contextmanager
def _os_errors(name: str) -> Iterator[None]:
    """Raise the operating system's errors as ArchiveError; an image that cannot be read is another matter."""
    try:
        yield
    except Ext4Error:
        raise
    except OSError as error:
        raise ArchiveError(f"{name}: cannot be written: {error.strerror or error}") from error


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _rename_new(temporary: str, path: str) -> None:
    """Rename the file, unless the new name exists by now."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        raise ArchiveError(f"{path}: already exists") from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise ArchiveError(f"{path}: already exists") from None
        os.rename(temporary, path)
        return
    os.unlink(temporary)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _sync_directory(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
