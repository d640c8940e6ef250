"""Bytes of a file as they stand on disk, through its runs: holes and unwritten blocks are zeros."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from ext4img.errors import CorruptionError, Place, SourceError
from ext4img.volume.blocks import BlockReader
from ext4img.volume.mapping import LOST, WRITTEN, Runs
from ext4img.volume.problems import Problems


class Contents:
    """Random access to one file's stored bytes. `size` bounds it, in bytes; `inode` is for messages.

    `inline` holds the contents themselves where they stand in the inode.
    """

    __slots__ = ("_bad", "_blocks", "_inode", "_problems", "_starts", "inline", "runs", "size")

    def __init__(
        self, blocks: BlockReader, problems: Problems, inode: int, runs: Runs, size: int, inline: bytes | None = None
    ) -> None:
        self._blocks = blocks
        self._problems = problems
        self._inode = inode
        self._starts = [run[0] for run in runs] if len(runs) != 1 else runs[0][:1]
        self.runs = runs
        self.size = size
        self.inline = inline
        self._bad: list[tuple[int, int]] = []

    @property
    def volume_size(self) -> int:
        """Bytes of the whole volume: no file has more contents that are not holes."""
        return self._blocks.block_count * self._blocks.block_size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from byte `offset` on; returns how many bytes there were up to `size`."""
        length = min(len(buffer), self.size - offset)
        if length <= 0:
            return 0
        self.read_stored_into(offset, buffer if length == len(buffer) else buffer[:length])
        return length

    def read_stored_into(self, offset: int, target: memoryview) -> list[tuple[int, int]]:
        """Fill `target` from byte `offset` on, whatever `size` is: the last block has bytes past it.

        Returns (offset, length) of what could not be read and is zeros instead; always empty when
        strict.
        """
        length = len(target)
        if self.inline is not None:
            piece = self.inline[offset : offset + length]
            target[: len(piece)] = piece
            target[len(piece) :] = bytes(length - len(piece))
            return []
        at = self._in_one_run(offset, length)
        if at >= 0:
            try:
                self._blocks.read_bytes_into(at, target)
                return []
            except SourceError:
                pass  # once more, to know which block it is
        self._bad = []
        self._read_runs(offset, target)
        return self._bad

    def _in_one_run(self, offset: int, length: int) -> int:
        """The disk's byte offset of a range that lies in one written run; -1 of any other."""
        size = self._blocks.block_size
        position = bisect_right(self._starts, offset // size) - 1
        if position < 0:
            return -1
        lblk, pblk, count, state = self.runs[position]
        within = offset - lblk * size
        return pblk * size + within if state == WRITTEN and within + length <= count * size else -1

    def _read_runs(self, offset: int, target: memoryview) -> None:
        """Run by run; gaps between them are zeros."""
        length = len(target)
        done = 0
        block_size = self._blocks.block_size
        position = max(bisect_right(self._starts, offset // block_size) - 1, 0)
        runs = self.runs
        while done < length:
            at = offset + done
            if position >= len(runs):
                _zero(target[done:])
                break
            lblk, pblk, count, state = runs[position]
            start = lblk * block_size
            end = start + count * block_size
            if at >= end:
                position += 1
                continue
            if at < start:
                gap = min(start - at, length - done)
                _zero(target[done : done + gap])
                done += gap
                continue
            take = min(end - at, length - done)
            piece_view = target[done : done + take]
            if state == WRITTEN:
                self._fill(pblk * block_size + (at - start), piece_view, at)
            else:
                _zero(piece_view)
                if state == LOST:
                    self._lost(at, take)
            done += take

    def written(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(offset, length) in bytes of the written parts of a range, one for each run."""
        size = self._blocks.block_size
        end = offset + length
        parts = []
        for run in self.runs[max(bisect_right(self._starts, offset // size) - 1, 0) :]:
            start, stop = max(run.lblk * size, offset), min(run.end * size, end)
            if start >= end:
                break
            if start < stop and run.state == WRITTEN:
                parts.append((start, stop - start))
        return parts

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        at = -1 if self.inline is not None else self._in_one_run(offset, length)
        if at >= 0:
            try:
                return self._blocks.read_bytes(at, length)
            except SourceError:
                pass  # once more, to know which block it is
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def segments(self, end: int | None = None) -> list[tuple[int, int]]:
        """(offset, length) in bytes of what is written, neighbours merged, up to `end` (default: size)."""
        limit = self.size if end is None else end
        if self.inline is not None:
            return [(0, limit)] if limit else []
        size = self._blocks.block_size
        merged: list[tuple[int, int]] = []
        for run in self.runs:
            if run.state not in (WRITTEN, LOST):
                continue
            offset, stop = run.lblk * size, min(run.end * size, limit)
            if stop <= offset:
                continue
            if merged and sum(merged[-1]) == offset:
                merged[-1] = (merged[-1][0], merged[-1][1] + stop - offset)
            else:
                merged.append((offset, stop - offset))
        return merged

    def _fill(self, disk_offset: int, buffer: memoryview, file_offset: int) -> None:
        try:
            self._blocks.read_bytes_into(disk_offset, buffer)
        except SourceError as error:
            self._unreadable(error, disk_offset, buffer, file_offset)

    def _unreadable(self, error: SourceError, disk_offset: int, buffer: memoryview, file_offset: int) -> None:
        """Block by block, so that one bad sector costs one block; raises when strict."""
        size = self._blocks.block_size
        if len(buffer) <= size:
            _zero(buffer)
            self._bad.append((file_offset, len(buffer)))
            place = Place(inode=self._inode, block=disk_offset // size, offset=disk_offset)
            reason = f"contents from byte {file_offset} to {file_offset + len(buffer)} cannot be read: {error}"
            if self._problems.checks == "strict":
                raise error
            self._problems.found(CorruptionError(reason, place))
            return
        done = 0
        for piece in _block_pieces(disk_offset, len(buffer), size):
            view = buffer[done : done + piece]
            try:
                self._blocks.read_bytes_into(disk_offset + done, view)
            except SourceError as one:
                self._unreadable(one, disk_offset + done, view, file_offset + done)
            done += piece

    def _lost(self, offset: int, length: int) -> None:
        self._bad.append((offset, length))
        place = Place(inode=self._inode)
        self._problems.found(CorruptionError(f"contents from byte {offset} to {offset + length} are lost", place))


def _block_pieces(offset: int, length: int, size: int) -> Iterator[int]:
    while length > 0:
        piece = min(size - offset % size, length)
        yield piece
        offset += piece
        length -= piece


def _zero(buffer: memoryview) -> None:
    buffer[:] = bytes(len(buffer))
