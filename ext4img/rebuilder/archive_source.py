"""An archive as the source of a new image: contents are read at random, and digested on the way.

Every body is compared with the manifest's digest when its last byte is read, or earlier. So a complete
image has unaltered contents.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from ext4img.archive.body import CHUNK_BYTES
from ext4img.archive.digest_thread import DigestThread
from ext4img.archive.entry import Segments
from ext4img.archive.member import Member
from ext4img.archive.reader import Archive
from ext4img.errors import AlteredArchiveError, ArchiveError
from ext4img.mkfs import RandomAccessBody
from ext4img.names.paths import decode_path
from ext4img.rebuilder.source import NO_BODY, NumberedBodies, SourceEntry

_DIGEST_BYTES: Final = 32
_SMALL_BYTES: Final = 64 << 10  # bodies up to this size are read and verified at once
_WINDOW_BYTES: Final = 256 << 10
_NEAR_BYTES: Final = 64 << 10  # after a small body that is so close to the last one, more are likely to follow


class ArchiveRebuildSource(NumberedBodies):
    """A `RebuildSource`. The archive must be a file: its bodies are read in the order of the image.

    Closing it ends the digesting thread; the archive stays open.
    """

    incomplete = 0

    def __init__(self, archive: Archive) -> None:
        if not archive.seekable:
            raise ArchiveError(f"{archive.name}: must be a file: a stream can't be read in the order of an image")
        super().__init__()
        self.archive = archive
        self.info = archive.info
        self.losses = archive.losses
        self.total_bytes = archive.input.size
        self.position = 0
        self.digests = DigestThread()
        # Columns with one value for every body: two hundred thousand objects would take more memory.
        self._data = array("Q")
        self._sizes = array("Q")
        self._digests = bytearray()
        self._segments: dict[int, Segments] = {}  # of bodies with holes
        self._verified: set[int] = set()  # bodies that are not read in full by the writer
        self._open: dict[int, _ArchiveBody] = {}  # bodies that are being read
        self._window = b""  # a part of the archive, for small bodies
        self._window_at = 0

    def entries(self) -> Iterator[SourceEntry]:
        """See `RebuildSource`."""
        for member in self.archive.members():
            entry = member.entry
            self.position = member.position
            yield SourceEntry(entry, self._add(member), member.unreadable)

    def _add(self, member: Member) -> int:
        """Note where a body is. One that the writer will not read in full is verified at once."""
        entry = member.entry
        if not entry.segments or member.unreadable:
            member.finish(verify=True)
        if not entry.segments:
            return NO_BODY
        line = member.line()
        try:
            digest = bytes.fromhex(line.data_sha256)
        except ValueError:
            digest = b""
        if len(digest) != _DIGEST_BYTES:
            raise AlteredArchiveError(f"its digest in the manifest is {line.data_sha256[:80]!r}", entry.shown)
        number = len(self._data)
        self._data.append(line.data_offset)
        self._sizes.append(line.data_size)
        self._digests += digest
        if entry.data_bytes != entry.body_size:
            self._segments[number] = entry.segments
        if member.unreadable:
            self._verified.add(number)
        return number

    def _open_body(self, number: int) -> RandomAccessBody:
        body: RandomAccessBody | None = self._open.get(number)
        if body is None:
            body = self._start_body(number)
        return body

    def _start_body(self, number: int) -> RandomAccessBody:
        digest = None
        if number not in self._verified:
            digest = bytes(self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES])
        data, size, segments = self._data[number], self._sizes[number], self._segments.get(number)
        if size <= _SMALL_BYTES and segments is None:
            contents = self._read_small(data, size)
            if digest is not None and hashlib.sha256(contents).digest() != digest:
                raise self.altered_error(data)
            return _SmallBody(contents)
        body = self._open[number] = _ArchiveBody(self, number, data, size, digest, segments)
        return body

    def _read_small(self, data: int, size: int) -> bytes:
        """A small part of the archive. If such parts are read one after the other, the next ones are read along."""
        at = data - self._window_at
        if at < 0 or at + size > len(self._window):
            is_next = 0 <= at <= len(self._window) + _NEAR_BYTES
            total = self.total_bytes or 0
            length = min(_WINDOW_BYTES, total - data) if is_next else 0
            self._window = self.archive.input.read_at(data, max(length, size), f"the contents at byte offset {data}")
            self._window_at = data
            at = 0
        return self._window[at : at + size]

    def body_finished(self, number: int) -> None:
        """Forget a body that has been read to its end."""
        self._open.pop(number, None)

    def altered_error(self, data: int) -> AlteredArchiveError:
        """The error for the member whose data begins at byte `data`."""
        path = next(
            (decode_path(line.path) for line in self.archive.manifest() if line.data_offset == data and line.data_size),
            None,
        )
        return AlteredArchiveError("its contents are not those that were written", path)

    def close(self) -> None:
        """End the digesting thread. May be called twice."""
        self.digests.close()


class _SmallBody:
    """Contents that have been read and verified."""

    def __init__(self, contents: bytes) -> None:
        self._contents = contents

    def read_at(self, offset: int, length: int) -> bytes:
        """See `RandomAccessBody`; zeros past the end."""
        contents = self._contents
        if not offset and length == len(contents):
            return contents
        return contents[offset : offset + length].ljust(length, b"\0")


class _ArchiveBody:
    """Random access to one member's stored data: `size` bytes from `data` on, with a map if there are holes.

    Without a `digest` the data has been verified before.
    """

    def __init__(
        self,
        source: ArchiveRebuildSource,
        number: int,
        data: int,
        size: int,
        digest: bytes | None,
        segments: Segments | None,
    ) -> None:
        self._source = source
        self._number = number
        self._input = source.archive.input
        self._what = f"the contents at byte offset {data}"
        self._map_bytes = 0
        self._wanted_digest = digest
        self._digest = hashlib.sha256()
        self._segments = segments
        self._data, self._size = data, size
        self._digested = 0  # bytes behind the map that are digested
        if segments is not None:
            self._starts = [offset for offset, _ in segments]
            self._before = [0, *accumulate(length for _, length in segments)]
            self._map_bytes = size - self._before[-1]
            self._digest.update(self._input.read_at(data, self._map_bytes, self._what))
            self._data, self._size = data + self._map_bytes, size - self._map_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """See `RandomAccessBody`; zeros past the end."""
        segments = self._segments
        if segments is None:
            there = max(min(length, self._size - offset), 0)
            data = self._read(offset, there) if there else b""
            return data if there == length else data.ljust(length, b"\0")
        out = bytearray(length)
        end = offset + length
        for position in range(max(bisect_right(self._starts, offset) - 1, 0), len(segments)):
            start, size = segments[position]
            first, stop = max(start, offset), min(start + size, end)
            if start >= end:
                break
            if first < stop:
                out[first - offset : stop - offset] = self._read(self._before[position] + first - start, stop - first)
        return bytes(out)

    def _read(self, at: int, length: int) -> bytes:
        """Read stored bytes, and digest all bytes up to their end that are not digested yet."""
        data = self._input.read_at(self._data + at, length, self._what)
        end = at + length
        if end > self._digested and self._wanted_digest is not None:
            if at == self._digested:
                self._update(data)
            else:
                self._digest_to(end)
            # The rest may be the end of a block that smaller blocks do not have.
            if self._size - end < self._source.info.block_size:
                self._digest_to(self._size)
                self._finish()
        return data

    def _digest_to(self, end: int) -> None:
        """Read and digest the bytes that were skipped."""
        while self._digested < end:
            part = min(end - self._digested, CHUNK_BYTES)
            self._update(self._input.read_at(self._data + self._digested, part, self._what))

    def _update(self, data: bytes) -> None:
        self._source.digests.update(self._digest, data)
        self._digested += len(data)

    def _finish(self) -> None:
        self._source.digests.wait()
        if self._digest.digest() != self._wanted_digest:
            raise self._source.altered_error(self._data - self._map_bytes)
        self._source.body_finished(self._number)
