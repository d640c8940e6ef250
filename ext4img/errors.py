"""Every exception that leaves the library.

::

    Ext4Error
    ├── SourceError (OSError)             the bytes could not be had
    │   └── ShortReadError                the source ends before the bytes asked for
    ├── NotExt4Error                      no ext2/3/4 superblock where one must be
    ├── UnsupportedFeatureError           a feature, mode or policy that is not known, by name
    ├── CorruptionError                   the image contradicts its own format; says where
    │   └── ChecksumError                 a stored checksum is not that of the bytes
    ├── PathError (OSError)               a path cannot be followed
    │   ├── NotFoundError (FileNotFoundError)
    │   ├── NotDirectoryError (NotADirectoryError)
    │   ├── IsDirectoryError (IsADirectoryError)
    │   ├── NotRegularFileError           a device, fifo or socket has no contents
    │   ├── NotSymlinkError
    │   └── SymlinkLoopError
    ├── EncryptionError
    │   ├── NoKeyError (PermissionError)  the key is absent (errno ENOKEY)
    │   ├── WrongKeyError                 a key or passphrase that opens nothing here
    │   └── KeyFormatError (ValueError)   not a key at all: length, hex, unreadable file
    ├── ArchiveError                      a backup that is not one
    │   ├── TruncatedArchiveError         it stops before its manifest's end
    │   ├── AlteredArchiveError           a digest, record or size is not what was written
    │   ├── MissingArchiveError           an incremental one without what it builds on
    │   └── UnsafeArchiveError            a member that would leave the target
    ├── RestoreError                      the target could not take what the archive holds
    ├── BuildError                        a tree that cannot become the file system that was asked for
    └── LimitError                        a bound against hostile input was reached

Path errors are the builtin ones too, with `errno` and `filename` set, so callers can catch
either. Corruption carries a `Place`.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple, Self


class Place(NamedTuple):
    """Where on the image something is wrong; what is not known stays None.

    `block` is a physical block number, `offset` a byte offset from the start of the file system,
    `record` and `field` are kernel names ("ext4_inode", "i_size_high").
    """

    inode: int | None = None
    block: int | None = None
    offset: int | None = None
    record: str | None = None
    field: str | None = None

    def __str__(self) -> str:
        parts = []
        if self.inode is not None:
            parts.append(f"inode {self.inode}")
        if self.block is not None:
            parts.append(f"block {self.block}")
        if self.offset is not None:
            parts.append(f"byte offset {self.offset:#x}")
        if self.record is not None:
            parts.append(f"{self.record}.{self.field}" if self.field else self.record)
        return ", ".join(parts)


class Ext4Error(Exception):
    """Root of every exception that the library raises on purpose."""


class SourceError(Ext4Error, OSError):
    """The image could not be opened or read."""


class ShortReadError(SourceError):
    """The source ends before the bytes that were asked for: the image is cut short."""


class NotExt4Error(Ext4Error):
    """There is no ext2, ext3 or ext4 file system at the given place."""


class UnsupportedFeatureError(Ext4Error):
    """The image needs something that is not known here; `names` lists it."""

    def __init__(self, message: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names


class CorruptionError(Ext4Error):
    """The image contradicts its format. `place` says where, `reason` what."""

    def __init__(self, reason: str, place: Place | None = None) -> None:
        self.reason = reason
        self.place = place or Place()
        where = str(self.place)
        super().__init__(f"{reason} ({where})" if where else reason)


class ChecksumError(CorruptionError):
    """A stored checksum differs from the one computed over the same bytes."""


class PathError(Ext4Error, OSError):
    """A path on the image cannot be followed; `errno` and `filename` as the kernel would say."""

    code = errno.EIO
    what = ""

    @classmethod
    def at(cls, path: str, what: str | None = None) -> Self:
        """Build the error for `path`, a path inside the image."""
        return cls(cls.code, what or cls.what or os.strerror(cls.code), path)


class NotFoundError(PathError, FileNotFoundError):
    """No such name in its directory, or no such inode in use."""

    code = errno.ENOENT


class NotDirectoryError(PathError, NotADirectoryError):
    """A component of the path that must be a directory is not."""

    code = errno.ENOTDIR


class IsDirectoryError(PathError, IsADirectoryError):
    """A directory where a file was wanted."""

    code = errno.EISDIR


class NotRegularFileError(PathError):
    """A device, fifo or socket: it has no contents on the image."""

    code = errno.ENXIO
    what = "Not a regular file: it has no contents on the image"


class NotSymlinkError(PathError):
    """readlink of something that is not a symbolic link."""

    code = errno.EINVAL
    what = "Not a symbolic link"


class SymlinkLoopError(PathError):
    """More than 40 symbolic links on the way (path_resolution(7))."""

    code = errno.ELOOP


class EncryptionError(Ext4Error):
    """Something about keys."""


class NoKeyError(EncryptionError, PermissionError):
    """Contents, name or target are encrypted and no key given opens them (errno ENOKEY)."""

    @classmethod
    def at(cls, path: str, policy: str = "") -> Self:
        """Build the error for `path`; `policy` names the key that is wanted, in hex."""
        wanted = f"Required key not available: {policy}" if policy else os.strerror(errno.ENOKEY)
        return cls(errno.ENOKEY, wanted, path)


class WrongKeyError(EncryptionError):
    """A key or passphrase was given that opens nothing."""


class KeyFormatError(EncryptionError, ValueError):
    """What was given cannot be a key: its length, its hex digits, its file."""


class ArchiveError(Ext4Error):
    """The backup cannot be read. `member` is the path inside the archive, if one is to blame."""

    def __init__(self, reason: str, member: str | None = None) -> None:
        self.reason = reason
        self.member = member
        super().__init__(f"{member!r}: {reason}" if member is not None else reason)


class TruncatedArchiveError(ArchiveError):
    """The archive stops before the end of its manifest."""


class AlteredArchiveError(ArchiveError):
    """What is stored is not what was written: a digest, a size, a record's checksum."""


class MissingArchiveError(ArchiveError):
    """An incremental archive builds on one that was not found; the message has its manifest's digest."""


class UnsafeArchiveError(ArchiveError):
    """A member that would write outside the target, or through a link."""


class RestoreError(Ext4Error):
    """The target cannot take something. `path` is the path below the target."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        self.reason = reason
        self.path = path
        super().__init__(f"{path!r}: {reason}" if path is not None else reason)


class BuildError(Ext4Error):
    """A tree cannot become the file system that was asked for, or its destination cannot take it.

    `path` is the path inside the new file system, if one file is to blame.
    """

    def __init__(self, reason: str, path: str | None = None) -> None:
        self.reason = reason
        self.path = path
        super().__init__(f"{path!r}: {reason}" if path is not None else reason)


class LimitError(Ext4Error):
    """A bound that guards against hostile input was reached; the message says which and why."""
