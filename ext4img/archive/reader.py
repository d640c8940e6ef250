"""An archive open for reading: its members one after the other, or one of them by the manifest.

On a file the manifest is read first, and every member is held against its line. On a stream the
manifest comes last, so until the iteration ends without an exception nothing that was read is
known to be whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from ext4img.archive.input import ArchiveInput, ArchiveSource, Cursor
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

    `info` is what holds for the whole backup. `closing` tells of the manifest: at once on a file,
    after the iteration on a stream. A file can be iterated any number of times, a stream once.
    TruncatedArchiveError where the manifest is missing, AlteredArchiveError where it is not the
    one that was written, ArchiveError where this is no backup at all.
    """

    def __init__(self, source: ArchiveSource) -> None:
        self.input = ArchiveInput(source)
        self.closing: Closing | None = None
        self._reader: MemberReader | None = None  # the last one, for `close`
        self._alone: Cursor | None = None  # for members that are read alone
        self._resources = ReadResources()
        # Of a stream there is only this passage; of a file it reads the first member and is done.
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
        """Whether each member can be verified by itself, and read in any order."""
        return self.input.seekable

    @property
    def total_bytes(self) -> int | None:
        """The archive's size; None for a stream."""
        return self.input.size

    def __iter__(self) -> Iterator[Member]:
        return self.members()

    def members(self, *, verify: bool = False) -> Iterator[Member]:
        """The members in the archive's order. Bodies not read are skipped, or with `verify` digested.

        ArchiveError for an incremental archive, which is not all of a backup: see `open_backup`.
        """
        if self.info.requires:
            raise ArchiveError(f"{self.name}: it is an incremental backup, to be read with those that it builds on")
        return self.stored_members(verify=verify)

    def stored_members(self, *, verify: bool = False) -> Iterator[Member]:
        """The same of any archive: only what is stored in this one."""
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

    def manifest(self) -> Iterator[ManifestLine]:
        """The manifest's lines. Only on a file."""
        return iter(self._manifest()[0])

    def raw_manifest(self) -> Iterator[bytes]:
        """The same as they stand, without their newlines."""
        return self._manifest()[0].raw()

    def manifest_place(self) -> tuple[int, int]:
        """(start, size) of the manifest's lines in the file."""
        reader, cursor = self._manifest()
        return cursor.position, reader.size

    def member(self, path: bytes) -> Member:
        """The member of one tree path, found by the manifest. Only on a file; NotFoundError."""
        wanted = archive_path(path)
        start = line_start(wanted)
        raw_before: bytes | None = None
        for raw in self.raw_manifest():
            if raw.startswith(start):
                return self.member_at(parse_member(raw), parse_member(raw_before) if raw_before else None)
            raw_before = raw
        before: ManifestLine | None = None
        for line in self.manifest():  # lines that others wrote may look otherwise
            if line.path == wanted:
                return self.member_at(line, before)
            before = line
        raise NotFoundError.at(decode_path(path), "No such member in the archive")

    def member_at(self, line: ManifestLine, before: ManifestLine | None = None) -> Member:
        """The member of a line of the manifest; `before` is the line before it."""
        lines = [line]
        if before is not None and before.path.startswith(XATTR_DIRECTORY):
            lines.insert(0, before)  # attributes that did not fit into the header
        if self._alone is None:
            self._alone = self.input.cursor()
        self._alone.seek(lines[0].header_offset)
        expected = (build_line(line)[:-1] for line in lines)
        return next(MemberReader(self._alone, expected, self.info, self._resources).members(verify=False))

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
            raise ArchiveError(f"{self.name}: a stream has its manifest at its end")
        return self._manifest_reader(self.closing.manifest_offset)

    def _manifest_reader(self, offset: int) -> tuple[ManifestReader, Cursor]:
        cursor = self.input.cursor(offset)
        found = read_header(cursor)
        if found is None or found[0].path != MANIFEST_PATH or found[0].sparse_size is not None:
            raise AlteredArchiveError(f"no manifest at byte offset {offset}, where its last line has it")
        return ManifestReader(cursor, found[0].size, offset), cursor
