"""The overlay: blocks that replace those of the image, for the block reader.

A log can be larger than memory should be (data=journal puts contents into it). So the overlay only
keeps where in the journal the last version of each block is, reads that on demand, and caches a
bounded number of blocks. Blocks that recovery itself rewrites (fast commits, orphans) are kept as
bytes; `Draft` collects them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ext4img.errors import LimitError
from ext4img.structs.journal import JBD2_MAGIC_BYTES
from ext4img.volume.recovery.journal import JournalSource

CACHE_BYTES = 8 << 20
MAX_PATCHED_BYTES = 64 << 20


class Overlay(Mapping[int, bytes]):
    """Physical block number → its bytes after recovery, for the blocks that recovery changes.

    `logged` maps each to the number of its journal block times two, plus one if it is escaped.
    `patched` holds the blocks that are kept as bytes; they replace logged ones.
    """

    def __init__(
        self,
        journal: JournalSource | None = None,
        logged: Mapping[int, int] | None = None,
        patched: Mapping[int, bytes] | None = None,
    ) -> None:
        self._journal = journal
        self._logged = dict(logged or {}) if journal is not None else {}
        self._patched = dict(patched or {})
        self._only_patched = sum(1 for pblk in self._patched if pblk not in self._logged)
        self._cache: dict[int, bytes] = {}
        self._max_cached = max(CACHE_BYTES // journal.block_size, 4) if journal is not None else 0

    def __getitem__(self, pblk: int) -> bytes:
        block = self._patched.get(pblk)
        if block is None:
            block = self._cache.get(pblk)
        if block is None:
            block = self._read(pblk, self._logged[pblk])
        return block

    def __contains__(self, pblk: object) -> bool:
        return pblk in self._logged or pblk in self._patched

    def __iter__(self) -> Iterator[int]:
        yield from self._logged
        for pblk in self._patched:
            if pblk not in self._logged:
                yield pblk

    def __len__(self) -> int:
        return len(self._logged) + self._only_patched

    def patched_with(self, patches: Mapping[int, bytes]) -> Overlay:
        """The same overlay with `patches` on top."""
        return Overlay(self._journal, self._logged, {**self._patched, **patches}) if patches else self

    def _read(self, pblk: int, where: int) -> bytes:
        if self._journal is None:
            raise KeyError(pblk)
        block = self._journal.read(where >> 1)
        if where & 1:
            block = JBD2_MAGIC_BYTES + block[len(JBD2_MAGIC_BYTES) :]
        if len(self._cache) >= self._max_cached:
            self._cache.clear()
        self._cache[pblk] = block
        return block


class Draft(Mapping[int, bytes]):
    """An overlay that recovery writes to, and through which it reads its own changes.

    To readers it is an overlay; `write` is for recovery only.
    """

    def __init__(self, base: Mapping[int, bytes]) -> None:
        self._base = base
        self.patches: dict[int, bytes] = {}
        self._bytes = 0

    def write(self, pblk: int, block: bytes) -> None:
        """Replace a block. LimitError if recovery rewrites more than any real one would."""
        if pblk not in self.patches:
            self._bytes += len(block)
            if self._bytes > MAX_PATCHED_BYTES:
                raise LimitError(f"recovery would rewrite more than {MAX_PATCHED_BYTES >> 20} MiB of metadata")
        self.patches[pblk] = block

    def __getitem__(self, pblk: int) -> bytes:
        block = self.patches.get(pblk)
        return self._base[pblk] if block is None else block

    def __contains__(self, pblk: object) -> bool:
        return pblk in self.patches or pblk in self._base

    def __iter__(self) -> Iterator[int]:
        yield from self._base
        for pblk in self.patches:
            if pblk not in self._base:
                yield pblk

    def __len__(self) -> int:
        return len(self._base) + sum(1 for pblk in self.patches if pblk not in self._base)
