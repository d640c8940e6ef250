"""Recovery's second pass: the revoke records, each of which cancels a block in the log.

A record counts for its own transaction and for all earlier ones: they freed the block, and what the
log has of it must not be written over its new contents.

Kernel: scan_revoke_records (fs/jbd2/recovery.c), jbd2_journal_test_revoke (fs/jbd2/revoke.c).
"""

from __future__ import annotations

from typing import Any

from ext4img.errors import CorruptionError
from ext4img.structs.journal import JBD2_JOURNAL_REVOKE_HEADER, REVOKE_32, REVOKE_64
from ext4img.volume.recovery.journal import JournalIncompat
from ext4img.volume.recovery.journal_log import JournalLog
from ext4img.volume.recovery.journal_scan import SEQUENCE_MASK, Transaction


def follows(later: int, earlier: int) -> bool:
    """Whether a sequence number comes after another; numbers wrap at 2^32 (kernel: tid_gt)."""
    return 0 < (later - earlier & SEQUENCE_MASK) < 1 << 31


class RevokeTable:
    """The latest transaction that revokes each block. `records` counts all records that were read.

    Only blocks among `logged` are kept: a hostile log can hold far more revoke records.
    """

    def __init__(self, log: JournalLog, logged: set[int]) -> None:
        self._log = log
        self._logged = logged
        self._latest: dict[int, int] = {}
        self.records = 0

    def add(self, transaction: Transaction) -> None:
        """Read the revoke blocks of a transaction."""
        log = self._log
        record = REVOKE_64 if JournalIncompat.BIT64 in log.superblock.incompat else REVOKE_32
        start = JBD2_JOURNAL_REVOKE_HEADER.size
        for index in transaction.revokes:
            block = log.read(index)
            if block is None:
                continue
            header: Any = JBD2_JOURNAL_REVOKE_HEADER.unpack(block)
            if header.r_count > log.used_end:
                place = log.journal.place(index, JBD2_JOURNAL_REVOKE_HEADER.name)
                log.damaged(CorruptionError(f"a revoke block counts {header.r_count} bytes", place))
                continue
            count = max(header.r_count - start, 0) // record.size
            for (pblk,) in record.iter_unpack(memoryview(block)[start : start + count * record.size]):
                if pblk in self._logged:
                    before = self._latest.get(pblk)
                    if before is None or follows(transaction.sequence, before):
                        self._latest[pblk] = transaction.sequence
            self.records += count

    def revokes(self, pblk: int, sequence: int) -> bool:
        """Whether the copy of a block in the transaction of that number must not be replayed."""
        latest = self._latest.get(pblk)
        return latest is not None and not follows(sequence, latest)
