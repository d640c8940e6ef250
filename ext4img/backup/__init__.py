"""Backup without keys, and restore. docs/archive-format.md has the archive's bytes.

The public functions are these; the package root has the main ones too.
"""

from ext4img.backup.archive.passage import Member
from ext4img.backup.archive.reader import Archive
from ext4img.backup.compare import CompareReport, Difference, compare
from ext4img.backup.create import BackupReport, backup
from ext4img.backup.entry import Entry
from ext4img.backup.info import BackupInfo
from ext4img.backup.rebuild import RebuildReport, rebuild
from ext4img.backup.restore import RestoreReport, restore
from ext4img.backup.source import BackupMember, BackupSource, open_backup
from ext4img.backup.unlock import unlock
from ext4img.backup.verify import VerifyReport, verify

__all__ = [
    "Archive",
    "BackupInfo",
    "BackupMember",
    "BackupReport",
    "BackupSource",
    "CompareReport",
    "Difference",
    "Entry",
    "Member",
    "RebuildReport",
    "RestoreReport",
    "VerifyReport",
    "backup",
    "compare",
    "open_backup",
    "rebuild",
    "restore",
    "unlock",
    "verify",
]
