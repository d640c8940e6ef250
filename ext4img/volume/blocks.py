"""The one gate: every block of the volume is read here, and nowhere else.

journal overlay → bounds → cache → source. Nothing above this module knows that a journal exists.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from ext4img.errors import CorruptionError, Place, ShortReadError, SourceError
from ext4img.sources.base import Source

CACHE_BYTES = 8 << 20
WINDOW_BYTES = 16 << 10


class BlockReader:
    """Reads whole blocks. `overlay` maps a physical block number to the bytes that replace it.

    `read` uses a cache of windows and is meant for metadata; `read_data` reads long runs of contents
    without the cache. Both raise CorruptionError outside 0 <= pblk < block_count.
    """

    def __init__(
        self, source: Source, block_size: int, block_count: int, overlay: Mapping[int, bytes] | None = None
    ) -> None:
        self._source = source
        self.block_size = block_size
        self.block_count = block_count
        self._end = block_size * block_count
        self.overlay: Mapping[int, bytes] = {} if overlay is None else overlay  # a draft may fill up later
        self._window_blocks = max(WINDOW_BYTES // block_size, 1)
        self._max_windows = max(CACHE_BYTES // (self._window_blocks * block_size), 4)
        self._windows: OrderedDict[int, bytes] = OrderedDict()
        self.windows_read = 0

    @property
    def blocks_there(self) -> int:
        """How many of the volume's blocks the image contains: fewer than `block_count` if it is cut short."""
        return min(self.block_count, self._source.size // self.block_size)

    def read(self, pblk: int, count: int = 1) -> bytes:
        """`count` blocks from physical block `pblk` on, through the cache."""
        self.check(pblk, count)
        size = self.block_size
        if count == 1:
            if pblk in self.overlay:
                return self.overlay[pblk]
            index, within = divmod(pblk, self._window_blocks)
            window = self._windows.get(index)
            if window is None:
                window = self._load(index)
            else:
                try:  # noqa: SIM105 - each call counts here
                    self._windows.move_to_end(index)
                except KeyError:
                    pass  # another thread has just dropped it; we still have the bytes
            start = within * size
            block = window[start : start + size]
            if len(block) == size:
                return block
        return bytes(self.read_data(pblk, count))

    def read_data(self, pblk: int, count: int) -> bytes:
        """`count` blocks from `pblk` on, without the cache."""
        self.check(pblk, count)
        replaced = self._replaced(pblk, count)
        if not replaced:
            return self._source.read_at(pblk * self.block_size, count * self.block_size)
        try:
            whole = bytearray(self._source.read_at(pblk * self.block_size, count * self.block_size))
        except SourceError:  # perhaps in a block that the overlay replaces
            whole = self._read_between(pblk, count, replaced)
        self._replace(memoryview(whole), pblk, replaced)
        return bytes(whole)

    def _read_between(self, pblk: int, count: int, replaced: list[int]) -> bytearray:
        """`count` blocks from `pblk` on, with gaps for those that the overlay replaces."""
        size, at = self.block_size, pblk
        whole = bytearray(count * size)
        for block in (*sorted(replaced), pblk + count):
            if block > at:
                whole[(at - pblk) * size : (block - pblk) * size] = self._source.read_at(at * size, (block - at) * size)
            at = block + 1
        return whole

    def read_bytes(self, offset: int, length: int) -> bytes:
        """`length` bytes from byte `offset` of the volume on, without the cache."""
        if self.overlay:
            data = bytearray(length)
            self.read_bytes_into(offset, memoryview(data))
            return bytes(data)
        if offset < 0 or offset + length > self._end:
            self._check_bytes(offset, length)
        return self._source.read_at(offset, length)

    def read_bytes_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `offset` of the volume on; no alignment is needed."""
        length = len(buffer)
        if offset < 0 or offset + length > self._end:
            self._check_bytes(offset, length)
        size = self.block_size
        first = offset // size
        try:
            self._source.read_into(offset, buffer)
        except SourceError:
            if not self.overlay:
                raise
            whole = self.read_data(first, -(-(offset + length) // size) - first)
            buffer[:] = whole[offset - first * size : offset - first * size + length]
            return
        if self.overlay:
            for block in self._replaced(first, -(-(offset + length) // size) - first):
                start = max(block * size, offset)
                end = min((block + 1) * size, offset + length)
                buffer[start - offset : end - offset] = self.overlay[block][start - block * size : end - block * size]

    def check_there(self, pblk: int) -> None:
        """ShortReadError if the image is cut short before block `pblk`."""
        if pblk >= self.blocks_there:
            raise ShortReadError(f"{self._source.name}: ends before block {pblk}")

    def ends_before(self, pblk: int) -> bool:
        """Whether the image is cut short before block `pblk`, and no block from there on is in the overlay."""
        return pblk >= self.blocks_there and not self.overlay

    def _check_bytes(self, offset: int, length: int) -> None:
        first = offset // self.block_size
        self.check(first, -(-(offset + length) // self.block_size) - first)

    def check(self, pblk: int, count: int) -> None:
        """CorruptionError unless all `count` blocks are on the volume."""
        if pblk < 0 or count < 0 or pblk + count > self.block_count:
            raise CorruptionError(
                f"block {pblk + max(count - 1, 0)} lies outside the volume's {self.block_count} blocks",
                Place(block=pblk),
            )

    def _load(self, index: int) -> bytes:
        size = self.block_size
        first = index * self._window_blocks
        wanted = min(self._window_blocks, self.block_count - first)
        # An image that is cut short still gives the blocks that it contains.
        there = min(wanted * size, max(self._source.size - first * size, 0))
        try:
            window = self._source.read_at(first * size, there)
        except SourceError:
            # One bad sector must not cost its neighbours: `read` then reads the block alone, and
            # raises if that is the bad one.
            window, there = b"", 0
        replaced = self._replaced(first, wanted)
        if replaced:
            whole = bytearray(window)
            self._replace(memoryview(whole), first, [pblk for pblk in replaced if (pblk - first + 1) * size <= there])
            window = bytes(whole)
        self._windows[index] = window
        self.windows_read += 1
        if len(self._windows) > self._max_windows:
            self._windows.popitem(last=False)
        return window

    def _replaced(self, pblk: int, count: int) -> list[int]:
        overlay = self.overlay
        if not overlay:
            return []
        if len(overlay) < count:
            return [block for block in overlay if pblk <= block < pblk + count]
        return [block for block in range(pblk, pblk + count) if block in overlay]

    def _replace(self, buffer: memoryview, first: int, replaced: list[int]) -> None:
        size = self.block_size
        for block in replaced:
            start = (block - first) * size
            buffer[start : start + size] = self.overlay[block]
