"""ext4img: read ext2/3/4 off raw images, and back up encrypted files without their key.

::

    import ext4img

    with ext4img.open("disk.img") as fs:
        for path, inode in fs.walk("/"):
            print(path, inode.size)
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ext4img.backup.create import BackupReport, backup
    from ext4img.backup.reader import Archive
    from ext4img.backup.rebuild import RebuildReport, rebuild
    from ext4img.backup.restore import RestoreReport, restore
    from ext4img.backup.verify import VerifyReport, verify

from ext4img.crypto.policy import EncryptionContext, Policy
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
from ext4img.sources import Openable, Source, open_source
from ext4img.view.file import File
from ext4img.view.inode import Inode
from ext4img.view.path import Ext4Path
from ext4img.view.view import View
from ext4img.volume.directory import DirEntry
from ext4img.volume.mapping import Run
from ext4img.volume.problems import Checks, Problem
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
) -> View:
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
    return View(volume, owned=owned)


def _opened(image: Openable, offset: int, owned: list[Source]) -> Source:
    """The source of what a caller gave; into `owned` unless the caller made it."""
    source = open_source(image, offset)
    if not isinstance(image, Source):
        owned.append(source)
    return source


# Reading is to start at once: backup and all below it are imported when first asked for.
_FROM_BACKUP = frozenset(
    {"Archive", "BackupReport", "RebuildReport", "RestoreReport", "VerifyReport", "rebuild", "restore", "verify"}
)


def __getattr__(name: str) -> Any:
    if name not in _FROM_BACKUP:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("ext4img.backup"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Face(ModuleType):
    """`backup` is a function here and a package as well, which stays importable by its name."""

    @property
    def backup(self) -> Any:
        """The function, also after the import system has put the package in its place."""
        return import_module("ext4img.backup.create").backup

    @backup.setter
    def backup(self, package: ModuleType) -> None:
        """What the import system does when it has loaded the package: it counts for nothing."""


sys.modules[__name__].__class__ = _Face

__all__ = [
    "AlteredArchiveError",
    "Archive",
    "ArchiveError",
    "BackupReport",
    "BuildError",
    "Checks",
    "ChecksumError",
    "CorruptionError",
    "DirEntry",
    "EncryptionContext",
    "EncryptionError",
    "Ext4Error",
    "Ext4Path",
    "File",
    "Inode",
    "IsDirectoryError",
    "Journal",
    "KeyFormatError",
    "LimitError",
    "MissingArchiveError",
    "NoKeyError",
    "NotDirectoryError",
    "NotExt4Error",
    "NotFoundError",
    "NotRegularFileError",
    "NotSymlinkError",
    "Openable",
    "PathError",
    "Place",
    "Policy",
    "Problem",
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
    "View",
    "Volume",
    "WrongKeyError",
    "__version__",
    "backup",
    "open",
    "rebuild",
    "restore",
    "verify",
]
