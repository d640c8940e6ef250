"""Recovery of the log in memory, in the kernel's three passes: scan, revoke, replay.

The scan (journal_scan) finds the committed transactions. The revoke pass collects the revoke records:
each cancels its block in its own transaction and in all earlier ones. The replay pass notes where in
the log the last good copy of every block is.

If the kernel finds damage, it refuses to mount. Here the damage goes to `problems`, and the result is
what the kernel would have replayed up to there.

Kernel: jbd2_journal_recover, do_one_pass, scan_revoke_records (fs/jbd2/recovery.c).
"""

from __future__ import annotations

from typing import Any

from ext4img.errors import ChecksumError, CorruptionError, Ext4Error, Place
from ext4img.structs.journal import JBD2_FLAG_ESCAPE, JBD2_JOURNAL_REVOKE_HEADER, REVOKE_32, REVOKE_64
from ext4img.volume.problems import Problems
from ext4img.volume.recovery.journal import JournalIncompat, JournalSource, JournalSuperblock
from ext4img.volume.recovery.journal_log import JournalLog, JournalTag
from ext4img.volume.recovery.journal_scan import SEQUENCE_MASK, LogScan, Transaction, scan_log
from ext4img.volume.recovery.overlay import Overlay
from ext4img.volume.recovery.recovery_report import Replay


def follows(later: int, earlier: int) -> bool:
    """Whether a sequence number comes after another; numbers wrap at 2^32 (kernel: tid_gt)."""
    return 0 < (later - earlier & SEQUENCE_MASK) < 1 << 31


def replay_journal(
    journal: JournalSource, superblock: JournalSuperblock, block_count: int, problems: Problems
) -> Replay:
    """Replay the log of `journal` for a volume of `block_count` blocks.

    Nothing is replayed if `superblock.start` is 0. Damage goes to `problems`, which raise it as
    CorruptionError or ChecksumError when strict.
    """
    if not superblock.start:
        return Replay(Overlay(), superblock.sequence, superblock.sequence)
    log = JournalLog(journal, superblock, problems)
    scan = scan_log(log)
    passes = _ReplayPasses(log, scan, block_count)
    for transaction in scan.transactions:
        passes.revoke(transaction)
    for transaction in scan.transactions:
        passes.replay(transaction)
    return Replay(
        overlay=Overlay(journal, passes.logged),
        first_sequence=superblock.sequence,
        end_sequence=scan.end_sequence,
        transactions=len(scan.transactions),
        blocks=passes.blocks,
        replaced=len(passes.logged),
        escaped=passes.escaped,
        revoke_records=passes.revoke_records,
        revoked=passes.revoked,
        checksum_version=superblock.checksum_version,
        checksums_verified=log.verified,
        torn=scan.torn,
        complete=log.complete,
    )


class _ReplayPasses:
    """Passes 2 and 3. `logged` is for the overlay: where in the journal each block is."""

    def __init__(self, log: JournalLog, scan: LogScan, block_count: int) -> None:
        self._log = log
        self._candidates = scan.logged
        self._block_count = block_count
        self._revokes: dict[int, int] = {}
        self.logged: dict[int, int] = {}
        self.blocks = 0
        self.escaped = 0
        self.revoke_records = 0
        self.revoked = 0

    def revoke(self, transaction: Transaction) -> None:
        """Note the blocks that `transaction` revokes, each with the latest revoking number.

        Only blocks that are in the log are noted: a hostile log can hold far more revoke records.
        """
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
                if pblk in self._candidates:
                    before = self._revokes.get(pblk)
                    if before is None or follows(transaction.sequence, before):
                        self._revokes[pblk] = transaction.sequence
            self.revoke_records += count

    def replay(self, transaction: Transaction) -> None:
        """Note where each block of `transaction` is, unless it is revoked or damaged."""
        log = self._log
        for descriptor in transaction.descriptors:
            block = log.read(descriptor)
            if block is None:
                continue
            tags = list(log.tags(block))
            wanted: list[tuple[int, JournalTag]] = []
            for index, tag in zip(log.following(descriptor, len(tags)), tags, strict=True):
                if self._applies(tag, transaction.sequence, index):
                    wanted.append((index, tag))
            if log.verifies:
                wanted = self._sound(wanted, transaction.sequence)
            for index, tag in wanted:
                escaped = tag.flags & JBD2_FLAG_ESCAPE
                self.logged[tag.pblk] = index << 1 | escaped
                self.escaped += escaped
            self.blocks += len(wanted)

    def _applies(self, tag: JournalTag, sequence: int, index: int) -> bool:
        revoked = self._revokes.get(tag.pblk)
        if revoked is not None and not follows(sequence, revoked):
            self.revoked += 1
            return False
        if tag.pblk >= self._block_count:
            what = f"the journal holds block {tag.pblk} of a volume of {self._block_count}"
        elif self._log.journal.holds(tag.pblk):
            what = f"the journal holds a new version of its own block {tag.pblk}"
        else:
            return True
        self._log.damaged(CorruptionError(what, self._log.journal.place(index)))
        return False

    def _sound(self, wanted: list[tuple[int, JournalTag]], sequence: int) -> list[tuple[int, JournalTag]]:
        """Those of `wanted` whose block has the checksum of its tag."""
        log = self._log
        sound = []
        blocks = log.read_each([index for index, _ in wanted])
        for (index, tag), block in zip(wanted, blocks, strict=True):
            place = Place(block=tag.pblk)
            if isinstance(block, Ext4Error):
                reason = f"a block in the journal cannot be read, an older version of it is used: {block}"
                log.damaged(CorruptionError(reason, place))
                continue
            computed = log.check_logged(block, tag, sequence)
            if computed is None:
                sound.append((index, tag))
                continue
            reason = (
                f"checksum of a block in the journal (at {log.journal.place(index)}) is {tag.checksum:#x},"
                f" computed {computed:#x}; an older version of it is used"
            )
            log.damaged(ChecksumError(reason, place))
        return sound
