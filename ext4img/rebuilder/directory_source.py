"""A directory store, or a tree that tar extracted, as the source of a new image.

The members of such a backup can only be read in order. So it is read a second time while the image is
written, whose order is nearly the same.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final, cast

from ext4img.archive.entry import Segments
from ext4img.archive.open_backup import BackupMember, BackupSource
from ext4img.errors import AlteredArchiveError
from ext4img.mkfs import RandomAccessBody
from ext4img.rebuilder.source import NO_BODY, NumberedBodies, SourceEntry

_MAX_PASSES: Final = 2  # the Merkle trees of verity files come after all files

Chunks = Generator[tuple[int, memoryview]]


class DirectoryRebuildSource(NumberedBodies):
    """A `RebuildSource`. Close it when the image is written; the backup stays open."""

    incomplete = 0

    def __init__(self, backup: BackupSource) -> None:
        super().__init__()
        self._backup = backup
        self.info = backup.info
        self.losses = backup.losses
        self.total_bytes = backup.total_bytes
        self.position = 0
        self._passes: list[_ForwardPass] = []

    def entries(self) -> Iterator[SourceEntry]:
        """See `RebuildSource`.

        Encrypted contents are read here, because the host may have stored holes as zeros; so are
        contents that the writer will not read in full.
        """
        for number, member in enumerate(self._backup.members()):
            entry = member.entry
            self.position = member.position
            if entry.context is not None or not entry.segments or member.unreadable:
                entry = entry._replace(segments=_read_segments(member))
            yield SourceEntry(entry, number if entry.segments else NO_BODY, member.unreadable)

    def _open_body(self, number: int) -> RandomAccessBody:
        return _MemberBody(self, number)

    def open(self, body: _MemberBody) -> Chunks:
        """The chunks of a body, from its start. The body that used the same pass before must be opened again."""
        usable = [one for one in self._passes if one.number < body.number]
        if usable:
            chosen = max(usable, key=lambda one: one.number)
        else:
            if len(self._passes) == _MAX_PASSES:
                self._passes.pop(0).close()
            chosen = _ForwardPass(self._backup)
            self._passes.append(chosen)
        chosen.use(body)
        return cast("Chunks", chosen.go_to(body.number).chunks())

    def close(self) -> None:
        """Close all passes. May be called twice."""
        while self._passes:
            self._passes.pop().close()


class _ForwardPass:
    """One pass through a backup, forward only. `number` is that of the last member."""

    def __init__(self, backup: BackupSource) -> None:
        self._members = cast("Generator[BackupMember]", backup.members())
        self._user: _MemberBody | None = None
        self.number = -1

    def use(self, body: _MemberBody | None) -> None:
        """Give the pass to `body`; the body that used it before is closed."""
        if self._user is not None:
            self._user.close()
        self._user = body

    def close(self) -> None:
        """Close the pass and the body that uses it."""
        self.use(None)
        self._members.close()

    def go_to(self, number: int) -> BackupMember:
        """The member of this number, which must be ahead."""
        for member in self._members:
            self.number += 1
            if self.number == number:
                return member
        raise AlteredArchiveError("the backup became shorter while it was read")


class _MemberBody:
    """Contents that are read forward in chunks; to read backwards, they are opened again."""

    def __init__(self, source: DirectoryRebuildSource, number: int) -> None:
        self.number = number
        self._source = source
        self._chunks: Chunks | None = None
        self._start = 0  # of `_held`
        self._held = b""

    def close(self) -> None:
        """Close the chunks: another body uses the pass now."""
        if self._chunks is not None:
            self._chunks.close()
        self._chunks = None

    def read_at(self, offset: int, length: int) -> bytes:
        """See `RandomAccessBody`. The digest is compared at the last byte."""
        chunks = self._chunks
        if chunks is None or offset < self._start:
            chunks = self._chunks = self._source.open(self)
            self._start, self._held = 0, b""
        out = bytearray(length)
        end = offset + length
        while True:
            first, last = max(self._start, offset), min(self._start + len(self._held), end)
            if first < last:
                out[first - offset : last - offset] = self._held[first - self._start : last - self._start]
            if self._start + len(self._held) > end:
                break
            chunk = next(chunks, None)
            if chunk is None:
                break
            self._start, self._held = chunk[0], bytes(chunk[1])
        return bytes(out)


def _read_segments(member: BackupMember) -> Segments:
    """The segments in which a member has data. Reads it and compares its digest."""
    segments: list[tuple[int, int]] = []
    for offset, part in member.chunks():
        if segments and sum(segments[-1]) == offset:
            segments[-1] = (segments[-1][0], segments[-1][1] + len(part))
        else:
            segments.append((offset, len(part)))
    return tuple(segments)
