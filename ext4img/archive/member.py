"""One member of an archive file or stream: its entry, and its body, which is read once and verified."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Final

from ext4img.archive.body import CHUNK_BYTES, digest_of, join_chunks
from ext4img.archive.digest_thread import DigestThread, sha256_hex
from ext4img.archive.entry import Entry, Segments
from ext4img.archive.input import Cursor
from ext4img.archive.manifest import parse_member
from ext4img.archive.manifest_line import ManifestLine, change_key_of, header_atime_of, manifest_only_fields_of
from ext4img.archive.member_paths import is_control
from ext4img.archive.tar_header import TarHeader, padding
from ext4img.errors import AlteredArchiveError, ArchiveError

_NO_DIGEST: Final = "0" * 64


class ReadResources:
    """Buffers and the digest thread of one reader, or of several of which only one is used at a time."""

    def __init__(self) -> None:
        self.digests = DigestThread()

    @cached_property
    def buffers(self) -> tuple[memoryview, memoryview]:
        """Two, so that one can be filled while the other is digested."""
        return memoryview(bytearray(CHUNK_BYTES)), memoryview(bytearray(CHUNK_BYTES))


class Member:
    """One entry of an archive and its body, which can be read once, before the next member.

    `path` is the member's name. Its header starts at `header_offset` in the archive, its stored
    data has `data_size` bytes. `unreadable` are the (offset, length) ranges of the file that the
    source could not read when the backup was made; they hold zeros. They are known only for an
    archive file: a stream has its manifest at the end.
    """

    __slots__ = (
        "_chunks", "_cursor", "_data_offset", "_end", "_promise", "_raw_map", "_resources",
        "data_size", "digest", "entry", "header_offset", "header_sha256", "path", "unreadable",
    )  # fmt: skip

    def __init__(
        self,
        entry: Entry,
        header: TarHeader,
        header_bytes: bytes,
        header_offset: int,
        raw_map: bytes,
        cursor: Cursor,
        resources: ReadResources,
    ) -> None:
        self.entry = entry
        self.path = header.path.removesuffix(b"/")
        self.header_offset = header_offset
        self.header_sha256 = sha256_hex(header_bytes)
        self.data_size = header.size
        self.digest: str | None = None  # of the stored data, once it has been read
        self.unreadable: Segments = ()
        self._promise: tuple[str, bytes] | None = None  # the data's digest in the manifest, and the manifest's line
        self._cursor = cursor
        self._resources = resources
        self._raw_map = raw_map
        self._data_offset = cursor.position - len(raw_map)
        self._end = self._data_offset + header.size + padding(header.size)
        self._chunks: Iterator[tuple[int, memoryview]] | None = None

    @property
    def position(self) -> int:
        """See `BackupMember`: where the header starts."""
        return self.header_offset

    @property
    def expected(self) -> ManifestLine | None:
        """The member's line in the manifest; None on a stream."""
        return parse_member(self._promise[1]) if self._promise is not None else None

    def expect(self, sha256: str, raw: bytes) -> None:
        """Set the digest that the data must have, and the manifest's line that says so."""
        self._promise = sha256, raw

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """The body's data as (offset in the body, bytes), ascending; holes are left out.

        The bytes are read-only and valid until the next chunk is requested. When the iteration
        ends without an exception, the data's digest is the manifest's; on a stream it is compared
        when the manifest is reached.
        """
        if self._chunks is None:
            self._chunks = self._read()
        return self._chunks

    def read(self) -> bytes:
        """The whole body, holes as zeros: for small ones."""
        return join_chunks(self.entry.body_size, self.chunks())

    def read_digest(self) -> str:
        """See `BackupMember`."""
        if self._raw_map:
            return digest_of(self.chunks())
        for _ in self.chunks():
            pass
        return self.digest or _NO_DIGEST

    def finish(self, verify: bool) -> None:
        """Move the cursor to the body's end; with `verify` read and verify what was not read yet."""
        if verify:
            for _ in self.chunks():
                pass
        elif self._cursor.position != self._end:
            self._cursor.skip(self._end - self._cursor.position, self.entry.shown)

    def line(self) -> ManifestLine:
        """The manifest line that fits this member. Without a digest yet it has the manifest's, or ""."""
        entry = self.entry
        sha256 = self.digest or (self._promise[0] if self._promise is not None else "")
        change_key = None if is_control(self.path) else change_key_of(entry)
        return ManifestLine(
            self.path,
            entry.inode,
            self.data_size,
            sha256,
            self.header_sha256,
            self.header_offset,
            self._data_offset,
            change_key,
            header_atime_of(entry),
            *manifest_only_fields_of(entry),
        )

    def _read(self) -> Iterator[tuple[int, memoryview]]:
        cursor, digests = self._cursor, self._resources.digests
        buffer, other = self._resources.buffers
        step = len(buffer)
        digest = hashlib.sha256(self._raw_map)
        try:
            for start, length in self.entry.segments:
                end = start + length
                for offset in range(start, end, step):
                    buffer, other = other, buffer
                    part = buffer[: min(step, end - offset)]
                    cursor.read_into(part, "its contents")
                    digests.update(digest, part)
                    yield offset, part.toreadonly()
            digests.wait()
            fill = padding(self.data_size)
            is_padded = not (fill and cursor.read(fill, "its padding").strip(b"\0"))
            if not is_padded and self._promise is not None:
                raise AlteredArchiveError("its padding is not zeros")
        except ArchiveError as error:
            raise type(error)(error.reason, self.entry.shown) from error
        self.digest = digest.hexdigest() if is_padded else _NO_DIGEST  # on a stream: reported at the manifest
        if self._promise is not None and self._promise[0] != self.digest:
            raise AlteredArchiveError("its contents are not those that were written", self.entry.shown)


class DamagedMembers(AlteredArchiveError):
    """Members of a stream have damaged contents or headers, everything else in it is sound.

    `errors` has the error of each, by the number of members before it. The reason is the first error's.
    """

    def __init__(self) -> None:
        super().__init__("no member is damaged")
        self.errors: dict[int, AlteredArchiveError] = {}

    def add(self, place: int, error: AlteredArchiveError) -> None:
        """Add the error of the member that has `place` members before it; only its first counts."""
        if not self.errors:
            super().__init__(error.reason, error.member)
        self.errors.setdefault(place, error)
