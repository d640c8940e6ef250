"""An image as the source of a new image, without an archive in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext4img.archive.entry import Entry, Segments
from ext4img.archive.loss import Losses
from ext4img.archiver.collect import TreeScanner
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.path import PathLike
from ext4img.mkfs import RandomAccessBody
from ext4img.rebuilder.source import NO_BODY, SourceEntry
from ext4img.volume.contents import Contents
from ext4img.volume.runs import LOST


class ImageRebuildSource:
    """A `RebuildSource`: the paths `only` of a file system (all, if that is empty), as they are without keys."""

    total_bytes: int | None = None

    def __init__(self, fs: FileSystem, only: Sequence[PathLike] = ()) -> None:
        self._fs = fs
        self._scanner = TreeScanner(fs, only)
        self._reads_around = fs.problems.checks != "strict"
        self._unreadable: set[int] = set()
        self._last: tuple[int, RandomAccessBody] | None = None
        self.info = self._scanner.info("")
        self.losses = Losses()
        self.position = 0

    @property
    def incomplete(self) -> int:
        """See `RebuildSource`."""
        return len(self._unreadable)

    def entries(self) -> Iterator[SourceEntry]:
        """See `RebuildSource`. A body has the number of its inode."""
        for entry, body in self._scanner.entries():
            lost = self._lost_ranges(entry) if entry.segments and self._reads_around else ()
            yield SourceEntry(entry, NO_BODY if body is None else entry.inode, lost)

    def _lost_ranges(self, entry: Entry) -> Segments:
        """The ranges whose blocks are lost with a part of the mapping."""
        volume = self._fs.volume
        runs = volume.runs(volume.inode(entry.inode))
        size = volume.block_size
        return tuple((run.lblk * size, run.length * size) for run in runs if run.state == LOST)

    def join(self, body: int, past_end: int, start: int) -> int:
        """See `RebuildSource`: here one body has everything."""
        return body

    def body(self, number: int) -> RandomAccessBody:
        """See `RebuildSource`."""
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        volume = self._fs.volume
        body = _ImageBody(volume.contents(volume.inode(number)), number, self._unreadable)
        self._last = number, body
        return body


class _ImageBody:
    """Stored contents. Unreadable parts are zeros, unless the file system is open with strict checks."""

    def __init__(self, contents: Contents, inode: int, unreadable: set[int]) -> None:
        self._contents = contents
        self._inode = inode
        self._unreadable = unreadable

    def read_at(self, offset: int, length: int) -> bytes:
        """See `RandomAccessBody`."""
        data = bytearray(length)
        if self._contents.read_stored_into(offset, memoryview(data)):
            self._unreadable.add(self._inode)
        return bytes(data)
