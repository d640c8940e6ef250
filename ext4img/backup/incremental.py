"""What an incremental backup builds on: an earlier archive, or its manifest alone.

A file is unchanged where its inode has the number, generation, size, change time and change
attribute that it had then: ext4 sets the change time with every change but that of the last access.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Self
from uuid import UUID

from ext4img.backup.entry import Entry
from ext4img.backup.input import ArchiveInput, ArchiveSource
from ext4img.backup.manifest import CHAIN_MOST, ManifestReader
from ext4img.backup.manifest_line import LINE_LIMIT_BYTES, ManifestLine, identity_of, parse_line
from ext4img.backup.member import XATTR_DIRECTORY, is_control
from ext4img.backup.reader import Archive
from ext4img.errors import ArchiveError, LimitError

INCREMENTAL: Final = "incremental"
_WINDOW_BYTES: Final = 4096


class Base:
    """The lines of the archive that the next one builds on, found by inode numbers.

    `source` is an archive or a file with nothing but its manifest. `chain` are the archives that
    the next one needs, oldest first, this one last, by the SHA-256 of their manifests.
    """

    def __init__(self, source: ArchiveSource, uuid: UUID) -> None:
        self._input = ArchiveInput(source)
        try:
            self._start, size, offset = self._find(source, uuid)
            self._positions: dict[int, int] = {}  # of the line that has an inode's body
            reader = ManifestReader(self._input.cursor(self._start), size, offset)
            self._read(reader)
            closing = reader.closing
            if closing is None:
                raise ArchiveError(f"{self._input.name}: its manifest does not end")
            if len(closing.chain) >= CHAIN_MOST:
                raise LimitError(f"{self._input.name}: a chain of {len(closing.chain)} archives: make a full backup")
            self.chain = (*closing.chain, closing.sha256)
        except BaseException:
            self.close()
            raise

    def unchanged(self, entry: Entry) -> tuple[ManifestLine, int] | None:
        """The line of a file that is as it was, and which of the chain has its member; None if it changed."""
        position = self._positions.get(entry.inode)
        if position is None or entry.type != "file" or entry.is_link or not entry.body_size:
            return None
        line = self._line(position)
        if line.identity != identity_of(entry) or line.inode != entry.inode:
            return None
        return line, line.reference.archive if line.reference is not None else len(self.chain) - 1

    def close(self) -> None:
        """Close the file."""
        self._input.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find(self, source: ArchiveSource, uuid: UUID) -> tuple[int, int, int]:
        """(start, size, offset in its archive) of the manifest in the input."""
        size = self._input.size
        if size is None:
            what = "what a backup builds on is read here and there: no stream will do, and no single frame of zstd"
            raise ArchiveError(f"{self._input.name}: {what}")
        if self._input.cursor().read(min(size, 1), "the manifest") == b"{":
            tail = self._input.read_at(max(size - LINE_LIMIT_BYTES, 0), min(size, LINE_LIMIT_BYTES), "the manifest")
            closing = parse_line(tail.splitlines()[-1])
            if isinstance(closing, ManifestLine):
                raise ArchiveError(f"{self._input.name}: the manifest was cut short")
            return 0, size, closing.offset
        with Archive(source) as archive:
            if archive.info.uuid != uuid:
                what = f"it is of the file system {archive.info.uuid}, this one is {uuid}"
                raise ArchiveError(f"{archive.name}: {what}")
            assert archive.closing is not None, "a file has its manifest at once"
            start, size = archive.manifest_place()
            return start, size, archive.closing.offset

    def _read(self, reader: ManifestReader) -> None:
        """Where the lines of bodies are. What has its attributes apart, or was not all read, is stored again."""
        skip = False
        for position, line in _positions(reader, self._start):
            if is_control(line.path):
                skip = line.path.startswith(XATTR_DIRECTORY)
                continue
            if line.size and not line.unreadable and not skip:
                self._positions[line.inode] = position
            skip = False

    def _line(self, position: int) -> ManifestLine:
        """The line that starts at a position."""
        window = _WINDOW_BYTES
        size = self._input.size or 0
        while True:
            raw = self._input.read_at(position, min(window, size - position), "the manifest")
            end = raw.find(b"\n")
            if end >= 0:
                line = parse_line(raw[: end + 1])
                assert isinstance(line, ManifestLine), "positions are those of lines"
                return line
            window *= 2


def _positions(reader: ManifestReader, start: int) -> Iterator[tuple[int, ManifestLine]]:
    """Each line with where it starts."""
    for line in reader:
        yield start + reader.line_start, line
