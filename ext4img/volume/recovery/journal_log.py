"""The blocks of a log: reading them, verifying their checksums, parsing their tags.

All passes of recovery (journal_scan, revoke, journal_replay) share this.
Kernel: jread, count_tags, read_tag_block, jbd2_*_csum_verify (fs/jbd2/recovery.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ext4img.errors import ChecksumError, CorruptionError, Ext4Error, SourceError
from ext4img.structs.journal import (
    COMMIT_HEADER,
    JBD2_COMMIT_BLOCK,
    JBD2_CRC32_CHKSUM,
    JBD2_CRC32_CHKSUM_SIZE,
    JBD2_DESCRIPTOR_BLOCK,
    JBD2_FLAG_LAST_TAG,
    JBD2_FLAG_SAME_UUID,
    JBD2_JOURNAL_BLOCK_TAIL,
    JBD2_MAGIC_NUMBER,
    JBD2_REVOKE_BLOCK,
    JBD2_UUID_SIZE,
    JOURNAL_BLOCK_TAG,
    JOURNAL_BLOCK_TAG3,
    JOURNAL_BLOCK_TAG_CSUM_V2_PADDING,
    JOURNAL_BLOCK_TAG_HIGH,
    JOURNAL_HEADER,
)
from ext4img.volume.problems import Problems
from ext4img.volume.recovery import journal_checksum
from ext4img.volume.recovery.journal import WINDOW_BYTES, JournalIncompat, JournalSource, JournalSuperblock


class JournalTag(NamedTuple):
    """One logged block: its block number on the volume, flags, and checksum (16 bits with CSUM_V2)."""

    pblk: int
    flags: int
    checksum: int


class JournalLog:
    """A log to be recovered. Damage goes to `problems`; `complete` is False if there was any.

    `verified` counts the checksums that were computed.
    """

    def __init__(self, journal: JournalSource, superblock: JournalSuperblock, problems: Problems) -> None:
        self.journal = journal
        self.superblock = superblock
        self.problems = problems
        self.complete = True
        self.verified = 0
        version = superblock.checksum_version
        self.verifies = version >= 2 and problems.verify
        self.sums_transactions = version == 1 and problems.verify
        self._seed = journal_checksum.seed_of(superblock.uuid)
        self._version3 = version == 3
        self._wide = JournalIncompat.BIT64 in superblock.incompat
        self.used_end = superblock.block_size - (JBD2_JOURNAL_BLOCK_TAIL.size if version >= 2 else 0)
        """Bytes of a descriptor or revoke block before its checksum."""
        self._tag_size = self._bytes_of_a_tag(version)

    def _bytes_of_a_tag(self, version: int) -> int:
        """Bytes of a tag without the UUID that may follow it (kernel: journal_tag_bytes)."""
        if version == 3:
            return JOURNAL_BLOCK_TAG3.size
        padding = JOURNAL_BLOCK_TAG_CSUM_V2_PADDING if version == 2 else 0
        return JOURNAL_BLOCK_TAG.size + padding + (JOURNAL_BLOCK_TAG_HIGH.size if self._wide else 0)

    def damaged(self, error: CorruptionError) -> None:
        """Report damage: it is raised, noted or ignored, depending on the setting of `problems`."""
        self.complete = False
        self.problems.found(error)

    # Blocks

    def read(self, index: int) -> bytes | None:
        """One block of the journal; None if it cannot be read, which is reported as damage."""
        try:
            return self.journal.read(index)
        except CorruptionError as error:
            self.damaged(error)
        except SourceError as error:
            self.damaged(CorruptionError(f"the journal cannot be read: {error}", self.journal.place(index)))
        return None

    def read_each(self, indexes: list[int]) -> Iterator[bytes | Ext4Error]:
        """The journal's blocks `indexes`, read together if possible; the error for each unreadable one."""
        step = max(WINDOW_BYTES // self.superblock.block_size, 1)
        for start in range(0, len(indexes), step):
            window = indexes[start : start + step]
            try:
                yield from [block for _, block in self.journal.read_each(window)]
            except (CorruptionError, SourceError):  # at least one is bad: read each alone, to find out which
                for index in window:
                    try:
                        yield self.journal.read(index)
                    except (CorruptionError, SourceError) as error:
                        yield error

    def following(self, descriptor: int, count: int) -> list[int]:
        """The `count` journal blocks behind a descriptor, which hold the blocks that its tags describe."""
        ring = self.superblock.ring
        first = ring(descriptor + 1)
        return [ring(first + number) for number in range(count)]

    def tags(self, block: bytes) -> Iterator[JournalTag]:
        """The tags of a descriptor block; each has a block in the log."""
        wide, version3, size, end = self._wide, self._version3, self._tag_size, self.used_end
        at = JOURNAL_HEADER.size
        while at + size <= end:
            high = 0
            if version3:
                low, flags, high, checksum = JOURNAL_BLOCK_TAG3.unpack_tuple(block, at)
            else:
                low, checksum, flags = JOURNAL_BLOCK_TAG.unpack_tuple(block, at)
                if wide:
                    (high,) = JOURNAL_BLOCK_TAG_HIGH.unpack_tuple(block, at + JOURNAL_BLOCK_TAG.size)
            yield JournalTag(low | high << 32 if wide else low, flags, checksum)
            at += size if flags & JBD2_FLAG_SAME_UUID else size + JBD2_UUID_SIZE
            if flags & JBD2_FLAG_LAST_TAG:
                return

    # Checksums

    def check_tail(self, block: bytes, index: int) -> ChecksumError | None:
        """The error if the checksum of a descriptor or revoke block is wrong, else None."""
        if not self.verifies:
            return None
        self.verified += 1
        stored = JBD2_JOURNAL_BLOCK_TAIL.unpack_tuple(block, self.used_end)[0]
        computed = journal_checksum.descriptor_or_revoke(self._seed, block)
        if stored == computed:
            return None
        return self._mismatch("journal block", stored, computed, index, JBD2_JOURNAL_BLOCK_TAIL.name)

    def check_commit(self, block: bytes, index: int, crc32: journal_checksum.TransactionCrc32) -> ChecksumError | None:
        """The error if the checksum of a commit block is wrong, else None; `crc32` is that of its transaction."""
        header: Any = COMMIT_HEADER.unpack(block)
        stored = header.h_chksum_0
        if self.sums_transactions:
            self.verified += 1
            computed = crc32.value
            kind = (header.h_chksum_type, header.h_chksum_size)
            fits = stored == computed and kind == (JBD2_CRC32_CHKSUM, JBD2_CRC32_CHKSUM_SIZE)
            if fits or (stored == 0 and kind == (0, 0)):
                return None
        elif self.verifies:
            self.verified += 1
            computed = journal_checksum.commit(self._seed, block)
            if stored in (computed, journal_checksum.commit_header_only(self._seed, block)):
                return None
        else:
            return None
        return self._mismatch(f"transaction {header.h_sequence}", stored, computed, index, COMMIT_HEADER.name)

    def fits_as(self, block: bytes, sequence: int) -> bool:
        """Whether a block's checksum would be right with the header that is expected here."""
        if not self.verifies:
            return False
        for kind in (JBD2_DESCRIPTOR_BLOCK, JBD2_REVOKE_BLOCK, JBD2_COMMIT_BLOCK):
            expected = JOURNAL_HEADER.pack((JBD2_MAGIC_NUMBER, kind, sequence)) + block[JOURNAL_HEADER.size :]
            if kind == JBD2_COMMIT_BLOCK:
                stored = COMMIT_HEADER.unpack(expected).h_chksum_0
                computed = journal_checksum.commit(self._seed, expected)
            else:
                stored = JBD2_JOURNAL_BLOCK_TAIL.unpack_tuple(expected, self.used_end)[0]
                computed = journal_checksum.descriptor_or_revoke(self._seed, expected)
            if stored == computed:
                return True
        return False

    def check_logged(self, block: bytes, tag: JournalTag, sequence: int) -> int | None:
        """The computed checksum of a logged block, if it differs from its tag's; else None."""
        self.verified += 1
        computed = journal_checksum.logged_block(self._seed, sequence, block)
        if not self._version3:
            computed &= 0xFFFF
        return None if computed == tag.checksum else computed

    def _mismatch(self, what: str, stored: int, computed: int, index: int, record: str) -> ChecksumError:
        place = self.journal.place(index, record)
        return ChecksumError(f"{what} checksum is {stored:#x}, computed {computed:#x}", place)
