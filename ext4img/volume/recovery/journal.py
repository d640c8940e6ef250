"""The journal: its superblock in plain words, and its blocks.

A journal is a file of the volume (inode 8) or a device of its own. Both are a `JournalSource`:
numbered blocks, one of which is the journal's superblock. journal_log parses the other blocks.

Kernel: journal_check_superblock and jbd2_journal_get_num_fc_blks (fs/jbd2/journal.c),
ext4_get_dev_journal (fs/ext4/super.c).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from enum import IntFlag
from typing import Any, NamedTuple
from uuid import UUID

from ext4img.errors import ChecksumError, CorruptionError, Place, UnsupportedFeatureError
from ext4img.sources.base import Source
from ext4img.structs.journal import (
    JBD2_CRC32C_CHKSUM,
    JBD2_DEFAULT_FAST_COMMIT_BLOCKS,
    JBD2_MAGIC_NUMBER,
    JBD2_SUPERBLOCK_V1,
    JBD2_SUPERBLOCK_V2,
    JOURNAL_SUPERBLOCK,
)
from ext4img.structs.superblock import EXT4_SUPER_BLOCK, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from ext4img.volume import checksum
from ext4img.volume.features import Incompat, RoCompat
from ext4img.volume.problems import Problems
from ext4img.volume.recovery import journal_checksum
from ext4img.volume.runs import WRITTEN, Run
from ext4img.volume.superblock import MAX_LOG_BLOCK_SIZE, MIN_LOG_BLOCK_SIZE, has_magic

WINDOW_BYTES = 1 << 20


class JournalCompat(IntFlag):
    """s_feature_compat of the journal."""

    CHECKSUM = 0x1


class JournalIncompat(IntFlag):
    """s_feature_incompat of the journal."""

    REVOKE = 0x01
    BIT64 = 0x02
    ASYNC_COMMIT = 0x04
    CSUM_V2 = 0x08
    CSUM_V3 = 0x10
    FAST_COMMIT = 0x20


# As dumpe2fs prints them (e2fsprogs lib/e2p/feature.c).
_COMPAT_NAMES = {JournalCompat.CHECKSUM: "journal_checksum"}
_INCOMPAT_NAMES = {
    JournalIncompat.REVOKE: "journal_incompat_revoke",
    JournalIncompat.BIT64: "journal_64bit",
    JournalIncompat.ASYNC_COMMIT: "journal_async_commit",
    JournalIncompat.CSUM_V2: "journal_checksum_v2",
    JournalIncompat.CSUM_V3: "journal_checksum_v3",
    JournalIncompat.FAST_COMMIT: "fast_commit",
}
_KNOWN_INCOMPAT = sum(JournalIncompat)


class JournalSuperblock(NamedTuple):
    """The journal's own description. Block numbers count from the journal's start.

    The log is a ring of the blocks `first` to `end` - 1. It begins at `start`, which is 0 if there is
    nothing to replay. Fast commits are in the blocks `fast_commit_first` to `length` - 1.
    """

    version: int
    block_size: int
    length: int
    first: int
    end: int
    sequence: int
    start: int
    error: int  # errno of the abort, negative, or 0
    compat: JournalCompat
    incompat: JournalIncompat
    uuid: UUID
    users: int
    fast_commit_blocks: int
    lost_checksums: bool = False  # it has a crc32c, but has lost the feature
    head: int = 0  # s_head: where the log continues after a clean end; 0 before kernel 6.4

    @property
    def checksum_version(self) -> int:
        """0: none. 1: one crc32 per transaction. 2 and 3: crc32c of every block."""
        if JournalIncompat.CSUM_V3 in self.incompat:
            return 3
        if JournalIncompat.CSUM_V2 in self.incompat:
            return 2
        return 1 if JournalCompat.CHECKSUM in self.compat else 0

    @property
    def fast_commit_first(self) -> int:
        """First block of the fast commits; the kernel leaves one block unused before it."""
        return self.end + 1

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features' names, as dumpe2fs prints them."""
        return tuple(_COMPAT_NAMES[flag] for flag in JournalCompat if flag in self.compat) + tuple(
            _INCOMPAT_NAMES[flag] for flag in JournalIncompat if flag in self.incompat
        )

    def ring(self, index: int) -> int:
        """The block of the ring for an `index` that may be past its end."""
        return index if index < self.end else self.first + (index - self.end) % (self.end - self.first)


