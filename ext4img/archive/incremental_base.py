"""What an incremental backup builds on: an earlier archive, or its manifest alone.

A file is unchanged where its inode has the number, generation, size, change time and change
attribute that it had then: ext4 sets the change time with every change but that of the last access.
"""

from __future__ import annotations

from array import array
from typing import Final, Self
from uuid import UUID

from ext4img.archive.entry import Entry
from ext4img.archive.input import ArchiveInput, ArchiveSource
from ext4img.archive.manifest import MAX_CHAIN_ARCHIVES, ManifestReader, parse_member
from ext4img.archive.manifest_line import LINE_LIMIT_BYTES, ManifestLine, change_key_of, file_place, parse_line
from ext4img.archive.member_paths import XATTR_DIRECTORY, is_control
from ext4img.archive.reader import Archive
from ext4img.errors import ArchiveError, LimitError

INCREMENTAL: Final = "incremental"
_WINDOW_BYTES: Final = 64 << 10
_PAGE_BITS: Final = 6
_PAGE_MASK: Final = (1 << _PAGE_BITS) - 1
_NO_POSITIONS: Final = array("q", [-1]) * (1 << _PAGE_BITS)


class IncrementalBase:
    """The lines of the archive that the next one builds on, found by inode numbers.

    `source` is an archive or a file with nothing but its manifest. `chain` are the archives that
    the next one needs, oldest first, this one last, by the SHA-256 of their manifests.
    """

    def __init__(self, source: ArchiveSource, uuid: UUID) -> None:
        self._input = ArchiveInput(source)
        try:
            self._start, size, offset = self._find(source, uuid)
            self._positions = _PositionsByInode()  # of the line that has an inode's body
            self._window = b""  # a part of the manifest
            self._window_at = 0
            reader = ManifestReader(self._input.cursor(self._start), size, offset)
            self._read(reader)
            closing = reader.closing
            if closing is None:
                raise ArchiveError(f"{self._input.name}: its manifest does not end")
            if len(closing.chain) >= MAX_CHAIN_ARCHIVES:
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
        if line.change_key != change_key_of(entry) or line.inode != entry.inode:
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
            return 0, size, closing.manifest_offset
        with Archive(source) as archive:
            if archive.info.uuid != uuid:
                what = f"it is of the file system {archive.info.uuid}, this one is {uuid}"
                raise ArchiveError(f"{archive.name}: {what}")
            assert archive.closing is not None, "a file has its manifest at once"
            start, size = archive.manifest_place()
            return start, size, archive.closing.manifest_offset

    def _read(self, reader: ManifestReader) -> None:
        """Where the lines of bodies are. What has its attributes apart, or was not all read, is stored again."""
        skip = False
        following = self._start
        for raw in reader.raw():
            position, following = following, following + len(raw) + 1
            place = file_place(raw)
            if place is not None:
                if place.data_size and not skip:
                    self._positions.set(place.inode, position)
                skip = False
                continue
            line = parse_member(raw)
            if is_control(line.path):
                skip = line.path.startswith(XATTR_DIRECTORY)
                continue
            if line.data_size and not line.unreadable and not skip:
                self._positions.set(line.inode, position)
            skip = False

    def _line(self, position: int) -> ManifestLine:
        """The line that starts at a position; those that follow are likely to be wanted next."""
        at = position - self._window_at
        end = self._window.find(b"\n", at) if 0 <= at < len(self._window) else -1
        size = self._input.size or 0
        wanted = _WINDOW_BYTES
        while end < 0:
            self._window = self._input.read_at(position, min(wanted, size - position), "the manifest")
            self._window_at, at = position, 0
            end = self._window.find(b"\n")
            wanted *= 2
        return parse_member(self._window[at:end])


class _PositionsByInode:
    """Positions by inode numbers, in pages, as most numbers have neighbours: some ten bytes for each."""

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}

    def set(self, inode: int, position: int) -> None:
        """Note a position."""
        page = self._pages.get(inode >> _PAGE_BITS)
        if page is None:
            page = self._pages[inode >> _PAGE_BITS] = array("q", _NO_POSITIONS)
        page[inode & _PAGE_MASK] = position

    def get(self, inode: int) -> int | None:
        """An inode's position."""
        page = self._pages.get(inode >> _PAGE_BITS)
        position = page[inode & _PAGE_MASK] if page is not None else -1
        return position if position >= 0 else None
