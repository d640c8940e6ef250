"""The source of a new image: entries in the archive's order, then their contents in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.entry import Entry, Segments
from ext4img.archive.loss import Losses
from ext4img.mkfs import RandomAccessBody

NO_BODY = -1


class SourceEntry(NamedTuple):
    """An entry and the number of its body. `unreadable` are the parts that could not be read."""

    entry: Entry
    body: int = NO_BODY
    unreadable: Segments = ()


class RebuildSource(Protocol):
    """A backup, or an image itself."""

    info: BackupInfo
    total_bytes: int | None
    """The last `position`, if known."""
    position: int
    """How many bytes `entries` has passed."""

    @property
    def losses(self) -> Losses:
        """What a backup lacks of the image that it was made of; an image reports its damage itself."""

    @property
    def incomplete(self) -> int:
        """The number of files with unreadable parts that bodies have found so far."""

    def entries(self) -> Iterator[SourceEntry]:
        """All entries, parents before children; those of type "verity" somewhere after their files."""

    def join(self, body: int, past_end: int, start: int) -> int:
        """The number of a body that continues with another one at byte `start`."""

    def body(self, number: int) -> RandomAccessBody:
        """The contents of this number, as `ext4img.mkfs.write` takes them."""


class NumberedBodies(ABC):
    """Bodies by their numbers, with joined ones as one. The last one is cached: it is read in pieces."""

    def __init__(self) -> None:
        self._joined: dict[int, tuple[int, int, int]] = {}
        self._last: tuple[int, RandomAccessBody] | None = None

    def join(self, body: int, past_end: int, start: int) -> int:
        """See `RebuildSource`."""
        number = past_end if body == NO_BODY else body
        self._joined[number] = body, past_end, start
        return number

    def body(self, number: int) -> RandomAccessBody:
        """See `RebuildSource`."""
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
        """Open a body that is not joined, by its own number."""


class JoinedBody:
    """The body of a verity file: its contents, and from `start` on its Merkle tree and descriptor."""

    def __init__(self, contents: RandomAccessBody, past_end: RandomAccessBody, start: int) -> None:
        self._contents = contents
        self._past_end = past_end
        self._start = start

    def read_at(self, offset: int, length: int) -> bytes:
        """See `RandomAccessBody`."""
        before = max(min(self._start - offset, length), 0)
        data = self._contents.read_at(offset, before) if before else b""
        if before < length:
            data += self._past_end.read_at(offset + before - self._start, length - before)
        return data


class ZeroBody:
    """The body of a file without data."""

    def read_at(self, offset: int, length: int) -> bytes:
        """See `RandomAccessBody`."""
        return bytes(length)
