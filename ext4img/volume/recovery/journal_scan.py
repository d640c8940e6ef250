"""Recovery's first pass: from the log's start to its end, transaction by transaction.

The end is the first block without the magic number, or with another sequence number than is due. A
transaction that has no commit block by then does not count. A wrong checksum is not an end, with
two exceptions that are the kernel's: in a block that an earlier life of the journal may have left
behind, and in the last commit block where commits are asynchronous.

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
    """What pass 1 found. `logged` holds every volume block that any tag names.

    `end_sequence` is the number that the next transaction would have. `torn` says that one without
    its commit block followed.
    """

    transactions: list[Transaction]
    logged: set[int]
    end_sequence: int
    torn: bool


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
    # The transaction at hand
    descriptors: list[int] = field(default_factory=list)
    revokes: list[int] = field(default_factory=list)
    doubted: ChecksumError | None = None  # its, or a later, descriptor or revoke block may be an old one
    failed: ChecksumError | None = None  # an earlier commit, with asynchronous commits

    def run(self) -> None:
        superblock = self.log.superblock
        self.sequence = superblock.sequence
        at = superblock.start
        left = superblock.end - superblock.first  # blocks of the ring not yet met
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
        """The log ends here for the kernel. Where only a header is damaged, checksums tell."""
        if self.log.fits_as(block, self.sequence):
            reason = f"the log goes on behind a block with a damaged header (transaction {self.sequence})"
            self.log.damaged(CorruptionError(reason, self.log.journal.place(index, JOURNAL_HEADER.name)))
        elif (commit := self.commit_behind(index)) is not None:
            # A disk that did not write in order leaves the same, so this never raises.
            reason = f"the log ends here, but transaction {self.sequence} was committed (journal block {commit})"
            self.log.complete = False
            self.log.problems.note(reason, self.log.journal.place(index, JOURNAL_HEADER.name))

    def commit_behind(self, index: int) -> int | None:
        """A good commit block of the transaction at hand, though the log ends before it.

        No further than a transaction can reach: a quarter of the log (kernel: j_max_transaction_buffers).
        """
        if not self.log.verifies:
            return None
        ring = self.log.superblock.ring
        most = min((self.log.superblock.end - self.log.superblock.first) // 4 + 1, MAX_BLOCKS_BEHIND)
        start = JOURNAL_HEADER.pack((JBD2_MAGIC_NUMBER, JBD2_COMMIT_BLOCK, self.sequence))
        indexes = [ring(index + 1)]
        while len(indexes) < most:
            indexes.append(ring(indexes[-1] + 1))
        for at, block in zip(indexes, self.log.read_each(indexes), strict=False):
            if not isinstance(block, Ext4Error) and block.startswith(start):
                return at if self.log.check_commit(block, at, self.crc32) is None else None
        return None

    def descriptor(self, block: bytes, index: int, left: int) -> int:
        """Take a descriptor block in; how many logged blocks follow it."""
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
        """Take a commit block in; False where the log ends with it."""
        time = COMMIT_HEADER.unpack(block).h_commit_sec
        if self.doubted is not None:
            if time >= self.last_time:
                self.log.damaged(self.doubted)
            return False
        if self.failed is not None:
            # The last commit block may reach the disk before the rest of its transaction: that is
            # an interrupted commit. Any commit after it makes it damage.
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
            # An interrupted commit for all that the kernel can tell, so this never raises.
            self.log.problems.note(f"after the last transaction: {self.doubted.reason}", self.doubted.place)
        transactions, end = self.transactions, self.sequence
        if self.end is not None:
            end = self.end
            kept = end - self.log.superblock.sequence & SEQUENCE_MASK
            torn = torn or len(transactions) > kept
            transactions = transactions[:kept]
        return LogScan(transactions, self.logged, end, torn)
