"""ext4img: read ext2/3/4 off raw images, and back up encrypted files without their key.

::

    import ext4img

    with ext4img.open("disk.img") as fs:
        for path, inode in fs.walk("/"):
            print(path, inode.size)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ext4img.errors import (
    AlteredArchiveError,
    ArchiveError,
    BuildError,
    ChecksumError,
    CorruptionError,
    EncryptionError,
    Ext4Error,
    IsDirectoryError,
    KeyFormatError,
    LimitError,
    MissingArchiveError,
    NoKeyError,
    NotDirectoryError,
    NotExt4Error,
    NotFoundError,
    NotRegularFileError,
    NotSymlinkError,
    PathError,
    Place,
    RestoreError,
    ShortReadError,
    SourceError,
    SymlinkLoopError,
    TruncatedArchiveError,
    UnsafeArchiveError,
    UnsupportedFeatureError,
    WrongKeyError,
)

if TYPE_CHECKING:
    from ext4img.archive.backup_info import BackupInfo
    from ext4img.archive.entry import Entry
    from ext4img.archive.manifest_line import ManifestLine
    from ext4img.archive.member import Member
    from ext4img.archive.open_backup import BackupMember, BackupSource, open_backup
    from ext4img.archive.reader import Archive
    from ext4img.archive.unlock import unlock
    from ext4img.archive.verify import VerifyReport, verify
    from ext4img.archiver.create import BackupReport, backup
    from ext4img.comparison.compare import CompareReport, Difference, compare
    from ext4img.crypto.keyring import Keyring
    from ext4img.crypto.policy import EncryptionContext, Policy
    from ext4img.extractor import extract
    from ext4img.fs.file import File
    from ext4img.fs.filesystem import FileSystem
    from ext4img.fs.inode import Inode
    from ext4img.fs.path import Ext4Path
    from ext4img.fs.policies import PolicyUse
    from ext4img.fs.protectors import Protector
    from ext4img.fs.verity import Verity
    from ext4img.mkfs.options import Options
    from ext4img.mkfs.plan import Plan
    from ext4img.progress import Progress
    from ext4img.rebuilder.rebuild import RebuildReport, rebuild
    from ext4img.rebuilder.rebuild_plan import Rebuild
    from ext4img.restorer.report import RestoreReport
    from ext4img.restorer.restore import restore
    from ext4img.sources import Openable, Source
    from ext4img.unlocking import CostLimits
    from ext4img.unlocking.keyfile import parse_key
    from ext4img.volume.check import CheckSummary
    from ext4img.volume.check.run_check import check
    from ext4img.volume.dir_block import DirEntry
    from ext4img.volume.features import Features
    from ext4img.volume.mapping import Run
    from ext4img.volume.problems import Checks, Problem, Problems
    from ext4img.volume.superblock import Superblock
    from ext4img.volume.volume import Journal, Volume

__version__ = "0.1.0"


def open(
    image: Openable,
    *,
    offset: int = 0,
    journal: Journal = "replay",
    checks: Checks = "strict",
    journal_device: Openable | None = None,
    superblock: int | None = None,
    block_size: int | None = None,
) -> FileSystem:
    """Open an ext2, ext3 or ext4 image for reading; use it in a `with` statement.

    `image` is a path (regular file or block device), bytes, a descriptor, or any seekable binary
    file object; the file system starts at byte `offset`. `journal="replay"` shows a dirty image as
    it is after recovery, which happens in memory; "ignore" shows the raw state. `checks` decides
    what wrong checksums and other damage do: "strict" raises, "report" notes them in `problems` and
    reads around them, "off" does not verify.

    `journal_device` holds the journal where that is external (anything that `image` can be).
    `superblock` names the block of the superblock to read by, where the primary one is damaged, in
    blocks of `block_size` bytes (of any size if that is not given); "report" looks for a backup by
    itself.

    NotExt4Error, UnsupportedFeatureError, SourceError, CorruptionError.
    """
    from ext4img.fs.filesystem import FileSystem
    from ext4img.volume.volume import Volume

    owned: list[Source] = []
    try:
        source = _opened(image, offset, owned)
        journal_source = None if journal_device is None else _opened(journal_device, 0, owned)
        volume = Volume(
            source,
            journal=journal,
            checks=checks,
            journal_device=journal_source,
            superblock=superblock,
            block_size=block_size,
        )
    except BaseException:
        for opened in owned:
            opened.close()
        raise
    return FileSystem(volume, owned=owned)


def _opened(image: Openable, offset: int, owned: list[Source]) -> Source:
    """The source of what a caller gave; into `owned` unless the caller made it."""
    from ext4img.sources import Source, open_source

    source = open_source(image, offset)
    if not isinstance(image, Source):
        owned.append(source)
    return source


# Everything starts at once: what a name stands for is imported when it is first asked for.
_HOMES = {
    "archive.backup_info": ("BackupInfo",),
    "archive.entry": ("Entry",),
    "archive.manifest_line": ("ManifestLine",),
    "archive.member_reader": ("Member",),
    "archive.open_backup": (
        "BackupMember",
        "BackupSource",
        "open_backup",
    ),
    "archive.reader": ("Archive",),
    "archive.unlock": ("unlock",),
    "archive.verify": (
        "VerifyReport",
        "verify",
    ),
    "archiver.create": (
        "BackupReport",
        "backup",
    ),
    "comparison.compare": (
        "CompareReport",
        "Difference",
        "compare",
    ),
    "crypto.keyring": ("Keyring",),
    "crypto.policy": (
        "EncryptionContext",
        "Policy",
    ),
    "extractor": ("extract",),
    "fs.file": ("File",),
    "fs.filesystem": ("FileSystem",),
    "fs.inode": ("Inode",),
    "fs.path": ("Ext4Path",),
    "fs.policies": ("PolicyUse",),
    "fs.protectors": ("Protector",),
    "fs.verity": ("Verity",),
    "mkfs.options": ("Options",),
    "mkfs.plan": ("Plan",),
    "progress": ("Progress",),
    "rebuilder.rebuild": (
        "RebuildReport",
        "rebuild",
    ),
    "rebuilder.rebuild_plan": ("Rebuild",),
    "restorer.report": ("RestoreReport",),
    "restorer.restore": ("restore",),
    "sources": (
        "Openable",
        "Source",
    ),
    "unlocking": ("CostLimits",),
    "unlocking.keyfile": ("parse_key",),
    "volume.check": ("CheckSummary",),
    "volume.check.run_check": ("check",),
    "volume.dir_block": ("DirEntry",),
    "volume.features": ("Features",),
    "volume.mapping": ("Run",),
    "volume.problems": (
        "Checks",
        "Problem",
        "Problems",
    ),
    "volume.superblock": ("Superblock",),
    "volume.volume": (
        "Journal",
        "Volume",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next time it is simply there
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "AlteredArchiveError",
    "Archive",
    "ArchiveError",
    "BackupInfo",
    "BackupMember",
    "BackupReport",
    "BackupSource",
    "BuildError",
    "CheckSummary",
    "Checks",
    "ChecksumError",
    "CompareReport",
    "CorruptionError",
    "CostLimits",
    "Difference",
    "DirEntry",
    "EncryptionContext",
    "EncryptionError",
    "Entry",
    "Ext4Error",
    "Ext4Path",
    "Features",
    "File",
    "FileSystem",
    "Inode",
    "IsDirectoryError",
    "Journal",
    "KeyFormatError",
    "Keyring",
    "LimitError",
    "ManifestLine",
    "Member",
    "MissingArchiveError",
    "NoKeyError",
    "NotDirectoryError",
    "NotExt4Error",
    "NotFoundError",
    "NotRegularFileError",
    "NotSymlinkError",
    "Openable",
    "Options",
    "PathError",
    "Place",
    "Plan",
    "Policy",
    "PolicyUse",
    "Problem",
    "Problems",
    "Progress",
    "Protector",
    "Rebuild",
    "RebuildReport",
    "RestoreError",
    "RestoreReport",
    "Run",
    "ShortReadError",
    "Source",
    "SourceError",
    "Superblock",
    "SymlinkLoopError",
    "TruncatedArchiveError",
    "UnsafeArchiveError",
    "UnsupportedFeatureError",
    "VerifyReport",
    "Verity",
    "Volume",
    "WrongKeyError",
    "__version__",
    "backup",
    "check",
    "compare",
    "extract",
    "open",
    "open_backup",
    "parse_key",
    "rebuild",
    "restore",
    "unlock",
    "verify",
]