class JournalSource(ABC):
    """The blocks of a journal, as they are on disk. Block `superblock_index` is its superblock."""

    block_size: int
    block_count: int
    superblock_index: int = 0

    @abstractmethod
    def read(self, index: int, count: int = 1) -> bytes:
        """`count` blocks from the journal's block `index` on.

        CorruptionError past the end and in holes, SourceError for unreadable blocks.
        """

    @abstractmethod
    def physical(self, index: int) -> int | None:
        """The volume's block that holds journal block `index`; None for a hole or another device."""

    def holds(self, pblk: int) -> bool:
        """Whether the volume's block `pblk` belongs to the journal itself."""
        return False

    def place(self, index: int, record: str | None = None) -> Place:
        """Where journal block `index` is, for messages."""
        return Place(block=self.physical(index), record=record)

    def read_each(self, indexes: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """(index, block) for each of `indexes`; neighbours are read together."""
        max_count = max(WINDOW_BYTES // self.block_size, 1)
        first = count = 0
        for index in indexes:
            if count and (index != first + count or count == max_count):
                yield from self._split(first, count)
                count = 0
            if not count:
                first = index
            count += 1
        if count:
            yield from self._split(first, count)

    def _split(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        size = self.block_size
        data = self.read(first, count)
        for number in range(count):
            yield first + number, data[number * size : (number + 1) * size]

    def _check(self, index: int, count: int) -> None:
        if index < 0 or count < 0 or index + count > self.block_count:
            raise CorruptionError(
                f"block {index} of the journal, which has {self.block_count}", Place(record=JOURNAL_SUPERBLOCK.name)
            )


class JournalFile(JournalSource):
    """A journal inside the volume: the runs of its inode, read by `read_blocks(pblk, count)`.

    `size` is the inode's, in bytes. Unwritten runs count as holes, as in the kernel. CorruptionError
    if two runs have the same block: the log could then be longer than the disk.
    """

    def __init__(
        self, runs: Iterable[Run], size: int, block_size: int, read_blocks: Callable[[int, int], bytes]
    ) -> None:
        self.block_size = block_size
        self._read_blocks = read_blocks
        written = [run for run in runs if run.state == WRITTEN]
        self._starts = [run.lblk for run in written]
        self._runs = written
        self.block_count = size // block_size
        by_place = sorted((run.pblk, run.pblk + run.length) for run in written)
        self._physical_starts = [start for start, _ in by_place]
        self._physical_ends = [end for _, end in by_place]
        for end, start in zip(self._physical_ends, self._physical_starts[1:], strict=False):
            if start < end:
                raise CorruptionError("two parts of the journal are the same block", Place(block=start))

    def read(self, index: int, count: int = 1) -> bytes:
        self._check(index, count)
        parts = []
        while count > 0:
            pblk, left = self._find(index)
            if pblk is None:
                raise CorruptionError(f"block {index} of the journal is a hole", Place(record=JOURNAL_SUPERBLOCK.name))
            step = min(left, count)
            parts.append(self._read_blocks(pblk, step))
            index += step
            count -= step
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def physical(self, index: int) -> int | None:
        return self._find(index)[0]

    def holds(self, pblk: int) -> bool:
        at = bisect_right(self._physical_starts, pblk) - 1
        return at >= 0 and pblk < self._physical_ends[at]

    def _find(self, index: int) -> tuple[int | None, int]:
        """(physical block, blocks left in its run) of a journal block."""
        at = bisect_right(self._starts, index) - 1
        if at >= 0:
            run = self._runs[at]
            if index < run.end:
                return run.pblk + index - run.lblk, run.end - index
        return None, 0


class JournalDevice(JournalSource):
    """A journal on a device of its own. `uuid` is the s_journal_uuid of its file system.

    The device has an ext4 superblock at byte 1,024, with only the journal_dev feature. The journal's
    own superblock is in the next block; block numbers count from the device's beginning.
    CorruptionError if `source` is not such a device.
    """

    def __init__(self, source: Source, problems: Problems) -> None:
        raw = source.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)
        place = Place(offset=SUPERBLOCK_OFFSET, record=EXT4_SUPER_BLOCK.name)
        record: Any = EXT4_SUPER_BLOCK.unpack(raw, 0, place)
        if not has_magic(raw) or not record.s_feature_incompat & Incompat.JOURNAL_DEV:
            raise CorruptionError(f"{source.name} is not an external journal", place)
        if record.s_log_block_size > MAX_LOG_BLOCK_SIZE - MIN_LOG_BLOCK_SIZE:
            raise CorruptionError("blocks are 1 KiB to 64 KiB", place)
        if record.s_feature_ro_compat & RoCompat.METADATA_CSUM and problems.verify:
            computed = checksum.superblock(raw)
            if computed != record.s_checksum:
                problems.checksum("external journal's superblock", record.s_checksum, computed, place)
        self._source = source
        self.uuid = UUID(bytes=record.s_uuid)
        self.block_size = 1 << (record.s_log_block_size + MIN_LOG_BLOCK_SIZE)
        self.superblock_index = SUPERBLOCK_OFFSET // self.block_size + 1
        count = record.s_blocks_count_lo
        if record.s_feature_incompat & Incompat.BIT64:
            count |= record.s_blocks_count_hi << 32
        self.block_count = min(count, source.size // self.block_size)

    def read(self, index: int, count: int = 1) -> bytes:
        self._check(index, count)
        return self._source.read_at(index * self.block_size, count * self.block_size)

    def physical(self, index: int) -> int | None:
        return None


def read_journal_superblock(journal: JournalSource, problems: Problems) -> JournalSuperblock:
    """Verify and parse the journal's superblock, by the kernel's rules.

    CorruptionError and UnsupportedFeatureError are always raised: such a log cannot be read. A wrong
    checksum goes to `problems`.
    """
    index = journal.superblock_index
    raw = journal.read(index)[: JOURNAL_SUPERBLOCK.size]
    place = journal.place(index, JOURNAL_SUPERBLOCK.name)
    record: Any = JOURNAL_SUPERBLOCK.unpack(raw, 0, place)

    def wrong(field: str, why: str) -> CorruptionError:
        where = Place(block=place.block, record=JOURNAL_SUPERBLOCK.name, field=field)
        return CorruptionError(f"{field} is {getattr(record, field)}: {why}", where)

    if record.h_magic != JBD2_MAGIC_NUMBER:
        raise wrong("h_magic", "the journal has no superblock")
    if record.h_blocktype not in (JBD2_SUPERBLOCK_V1, JBD2_SUPERBLOCK_V2):
        raise wrong("h_blocktype", "not a journal superblock of version 1 or 2")
    version = 1 if record.h_blocktype == JBD2_SUPERBLOCK_V1 else 2
    compat = incompat = 0
    if version == 2:
        compat, incompat = record.s_feature_compat, record.s_feature_incompat
        _refuse_unknown(incompat, record.s_feature_ro_compat)
        _check_checksum(record, raw, compat, incompat, problems, place)
    if record.s_blocksize != journal.block_size:
        raise wrong("s_blocksize", f"the volume's blocks have {journal.block_size} bytes")
    length = record.s_maxlen
    if length > journal.block_count:
        raise wrong("s_maxlen", f"the journal has only {journal.block_count} blocks")
    end = length
    fast_commit_blocks = 0
    if incompat & JournalIncompat.FAST_COMMIT:
        fast_commit_blocks = record.s_num_fc_blks or JBD2_DEFAULT_FAST_COMMIT_BLOCKS
        end = length - fast_commit_blocks
    if not 0 < record.s_first < end:
        raise wrong("s_first", f"the log can only be in blocks 1 to {end - 1}")
    return JournalSuperblock(
        version=version,
        block_size=record.s_blocksize,
        length=length,
        first=record.s_first,
        end=end,
        sequence=record.s_sequence,
        start=record.s_start,
        error=record.s_errno,
        compat=JournalCompat(compat & JournalCompat.CHECKSUM),
        incompat=JournalIncompat(incompat),
        uuid=UUID(bytes=record.s_uuid),
        users=record.s_nr_users if version == 2 else 1,
        fast_commit_blocks=fast_commit_blocks,
        lost_checksums=_lost_checksums(record, version),
        head=record.s_head if version == 2 else 0,
    )


def _lost_checksums(record: Any, version: int) -> bool:
    """Whether there is a crc32c without a feature for it. Version 1 has neither features nor a checksum."""
    crc32c = version == 2 and record.s_feature_incompat & (JournalIncompat.CSUM_V2 | JournalIncompat.CSUM_V3)
    return not crc32c and record.s_checksum_type == JBD2_CRC32C_CHKSUM and record.s_checksum != 0


def _refuse_unknown(incompat: int, ro_compat: int) -> None:
    unknown = [f"journal FEATURE_I{bit}" for bit in range(32) if incompat & ~_KNOWN_INCOMPAT & 1 << bit]
    unknown += [f"journal FEATURE_R{bit}" for bit in range(32) if ro_compat & 1 << bit]
    if unknown:
        raise UnsupportedFeatureError(f"unsupported journal features: {', '.join(unknown)}", tuple(unknown))


def _check_checksum(record: Any, raw: bytes, compat: int, incompat: int, problems: Problems, place: Place) -> None:
    crc32c = incompat & (JournalIncompat.CSUM_V2 | JournalIncompat.CSUM_V3)
    if not crc32c:
        return
    if crc32c == JournalIncompat.CSUM_V2 | JournalIncompat.CSUM_V3 or compat & JournalCompat.CHECKSUM:
        raise CorruptionError("the journal's features name two kinds of checksum", place)
    if record.s_checksum_type != JBD2_CRC32C_CHKSUM:
        raise UnsupportedFeatureError(
            f"unsupported checksum type {record.s_checksum_type} of the journal (4, crc32c, is supported)"
        )
    computed = journal_checksum.superblock(raw)
    if problems.verify and computed != record.s_checksum:
        problems.found(
            ChecksumError(f"journal superblock checksum is {record.s_checksum:#x}, computed {computed:#x}", place)
        )
