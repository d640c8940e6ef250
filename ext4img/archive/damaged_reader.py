"""The sound members of an archive that is damaged: the manifest says where the next one is.

Damage is what the manifest's digests tell from what was written. What was written so and is
refused nevertheless is hostile, or no work of ours: it ends the iteration, as for any reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from ext4img.archive.entry_codec import XATTR_DIRECTORY
from ext4img.archive.manifest import parse_member
from ext4img.archive.manifest_line import ManifestLine
from ext4img.archive.member_reader import Member, MemberReader
from ext4img.archive.reader import Archive
from ext4img.errors import ArchiveError

_STEP_BYTES = 1 << 20


def undamaged_members(archive: Archive, lost: Callable[[ManifestLine, ArchiveError], None]) -> Iterator[Member]:
    """See `Archive.members`, of a file. `lost` is told of each member whose header or map of holes is damaged.

    Bodies are not looked at: that is for who reads them. After the first damage members are no
    longer held against what came before them, each is only what the manifest says of it.
    """
    lines = _Lines(archive.raw_manifest())
    passage = MemberReader(archive.input.cursor(), lines)
    passage.read_info()
    while True:
        try:
            yield from passage.members(verify=False)
            return
        except ArchiveError as error:
            damaged = lines.at(passage.start)
            if damaged is None or not _is_damaged(archive, damaged):
                raise
            # Attributes in a member of their own are the next one's.
            if damaged.path.startswith(XATTR_DIRECTORY):
                damaged = lines.skip() or damaged
            lost(damaged, error)
            following = lines.peek()
            if following is None:
                return
            passage = MemberReader(archive.input.cursor(following.offset), lines, archive.info)


def _is_damaged(archive: Archive, line: ManifestLine) -> bool:
    """Whether a member is not what was written."""
    for start, end, promised in (
        (line.offset, line.data, line.head),
        (line.data, line.data + line.size, line.sha256),
    ):
        digest = hashlib.sha256()
        for offset in range(start, min(end, archive.input.size or 0), _STEP_BYTES):
            digest.update(archive.input.read_at(offset, min(_STEP_BYTES, end - offset), "a damaged member"))
        if digest.hexdigest() != promised:
            return True
    return False


class _Lines(Iterator[bytes]):
    """The manifest's lines as they stand, with a look back, and one ahead."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._ahead: bytes | None = None
        self._last: bytes | None = None

    def __next__(self) -> bytes:
        line, self._ahead = self._ahead, None
        self._last = line if line is not None else next(self._lines)
        return self._last

    def peek(self) -> ManifestLine | None:
        """The line that comes next."""
        if self._ahead is None:
            self._ahead = next(self._lines, None)
        return parse_member(self._ahead) if self._ahead is not None else None

    def skip(self) -> ManifestLine | None:
        """The same, and it comes no more."""
        line = self.peek()
        self._last, self._ahead = self._ahead, None
        return line

    def at(self, offset: int) -> ManifestLine | None:
        """The line, drawn last or next, of the member that starts at `offset`; it is drawn then."""
        last = parse_member(self._last) if self._last is not None else None
        if last is not None and last.offset == offset:
            return last
        line = self.peek()
        return self.skip() if line is not None and line.offset == offset else None
