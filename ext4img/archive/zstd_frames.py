"""Archives in independent zstd frames: stock `zstd` reads them, and any part can be read by itself.

A seek table at the end, in a frame that decoders skip, has the frames' sizes. Python 3.14 has zstd in
its library; older versions need the extra `zstd`.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from itertools import accumulate
from types import ModuleType
from typing import BinaryIO, Final, Protocol, cast

from ext4img.archive.output import write_all
from ext4img.errors import ArchiveError, LimitError, UnsupportedFeatureError
from ext4img.structs.zstd import (
    ZSTD_MAGIC,
    ZSTD_SEEK_ENTRY,
    ZSTD_SEEK_FOOTER,
    ZSTD_SEEKABLE_MAGIC,
    ZSTD_SKIPPABLE_HEADER,
    ZSTD_SKIPPABLE_MAGIC,
)

FRAME_BYTES: Final = 4 << 20  # of archive in one frame
_MAX_FRAME_BYTES: Final = 64 << 20
_MAX_WINDOW_LOG: Final = 27
_MAX_FRAMES: Final = 1 << 22
_MAX_CACHED_FRAMES: Final = 2
_LEVEL: Final = 3


class ReadAt(Protocol):
    """Exactly `length` bytes from `position`, or an ArchiveError."""

    def __call__(self, position: int, length: int, /) -> bytes: ...


def zstd_module() -> ModuleType:
    """Python's zstd, or its backport. UnsupportedFeatureError without either."""
    try:
        from compression import zstd
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            what = "zstd needs Python 3.14, or the package backports.zstd: pip install 'ext4img[zstd]'"
            raise UnsupportedFeatureError(what, ("zstd",)) from None
    return cast("ModuleType", zstd)


def is_compressed(start: bytes) -> bool:
    """Whether a file that starts with these bytes is zstd's."""
    return start.startswith(ZSTD_MAGIC)


class FrameWriter(io.RawIOBase):
    """Compresses an archive and writes it to `output` in frames. `finish` completes it."""

    def __init__(self, output: BinaryIO, level: int = _LEVEL) -> None:
        zstd = zstd_module()
        self._compress = zstd.compress
        options = zstd.CompressionParameter
        self._options = {options.compression_level: level, options.checksum_flag: 1}
        self._output = output
        self._pending = bytearray()
        self._table: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Accept all of `data`; frames are written as they fill."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            part = view[done : done + FRAME_BYTES - len(self._pending)]
            self._pending += part
            done += len(part)
            if len(self._pending) == FRAME_BYTES:
                self._frame()
        return done

    def finish(self) -> None:
        """Write the last frame and the seek table."""
        if self._pending:
            self._frame()
        table = b"".join(self._table)
        footer = ZSTD_SEEK_FOOTER.pack((len(self._table), 0, ZSTD_SEEKABLE_MAGIC))
        size = len(table) + len(footer)
        write_all(self._output, ZSTD_SKIPPABLE_HEADER.pack((ZSTD_SKIPPABLE_MAGIC, size)) + table + footer)

    def _frame(self) -> None:
        frame = self._compress(self._pending, options=self._options)
        write_all(self._output, frame)
        self._table.append(ZSTD_SEEK_ENTRY.pack((len(frame), len(self._pending))))
        self._pending = bytearray()


