"""Recovery in memory: the changes that mounting would make to the volume, as an overlay over its blocks.

They are made in the kernel's order: the log (journal_replay), then the superblock as the log leaves
it, the fast commits (fast_commit), the orphans (orphans). Nothing is written, and nothing above the
block reader knows of it. Modules that only a dirty volume needs are imported only for one.
"""

from __future__ import annotations

from typing import NamedTuple

from ext4img.errors import CorruptionError, Ext4Error, NotFoundError, Place, SourceError, UnsupportedFeatureError
from ext4img.sources.base import Source
from ext4img.structs.journal import JBD2_MIN_JOURNAL_BLOCKS
from ext4img.structs.superblock import EXT4_SUPER_BLOCK, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.features import Compat, Incompat
from ext4img.volume.groups import Groups
from ext4img.volume.inode import StoredInode
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.recovery.journal import (
    JournalDevice,
    JournalFile,
    JournalIncompat,
    JournalSource,
    JournalSuperblock,
    read_journal_superblock,
)
from ext4img.volume.recovery.overlay import Draft, Overlay
from ext4img.volume.recovery.recovery_report import FastCommits, Orphans, Replay
from ext4img.volume.superblock import Superblock, parse_superblock


class Recovery(NamedTuple):
    """The result of recovery. `overlay` is for the block reader, `superblock` is the one after recovery.

    `journal` is None if there is none or it could not be used; `log` has its blocks. `replay` is None
    if the volume was shut down cleanly.
    """

    overlay: Overlay
    superblock: Superblock
    journal: JournalSuperblock | None = None
    journal_is_external: bool = False
    replay: Replay | None = None
    fast_commits: FastCommits = FastCommits()
    orphans: Orphans = Orphans()
    log: JournalSource | None = None

    @property
    def needed(self) -> bool:
        """Whether anything had to be recovered."""
        return bool(self.replay or self.orphans.deleted or self.orphans.truncated)


