"""The bytes of a file as stored, read through its runs: holes and unwritten blocks are zeros."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from ext4img.errors import Place, ShortReadError, SourceError
from ext4img.volume.blocks import BlockReader
from ext4img.volume.problems import Problems
from ext4img.volume.runs import LOST, WRITTEN, Runs

# Pieces of a file that are so close on the disk are read together, with the bytes between them: that
# takes no longer than another system call.
_NEAR_BYTES = 16 << 10
_SPAN_BYTES = 64 << 10
_Piece = tuple[int, int, int]  # byte offset on the disk, byte offset in the file, length
_ZEROS, _SEVERAL = -1, -2
_CONTENTS = "contents from byte"


class Contents:
    """Random access to one file's stored bytes, up to `size` bytes. `inode` is for messages.

    `inline` holds the contents of a file that has them in its inode.
    """

    __slots__ = ("_bad", "_block_size", "_blocks", "_inode", "_problems", "_starts", "inline", "runs", "size")

    def __init__(
        self, blocks: BlockReader, problems: Problems, inode: int, runs: Runs, size: int, inline: bytes | None = None
    ) -> None:
        self._blocks = blocks
        self._problems = problems
        self._inode = inode
        self._block_size = size_of_block = blocks.block_size
        self._starts = [run[0] * size_of_block for run in runs]  # in bytes
        self.runs = runs
        self.size = size
        self.inline = inline
        self._bad: list[tuple[int, int]] = []

    @property
    def volume_size(self) -> int:
        """Bytes of the whole volume: a file with more contents than that has holes."""
        return self._blocks.block_count * self._blocks.block_size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from byte `offset` on, up to `size`. Returns the number of bytes."""
        length = min(len(buffer), self.size - offset)
        if length <= 0:
            return 0
        self.read_stored_into(offset, buffer if length == len(buffer) else buffer[:length])
        return length

    def read_stored_into(self, offset: int, target: memoryview) -> list[tuple[int, int]]:
        """Fill `target` from byte `offset` on, also past `size`: the last block has bytes there.

        Returns (offset, length) of the unreadable parts, which are zeros; always empty when strict.
        """
        length = len(target)
        if self.inline is not None:
            piece = self.inline[offset : offset + length]
            target[: len(piece)] = piece
            target[len(piece) :] = bytes(length - len(piece))
            return []
        at = self._in_one_run(offset, length)
        if at == _ZEROS:
            _zero(target)
            return []
        if at >= 0:
            try:
                self._blocks.read_bytes_into(at, target)
                return []
            except SourceError:
                pass  # read again in parts, to find the bad block
        self._bad = []
        self._read_runs(offset, target)
        return self._bad

    def _in_one_run(self, offset: int, length: int) -> int:
        """The disk's byte offset of a range that lies in one written run.

        _ZEROS for a range without written blocks, _SEVERAL for any other.
        """
        position = bisect_right(self._starts, offset) - 1
        stop = offset + length
        if position >= 0:
            start = self._starts[position]
            _, pblk, count, state = self.runs[position]
            size = self._block_size
            if stop <= start + count * size:
                if state == WRITTEN:
                    return pblk * size + offset - start
                return _SEVERAL if state == LOST else _ZEROS
            if offset < start + count * size:
                return _SEVERAL
        position += 1
        return _ZEROS if position == len(self._starts) or stop <= self._starts[position] else _SEVERAL

    def _read_runs(self, offset: int, target: memoryview) -> None:
        """Read run by run, those that are close on the disk together; the rest is zeros."""
        end = offset + len(target)
        size = self._block_size
        groups: list[list[_Piece]] = []
        group_start = group_end = -_SPAN_BYTES
        left = len(target)
        first = max(bisect_right(self._starts, offset) - 1, 0)
        for lblk, pblk, count, state in self.runs[first : bisect_left(self._starts, end)]:
            start, length, on_disk = lblk * size, count * size, pblk * size
            if start < offset:
                length -= offset - start
                on_disk += offset - start
                start = offset
            if start + length > end:
                length = end - start
            if length <= 0:
                continue
            if state == WRITTEN:
                if not 0 <= on_disk - group_end <= _NEAR_BYTES or on_disk + length - group_start > _SPAN_BYTES:
                    group: list[_Piece] = []
                    groups.append(group)
                    group_start = on_disk
                group.append((on_disk, start, length))
                group_end = on_disk + length
                left -= length
            elif state == LOST:
                self._lost(start, length)
        if left:
            _zero(target)
        for pieces in groups:
            self._read_group(pieces, offset, target)

    def _read_group(self, pieces: list[_Piece], offset: int, target: memoryview) -> None:
        """Read pieces that are close on the disk; `target` begins at byte `offset` of the file."""
        if len(pieces) > 1:
            first, (last, _, length) = pieces[0][0], pieces[-1]
            try:
                span = memoryview(self._blocks.read_bytes(first, last + length - first))
            except SourceError:
                pass  # read each alone, to find the bad block
            else:
                for on_disk, start, length in pieces:
                    at, within = start - offset, on_disk - first
                    target[at : at + length] = span[within : within + length]
                return
        for on_disk, start, length in pieces:
            self._fill(on_disk, target[start - offset : start - offset + length], start)

    def written(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(offset, length) in bytes of the written parts of a range, one for each run."""
        size = self._blocks.block_size
        end = offset + length
        parts = []
        for run in self.runs[max(bisect_right(self._starts, offset) - 1, 0) :]:
            start, stop = max(run.lblk * size, offset), min(run.end * size, end)
            if start >= end:
                break
            if start < stop and run.state == WRITTEN:
                parts.append((start, stop - start))
        return parts

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on."""
        if offset + length > self.size:
            length = self.size - offset
        if length <= 0:
            return b""
        at = _SEVERAL if self.inline is not None else self._in_one_run(offset, length)
        if at == _ZEROS:
            return bytes(length)
        if at >= 0:
            try:
                return self._blocks.read_bytes(at, length)
            except SourceError:
                pass  # read again in parts, to find the bad block
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def lost(self, end: int) -> list[tuple[int, int]]:
        """(offset, length) in bytes of the parts up to `end` whose blocks are lost; they are reported."""
        size = self._block_size
        ranges = [(run.lblk * size, min(run.end * size, end)) for run in self.runs if run.state == LOST]
        self._bad = []
        for offset, stop in ranges:
            if offset < stop:
                self._lost(offset, stop - offset)
        return self._bad

    def segments(self, end: int | None = None, *, with_lost: bool = True) -> list[tuple[int, int]]:
        """(offset, length) in bytes of the written parts, neighbours merged, up to `end` (default: size).

        Those whose blocks are lost are parts, too, unless `with_lost` is false.
        """
        limit = self.size if end is None else end
        if self.inline is not None:
            held = min(limit, len(self.inline))  # the rest is a hole, as i_size may be anything
            return [(0, held)] if held else []
        size = self._blocks.block_size
        merged: list[tuple[int, int]] = []
        for run in self.runs:
            if run.state != WRITTEN and not (with_lost and run.state == LOST):
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
        """Read block by block, so that one bad sector costs one block; raises when strict."""
        size = self._blocks.block_size
        if len(buffer) <= size or self._blocks.ends_before(disk_offset // size):
            _zero(buffer)
            self._bad.append((file_offset, len(buffer)))
            place = Place(inode=self._inode, block=disk_offset // size, offset=disk_offset)
            if self._problems.checks == "strict":
                raise error
            how = f"cannot be read: {_why(error)}"
            self._problems.found_range(_CONTENTS, how, file_offset, file_offset + len(buffer), place)
            return
        done = 0
        for piece in _block_pieces(disk_offset, len(buffer), size):
            fs = buffer[done : done + piece]
            try:
                self._blocks.read_bytes_into(disk_offset + done, fs)
            except SourceError as one:
                self._unreadable(one, disk_offset + done, fs, file_offset + done)
            done += piece

    def _lost(self, offset: int, length: int) -> None:
        self._bad.append((offset, length))
        self._problems.found_range(_CONTENTS, "are lost", offset, offset + length, Place(inode=self._inode))


def _why(error: SourceError) -> str:
    """The reason without offset and name, the same for all blocks of a range."""
    if isinstance(error, ShortReadError):
        return "the image ends before that"
    return os.strerror(error.errno) if error.errno else str(error)


def _block_pieces(offset: int, length: int, size: int) -> Iterator[int]:
    while length > 0:
        piece = min(size - offset % size, length)
        yield piece
        offset += piece
        length -= piece


def _zero(buffer: memoryview) -> None:
    buffer[:] = bytes(len(buffer))
