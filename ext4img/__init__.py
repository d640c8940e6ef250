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
    from ext4img.backup.archive.reader import Archive
    from ext4img.backup.create import BackupReport, backup
    from ext4img.backup.rebuild import RebuildReport, rebuild
    from ext4img.backup.restore import RestoreReport, restore
    from ext4img.backup.verify import VerifyReport, verify
    from ext4img.crypto.policy import EncryptionContext, Policy
    from ext4img.crypto.unlock import CostLimits
    from ext4img.crypto.unlock.keyfile import parse_key
    from ext4img.sources import Openable, Source
    from ext4img.view.file import File
    from ext4img.view.inode import Inode
    from ext4img.view.path import Ext4Path
    from ext4img.view.policies import PolicyUse
    from ext4img.view.protectors import Protector
    from ext4img.view.verity import Verity
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
    from ext4img.view.view import View
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
    return View(volume, owned=owned)


def _opened(image: Openable, offset: int, owned: list[Source]) -> Source:
    """The source of what a caller gave; into `owned` unless the caller made it."""
    from ext4img.sources import Source, open_source

    source = open_source(image, offset)
    if not isinstance(image, Source):
        owned.append(source)
    return source


# Everything starts at once: what a name stands for is imported when it is first asked for.
_HOMES = {
    "backup": ("Archive", "BackupReport", "RebuildReport", "RestoreReport", "VerifyReport", "rebuild", "restore",
               "verify"),
    "crypto.policy": ("EncryptionContext", "Policy"),
    "crypto.unlock": ("CostLimits",),
    "crypto.unlock.keyfile": ("parse_key",),
    "sources": ("Openable", "Source"),
    "view.file": ("File",),
    "view.inode": ("Inode",),
    "view.path": ("Ext4Path",),
    "view.policies": ("PolicyUse",),
    "view.protectors": ("Protector",),
    "view.verity": ("Verity",),
    "view.view": ("View",),
    "volume.directory": ("DirEntry",),
    "volume.mapping": ("Run",),
    "volume.problems": ("Checks", "Problem"),
    "volume.superblock": ("Superblock",),
    "volume.volume": ("Journal", "Volume"),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next time it is simply there
    return value


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
    "CostLimits",
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
    "PolicyUse",
    "Problem",
    "Protector",
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
    "View",
    "Volume",
    "WrongKeyError",
    "__version__",
    "backup",
    "open",
    "parse_key",
    "rebuild",
    "restore",
    "verify",
]
