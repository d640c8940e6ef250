"""Recovery's first pass: from the log's start to its end, transaction by transaction.

The log ends at the first block without the magic number or the expected sequence number. A
transaction without a commit block before that does not count. A wrong checksum does not end the log,
with two exceptions, as in the kernel: in a block that may be left over from an earlier use of the
journal, and in the last commit block with asynchronous commits.

Kernel: do_one_pass in PASS_SCAN (fs/jbd2/recovery.c).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ext4img.errors import ChecksumError, CorruptionError, Ext4Error
from ext4img.structs.journal import (
    COMMIT_HEADER,
    JBD2_COMMIT_BLOCK,
    JBD2_DESCRIPTOR_BLOCK,
    JBD2_MAGIC_NUMBER,
    JBD2_REVOKE_BLOCK,
    JOURNAL_HEADER,
)
from ext4img.volume.recovery.journal import JournalIncompat
from ext4img.volume.recovery.journal_checksum import TransactionCrc32
from ext4img.volume.recovery.journal_log import JournalLog

SEQUENCE_MASK = 0xFFFFFFFF
MAX_BLOCKS_BEHIND = 8192


class Transaction(NamedTuple):
    """A committed transaction: the journal blocks of its descriptors and its revoke records."""

    sequence: int
    descriptors: tuple[int, ...]
    revokes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogScan:
    """The result of pass 1. `logged` holds every block of the volume that a tag names.

    `end_sequence` is the number that the next transaction would have. `torn` means that a
    transaction without its commit block follows. `last_commit_s` is the time of the last commit block,
    in seconds since 1970; 0 without one.
    """

    transactions: list[Transaction]
    logged: set[int]
    end_sequence: int
    torn: bool
    last_commit_s: int


def scan_log(log: JournalLog) -> LogScan:
    """Find the committed transactions of a log that has a start."""
    scan = _LogScanner(log)
    scan.run()
    return scan.result()


@dataclass(slots=True)
class _LogScanner:
    log: JournalLog
    transactions: list[Transaction] = field(default_factory=list)
    logged: set[int] = field(default_factory=set)
    sequence: int = 0
    end: int | None = None  # of a commit that failed its checksum
    last_time: int = 0
    crc32: TransactionCrc32 = field(default_factory=TransactionCrc32)
    # The current transaction
    descriptors: list[int] = field(default_factory=list)
    revokes: list[int] = field(default_factory=list)
    doubted: ChecksumError | None = None  # one of its descriptor or revoke blocks may be an old one
    failed: ChecksumError | None = None  # an earlier commit, with asynchronous commits

    def run(self) -> None:
        superblock = self.log.superblock
        self.sequence = superblock.sequence
        at = superblock.start
        left = superblock.end - superblock.first  # blocks of the ring that are not scanned yet
        while True:
            block = self.log.read(at)
            if block is None:
                return
            magic, kind, sequence = JOURNAL_HEADER.unpack_tuple(block, 0)
            if magic != JBD2_MAGIC_NUMBER or sequence != self.sequence:
                self.header(block, at)
                return
            here, at = at, superblock.ring(at + 1)
            left -= 1
            if kind == JBD2_DESCRIPTOR_BLOCK:
                count = self.descriptor(block, here, left)
                at = superblock.ring(at + count)
                left -= count
            elif kind == JBD2_REVOKE_BLOCK:
                self.doubted = self.log.check_tail(block, here) or self.doubted
                self.revokes.append(here)
            elif kind != JBD2_COMMIT_BLOCK:
                self.header(block, here)
                return
            elif not self.commit(block, here):
                return
            if left < 0:
                reason = "the log has no end: it runs into its own beginning"
                self.log.damaged(CorruptionError(reason, self.log.journal.place(here)))
                return

    def header(self, block: bytes, index: int) -> None:
        """Report a header that is only damaged: the kernel ends the log here, but checksums show that it continues."""
        if self.log.fits_as(block, self.sequence):
            reason = f"the log continues behind a block with a damaged header (transaction {self.sequence})"
            self.log.damaged(CorruptionError(reason, self.log.journal.place(index, JOURNAL_HEADER.name)))
        elif (commit := self.commit_behind(index)) is not None:
            # Never raised: a disk that did not write in order leaves the same.
            reason = f"the log ends here, but transaction {self.sequence} was committed (journal block {commit})"
            self.log.complete = False
            self.log.problems.note(reason, self.log.journal.place(index, JOURNAL_HEADER.name))

    def commit_behind(self, index: int) -> int | None:
        """A good commit block of the current transaction behind the end of the log.

        The search ends where a transaction must: after a quarter of the log
        (kernel: j_max_transaction_buffers).
        """
        if not self.log.verifies:
            return None
        ring = self.log.superblock.ring
        reach = min((self.log.superblock.end - self.log.superblock.first) // 4 + 1, MAX_BLOCKS_BEHIND)
        start = JOURNAL_HEADER.pack((JBD2_MAGIC_NUMBER, JBD2_COMMIT_BLOCK, self.sequence))
        indexes = [ring(index + 1)]
        while len(indexes) < reach:
            indexes.append(ring(indexes[-1] + 1))
        for at, block in zip(indexes, self.log.read_each(indexes), strict=False):
            if not isinstance(block, Ext4Error) and block.startswith(start):
                return at if self.log.check_commit(block, at, self.crc32) is None else None
        return None

    def descriptor(self, block: bytes, index: int, left: int) -> int:
        """Handle a descriptor block. Returns how many logged blocks follow it."""
        self.doubted = self.log.check_tail(block, index) or self.doubted
        self.descriptors.append(index)
        numbers = [tag.pblk for tag in self.log.tags(block)]
        self.logged.update(numbers)
        if self.log.sums_transactions and self.end is None and len(numbers) <= left:
            self.crc32.add(block)
            for logged in self.log.read_each(self.log.following(index, len(numbers))):
                if isinstance(logged, Ext4Error):
                    reason = f"the journal cannot be read: {logged}"
                    self.log.damaged(CorruptionError(reason, self.log.journal.place(index)))
                    break
                self.crc32.add(logged)
        return len(numbers)

    def commit(self, block: bytes, index: int) -> bool:
        """Handle a commit block; False if the log ends with it."""
        time = COMMIT_HEADER.unpack(block).h_commit_sec
        if self.doubted is not None:
            if time >= self.last_time:
                self.log.damaged(self.doubted)
            return False
        if self.failed is not None:
            # The last commit block may have reached the disk before the rest of its transaction: then
            # the commit was interrupted. If another commit follows, it is damage.
            self.log.damaged(self.failed)
            if self.log.sums_transactions:
                return False
        wrong = self.log.check_commit(block, index, self.crc32)
        if wrong is not None:
            if time < self.last_time:
                return False
            self.end = self.sequence
            if JournalIncompat.ASYNC_COMMIT not in self.log.superblock.incompat:
                self.log.damaged(wrong)
                return False
            self.failed = wrong
        self.last_time = time
        self.transactions.append(Transaction(self.sequence, tuple(self.descriptors), tuple(self.revokes)))
        self.descriptors, self.revokes, self.crc32 = [], [], TransactionCrc32()
        self.sequence = self.sequence + 1 & SEQUENCE_MASK
        return True

    def result(self) -> LogScan:
        torn = bool(self.descriptors or self.revokes)
        if torn and self.doubted is not None and self.log.complete:
            # Never raised: to the kernel it is an interrupted commit.
            self.log.problems.note(f"after the last transaction: {self.doubted.reason}", self.doubted.place)
        transactions, end = self.transactions, self.sequence
        if self.end is not None:
            end = self.end
            kept = end - self.log.superblock.sequence & SEQUENCE_MASK
            torn = torn or len(transactions) > kept
            transactions = transactions[:kept]
        return LogScan(transactions, self.logged, end, torn, self.last_time)
