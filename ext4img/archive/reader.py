"""An archive open for reading: all members in their order, or one member found by the manifest.

Of a file the manifest is read first, and every member is compared with its line. In a stream the
manifest comes last: what was read is verified only when the iteration ends without an exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from types import TracebackType
from typing import Self

from ext4img.archive.input import ArchiveInput, ArchiveSource, Cursor
from ext4img.archive.loss import Losses
from ext4img.archive.manifest import ManifestReader, check_end, find_manifest, parse_member, tail_bytes
from ext4img.archive.manifest_line import Closing, ManifestLine, build_line, line_start
from ext4img.archive.member import Member, ReadResources
from ext4img.archive.member_paths import MANIFEST_PATH, XATTR_DIRECTORY, archive_path
from ext4img.archive.member_reader import MemberReader
from ext4img.archive.pax_reader import read_header
from ext4img.errors import AlteredArchiveError, ArchiveError, NotFoundError
from ext4img.names.paths import decode_path


class Archive:
    """Iterate it for its `Member`s.

    `info` has the facts of the whole backup. `closing` is the manifest's closing line, `losses` say
    what the backup lacks of the image: both of a file at once, of a stream after the iteration. A file
    can be iterated any number of times, a stream once. TruncatedArchiveError if the manifest is
    missing, AlteredArchiveError if it is not the one that was written, ArchiveError if the source is
    not a backup.
    """

    def __init__(self, source: ArchiveSource) -> None:
        self.input = ArchiveInput(source)
        self.closing: Closing | None = None
        self.losses = Losses()
        self._reader: MemberReader | None = None  # the last one that iterated, for `close`
        self._single: Cursor | None = None  # for members that are read by themselves
        self._lookup: Iterator[tuple[bytes, bytes]] = iter(())  # the manifest's lines after the last one found
        self._resources = ReadResources()
        # A stream has only this reader; of a file it reads the first member only.
        self._stream: MemberReader | None = MemberReader(self.input.cursor(), None)
        try:
            self.info = self._stream.read_info()
            size = self.input.size
            if size is not None:
                self._stream.close()
                self._stream = None
                self.closing = find_manifest(self.input.cursor(size - tail_bytes(size)), size)
                reader, cursor = self._manifest_reader(self.closing.manifest_offset)
                reader.verify()
                self.losses = reader.losses
                check_end(cursor, reader.size)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """For messages."""
        return self.input.name

    @property
    def seekable(self) -> bool:
        """Whether members can be read in any order, each verified by itself."""
        return self.input.seekable

    @property
    def total_bytes(self) -> int | None:
        """The archive's size; None for a stream."""
        return self.input.size

    def __iter__(self) -> Iterator[Member]:
        return self.members()

    def members(self, *, verify: bool = False) -> Iterator[Member]:
        """The members in the archive's order. Bodies that are not read are skipped, or verified with `verify`.

        ArchiveError for an incremental archive, which needs others: see `open_backup`.
        """
        if self.info.requires:
            raise ArchiveError(f"{self.name}: an incremental archive must be read with those it is based on")
        return self.stored_members(verify=verify)

    def stored_members(self, *, verify: bool = False) -> Iterator[Member]:
        """The members stored in this archive, also of an incremental one."""
        if self.closing is not None:
            reader = MemberReader(self.input.cursor(), self.raw_manifest())
            reader.read_info()
        elif self._stream is not None:
            reader, self._stream = self._stream, None
        else:
            raise ArchiveError(f"{self.name}: a stream can be read only once")
        self._reader = reader
        yield from reader.members(verify)
        if self.closing is None:
            self.closing = reader.closing
            self.losses = reader.losses

    def manifest(self) -> Iterator[ManifestLine]:
        """The manifest's lines. Only of a file."""
        return iter(self._manifest()[0])

    def raw_manifest(self) -> Iterator[bytes]:
        """The same lines unparsed, without their newlines."""
        return self._manifest()[0].raw()

    def manifest_place(self) -> tuple[int, int]:
        """(start, size) of the manifest's lines in the file."""
        reader, cursor = self._manifest()
        return cursor.position, reader.size

    def member(self, path: bytes) -> Member:
        """The member of a tree path, found by the manifest. Only of a file. NotFoundError if there is none."""
        wanted = archive_path(path)
        start = line_start(wanted)
        # Look-ups are often in the manifest's order, so each begins where the last one ended.
        for lines in (self._lookup, pairwise(chain((b"",), self.raw_manifest()))):
            for raw_before, raw in lines:
                if raw.startswith(start):
                    self._lookup = lines
                    return self.member_at(parse_member(raw), parse_member(raw_before) if raw_before else None)
        before: ManifestLine | None = None
        for line in self.manifest():  # other writers may format lines differently
            if line.path == wanted:
                return self.member_at(line, before)
            before = line
        raise NotFoundError.at(decode_path(path), "No such member in the archive")

    def member_at(self, line: ManifestLine, before: ManifestLine | None = None) -> Member:
        """The member of a line of the manifest. `before` is the line before it, which may be an attribute member's."""
        lines = [line]
        if before is not None and before.path.startswith(XATTR_DIRECTORY):
            lines.insert(0, before)  # attributes that did not fit into the header
        if self._single is None:
            self._single = self.input.cursor()
        self._single.seek(lines[0].header_offset)
        expected = (build_line(line)[:-1] for line in lines)
        return next(MemberReader(self._single, expected, self.info, self._resources).members(verify=False))

    def close(self) -> None:
        """Close the file, if it was opened here."""
        for reader in (self._stream, self._reader):
            if reader is not None:
                reader.close()
        self._resources.digests.close()
        self.input.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _manifest(self) -> tuple[ManifestReader, Cursor]:
        if self.closing is None or not self.seekable:
            raise ArchiveError(f"{self.name}: a stream's manifest is at its end")
        return self._manifest_reader(self.closing.manifest_offset)

    def _manifest_reader(self, offset: int) -> tuple[ManifestReader, Cursor]:
        cursor = self.input.cursor(offset)
        found = read_header(cursor)
        if found is None or found[0].path != MANIFEST_PATH or found[0].sparse_size is not None:
            raise AlteredArchiveError(f"no manifest at byte offset {offset}, which its closing line has")
        return ManifestReader(cursor, found[0].size, offset), cursor
