"""The directory of the host that a restore writes into, and never leaves."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Protocol, Self

from ext4img.errors import Ext4Error, RestoreError
from ext4img.hostfs.safe_dir import OPEN_DIRECTORY, SafeDir, open_closed
from ext4img.hostfs.sync import sync_file_system

_TEMPORARY: Final = re.compile(rb"\.ext4img-[0-9a-f]{8}-[0-9]+\.partial")

# A name, path or type that the target cannot have: that entry is skipped, and the restore continues.
_ENTRY_ERRORS: Final = frozenset(
    (
        errno.EACCES,
        errno.EFBIG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOKEY,  # the kernel lacks the key of an encrypted directory
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EXDEV,
    )
)


def is_entry_error(error: OSError) -> bool:
    """Whether an error is about one entry, and not about the target as a whole."""
    return error.errno in _ENTRY_ERRORS


class TargetDir(SafeDir):
    """The target, created if it does not exist, and a walk in it that starts there.

    `is_new`: it was created, or was empty. With `inside`, `path` is a name in that open directory.
    """

    def __init__(
        self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes], inside: SafeDir | None = None
    ) -> None:
        self.path = os.fsdecode(path)
        folder = None if inside is None else inside.fd
        try:
            created = _make(self.path, folder)
            if created:  # a umask or an ACL may have closed it to its owner
                fd, _ = open_closed(os.fsencode(self.path), folder)
            else:
                # The user may name a link to the target; below it no link is followed.
                fd = os.open(self.path, OPEN_DIRECTORY if inside else OPEN_DIRECTORY & ~os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            raise RestoreError(f"it cannot be restored to: {error.strerror}", self.path) from error
        super().__init__(fd, created)
        self.is_new = created or not os.listdir(fd)
        self._token = secrets.token_hex(4).encode()
        self._temporaries = 0

    def temporary(self) -> bytes:
        """A name that nothing has."""
        self._temporaries += 1
        return b".ext4img-%b-%d.partial" % (self._token, self._temporaries)

    def clear_temporaries(self) -> None:
        """Remove what a killed restore left in the current directory."""
        for text in os.listdir(self.fd):
            name = os.fsencode(text)
            status = self.status(name) if _TEMPORARY.fullmatch(name) else None
            if status is not None and not stat.S_ISDIR(status.st_mode):  # a directory may be of the backup
                os.unlink(name, dir_fd=self.fd)

    def sync(self) -> None:
        """Write out all that the system still caches of the target's file system."""
        sync_file_system(self.first_fd, self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Shown(Protocol):
    path: str

    def shown(self) -> str: ...


@contextmanager
def reporting_target_errors(target: _Shown) -> Iterator[None]:
    """Turn an OSError of the target (no room, removed, not writable) into the RestoreError that ends a restore."""
    try:
        yield
    except Ext4Error:  # some of them are OSErrors, too
        raise
    except OSError as error:
        inside = target.shown()
        place = target.path if inside == "." else inside
        raise RestoreError(f"the restore cannot continue: {error.strerror}", place) from error


def _make(path: str, folder: int | None) -> bool:
    try:
        os.mkdir(path, 0o700, dir_fd=folder)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=folder).st_mode):
            raise
        return False
    return True
