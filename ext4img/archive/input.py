"""Where an archive's bytes come from: a seekable file or a stream, plain or zstd.

A `Cursor` reads forward and knows its position. A file gives any number of independent cursors, a
stream only one. Reads are never short: an early end is a TruncatedArchiveError.
"""

from __future__ import annotations

import io
import os
import stat
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self, cast

from ext4img.archive.zstd_frames import DecompressedStream, FrameReader, PrefixedStream, is_compressed
from ext4img.errors import ArchiveError, TruncatedArchiveError
from ext4img.interruption import waiting

BUFFER_BYTES: Final = 256 << 10
_MAGIC_BYTES: Final = 4
MUST_BE_SEEKABLE: Final = "must be seekable: not a pipe, not plain zstd"
ArchiveSource = str | bytes | os.PathLike[str] | os.PathLike[bytes] | BinaryIO


class _SupportsReadinto(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Cursor:
    """Reads forward; `position` is the byte offset in the archive."""

    def __init__(self, stream: BinaryIO, name: str, seekable: bool, position: int = 0) -> None:
        self._stream = stream
        self._read = stream.read if seekable else self._read_stream
        self._readinto = cast("_SupportsReadinto", stream).readinto if seekable else self._readinto_stream
        self._seekable = seekable
        self.name = name
        self.position = position

    def read(self, length: int, what: str) -> bytes:
        """Exactly `length` bytes. TruncatedArchiveError, which names `what`, if the archive ends before."""
        data = self._read(length)
        if data is not None and len(data) == length:
            self.position += length
            return data
        parts = [data or b""]
        missing = length - len(parts[0])
        while missing:
            data = self._read(missing)
            if not data:
                raise self._ended(what)
            parts.append(data)
            missing -= len(data)
        self.position += length
        return b"".join(parts)

    def read_into(self, buffer: memoryview, what: str) -> None:
        """Fill the buffer. TruncatedArchiveError, which names `what`, if the archive ends before."""
        filled = 0
        while filled < len(buffer):
            count = self._readinto(buffer[filled:])
            if not count:
                raise self._ended(what)
            filled += count
        self.position += filled

    def read_rest(self, limit: int) -> bytes:
        """The remaining bytes, at most `limit`: for the end of the archive."""
        parts: list[bytes] = []
        while limit and (data := self._read(limit)):
            parts.append(data)
            limit -= len(data)
            self.position += len(data)
        return b"".join(parts)

    def seek(self, position: int) -> None:
        """Move to `position`. Only of a file."""
        self._stream.seek(position)
        self.position = position

    def skip(self, length: int, what: str) -> None:
        """Move forward by `length` bytes; of a file without reading them."""
        if self._seekable:
            self._stream.seek(self.position + length)
            self.position += length
            return
        while length:
            part = min(length, BUFFER_BYTES)
            self.read(part, what)
            length -= part

    def _read_stream(self, length: int) -> bytes | None:
        with waiting():  # for the writer of a pipe
            return self._stream.read(length)

    def _readinto_stream(self, buffer: memoryview) -> int | None:
        with waiting():
            return cast("_SupportsReadinto", self._stream).readinto(buffer)

    def _ended(self, what: str) -> TruncatedArchiveError:
        return TruncatedArchiveError(f"{self.name}: it ends in the middle of {what}, after byte offset {self.position}")


class ArchiveInput:
    """An open archive file or stream. `size` in bytes is None for a stream.

    A zstd archive is decompressed; positions and sizes are those of the decompressed archive. It
    is a file if it has a seek table, else a stream.
    """

    def __init__(self, source: ArchiveSource) -> None:
        self._owned: io.FileIO | None = None
        self._stream_used = False
        self._positioned: _PositionedReader | None = None
        self._frames: FrameReader | None = None
        self._stream: io.BufferedReader
        if isinstance(source, (str, bytes, os.PathLike)):
            path = os.fsdecode(source)
            self.name = path
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ArchiveError(f"{path}: {error.strerror}") from error
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                os.close(fd)
                raise ArchiveError(f"{path}: a directory, not an archive")
            self._owned = io.FileIO(fd, "rb")
            self._file: BinaryIO | io.FileIO = self._owned
        else:
            self._file = source
            name = getattr(source, "name", None)
            self.name = os.fsdecode(name) if isinstance(name, (str, bytes)) else "archive"
        self.size: int | None = None
        if self._file.seekable():
            self._start = self._file.tell() if self._owned is None else 0
            self.size = self._file.seek(0, io.SEEK_END) - self._start
            self._file.seek(self._start)
        try:
            self._detect_compression()
        except BaseException:
            self.close()
            raise

    @property
    def seekable(self) -> bool:
        """Whether it is a file, readable at any position."""
        return self.size is not None

    def cursor(self, position: int = 0) -> Cursor:
        """A new cursor at `position`. A stream has only one, at its start."""
        if self.size is None:
            if self._stream_used or position:
                raise ArchiveError(f"{self.name}: a stream can only be read once, from its start")
            self._stream_used = True
            return Cursor(self._stream, self.name, seekable=False)
        raw = _PositionedReader(self._file, self._start, self.size, self._frames)
        stream = io.BufferedReader(raw, BUFFER_BYTES)
        stream.seek(position)
        return Cursor(cast("BinaryIO", stream), self.name, seekable=True, position=position)

    def read_at(self, position: int, length: int, what: str) -> bytes:
        """Exactly `length` bytes from `position`, independent of cursors. Only of a file."""
        if self._positioned is None:
            assert self.size is not None, "a stream has no positions"
            self._positioned = _PositionedReader(self._file, self._start, self.size, self._frames)
        data = bytearray(length)
        self._positioned.seek(position)
        done = 0
        while done < length:
            count = self._positioned.readinto(memoryview(data)[done:])
            if not count:
                raise TruncatedArchiveError(f"{self.name}: it ends in the middle of {what}")
            done += count
        return bytes(data)

    def _detect_compression(self) -> None:
        """Look at the first bytes; if they are zstd's, read the file by its frames, or as a stream."""
        if self.size is None:
            self._stream, start = _peek(self._file)
        else:
            start = self.read_at(0, min(self.size, _MAGIC_BYTES), "its first bytes")
        if not is_compressed(start):
            return
        if self.size is not None:
            self._frames = FrameReader.open(self._compressed_bytes_at, self.size)
            self._positioned = None
            if self._frames is not None:
                self.size = self._frames.size
                return
            self.size = None
            self._stream = io.BufferedReader(_PositionedReader(self._file, self._start, 1 << 63))
        self._stream = io.BufferedReader(DecompressedStream(cast("BinaryIO", self._stream)), BUFFER_BYTES)

    def _compressed_bytes_at(self, position: int, length: int) -> bytes:
        """Bytes of the file as it is, compressed."""
        reader = _PositionedReader(self._file, self._start, 1 << 63)
        reader.seek(position)
        data = io.BufferedReader(reader).read(length)
        if len(data) != length:
            raise TruncatedArchiveError(f"{self.name}: it ends in the middle of a zstd frame")
        return data

    def close(self) -> None:
        """Close the file if it was opened here. May be called twice."""
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _PositionedReader(io.RawIOBase):
    """A reader with its own position on a file that others read, too."""

    def __init__(self, file: BinaryIO | io.FileIO, start: int, size: int, frames: FrameReader | None = None) -> None:
        self._frames = frames
        self._file = file
        self._start = start
        self._size = size
        self._position = 0
        self._fd: int | None
        try:
            self._fd = file.fileno()
        except (OSError, AttributeError):
            self._fd = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        if self._frames is not None:
            count = self._frames.read_into(self._position, buffer)
            self._position += count
            return count
        where = self._start + self._position
        try:
            if self._fd is not None:
                count = os.preadv(self._fd, [buffer], where)
            else:
                self._file.seek(where)
                data = self._file.read(len(buffer))
                count = len(data)
                buffer[:count] = data
        except OSError as error:
            raise ArchiveError(f"archive cannot be read at byte offset {where}: {error.strerror}") from error
        self._position += count
        return count


def _peek(file: BinaryIO | io.FileIO) -> tuple[io.BufferedReader, bytes]:
    """A buffered stream, and its first bytes, which are still to be read."""
    stream = file if isinstance(file, io.BufferedReader) else io.BufferedReader(_Unseekable(file), BUFFER_BYTES)
    start = stream.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
    if 0 < len(start) < _MAGIC_BYTES:  # a pipe gave less: wait for more
        start = stream.read(_MAGIC_BYTES)
        stream = io.BufferedReader(PrefixedStream(start, cast("BinaryIO", stream)), BUFFER_BYTES)
    return stream, start


class _Unseekable(io.RawIOBase):
    """Any file object that has `read`, as a raw stream."""

    def __init__(self, file: BinaryIO | io.FileIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)
