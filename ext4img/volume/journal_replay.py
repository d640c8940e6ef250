"""Recovery of the log in memory, in the kernel's three passes: scan, revoke, replay.

Scan follows the transactions from the journal's start and finds the end: the first block without
the magic number or with another sequence number, before which a transaction without its commit
block does not count. Revoke collects the revoke records; one silences its block in its own
transaction and in all earlier ones. Replay notes for every block where its last good copy stands.

A wrong checksum is not an end: it goes to `problems`. What is replayed then is what the kernel
would have replayed, or, where the kernel refuses to mount, the whole transactions before.

Kernel: do_one_pass and scan_revoke_records (fs/jbd2/recovery.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ext4img.errors import ChecksumError, CorruptionError, Ext4Error, Place, SourceError
from ext4img.structs.journal import (
    COMMIT_HEADER,
    JBD2_COMMIT_BLOCK,
    JBD2_CRC32_CHKSUM,
    JBD2_CRC32_CHKSUM_SIZE,
    JBD2_DESCRIPTOR_BLOCK,
    JBD2_FLAG_ESCAPE,
    JBD2_FLAG_LAST_TAG,
    JBD2_FLAG_SAME_UUID,
    JBD2_JOURNAL_BLOCK_TAIL,
    JBD2_JOURNAL_REVOKE_HEADER,
    JBD2_MAGIC_NUMBER,
    JBD2_REVOKE_BLOCK,
    JBD2_UUID_SIZE,
    JOURNAL_BLOCK_TAG,
    JOURNAL_BLOCK_TAG3,
    JOURNAL_BLOCK_TAG_CSUM_V2_PADDING,
    JOURNAL_BLOCK_TAG_HIGH,
    JOURNAL_HEADER,
    REVOKE_32,
    REVOKE_64,
)
from ext4img.volume import journal_checksum
from ext4img.volume.journal import WINDOW_BYTES, JournalIncompat, JournalSource, JournalSuperblock
from ext4img.volume.overlay import Overlay
from ext4img.volume.problems import Problems

SEQUENCE_MASK = 0xFFFFFFFF


class Tag(NamedTuple):
    """One logged block: where it belongs, its checksum (16 bits with CSUM_V2), its flags."""

    pblk: int
    flags: int
    checksum: int


class Transaction(NamedTuple):
    """A committed transaction: the journal blocks of its descriptors and its revoke records."""

    sequence: int
    descriptors: tuple[int, ...]
    revokes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """What replaying the log gave. `overlay` is what the block reader needs, the rest is told.

    `blocks` counts logged blocks that were replayed, `replaced` the different blocks of the volume
    among them, `revoked` those that a revoke record silenced. `end_sequence` is the number that
    the next transaction would have, and that fast commits carry. `torn` says that a transaction
    without its commit block followed; `complete` that nothing was wrong.
    """

    overlay: Overlay
    first_sequence: int
    end_sequence: int
    transactions: int = 0
    blocks: int = 0
    replaced: int = 0
    escaped: int = 0
    revoke_records: int = 0
    revoked: int = 0
    checksum_version: int = 0
    checksums_verified: int = 0
    torn: bool = False
    complete: bool = True


def follows(later: int, earlier: int) -> bool:
    """Whether a sequence number comes after another; they run over 2^32 (kernel: tid_gt)."""
    return 0 < (later - earlier & SEQUENCE_MASK) < 1 << 31


def replay_journal(
    journal: JournalSource, superblock: JournalSuperblock, block_count: int, problems: Problems
) -> Replay:
    """Replay the log of `journal` for a volume of `block_count` blocks.

    Nothing is replayed where `superblock.start` is 0. Damage goes to `problems`, so it raises
    CorruptionError or ChecksumError when they are strict.
    """
    if not superblock.start:
        return Replay(Overlay(), superblock.sequence, superblock.sequence)
    return _Recovery(journal, superblock, block_count, problems).run()


@dataclass(slots=True)
class _Recovery:
    journal: JournalSource
    superblock: JournalSuperblock
    block_count: int
    problems: Problems
    transactions: list[Transaction] = field(default_factory=list)
    end_sequence: int = 0
    torn: bool = False
    complete: bool = True
    verified: int = 0
    logged_somewhere: set[int] = field(default_factory=set)
    revokes: dict[int, int] = field(default_factory=dict)
    revoke_records: int = 0
    logged: dict[int, int] = field(default_factory=dict)
    blocks: int = 0
    escaped: int = 0
    revoked: int = 0

    # What the features say, once.
    verify: bool = False
    blocks_have_tails: bool = False
    seed: int = 0
    tag_size: int = 0
    tags_end: int = 0

    def run(self) -> Replay:
        superblock = self.superblock
        self.blocks_have_tails = superblock.checksum_version >= 2
        self.verify = self.blocks_have_tails and self.problems.verify
        self.seed = journal_checksum.seed_of(superblock.uuid)
        self.tag_size = _tag_size(superblock)
        self.tags_end = superblock.block_size - self.blocks_have_tails * JBD2_JOURNAL_BLOCK_TAIL.size
        self.scan()
        for transaction in self.transactions:
            self.revoke(transaction)
        for transaction in self.transactions:
            self.replay(transaction)
        return Replay(
            overlay=Overlay(self.journal, self.logged),
            first_sequence=superblock.sequence,
            end_sequence=self.end_sequence,
            transactions=len(self.transactions),
            blocks=self.blocks,
            replaced=len(self.logged),
            escaped=self.escaped,
            revoke_records=self.revoke_records,
            revoked=self.revoked,
            checksum_version=superblock.checksum_version,
            checksums_verified=self.verified,
            torn=self.torn,
            complete=self.complete,
        )

    # Pass 1

    def scan(self) -> None:
        """Find the committed transactions."""
        superblock, problems = self.superblock, self.problems
        has_crc32 = superblock.checksum_version == 1 and problems.verify
        async_commit = JournalIncompat.ASYNC_COMMIT in superblock.incompat
        sequence = superblock.sequence
        at = superblock.start
        left = superblock.end - superblock.first  # blocks of the ring not yet met
        descriptors: list[int] = []
        revokes: list[int] = []
        found: list[Transaction] = []
        crc32 = journal_checksum.TransactionCrc32()
        doubted: ChecksumError | None = None  # a descriptor or revoke block that may be an old one
        failed: ChecksumError | None = None  # a commit that did not fit, with async commits
        end: int | None = None
        last_time = 0

        while True:
            block = self.read(at)
            if block is None:
                break
            header: Any = JOURNAL_HEADER.unpack(block)
            if header.h_magic != JBD2_MAGIC_NUMBER or header.h_sequence != sequence:
                break
            left -= 1
            if left < 0:
                reason = "the log has no end: it runs into its own beginning"
                self.damaged(CorruptionError(reason, self.journal.place(at)))
                break
            here, at = at, superblock.ring(at + 1)
            kind = header.h_blocktype

            if kind in (JBD2_DESCRIPTOR_BLOCK, JBD2_REVOKE_BLOCK):
                # Old blocks of an earlier life of the journal may lie behind its end, so a wrong
                # checksum means damage only if the commit block is not older than the one before.
                doubted = self.check_tail(block, here) or doubted
                if kind == JBD2_REVOKE_BLOCK:
                    revokes.append(here)
                    continue
                descriptors.append(here)
                tags = [tag.pblk for tag in self.tags(block)]
                self.logged_somewhere.update(tags)
                left -= len(tags)
                summed = has_crc32 and doubted is None and end is None and left >= 0
                if summed and not self.add(crc32, block, here, len(tags)):
                    break
                at = superblock.ring(at + len(tags))
            elif kind == JBD2_COMMIT_BLOCK:
                time = COMMIT_HEADER.unpack(block).h_commit_sec
                if doubted is not None:
                    if time >= last_time:
                        self.damaged(doubted)
                    break
                if failed is not None:
                    # With async commits the last commit block may have reached the disk before its
                    # transaction: an interrupted commit. Any commit after it makes it damage.
                    self.damaged(failed)
                    if has_crc32:
                        break
                wrong = self.check_commit(block, here, crc32 if has_crc32 else None)
                if wrong is not None:
                    if time < last_time:
                        break
                    end = sequence
                    if not async_commit:
                        self.damaged(wrong)
                        break
                    failed = wrong
                elif has_crc32:
                    crc32 = journal_checksum.TransactionCrc32()
                last_time = time
                found.append(Transaction(sequence, tuple(descriptors), tuple(revokes)))
                descriptors, revokes = [], []
                sequence = sequence + 1 & SEQUENCE_MASK
            else:
                break

        self.torn = bool(descriptors or revokes)
        if self.torn and doubted is not None and self.complete:
            # An interrupted commit for all that the kernel can tell, so this never raises.
            self.problems.note(f"after the last transaction: {doubted.reason}", doubted.place)
        self.end_sequence = sequence if end is None else end
        if end is not None and failed is not None:
            self.torn = True
            del found[(end - superblock.sequence) & SEQUENCE_MASK :]
        self.transactions = found

    def read(self, index: int) -> bytes | None:
        try:
            return self.journal.read(index)
        except CorruptionError as error:
            self.damaged(error)
        except SourceError as error:
            self.damaged(CorruptionError(f"the journal cannot be read: {error}", self.journal.place(index)))
        return None

    def damaged(self, error: CorruptionError) -> None:
        self.complete = False
        self.problems.found(error)

    def check_tail(self, block: bytes, index: int) -> ChecksumError | None:
        if not self.verify:
            return None
        stored = JBD2_JOURNAL_BLOCK_TAIL.unpack_tuple(block, self.tags_end)[0]
        computed = journal_checksum.descriptor_or_revoke(self.seed, block)
        self.verified += 1
        if stored == computed:
            return None
        return self.mismatch("journal block", stored, computed, index, JBD2_JOURNAL_BLOCK_TAIL.name)

    def check_commit(
        self, block: bytes, index: int, crc32: journal_checksum.TransactionCrc32 | None
    ) -> ChecksumError | None:
        header: Any = COMMIT_HEADER.unpack(block)
        stored = header.h_chksum_0
        kind = (header.h_chksum_type, header.h_chksum_size)
        if crc32 is not None:
            self.verified += 1
            computed = crc32.value
            fits = stored == computed and kind == (JBD2_CRC32_CHKSUM, JBD2_CRC32_CHKSUM_SIZE)
            if fits or (stored == 0 and kind == (0, 0)):
                return None
        elif self.verify:
            self.verified += 1
            computed = journal_checksum.commit(self.seed, block)
            if stored in (computed, journal_checksum.commit_header_only(self.seed, block)):
                return None
        else:
            return None
        return self.mismatch(f"transaction {header.h_sequence}", stored, computed, index, COMMIT_HEADER.name)

    def mismatch(self, what: str, stored: int, computed: int, index: int, record: str) -> ChecksumError:
        place = self.journal.place(index, record)
        return ChecksumError(f"{what} checksum is {stored:#x}, computed {computed:#x}", place)

    def add(self, crc32: journal_checksum.TransactionCrc32, block: bytes, index: int, count: int) -> bool:
        crc32.add(block)
        try:
            for _, logged in self.journal.read_each(self.following(index, count)):
                crc32.add(logged)
        except (CorruptionError, SourceError) as error:
            self.damaged(CorruptionError(f"the journal cannot be read: {error}", self.journal.place(index)))
            return False
        return True

    def following(self, index: int, count: int) -> Iterator[int]:
        ring = self.superblock.ring
        return (ring(ring(index + 1) + number) for number in range(count))

    def tags(self, block: bytes) -> Iterator[Tag]:
        """The tags of a descriptor block; every one has a block in the log."""
        superblock = self.superblock
        wide = JournalIncompat.BIT64 in superblock.incompat
        version3 = superblock.checksum_version == 3
        size, end = self.tag_size, self.tags_end
        at = JOURNAL_HEADER.size
        while at + size <= end:
            if version3:
                low, flags, high, checksum = JOURNAL_BLOCK_TAG3.unpack_tuple(block, at)
            else:
                low, checksum, flags = JOURNAL_BLOCK_TAG.unpack_tuple(block, at)
                high = JOURNAL_BLOCK_TAG_HIGH.unpack_tuple(block, at + JOURNAL_BLOCK_TAG.size)[0] if wide else 0
            yield Tag(low | high << 32 if wide else low, flags, checksum)
            at += size if flags & JBD2_FLAG_SAME_UUID else size + JBD2_UUID_SIZE
            if flags & JBD2_FLAG_LAST_TAG:
                return

    # Pass 2

    def revoke(self, transaction: Transaction) -> None:
        """Note the blocks that `transaction` revokes, each with the latest number that does.

        Only blocks that are in the log at all: a hostile one can hold far more revoke records.
        """
        record = REVOKE_64 if JournalIncompat.BIT64 in self.superblock.incompat else REVOKE_32
        for index in transaction.revokes:
            block = self.read(index)
            if block is None:
                continue
            header: Any = JBD2_JOURNAL_REVOKE_HEADER.unpack(block)
            used = header.r_count
            if used > self.tags_end:
                place = self.journal.place(index, JBD2_JOURNAL_REVOKE_HEADER.name)
                self.damaged(CorruptionError(f"a revoke block counts {used} bytes", place))
                continue
            count = max(used - JBD2_JOURNAL_REVOKE_HEADER.size, 0) // record.size
            area = memoryview(block)[JBD2_JOURNAL_REVOKE_HEADER.size :][: count * record.size]
            for (pblk,) in record.iter_unpack(area):
                if pblk in self.logged_somewhere:
                    before = self.revokes.get(pblk)
                    if before is None or follows(transaction.sequence, before):
                        self.revokes[pblk] = transaction.sequence
            self.revoke_records += count

    # Pass 3

    def replay(self, transaction: Transaction) -> None:
        """Note where each block of `transaction` stands, unless it is revoked or damaged."""
        for descriptor in transaction.descriptors:
            block = self.read(descriptor)
            if block is None:
                continue
            tags = list(self.tags(block))
            wanted: list[tuple[int, Tag]] = []
            for index, tag in zip(self.following(descriptor, len(tags)), tags, strict=True):
                if self.applies(tag, transaction.sequence, index):
                    wanted.append((index, tag))
            if self.verify:
                wanted = self.verified_of(wanted, transaction.sequence)
            for index, tag in wanted:
                escaped = tag.flags & JBD2_FLAG_ESCAPE
                self.logged[tag.pblk] = index << 1 | escaped
                self.escaped += escaped
            self.blocks += len(wanted)

    def applies(self, tag: Tag, sequence: int, index: int) -> bool:
        revoked = self.revokes.get(tag.pblk)
        if revoked is not None and not follows(sequence, revoked):
            self.revoked += 1
            return False
        if tag.pblk >= self.block_count:
            what = f"the journal holds block {tag.pblk} of a volume of {self.block_count}"
        elif self.journal.holds(tag.pblk):
            what = f"the journal holds a new version of its own block {tag.pblk}"
        else:
            return True
        self.damaged(CorruptionError(what, self.journal.place(index)))
        return False

    def verified_of(self, wanted: list[tuple[int, Tag]], sequence: int) -> list[tuple[int, Tag]]:
        """Those of `wanted` whose blocks fit the checksum in their tag."""
        mask = 0xFFFFFFFF if self.superblock.checksum_version == 3 else 0xFFFF
        good = []
        for (index, tag), block in zip(wanted, self.logged_blocks([index for index, _ in wanted]), strict=True):
            if isinstance(block, Ext4Error):
                reason = f"a block in the journal cannot be read, an older version of it is shown: {block}"
                self.damaged(CorruptionError(reason, Place(block=tag.pblk)))
                continue
            computed = journal_checksum.logged_block(self.seed, sequence, block) & mask
            self.verified += 1
            if computed == tag.checksum:
                good.append((index, tag))
                continue
            reason = (
                f"checksum of a block in the journal (at {self.journal.place(index)}) is {tag.checksum:#x},"
                f" computed {computed:#x}; an older version of it is shown"
            )
            self.damaged(ChecksumError(reason, Place(block=tag.pblk)))
        return good

    def logged_blocks(self, indexes: list[int]) -> Iterator[bytes | Ext4Error]:
        """The journal's blocks `indexes`, or why one cannot be read; read together where it goes."""
        step = max(WINDOW_BYTES // self.superblock.block_size, 1)
        for start in range(0, len(indexes), step):
            window = indexes[start : start + step]
            try:
                yield from [block for _, block in self.journal.read_each(window)]
            except (CorruptionError, SourceError):  # at least one is bad: singly, to tell which
                for index in window:
                    try:
                        yield self.journal.read(index)
                    except (CorruptionError, SourceError) as error:
                        yield error


def _tag_size(superblock: JournalSuperblock) -> int:
    """Bytes of a tag without the UUID that may follow it (kernel: journal_tag_bytes)."""
    if superblock.checksum_version == 3:
        return JOURNAL_BLOCK_TAG3.size
    size = JOURNAL_BLOCK_TAG.size
    if superblock.checksum_version == 2:
        size += JOURNAL_BLOCK_TAG_CSUM_V2_PADDING
    if JournalIncompat.BIT64 in superblock.incompat:
        size += JOURNAL_BLOCK_TAG_HIGH.size
    return size
