"""When a file system was last written, as far as the image shows it.

An incremental backup needs to know: what a program wrote shortly before may not have reached the
disk, and may reach it later without a new change time. A time that is too early only costs reading.

- s_wtime is the time of the last unmount or freeze. While the file system is in use it stays that of
  the mount (kernel: ext4_commit_super), but the log's commit blocks have their time (h_commit_sec). A mount
  at boot can have a time in the future, until the clock is set.
- A crash-consistent copy that was repaired afterwards looks clean, with the time of the repair. After
  a mount of the copy, no inode has changed since s_mtime. After e2fsck, s_lastcheck is later than all
  changes, or the journal does not end as the kernel ends it: with s_head behind its last commit block
  (jbd2_mark_journal_empty, since Linux 6.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ext4img.errors import CorruptionError, SourceError
from ext4img.structs.journal import JBD2_COMMIT_BLOCK, JBD2_MAGIC_NUMBER, JOURNAL_HEADER
from ext4img.structs.superblock import EXT4_VALID_FS
from ext4img.volume.features import Compat, Incompat
from ext4img.volume.recovery.journal_scan import SEQUENCE_MASK

if TYPE_CHECKING:
    from ext4img.volume.recovery.journal import JournalSource, JournalSuperblock
    from ext4img.volume.volume import Volume

_LIMIT_S: Final = 1 << 34  # ext4's times end in 2446
_FIRST_SEQUENCE: Final = 1  # of a journal that was never used, as mke2fs makes it


def last_write_s(volume: Volume, last_change_s: int) -> int | None:
    """A time before which everything had reached the disk, in seconds since 1970; None if unknown.

    `last_change_s` is the latest change time of the inodes.
    """
    superblock, recovery = volume.superblock, volume.recovery
    replay = recovery.replay if recovery is not None else None
    times = (replay.last_commit_s if replay is not None else 0, superblock.write_time)
    found = next((time for time in times if 0 < time < _LIMIT_S), None)
    if found is None:
        return None
    repaired = max(superblock.mount_time, superblock.check_time) > last_change_s
    if replay is None and recovery is not None and recovery.journal is not None and recovery.log is not None:
        repaired = repaired or not _ended_by_kernel(recovery.log, recovery.journal)
    return min(found, last_change_s) if repaired else found


def was_in_use(volume: Volume) -> bool:
    """Whether the image was taken while the file system was mounted read-write, and not frozen."""
    if Compat.HAS_JOURNAL in volume.features:
        recovery = volume.recovery
        return Incompat.RECOVER in volume.features or (recovery is not None and recovery.replay is not None)
    return not volume.superblock.state & EXT4_VALID_FS


def _ended_by_kernel(log: JournalSource, journal: JournalSuperblock) -> bool:
    """Whether the kernel emptied the log, or it was never used."""
    if journal.sequence <= _FIRST_SEQUENCE:
        return True
    if not journal.first <= journal.head < journal.end:
        return False
    last = journal.head - 1 if journal.head > journal.first else journal.end - 1
    try:
        magic, kind, sequence = JOURNAL_HEADER.unpack_tuple(log.read(last), 0)
    except (CorruptionError, SourceError):
        return False  # the caller then takes the earlier time
    return (magic, kind, sequence + 1 & SEQUENCE_MASK) == (JBD2_MAGIC_NUMBER, JBD2_COMMIT_BLOCK, journal.sequence)
