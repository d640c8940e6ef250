"""The interface of all sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import NamedTuple, Self

from ext4img.errors import ShortReadError


class SourcePlace(NamedTuple):
    """Where a source's bytes are: an open descriptor, and which of its bytes; `end` None: up to its end, wherever."""

    descriptor: int
    start: int = 0
    end: int | None = None


class Source(ABC):
    """Random access to the bytes of an image: no cursor, so threads cannot disturb each other.

    `size` is in bytes, `name` is for messages. A source is never written to.
    """

    name: str
    size: int

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `offset` on, or SourceError."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the writable `buffer` from byte `offset` on, or SourceError."""
        buffer[:] = self.read_at(offset, len(buffer))

    @property
    def place(self) -> SourcePlace | None:
        """The file or device that is read; None if there is none, or it cannot be known."""
        return None

    def close(self) -> None:  # noqa: B027 - most sources have nothing to release
        """Release what the source itself opened. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.size} bytes)"

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0:
            raise ValueError("offset and length must not be negative")
        if offset + length > self.size:
            raise self._short(offset, length, max(self.size - offset, 0))

    def _short(self, offset: int, wanted: int, got: int) -> ShortReadError:
        return ShortReadError(
            f"{self.name}: ends early: {wanted} bytes wanted at byte offset {offset:#x}, {got} are there"
            f" (the image is {self.size} bytes long)"
        )
