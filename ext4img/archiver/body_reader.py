"""The bodies of files, read in chunks, and which ranges of them could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ext4img.archive.body import CHUNK_BYTES
from ext4img.archive.entry import MAX_UNREADABLE, Segments
from ext4img.archive.writer import BodyStream
from ext4img.archiver.read_ahead import Extent, ReadBatch
from ext4img.volume.contents import Contents
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import Volume

_Ranges = list[tuple[int, int]]


class BodyReader:
    """Makes the body of one file at a time: each is to be read before the next."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._buffers = memoryview(bytearray(CHUNK_BYTES)), memoryview(bytearray(CHUNK_BYTES))

    def body(
        self, contents: Contents, segments: Segments, start: int = 0, lost: Iterable[tuple[int, int]] = ()
    ) -> BodyStream:
        """The bytes of the segments, whose offsets count from byte `start` of the file; `lost` is in none of them."""
        body = BodyStream()
        for offset, length in lost:
            _add_range(body.unreadable, offset, length)
        body.chunks = self._chunks(contents, segments, start, body.unreadable)
        return body

    def small(self, inode: StoredInode, extent: Extent, batch: ReadBatch) -> BodyStream:
        """A body that is read with its neighbours; if that fails, it is read alone."""
        body = BodyStream()
        body.chunks = self._small_chunks(inode, extent, batch, body.unreadable)
        return body

    def _small_chunks(
        self, inode: StoredInode, extent: Extent, batch: ReadBatch, unreadable: _Ranges
    ) -> Iterator[memoryview]:
        part = batch.get(extent)
        if part is not None:
            yield part
            return
        length = extent[1]
        yield from self._chunks(self._volume.contents(inode, length), ((0, length),), 0, unreadable)

    def _chunks(self, contents: Contents, segments: Segments, start: int, unreadable: _Ranges) -> Iterator[memoryview]:
        buffer, other = self._buffers
        step = len(buffer)
        read = contents.read_stored_into
        for first, length in segments:
            for offset in range(first, first + length, step):
                buffer, other = other, buffer
                part = buffer[: min(step, first + length - offset)]
                for bad, bad_length in read(start + offset, part):
                    _add_range(unreadable, bad - start, bad_length)
                yield part


def _add_range(ranges: _Ranges, offset: int, length: int) -> None:
    """Add a range; it is joined to the last if it continues that, or if a manifest's line has no room for more."""
    if not ranges or (sum(ranges[-1]) != offset and len(ranges) < MAX_UNREADABLE):
        ranges.append((offset, length))
        return
    first, end = min(ranges[-1][0], offset), max(sum(ranges[-1]), offset + length)
    ranges[-1] = first, end - first
