"""A directory store, or a tree that tar extracted, as what an image is made of.

Such a backup gives its members one after the other only, so it is gone through again while the
image is written, whose order is nearly the same.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final, cast

from ext4img.archive.entry import Segments
from ext4img.archive.open_backup import BackupMember, BackupSource
from ext4img.errors import AlteredArchiveError
from ext4img.mkfs import RandomAccessBody
from ext4img.rebuilder.source import NO_BODY, Bodies, SourceEntry

_MOST_PASSES: Final = 2  # what stands past the end of verity files comes after all files

Chunks = Generator[tuple[int, memoryview]]


class DirectoryRebuildSource(Bodies):
    """An `Origin`. Close it when the image is written; the backup stays open."""

    incomplete = 0

    def __init__(self, backup: BackupSource) -> None:
        super().__init__()
        self._backup = backup
        self.info = backup.info
        self.total_bytes = backup.total_bytes
        self.position = 0
        self._passes: list[_Pass] = []

    def entries(self) -> Iterator[SourceEntry]:
        """See `Origin`. What is encrypted is read, since holes may have become zeros on a host.

        So is that of which not all will be asked for.
        """
        for number, member in enumerate(self._backup.members()):
            entry = member.entry
            self.position = member.position
            if entry.context is not None or not entry.segments or member.unreadable:
                entry = entry._replace(segments=_data_of(member))
            yield SourceEntry(entry, number if entry.segments else NO_BODY, member.unreadable)

    def _open_body(self, number: int) -> RandomAccessBody:
        return _MemberBody(self, number)

    def open(self, body: _MemberBody) -> Chunks:
        """The chunks of a body from its start on; who uses that way through the backup must open again."""
        behind = [found for found in self._passes if found.number < body.number]
        if behind:
            chosen = max(behind, key=lambda found: found.number)
        else:
            if len(self._passes) == _MOST_PASSES:
                self._passes.pop(0).close()
            chosen = _Pass(self._backup)
            self._passes.append(chosen)
        chosen.use(body)
        return cast("Chunks", chosen.go_to(body.number).chunks())

    def close(self) -> None:
        """Let go of what is open. May be called twice."""
        while self._passes:
            self._passes.pop().close()


class _Pass:
    """One way through a backup, forward only. `number` is that of the last member."""

    def __init__(self, backup: BackupSource) -> None:
        self._members = cast("Generator[BackupMember]", backup.members())
        self._user: _MemberBody | None = None
        self.number = -1

    def use(self, body: _MemberBody | None) -> None:
        """Take it from whoever used it."""
        if self._user is not None:
            self._user.close()
        self._user = body

    def close(self) -> None:
        """Let go of what is open on the way."""
        self.use(None)
        self._members.close()

    def go_to(self, number: int) -> BackupMember:
        """The member of this number, which is yet to come."""
        for member in self._members:
            self.number += 1
            if self.number == number:
                return member
        raise AlteredArchiveError("the backup has become shorter while it was read")


class _MemberBody:
    """Contents that come in chunks, read forward; for what lies behind they are opened again."""

    def __init__(self, origin: DirectoryRebuildSource, number: int) -> None:
        self.number = number
        self._origin = origin
        self._chunks: Chunks | None = None
        self._start = 0  # of what is held
        self._held = b""

    def close(self) -> None:
        """Others use the way through the backup now."""
        if self._chunks is not None:
            self._chunks.close()
        self._chunks = None

    def read_at(self, offset: int, length: int) -> bytes:
        """See `Body`. With the last byte the digest is compared."""
        chunks = self._chunks
        if chunks is None or offset < self._start:
            chunks = self._chunks = self._origin.open(self)
            self._start, self._held = 0, b""
        out = bytearray(length)
        end = offset + length
        while True:
            first, last = max(self._start, offset), min(self._start + len(self._held), end)
            if first < last:
                out[first - offset : last - offset] = self._held[first - self._start : last - self._start]
            if self._start + len(self._held) > end:
                break
            found = next(chunks, None)
            if found is None:
                break
            self._start, self._held = found[0], bytes(found[1])
        return bytes(out)


def _data_of(member: BackupMember) -> Segments:
    """Where a member has data; it is read and compared with its digest."""
    segments: list[tuple[int, int]] = []
    for offset, part in member.chunks():
        if segments and sum(segments[-1]) == offset:
            segments[-1] = (segments[-1][0], segments[-1][1] + len(part))
        else:
            segments.append((offset, len(part)))
    return tuple(segments)
