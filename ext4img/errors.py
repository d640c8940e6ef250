"""Every exception that leaves the library.

::

    Ext4Error
    ├── SourceError (OSError)             the image cannot be opened or read
    │   ├── ShortReadError                the image ends too early
    │   └── LiveSourceError               others can write to the image; says who
    ├── NotExt4Error                      there is no ext2/3/4 superblock
    ├── UnsupportedFeatureError           an unknown feature, cipher mode or policy; lists them
    ├── CorruptionError                   the image contradicts its own format; says where
    │   └── ChecksumError                 a stored checksum does not match the bytes
    ├── PathError (OSError)               a path cannot be followed
    │   ├── NotFoundError (FileNotFoundError)
    │   ├── NotDirectoryError (NotADirectoryError)
    │   ├── IsDirectoryError (IsADirectoryError)
    │   ├── NotRegularFileError           a device, fifo or socket has no contents
    │   ├── NotSymlinkError
    │   └── SymlinkLoopError
    ├── EncryptionError
    │   ├── NoKeyError (PermissionError)  the key is missing (errno ENOKEY)
    │   ├── WrongKeyError                 no policy uses this key or passphrase
    │   └── KeyFormatError (ValueError)   malformed key: length, hex digits, file
    ├── ArchiveError                      the backup cannot be read
    │   ├── TruncatedArchiveError         it ends before the end of its manifest
    │   ├── AlteredArchiveError           a digest, record or size does not match
    │   ├── MissingArchiveError           an archive that an incremental one needs
    │   └── UnsafeArchiveError            a member would be written outside the target
    ├── RestoreError                      the target cannot take an entry
    ├── BuildError                        the requested file system cannot hold the tree
    └── LimitError                        a bound against hostile input was reached

Path errors are also the builtin ones, with `errno` and `filename` set, so callers can catch
either. A CorruptionError has a `Place`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple, Self


class Place(NamedTuple):
    """Where on the image something is wrong. Fields that are not known are None.

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
    """The source ends before the bytes that were asked for: the image is truncated."""


class LiveSourceError(SourceError):
    """Others can write to the image or device while it is read; `holders` says who."""

    def __init__(self, holders: Sequence[str], name: str) -> None:
        self.holders = tuple(holders)
        super().__init__(errno.EBUSY, f"in use: {'; '.join(self.holders)}", name)


class NotExt4Error(Ext4Error):
    """There is no ext2, ext3 or ext4 superblock at the given place."""


class UnsupportedFeatureError(Ext4Error):
    """The image needs features that this version does not know; `names` lists them."""

    def __init__(self, message: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names


class CorruptionError(Ext4Error):
    """The image contradicts its own format: `reason` says what is wrong, `place` where."""

    def __init__(self, reason: str, place: Place | None = None) -> None:
        self.reason = reason
        self.place = place or Place()
        where = str(self.place)
        super().__init__(f"{reason} ({where})" if where else reason)


class ChecksumError(CorruptionError):
    """A stored checksum differs from the one computed over the same bytes."""


class PathError(Ext4Error, OSError):
    """A path on the image cannot be followed. `errno` and `filename` are the kernel's."""

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
    """The path names a directory, but a file is needed."""

    code = errno.EISDIR


class NotRegularFileError(PathError):
    """The path names a device, fifo or socket, which has no contents on the image."""

    code = errno.ENXIO
    what = "Not a regular file: it has no contents on the image"


class NotSymlinkError(PathError):
    """The path does not name a symbolic link."""

    code = errno.EINVAL
    what = "Not a symbolic link"


class SymlinkLoopError(PathError):
    """Following the path needs more than 40 symbolic links (path_resolution(7))."""

    code = errno.ELOOP


class EncryptionError(Ext4Error):
    """A key is missing, wrong or malformed."""


class NoKeyError(EncryptionError, PermissionError):
    """Contents, a name or a target are encrypted, and no given key decrypts them (errno ENOKEY)."""

    @classmethod
    def at(cls, path: str, policy: str = "") -> Self:
        """Build the error for `path`; `policy` is the hex ID of the missing key."""
        wanted = f"Required key not available: {policy}" if policy else os.strerror(errno.ENOKEY)
        return cls(errno.ENOKEY, wanted, path)


class WrongKeyError(EncryptionError):
    """No encryption policy uses the given key or passphrase."""


class KeyFormatError(EncryptionError, ValueError):
    """Malformed key: wrong length, wrong hex digits, or an unreadable key file."""


class ArchiveError(Ext4Error):
    """The backup cannot be read. `member` is the path of the member concerned, if there is one."""

    def __init__(self, reason: str, member: str | None = None) -> None:
        self.reason = reason
        self.member = member
        super().__init__(f"{member!r}: {reason}" if member is not None else reason)


class TruncatedArchiveError(ArchiveError):
    """The archive ends before the end of its manifest."""


class AlteredArchiveError(ArchiveError):
    """A digest, size or checksum does not match what is stored."""


class MissingArchiveError(ArchiveError):
    """An incremental archive is based on one that was not found. The message has the digest of its manifest."""


class UnsafeArchiveError(ArchiveError):
    """A member would be written outside the target or through a link."""


class RestoreError(Ext4Error):
    """The target cannot take an entry. `path` is the path below the target."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        self.reason = reason
        self.path = path
        super().__init__(f"{path!r}: {reason}" if path is not None else reason)


class BuildError(Ext4Error):
    """The requested file system cannot hold the tree, or the destination cannot take the image.

    `path` is the path in the new file system, if one file is the reason.
    """

    def __init__(self, reason: str, path: str | None = None) -> None:
        self.reason = reason
        self.path = path
        super().__init__(f"{path!r}: {reason}" if path is not None else reason)


class LimitError(Ext4Error):
    """A limit against hostile input was exceeded. The message says which one."""
