"""ext4img: read ext2/3/4 off raw images, and back up encrypted files without their key.

::

    import ext4img

    with ext4img.open("disk.img") as fs:
        for path, inode in fs.walk("/"):
            print(path, inode.size)
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's, whose import takes longer than all that is imported here

if TYPE_CHECKING:
    from ext4img.archive.backup_info import BackupInfo
    from ext4img.archive.encryption_records import (
        FilenameRecord,
        MetadataRecord,
        build_filename,
        build_metadata,
        parse_filename,
        parse_metadata,
    )
    from ext4img.archive.entry import Entry, Segments
    from ext4img.archive.incremental_base import IncrementalBase
    from ext4img.archive.input import ArchiveSource
    from ext4img.archive.key_check import Key
    from ext4img.archive.loss import Loss, Losses, LossKind
    from ext4img.archive.manifest_line import ManifestLine
    from ext4img.archive.member import Member
    from ext4img.archive.open_backup import BackupMember, BackupSource, open_backup
    from ext4img.archive.output import ArchiveDestination
    from ext4img.archive.path_filter import SelectedPath
    from ext4img.archive.reader import Archive
    from ext4img.archive.unlock import UnlockedKeys, unlock
    from ext4img.archive.verify import VerifyReport, verify
    from ext4img.archiver.create import BackupReport, backup
    from ext4img.comparison.compare import CompareReport, Difference, compare
    from ext4img.crypto.keyring import Keyring, MasterKey
    from ext4img.crypto.modes import Mode
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
        LiveSourceError,
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
    from ext4img.extractor import extract
    from ext4img.fs.check import check
    from ext4img.fs.file import File
    from ext4img.fs.filesystem import FileSystem
    from ext4img.fs.inode import Inode
    from ext4img.fs.name_counts import NameCounts
    from ext4img.fs.path import Ext4Path
    from ext4img.fs.policies import PolicyUse
    from ext4img.fs.protectors import Protector
    from ext4img.fs.protocol import FileTree
    from ext4img.fs.pure_path import PathLike
    from ext4img.fs.shown_names import NamedEntry
    from ext4img.fs.verity import Verity
    from ext4img.mkfs.options import Options
    from ext4img.mkfs.plan import Plan
    from ext4img.progress import Progress
    from ext4img.rebuilder.options import NewSize, NewUuid
    from ext4img.rebuilder.rebuild import ImagePath, OnlyPath, Rebuild, Rebuildable, RebuildReport, rebuild
    from ext4img.restorer.options import Missing, Overwrite
    from ext4img.restorer.report import RestoreReport
    from ext4img.restorer.restore import restore
    from ext4img.sources import Openable, Source, open_source
    from ext4img.sources.partitions import Partition, read_partitions
    from ext4img.unlocking import CostLimits
    from ext4img.unlocking.fscrypt_metadata import HashingCosts
    from ext4img.unlocking.keyfile import KeyFormat, parse_key
    from ext4img.unlocking.metadata_dirs import FscryptDir
    from ext4img.volume.check import CheckSummary
    from ext4img.volume.dir_entry import DirEntry
    from ext4img.volume.features import Features
    from ext4img.volume.problems import Checks, Problem, Problems, SourceInUse
    from ext4img.volume.runs import Run, Runs
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
    live: bool = False,
) -> FileSystem:
    """Open an ext2, ext3 or ext4 image for reading; use it in a `with` statement.

    `image` is a path (regular file or block device), bytes, a descriptor, or any seekable binary
    file object; the file system starts at byte `offset`. `journal="replay"` shows a dirty image as
    it is after recovery, which happens in memory; "ignore" shows the raw state. `checks` decides
    how wrong checksums and other damage are treated: "strict" raises, "report" notes them in
    `problems` and reads around them, "off" does not verify.

    `journal_device` holds an external journal (anything that `image` can be). `superblock` is the block
    of a superblock to use if the primary one is damaged, counted in blocks of `block_size` bytes, or
    of any size if that is not given; "report" finds a backup by itself.

    If others can write to the image (it is mounted read-write, a virtual machine's, open for writing),
    `problems` has a `SourceInUse`, and `backup`, `rebuild` and `extract` raise LiveSourceError. With
    `live` they go on, and report what may be wrong; devices are then read past the page cache.

    NotExt4Error, UnsupportedFeatureError, SourceError, CorruptionError.
    """
    from ext4img.fs.filesystem import FileSystem
    from ext4img.volume.volume import Volume

    owned: list[Source] = []
    try:
        source = _opened(image, offset, live, owned)
        journal_source = None if journal_device is None else _opened(journal_device, 0, live, owned)
        volume = Volume(
            source,
            journal=journal,
            checks=checks,
            journal_device=journal_source,
            superblock=superblock,
            block_size=block_size,
            live=live,
        )
    except BaseException:
        for opened in owned:
            opened.close()
        raise
    return FileSystem(volume, owned=owned)


def _opened(image: Openable, offset: int, live: bool, owned: list[Source]) -> Source:
    """The source of `image`; added to `owned` unless the caller made it."""
    from ext4img.sources import Source, open_source

    source = open_source(image, offset, live=live)
    if not isinstance(image, Source):
        owned.append(source)
    return source


# Importing the package must be quick: the module of a name is imported when the name is first used.
# The same names are imported above for type checkers, and listed in `__all__`; a test compares the three.
_HOMES = {
    "archive.backup_info": ("BackupInfo",),
    "archive.encryption_records": (
        "FilenameRecord",
        "MetadataRecord",
        "build_filename",
        "build_metadata",
        "parse_filename",
        "parse_metadata",
    ),
    "archive.entry": ("Entry", "Segments"),
    "archive.incremental_base": ("IncrementalBase",),
    "archive.input": ("ArchiveSource",),
    "archive.key_check": ("Key",),
    "archive.loss": ("Loss", "LossKind", "Losses"),
    "archive.manifest_line": ("ManifestLine",),
    "archive.member": ("Member",),
    "archive.open_backup": ("BackupMember", "BackupSource", "open_backup"),
    "archive.output": ("ArchiveDestination",),
    "archive.path_filter": ("SelectedPath",),
    "archive.reader": ("Archive",),
    "archive.unlock": ("UnlockedKeys", "unlock"),
    "archive.verify": ("VerifyReport", "verify"),
    "archiver.create": ("BackupReport", "backup"),
    "comparison.compare": ("CompareReport", "Difference", "compare"),
    "crypto.keyring": ("Keyring", "MasterKey"),
    "crypto.modes": ("Mode",),
    "crypto.policy": ("EncryptionContext", "Policy"),
    "errors": (
        "AlteredArchiveError",
        "ArchiveError",
        "BuildError",
        "ChecksumError",
        "CorruptionError",
        "EncryptionError",
        "Ext4Error",
        "IsDirectoryError",
        "KeyFormatError",
        "LimitError",
        "LiveSourceError",
        "MissingArchiveError",
        "NoKeyError",
        "NotDirectoryError",
        "NotExt4Error",
        "NotFoundError",
        "NotRegularFileError",
        "NotSymlinkError",
        "PathError",
        "Place",
        "RestoreError",
        "ShortReadError",
        "SourceError",
        "SymlinkLoopError",
        "TruncatedArchiveError",
        "UnsafeArchiveError",
        "UnsupportedFeatureError",
        "WrongKeyError",
    ),
    "extractor": ("extract",),
    "fs.check": ("check",),
    "fs.file": ("File",),
    "fs.filesystem": ("FileSystem",),
    "fs.inode": ("Inode",),
    "fs.name_counts": ("NameCounts",),
    "fs.path": ("Ext4Path",),
    "fs.policies": ("PolicyUse",),
    "fs.protectors": ("Protector",),
    "fs.protocol": ("FileTree",),
    "fs.pure_path": ("PathLike",),
    "fs.shown_names": ("NamedEntry",),
    "fs.verity": ("Verity",),
    "mkfs.options": ("Options",),
    "mkfs.plan": ("Plan",),
    "progress": ("Progress",),
    "rebuilder.options": ("NewSize", "NewUuid"),
    "rebuilder.rebuild": ("ImagePath", "OnlyPath", "Rebuild", "RebuildReport", "Rebuildable", "rebuild"),
    "restorer.report": ("RestoreReport",),
    "restorer.restore": ("restore",),
    "restorer.options": ("Missing", "Overwrite"),
    "sources": ("Openable", "Source", "open_source"),
    "sources.partitions": ("Partition", "read_partitions"),
    "unlocking": ("CostLimits",),
    "unlocking.fscrypt_metadata": ("HashingCosts",),
    "unlocking.keyfile": ("KeyFormat", "parse_key"),
    "unlocking.metadata_dirs": ("FscryptDir",),
    "volume.check": ("CheckSummary",),
    "volume.dir_entry": ("DirEntry",),
    "volume.features": ("Features",),
    "volume.runs": ("Run", "Runs"),
    "volume.problems": ("Checks", "Problem", "Problems", "SourceInUse"),
    "volume.superblock": ("Superblock",),
    "volume.volume": ("Journal", "Volume"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker would take any name for a public one

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value  # so that the next use finds it at once
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "AlteredArchiveError",
    "Archive",
    "ArchiveDestination",
    "ArchiveError",
    "ArchiveSource",
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
    "FileTree",
    "FilenameRecord",
    "FscryptDir",
    "HashingCosts",
    "ImagePath",
    "IncrementalBase",
    "Inode",
    "IsDirectoryError",
    "Journal",
    "Key",
    "KeyFormat",
    "KeyFormatError",
    "Keyring",
    "LimitError",
    "LiveSourceError",
    "Loss",
    "LossKind",
    "Losses",
    "ManifestLine",
    "MasterKey",
    "Member",
    "MetadataRecord",
    "Missing",
    "MissingArchiveError",
    "Mode",
    "NameCounts",
    "NamedEntry",
    "NewSize",
    "NewUuid",
    "NoKeyError",
    "NotDirectoryError",
    "NotExt4Error",
    "NotFoundError",
    "NotRegularFileError",
    "NotSymlinkError",
    "OnlyPath",
    "Openable",
    "Options",
    "Overwrite",
    "Partition",
    "PathError",
    "PathLike",
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
    "Rebuildable",
    "RestoreError",
    "RestoreReport",
    "Run",
    "Runs",
    "Segments",
    "SelectedPath",
    "ShortReadError",
    "Source",
    "SourceError",
    "SourceInUse",
    "Superblock",
    "SymlinkLoopError",
    "TruncatedArchiveError",
    "UnlockedKeys",
    "UnsafeArchiveError",
    "UnsupportedFeatureError",
    "VerifyReport",
    "Verity",
    "Volume",
    "WrongKeyError",
    "__version__",
    "backup",
    "build_filename",
    "build_metadata",
    "check",
    "compare",
    "extract",
    "open",
    "open_backup",
    "open_source",
    "parse_filename",
    "parse_key",
    "parse_metadata",
    "read_partitions",
    "rebuild",
    "restore",
    "unlock",
    "verify",
]
