"""Read the members of a damaged archive file: after damage the manifest says where the next one starts.

Damage means that the bytes differ from the manifest's digests. An archive that was written as it is
and is refused nevertheless is hostile or was not written by ext4img.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from ext4img.archive.body import CHUNK_BYTES
from ext4img.archive.manifest import parse_member
from ext4img.archive.manifest_line import ManifestLine, archive_in
from ext4img.archive.member import Member
from ext4img.archive.member_paths import XATTR_DIRECTORY
from ext4img.archive.member_reader import MemberReader
from ext4img.archive.reader import Archive
from ext4img.errors import ArchiveError


class ManifestLookahead(Iterator[bytes]):
    """The raw lines of a manifest, with access to the last one drawn and the next one stored in the archive."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._next: bytes | None = None
        self._last: bytes | None = None

    def __next__(self) -> bytes:
        line, self._next = self._next, None
        self._last = line if line is not None else next(self._lines)
        return self._last

    def peek(self) -> ManifestLine | None:
        """The next line of a member in this archive, without drawing it; None at the end."""
        while self._next is None or archive_in(self._next) is not None:
            self._next = next(self._lines, None)
            if self._next is None:
                return None
        return parse_member(self._next)

    def advance_to(self, header_offset: int) -> ManifestLine | None:
        """Draw all lines up to `header_offset`; return the one of the member that starts there, if any."""
        found = parse_member(self._last) if self._last is not None else None
        while (line := self.peek()) is not None and line.header_offset <= header_offset:
            found = line
            next(self)
        return found if found is not None and found.header_offset == header_offset else None


OnDamage = Callable[[ArchiveError, ManifestLine | None, ManifestLookahead], None]
"""Gets the error, the manifest's line of the member that starts there if any, and the lines after it."""


def members_past_damage(archive: Archive, on_damage: OnDamage) -> Iterator[Member]:
    """The members stored in an archive file, bodies not read. See `Archive.members`.

    A member whose header or sparse map is refused goes to `on_damage`, which may raise; reading
    continues at the manifest's next line. From there on members are no longer checked for order
    and links, each is compared with its own line only.
    """
    lines = ManifestLookahead(archive.raw_manifest())
    reader = MemberReader(archive.input.cursor(), lines)
    reader.read_info()
    while True:
        try:
            yield from reader.members(verify=False)
            return
        except ArchiveError as error:
            on_damage(error, lines.advance_to(reader.start), lines)
            following = lines.peek()
            if following is None:
                return
            reader = MemberReader(archive.input.cursor(following.header_offset), lines, archive.info)


def undamaged_members(archive: Archive, member_lost: Callable[[ManifestLine, ArchiveError], None]) -> Iterator[Member]:
    """The members of an archive file whose header and sparse map are undamaged; `member_lost` gets the others.

    Bodies are left to the caller. An error that is not due to damage is raised, as by any reader.
    """

    def on_damage(error: ArchiveError, line: ManifestLine | None, lines: ManifestLookahead) -> None:
        if line is None or not _is_damaged(archive, line):
            raise error
        if line.path.startswith(XATTR_DIRECTORY):  # they belong to the next member, which is lost with them
            owner = lines.peek()
            if owner is not None:
                next(lines)
                line = owner
        member_lost(line, error)

    return members_past_damage(archive, on_damage)


def _is_damaged(archive: Archive, line: ManifestLine) -> bool:
    """Whether a member's bytes differ from the manifest's digests."""
    for start, end, promised in (
        (line.header_offset, line.data_offset, line.header_sha256),
        (line.data_offset, line.data_offset + line.data_size, line.data_sha256),
    ):
        digest = hashlib.sha256()
        for offset in range(start, min(end, archive.input.size or 0), CHUNK_BYTES):
            digest.update(archive.input.read_at(offset, min(CHUNK_BYTES, end - offset), "a damaged member"))
        if digest.hexdigest() != promised:
            return True
    return False