def recover(
    source: Source, superblock: Superblock, problems: Problems, journal_device: Source | None = None
) -> Recovery:
    """Recover the volume on `source`, whose superblock has been read.

    `journal_device` holds an external journal. Damage goes to `problems`; unless those are strict,
    recovery does as much as it can. UnsupportedFeatureError for an unsupported journal.
    """
    journal, external = _find_journal(source, superblock, problems, journal_device)
    journal_superblock: JournalSuperblock | None = None
    if journal is not None:
        try:
            journal_superblock = read_journal_superblock(journal, problems)
            if external and journal_superblock.users != 1:
                what = f"external journal shared by {journal_superblock.users} file systems"
                raise UnsupportedFeatureError(f"unsupported {what}", (what,))
        except CorruptionError as error:
            problems.found(error)
        except SourceError as error:
            _unreadable(problems, error)
    replay: Replay | None = None
    fast_commits = FastCommits()
    overlay = Overlay()
    if journal is not None and journal_superblock is not None:
        # Backups of the superblock don't have the flag that recovery is needed.
        is_backup = superblock.group_number != 0
        if Incompat.RECOVER in superblock.features or (is_backup and journal_superblock.start):
            from ext4img.volume.recovery.journal_replay import replay_journal

            if superblock.has_metadata_checksums and journal_superblock.lost_checksums:
                # The kernel sets and clears the two together: a flipped bit would go unnoticed.
                problems.note("the log has lost its checksum feature: nothing in it can be verified")
            block_count = max(superblock.block_count, source.size // superblock.block_size)
            replay = replay_journal(journal, journal_superblock, block_count, problems)
            overlay = replay.overlay
            superblock = _superblock_after(source, superblock, overlay, problems)
            if journal_superblock.start and JournalIncompat.FAST_COMMIT in journal_superblock.incompat:
                from ext4img.volume.recovery.fast_commit import scan_fast_commits

                fast_commits = scan_fast_commits(
                    journal, journal_superblock, replay.end_sequence, superblock.inode_size, problems
                )
        elif journal_superblock.start:
            # The kernel discards such a log.
            problems.note("the journal holds transactions, but the superblock does not ask for recovery")

    if Compat.ORPHAN_FILE in superblock.features and not superblock.orphan_file_inode:
        place = Place(record=EXT4_SUPER_BLOCK.name, field="s_orphan_file_inum")
        problems.found(CorruptionError("the feature orphan_file is set, but there is no orphan file", place))
    orphans = Orphans()
    aborted = journal_superblock is not None and journal_superblock.error != 0  # counts as EXT4_ERROR_FS
    has_orphans = bool(superblock.last_orphan or superblock.orphan_file_inode) and not aborted
    if fast_commits.tags or has_orphans:
        from ext4img.volume.recovery.editor import RecoveryEditor

        draft = Draft(overlay)
        seed = checksum.filesystem_seed(superblock.uuid, superblock.checksum_seed)
        editor = RecoveryEditor(source, superblock, seed, draft, problems, fast_commits.ranges)
        if journal is not None and journal_superblock is not None and fast_commits.tags:
            from ext4img.volume.recovery.fast_commit import replay_fast_commits

            replay_fast_commits(journal, journal_superblock, fast_commits, editor)
        if has_orphans:
            from ext4img.volume.recovery.orphans import recover_orphans

            orphans = recover_orphans(editor)
        overlay = overlay.patched_with(draft.patches)
    return Recovery(overlay, superblock, journal_superblock, external, replay, fast_commits, orphans, journal)


def read_journal_again(
    source: Source, superblock: Superblock, journal_device: Source | None = None
) -> JournalSuperblock | None:
    """The journal's superblock as it is now; None if there is no journal, or it can't be read."""
    problems = Problems("off")
    try:
        journal, _ = _find_journal(source, superblock, problems, journal_device)
        return None if journal is None else read_journal_superblock(journal, problems)
    except Ext4Error:
        return None


def _find_journal(
    source: Source, superblock: Superblock, problems: Problems, device: Source | None
) -> tuple[JournalSource | None, bool]:
    """(the journal, whether it is external)."""
    if Compat.HAS_JOURNAL not in superblock.features:
        return None, False
    try:
        if superblock.journal_inode:
            return _journal_file(source, superblock, problems), False
        if device is not None:
            return _journal_device(device, superblock, problems), True
    except CorruptionError as error:
        problems.found(error)
    except (NotFoundError, SourceError) as error:
        _unreadable(problems, error)
    if not superblock.journal_inode and device is None and Incompat.RECOVER in superblock.features:
        reason = f"needs recovery, but its journal is on another device (UUID {superblock.journal_uuid})"
        problems.found(CorruptionError(f"the volume {reason} that was not given"))
    return None, not superblock.journal_inode


def _journal_file(source: Source, superblock: Superblock, problems: Problems) -> JournalSource:
    blocks = BlockReader(source, superblock.block_size, superblock.block_count)
    seed = checksum.filesystem_seed(superblock.uuid, superblock.checksum_seed)
    groups = Groups(superblock, blocks, seed, problems)
    inode = _journal_inode(superblock, InodeTable(superblock, groups, blocks, seed, problems), problems)
    runs = Mapper(superblock, blocks, seed, problems).runs(inode)
    return JournalFile(runs, inode.size, superblock.block_size, blocks.read_data)


def _journal_inode(superblock: Superblock, table: InodeTable, problems: Problems) -> StoredInode:
    """The journal's inode. If it is damaged, and problems are reported, the superblock's copy of it.

    e2fsck does the same.
    """
    number = superblock.journal_inode
    try:
        inode = table[number]
        if not inode.is_file or not inode.links:
            raise CorruptionError("the journal's inode is not a file in use", Place(inode=number))
        is_short = inode.size // superblock.block_size < JBD2_MIN_JOURNAL_BLOCKS
        if not is_short or problems.checks == "strict" or not superblock.journal_backup:
            return inode
        problems.remark("the journal's inode is too short; the superblock's copy is read instead", Place(inode=number))
        return _journal_inode_copy(superblock)
    except (CorruptionError, SourceError) as error:
        if problems.checks != "report" or not superblock.journal_backup:
            raise
        problems.unreadable(error, Place(inode=number))
        problems.note("the journal is read by the superblock's copy of its inode", Place(inode=number))
    return _journal_inode_copy(superblock)


def _journal_inode_copy(superblock: Superblock) -> StoredInode:
    from ext4img.volume.salvage.inodes import journal_inode_copy

    return journal_inode_copy(superblock)


def _journal_device(device: Source, superblock: Superblock, problems: Problems) -> JournalSource:
    journal = JournalDevice(device, problems)
    if journal.uuid != superblock.journal_uuid:
        raise CorruptionError(
            f"{device.name} is the journal {journal.uuid}, the volume's journal is {superblock.journal_uuid}"
        )
    if journal.block_size != superblock.block_size:  # to jbd2 "unsupported block size"
        reason = f"{device.name} has blocks of {journal.block_size} bytes, the volume of {superblock.block_size}"
        raise CorruptionError(reason, Place(record=EXT4_SUPER_BLOCK.name, field="s_log_block_size"))
    return journal


def _superblock_after(source: Source, superblock: Superblock, overlay: Overlay, problems: Problems) -> Superblock:
    """The superblock as the log leaves it: read again, through the overlay."""
    size = superblock.block_size
    pblk = SUPERBLOCK_OFFSET // size
    if pblk not in overlay:
        return superblock
    start = SUPERBLOCK_OFFSET - pblk * size
    raw = overlay[pblk][start : start + SUPERBLOCK_SIZE]
    try:
        after = parse_superblock(raw, SUPERBLOCK_OFFSET, problems)
    except Ext4Error as error:
        if problems.checks == "strict":
            raise
        problems.note(f"the superblock in the journal cannot be used: {error}")
        return superblock
    if after.block_size != size or after.inode_size != superblock.inode_size:
        problems.found(CorruptionError("the superblock in the journal is that of another file system"))
        return superblock
    return after


def _unreadable(problems: Problems, error: Ext4Error) -> None:
    if problems.checks == "strict":
        raise error
    problems.found(CorruptionError(f"the journal cannot be read: {error}"))
