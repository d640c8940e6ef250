"""An image as what another image is made of, without an archive between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext4img.archive.entry import Entry, Segments
from ext4img.archiver.collect import TreeScanner
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.path import PathLike
from ext4img.mkfs import RandomAccessBody
from ext4img.rebuilder.source import NO_BODY, SourceEntry
from ext4img.volume.contents import Contents
from ext4img.volume.runs import LOST


class ImageRebuildSource:
    """An `Origin`: what of a view is in `only` (all, if that is empty), as it is without keys."""

    total_bytes: int | None = None

    def __init__(self, fs: FileSystem, only: Sequence[PathLike] = ()) -> None:
        self._fs = fs
        self._scanner = TreeScanner(fs, only)
        self._reads_around = fs.problems.checks != "strict"
        self._unreadable: set[int] = set()
        self._last: tuple[int, RandomAccessBody] | None = None
        self.info = self._scanner.info("")
        self.position = 0

    @property
    def incomplete(self) -> int:
        """See `Origin`."""
        return len(self._unreadable)

    def entries(self) -> Iterator[SourceEntry]:
        """See `Origin`. A body has the number of its inode."""
        for entry, body in self._scanner.entries():
            lost = self._lost_ranges(entry) if entry.segments and self._reads_around else ()
            yield SourceEntry(entry, NO_BODY if body is None else entry.inode, lost)

    def _lost_ranges(self, entry: Entry) -> Segments:
        """What no place is known of: part of a damaged extent tree."""
        volume = self._fs.volume
        runs = volume.runs(volume.inode(entry.inode))
        size = volume.block_size
        return tuple((run.lblk * size, run.length * size) for run in runs if run.state == LOST)

    def join(self, body: int, past_end: int, start: int) -> int:
        """See `Origin`: here it is all in one place already."""
        return body

    def body(self, number: int) -> RandomAccessBody:
        """See `Origin`."""
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        volume = self._fs.volume
        body = _ImageBody(volume.contents(volume.inode(number)), number, self._unreadable)
        self._last = number, body
        return body


class _ImageBody:
    """Stored contents; where the source does not give them, zeros, if the view's checks allow that."""

    def __init__(self, contents: Contents, inode: int, unreadable: set[int]) -> None:
        self._contents = contents
        self._inode = inode
        self._unreadable = unreadable

    def read_at(self, offset: int, length: int) -> bytes:
        """See `Body`."""
        data = bytearray(length)
        if self._contents.read_stored_into(offset, memoryview(data)):
            self._unreadable.add(self._inode)
        return bytes(data)