class FrameReader:
    """Reads an archive in frames at any position. `size` is the decompressed size in bytes."""

    def __init__(self, read_at: ReadAt, table: list[tuple[int, int]]) -> None:
        zstd = zstd_module()
        self._zstd = zstd
        self._error: type[Exception] = zstd.ZstdError
        self._read_at = read_at
        self._sizes = [size for _, size in table]
        self._compressed = [size for size, _ in table]
        self._starts = [0, *accumulate(self._sizes)]
        self._places = [0, *accumulate(self._compressed)]
        self._cache: dict[int, bytes] = {}
        self.size = self._starts[-1]

    @classmethod
    def open(cls, read_at: ReadAt, file_size: int) -> FrameReader | None:
        """Open a file of `file_size` bytes by its seek table; None if it has none and is only a stream.

        ArchiveError if the table does not fit the file, LimitError if a frame is too large.
        """
        if file_size < ZSTD_SKIPPABLE_HEADER.size + ZSTD_SEEK_FOOTER.size:
            return None
        footer = ZSTD_SEEK_FOOTER.unpack(read_at(file_size - ZSTD_SEEK_FOOTER.size, ZSTD_SEEK_FOOTER.size))
        if footer.Seekable_Magic_Number != ZSTD_SEEKABLE_MAGIC or footer.Seek_Table_Descriptor:
            return None
        count = footer.Number_Of_Frames
        size = ZSTD_SKIPPABLE_HEADER.size + count * ZSTD_SEEK_ENTRY.size + ZSTD_SEEK_FOOTER.size
        if count > _MAX_FRAMES or size > file_size:
            raise ArchiveError(f"a seek table of {count} frames")
        raw = read_at(file_size - size, size)
        header = ZSTD_SKIPPABLE_HEADER.unpack(raw)
        table = ZSTD_SEEK_ENTRY.unpack_many(raw, count, ZSTD_SKIPPABLE_HEADER.size)
        if header.Magic_Number != ZSTD_SKIPPABLE_MAGIC or header.Frame_Size != size - ZSTD_SKIPPABLE_HEADER.size:
            raise ArchiveError("the seek table's frame is damaged")
        if sum(entry.Compressed_Size for entry in table) != file_size - size:
            raise ArchiveError("the seek table does not fit the file")
        if any(max(entry) > _MAX_FRAME_BYTES for entry in table):
            raise LimitError(f"a frame of more than {_MAX_FRAME_BYTES} bytes")
        return cls(read_at, [tuple(entry) for entry in table])

    def read_into(self, position: int, buffer: memoryview) -> int:
        """Fill the buffer from one frame; return the number of bytes, 0 at the end."""
        if position >= self.size:
            return 0
        index = bisect_right(self._starts, position) - 1
        frame = self._frame(index)
        inside = position - self._starts[index]
        count = min(len(buffer), len(frame) - inside)
        buffer[:count] = memoryview(frame)[inside : inside + count]
        return count

    def _frame(self, index: int) -> bytes:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        raw = self._read_at(self._places[index], self._compressed[index])
        size = self._sizes[index]
        try:
            limit = {self._zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
            decompressor = self._zstd.ZstdDecompressor(options=limit)
            frame = cast("bytes", decompressor.decompress(raw, size + 1))
        except self._error as error:
            raise ArchiveError(f"zstd frame at byte offset {self._places[index]} is damaged: {error}") from error
        if len(frame) != size or not decompressor.eof or decompressor.unused_data:
            raise ArchiveError(
                f"zstd frame at byte offset {self._places[index]} does not have the size in the seek table"
            )
        while len(self._cache) >= _MAX_CACHED_FRAMES:
            del self._cache[next(iter(self._cache))]
        self._cache[index] = frame
        return frame


class DecompressedStream(io.RawIOBase):
    """A stream of zstd frames, decompressed. Damage is an ArchiveError."""

    def __init__(self, source: BinaryIO) -> None:
        zstd = zstd_module()
        self._error: type[Exception] = zstd.ZstdError
        self._file = zstd.ZstdFile(source, options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        try:
            return cast("int", self._file.readinto(buffer))
        except self._error as error:
            raise ArchiveError(f"zstd frame is damaged: {error}") from error
        except EOFError:
            return 0  # cut in the middle of a frame, and so is the archive


class PrefixedStream(io.RawIOBase):
    """A stream whose first bytes were read already: gives those, then the rest."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = start
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        if self._start:
            count = min(len(buffer), len(self._start))
            buffer[:count] = self._start[:count]
            self._start = self._start[count:]
            return count
        data = self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
