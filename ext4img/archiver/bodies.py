"""The bodies of entries: chunks that are read from the volume, and the ranges that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from ext4img.archive.body import CHUNK_BYTES, BodyStream, Chunks
from ext4img.archive.entry import MAX_UNREADABLE, Segments
from ext4img.archiver.read_ahead import Extent, ReadBatch
from ext4img.errors import CorruptionError, SourceError
from ext4img.volume.contents import Contents
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import WRITTEN
from ext4img.volume.volume import Volume

_SMALL_BYTES: Final = 64 << 10  # files up to here are read together with others


class Bodies:
    """Makes the bodies of a volume's files. All share two buffers, so one is read at a time."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._block_size = volume.block_size
        self._buffers = memoryview(bytearray(CHUNK_BYTES)), memoryview(bytearray(CHUNK_BYTES))

    def small_extent(self, inode: StoredInode) -> Extent | None:
        """Where a small file's body is, if it is in one piece. Damage is reported when the body is read."""
        if not 0 < inode.size <= _SMALL_BYTES or inode.has_inline_data:
            return None
        try:
            runs = self._volume.runs(inode)
        except (CorruptionError, SourceError):
            return None
        if len(runs) != 1:
            return None
        lblk, pblk, count, state = runs[0]
        body_size = self.size_of(inode)
        if lblk or state != WRITTEN or count * self._block_size < body_size:
            return None
        return pblk * self._block_size, body_size

    def size_of(self, inode: StoredInode) -> int:
        """Bytes of a file's body: its size, which is rounded up to whole blocks for an encrypted file."""
        return -(-inode.size // self._block_size) * self._block_size if inode.is_encrypted else inode.size

    def of_contents(
        self, contents: Contents, segments: Segments, start: int = 0, lost: Iterable[tuple[int, int]] = ()
    ) -> BodyStream:
        """The bytes of the segments, whose offsets count from byte `start` of the file.

        `lost` ranges are known to be unreadable before anything is read.
        """
        body = BodyStream()
        known: list[tuple[int, int]] = []
        for offset, length in lost:
            _add_range(known, offset, length)
        body.chunks = Chunks(partial(self._chunks, contents, segments, start, body.unreadable, known))
        return body

    def of_batch(self, inode: StoredInode, extent: Extent, batch: ReadBatch) -> BodyStream:
        """A small body that is read with its neighbours."""
        body = BodyStream()
        body.chunks = Chunks(partial(self._small_chunks, inode, extent, batch, body.unreadable))
        return body

    def _small_chunks(
        self, inode: StoredInode, extent: Extent, batch: ReadBatch, unreadable: list[tuple[int, int]]
    ) -> Iterator[memoryview]:
        """If it could not be read with its neighbours, it is read alone."""
        part = batch.get(extent)
        if part is not None:
            yield part
            return
        length = extent[1]
        yield from self._chunks(self._volume.contents(inode, length), ((0, length),), 0, unreadable, ())

    def _chunks(
        self,
        contents: Contents,
        segments: Segments,
        start: int,
        unreadable: list[tuple[int, int]],
        known: Iterable[tuple[int, int]],
    ) -> Iterator[memoryview]:
        unreadable[:] = known
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


def _add_range(ranges: list[tuple[int, int]], offset: int, length: int) -> None:
    """Add a range; it is joined to the last if it continues that, or if a manifest's line has no room for more."""
    if not ranges or (sum(ranges[-1]) != offset and len(ranges) < MAX_UNREADABLE):
        ranges.append((offset, length))
        return
    first, end = min(ranges[-1][0], offset), max(sum(ranges[-1]), offset + length)
    ranges[-1] = first, end - first
