"""Recovery of the log in memory, in the kernel's three passes: scan, revoke, replay.

The scan (journal_scan) finds the committed transactions. The revoke pass (revoke) collects the revoke
records. The replay pass, here, notes where in the log the last good copy of every block is.

If the kernel finds damage, it refuses to mount. Here the damage goes to `problems`, and the result is
what the kernel would have replayed up to there.

Kernel: jbd2_journal_recover, do_one_pass (fs/jbd2/recovery.c).
"""

from __future__ import annotations

from ext4img.errors import ChecksumError, CorruptionError, Ext4Error, Place
from ext4img.structs.journal import JBD2_FLAG_ESCAPE
from ext4img.volume.problems import Problems
from ext4img.volume.recovery.journal import JournalSource, JournalSuperblock
from ext4img.volume.recovery.journal_log import JournalLog, JournalTag
from ext4img.volume.recovery.journal_scan import Transaction, scan_log
from ext4img.volume.recovery.overlay import Overlay
from ext4img.volume.recovery.recovery_report import Replay
from ext4img.volume.recovery.revoke import RevokeTable


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
    revoke_table = RevokeTable(log, scan.logged)
    for transaction in scan.transactions:
        revoke_table.add(transaction)
    replay = _ReplayPass(log, revoke_table, block_count)
    for transaction in scan.transactions:
        replay.run(transaction)
    return Replay(
        overlay=Overlay(journal, replay.logged),
        first_sequence=superblock.sequence,
        end_sequence=scan.end_sequence,
        transactions=len(scan.transactions),
        blocks=replay.blocks,
        replaced=len(replay.logged),
        escaped=replay.escaped,
        revoke_records=revoke_table.records,
        revoked=replay.revoked,
        checksum_version=superblock.checksum_version,
        checksums_verified=log.verified,
        torn=scan.torn,
        complete=log.complete,
        last_commit_s=scan.last_commit_s,
    )


class _ReplayPass:
    """Pass 3. `logged` is for the overlay: where in the journal each block is."""

    def __init__(self, log: JournalLog, revoke_table: RevokeTable, block_count: int) -> None:
        self._log = log
        self._revoke_table = revoke_table
        self._block_count = block_count
        self.logged: dict[int, int] = {}
        self.blocks = 0
        self.escaped = 0
        self.revoked = 0

    def run(self, transaction: Transaction) -> None:
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
        if self._revoke_table.revokes(tag.pblk, sequence):
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
