"""Backup without keys, and restore. docs/archive-format.md has the archive's bytes.

The public functions are these; the package root has them too.
"""

from ext4img.backup.create import BackupReport, backup
from ext4img.backup.entry import Entry
from ext4img.backup.info import BackupInfo
from ext4img.backup.passage import Member
from ext4img.backup.reader import Archive
from ext4img.backup.rebuild import RebuildReport, rebuild
from ext4img.backup.restore import RestoreReport, restore
from ext4img.backup.verify import VerifyReport, verify

__all__ = [
    "Archive",
    "BackupInfo",
    "BackupReport",
    "Entry",
    "Member",
    "RebuildReport",
    "RestoreReport",
    "VerifyReport",
    "backup",
    "rebuild",
    "restore",
    "verify",
]
