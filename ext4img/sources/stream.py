"""Any seekable binary file object: BytesIO, a decompressor, dissect's and pyewf's streams."""

from __future__ import annotations

import io
from typing import Protocol, cast

from ext4img.errors import SourceError
from ext4img.sources.base import Source, SourcePlace


class SeekableReader(Protocol):
    """The methods of a binary file object that are used. `read` may return less than requested."""

    def seek(self, offset: int, whence: int = ..., /) -> int: ...

    def read(self, length: int = ..., /) -> bytes | None: ...


class StreamSource(Source):
    """A file object with `seek` and `read`, which a lock keeps together. It is not closed.

    A short read is repeated for the rest; a read that returns nothing is the end.
    """

    def __init__(self, stream: SeekableReader, name: str | None = None) -> None:
        import threading

        self._stream = stream
        self._lock = threading.Lock()
        given = getattr(stream, "name", None)
        self.name = name or (given if isinstance(given, str) else type(stream).__name__)
        if isinstance(cast(object, stream), io.TextIOBase):
            raise SourceError(f"{self.name}: a text file object; a binary one is needed (mode 'rb')")
        try:
            stream.seek(0, io.SEEK_END)
            tell = getattr(stream, "tell", None)
            self.size = int(tell()) if tell is not None else int(stream.seek(0, io.SEEK_END))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SourceError(f"{self.name}: not a seekable binary file object: {error}") from error

    @property
    def place(self) -> SourcePlace | None:
        """Of a file object that has a descriptor; what it reads there at which offset is its own business."""
        try:
            return SourcePlace(int(self._stream.fileno()))  # type: ignore[attr-defined]
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def read_at(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        parts: list[bytes] = []
        left = length
        with self._lock:
            try:
                self._stream.seek(offset)
                while left:
                    part = self._stream.read(left)
                    if part is None or not isinstance(part, bytes | bytearray | memoryview):
                        raise SourceError(f"{self.name}: read() returned {type(part).__name__}, not bytes")
                    if len(part) > left:
                        raise SourceError(f"{self.name}: read() returned more than requested")
                    if not part:
                        break
                    parts.append(bytes(part))
                    left -= len(part)
            except (OSError, ValueError) as error:
                if isinstance(error, SourceError):
                    raise
                raise SourceError(f"{self.name}: {error} at byte offset {offset:#x}") from error
        if left:
            raise self._short(offset, length, length - left)
        return parts[0] if len(parts) == 1 else b"".join(parts)
