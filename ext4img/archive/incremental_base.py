"""The earlier archive that an incremental backup is based on, or its manifest alone.

A file is unchanged if its inode still has the same number, generation, size, change time and change
attribute: ext4 sets the change time with every change except an access. Its times leave it in doubt

- if it changed shortly before the file system was last written: the new contents may have reached the
  disk after the change time did (the kernel writes dirty pages within some 35 seconds), or it changed
  once more within the same tick of the clock, which is a second in inodes of 128 bytes;
- if nobody knows when the file system was last written;
- if a tool made it and not the kernel, which gives every inode a random generation: all files of a
  reproducible image have the same time.
"""

from __future__ import annotations

from array import array
from typing import Final, Self
from uuid import UUID

from ext4img.archive.entry import Entry
from ext4img.archive.input import MUST_BE_SEEKABLE, ArchiveInput, ArchiveSource
from ext4img.archive.loss import Loss
from ext4img.archive.manifest import MAX_CHAIN_ARCHIVES, ManifestReader, parse_member
from ext4img.archive.manifest_line import (
    LINE_LIMIT_BYTES,
    ChangeKey,
    ManifestLine,
    change_key_of,
    file_place,
    parse_line,
)
from ext4img.archive.member_paths import XATTR_DIRECTORY, is_control
from ext4img.archive.reader import Archive
from ext4img.errors import ArchiveError, LimitError

INCREMENTAL: Final = "incremental"
_WINDOW_BYTES: Final = 64 << 10
_PAGE_BITS: Final = 6
_PAGE_MASK: Final = (1 << _PAGE_BITS) - 1
_NS: Final = 1_000_000_000
_NO_POSITIONS: Final = array("q", [-1]) * (1 << _PAGE_BITS)


class IncrementalBase:
    """The lines of the base archive's manifest, found by inode number.

    `source` is an archive file, or a file with its manifest only. `chain` has the archives that an
    archive based on this one needs, as SHA-256 of their manifests, the oldest first, this one last.
    `last_write_s` is when its file system was last written, in seconds since 1970, None if unknown.
    ArchiveError if `source` is a stream or a backup of another file system, LimitError if its
    chain is full.
    """

    def __init__(self, source: ArchiveSource, uuid: UUID) -> None:
        self._input = ArchiveInput(source)
        try:
            self._start, size, offset = self._find(source, uuid)
            self._positions = _PositionsByInode()  # of the line whose member has the inode's body
            self._incomplete: set[int] = set()  # inodes that lack something: they are stored again
            self._window = b""  # a part of the manifest
            self._window_at = 0
            self._files = 0  # with bodies
            self._change_times: set[int] = set()  # of these; no more than two
            reader = ManifestReader(self._input.cursor(self._start), size, offset, self._add_loss)
            self._read(reader)
            closing = reader.closing
            if closing is None:
                raise ArchiveError(f"{self._input.name}: its manifest has no closing line")
            if len(closing.chain) >= MAX_CHAIN_ARCHIVES:
                raise LimitError(f"{self._input.name}: its chain has {len(closing.chain)} archives: make a full backup")
            self.chain = (*closing.chain, closing.sha256)
            self.last_write_s = closing.last_write_s
            self.changed = closing.changed
        except BaseException:
            self.close()
            raise

    def unchanged(self, entry: Entry) -> tuple[ManifestLine, int] | None:
        """(the line of an unchanged file, index in `chain` of the archive that stores it); None if it changed."""
        position = self._positions.get(entry.inode)
        if (
            position is None
            or entry.inode in self._incomplete
            or entry.type != "file"
            or entry.is_link
            or not entry.body_size
        ):
            return None
        line = self._line(position)
        if line.change_key != change_key_of(entry) or line.inode != entry.inode:
            return None
        return line, line.reference.archive if line.reference is not None else len(self.chain) - 1

    def is_in_doubt(self, entry: Entry, window_s: int) -> bool:
        """Whether an unchanged file may have changed nevertheless: see this module's text.

        `window_s` is how long before the file system's last write a change leaves a doubt, in seconds.
        """
        return (
            self.last_write_s is None
            or not entry.generation
            or entry.ctime_ns >= (self.last_write_s - window_s) * _NS
            or (len(self._change_times) == 1 and self._files > 1)
        )

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
            raise ArchiveError(f"{self._input.name}: a base archive {MUST_BE_SEEKABLE}")
        if self._input.cursor().read(min(size, 1), "the manifest") == b"{":
            tail = self._input.read_at(max(size - LINE_LIMIT_BYTES, 0), min(size, LINE_LIMIT_BYTES), "the manifest")
            closing = parse_line(tail.splitlines()[-1])
            if isinstance(closing, ManifestLine):
                raise ArchiveError(f"{self._input.name}: the manifest was cut short")
            return 0, size, closing.manifest_offset
        with Archive(source) as archive:
            if archive.info.uuid != uuid:
                what = f"a backup of file system {archive.info.uuid}, not of {uuid}"
                raise ArchiveError(f"{archive.name}: {what}")
            assert archive.closing is not None, "a file's manifest is read first"
            start, size = archive.manifest_place()
            return start, size, archive.closing.manifest_offset

    def _read(self, reader: ManifestReader) -> None:
        """Find the lines of bodies. A file with an attribute member is stored again."""
        skip = False
        following = self._start
        for raw in reader.raw():
            position, following = following, following + len(raw) + 1
            place = file_place(raw)
            if place is not None:
                if place.data_size and not skip:
                    self._add(place.inode, position, place.change_key)
                skip = False
                continue
            line = parse_member(raw)
            if is_control(line.path):
                skip = line.path.startswith(XATTR_DIRECTORY)
                continue
            if line.data_size and not line.unreadable and not skip:
                self._add(line.inode, position, line.change_key)
            skip = False

    def _add(self, inode: int, position: int, change_key: ChangeKey | None) -> None:
        self._positions.set(inode, position)
        self._files += 1
        if len(self._change_times) < 2 and change_key is not None:
            self._change_times.add(change_key.ctime_ns)

    def _add_loss(self, loss: Loss) -> None:
        self._incomplete.add(loss.inode)

    def _line(self, position: int) -> ManifestLine:
        """The line at a position. A window is read, as the next lines are likely to be needed next."""
        at = position - self._window_at
        end = self._window.find(b"\n", at) if 0 <= at < len(self._window) else -1
        size = self._input.size or 0
        length = _WINDOW_BYTES
        while end < 0:
            self._window = self._input.read_at(position, min(length, size - position), "the manifest")
            self._window_at, at = position, 0
            end = self._window.find(b"\n")
            length *= 2
        return parse_member(self._window[at:end])


class _PositionsByInode:
    """Positions by inode number, in pages, as used numbers cluster: some ten bytes for each."""

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}

    def set(self, inode: int, position: int) -> None:
        """Set an inode's position."""
        page = self._pages.get(inode >> _PAGE_BITS)
        if page is None:
            page = self._pages[inode >> _PAGE_BITS] = array("q", _NO_POSITIONS)
        page[inode & _PAGE_MASK] = position

    def get(self, inode: int) -> int | None:
        """An inode's position; None if it has none."""
        page = self._pages.get(inode >> _PAGE_BITS)
        position = page[inode & _PAGE_MASK] if page is not None else -1
        return position if position >= 0 else None
