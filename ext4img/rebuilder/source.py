"""What a new image is made of: entries in the archive's order, then their contents in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.entry import Entry, Segments
from ext4img.mkfs import RandomAccessBody

NO_BODY = -1


class SourceEntry(NamedTuple):
    """An entry and the number of its body. `unreadable` are the parts that the source did not give."""

    entry: Entry
    body: int = NO_BODY
    unreadable: Segments = ()


class RebuildSource(Protocol):
    """An archive, or an image itself."""

    info: BackupInfo
    total_bytes: int | None
    """How far `position` goes, where that is known."""
    position: int
    """How far `entries` has come."""

    @property
    def incomplete(self) -> int:
        """Files of which not all could be read, as far as bodies have found it."""

    def entries(self) -> Iterator[SourceEntry]:
        """All entries, parents before children; those of type "verity" somewhere after their files."""

    def join(self, body: int, past_end: int, start: int) -> int:
        """The number of a body that from byte `start` on goes on with another one."""

    def body(self, number: int) -> RandomAccessBody:
        """The contents by their number, in the form that `ext4img.mkfs.write` takes."""


class NumberedBodies(ABC):
    """Bodies by their numbers, those that were joined as one; the last one is kept, as it is read in pieces."""

    def __init__(self) -> None:
        self._joined: dict[int, tuple[int, int, int]] = {}
        self._last: tuple[int, RandomAccessBody] | None = None

    def join(self, body: int, past_end: int, start: int) -> int:
        """See `Origin`."""
        number = past_end if body == NO_BODY else body
        self._joined[number] = body, past_end, start
        return number

    def body(self, number: int) -> RandomAccessBody:
        """See `Origin`."""
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        body: RandomAccessBody
        if number in self._joined:
            contents, past_end, start = self._joined[number]
            body = JoinedBody(self._part(contents), self._part(past_end), start)
        else:
            body = self._part(number)
        self._last = number, body
        return body

    def _part(self, number: int) -> RandomAccessBody:
        return ZeroBody() if number == NO_BODY else self._open_body(number)

    @abstractmethod
    def _open_body(self, number: int) -> RandomAccessBody:
        """One that is not joined, by its own number."""


class JoinedBody:
    """A body: a file's contents, and from `start` on what stands past their end."""

    def __init__(self, contents: RandomAccessBody, past_end: RandomAccessBody, start: int) -> None:
        self._contents = contents
        self._past_end = past_end
        self._start = start

    def read_at(self, offset: int, length: int) -> bytes:
        """See `Body`."""
        before = max(min(self._start - offset, length), 0)
        data = self._contents.read_at(offset, before) if before else b""
        if before < length:
            data += self._past_end.read_at(offset + before - self._start, length - before)
        return data


class ZeroBody:
    """The body of a file without data."""

    def read_at(self, offset: int, length: int) -> bytes:
        """See `Body`."""
        return bytes(length)
