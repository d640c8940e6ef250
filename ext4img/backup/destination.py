"""A directory of the host that is restored into, and never left.

Everything is done relative to an open directory and to one name in it; no link is followed, at
no component. Files are written under a temporary name and get their own when they are whole, so
an interrupted restore leaves nothing that looks like what it is not.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from ext4img.backup.way import OPEN_DIRECTORY, Way, sync_file_system
from ext4img.errors import Ext4Error, RestoreError

_TEMPORARY: Final = re.compile(rb"\.ext4img-[0-9a-f]{8}-[0-9]+\.partial")
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Exists(RestoreError):
    """Something is there already, and is not to be overwritten."""


class HostDirectory(Way):
    """The target, with a current directory in it (at first the target itself).

    The target is made if it is not there. `is_new` tells whether it was made or empty.
    RestoreError names the path below the target.
    """

    def __init__(
        self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes], inside: HostDirectory | None = None
    ) -> None:
        self.path = os.fsdecode(path)
        self._token = secrets.token_hex(4).encode()
        self._count = 0
        folder = None if inside is None else inside.fd
        try:
            created = _make(self.path, folder)
            # Whoever names the target may name a link to it; inside it no link is followed.
            fd = os.open(self.path, OPEN_DIRECTORY if inside else OPEN_DIRECTORY & ~os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            raise RestoreError(f"it cannot be restored to: {error.strerror}", self.path) from error
        super().__init__(fd, created)
        self.is_new = created or not os.listdir(fd)

    @contextmanager
    def staging(self) -> Iterator[HostDirectory]:
        """A directory in the target to restore aside in; gone afterwards, with all that is left in it."""
        name = self.temporary()
        aside = HostDirectory(name, self)
        try:
            yield aside
        finally:
            aside.close()
            shutil.rmtree(name, dir_fd=self.fd)

    def sync(self) -> None:
        """Have the system write out what it still holds of the target's file system."""
        sync_file_system(self.fd, self.path)

    # The current directory

    def has_default_acl(self) -> bool:
        """Whether what is made in the current directory gets an ACL from it."""
        try:
            return bool(os.getxattr(self.fd, "system.posix_acl_default"))
        except OSError:
            return False  # no such attribute, or no such thing as attributes

    def enter(self, name: bytes) -> None:
        """Make `name` the current directory. It is made if it is not there; Exists if it is no directory."""
        try:
            os.mkdir(name, 0o700, dir_fd=self.fd)
            created = True
        except FileExistsError:
            created = False
        try:
            self.step(name, created)
        except (NotADirectoryError, FileNotFoundError) as error:
            raise Exists("something that is no directory is there already", self.shown(name)) from error

    # What is made in it

    def temporary(self) -> bytes:
        """A name nobody uses."""
        self._count += 1
        return b".ext4img-%b-%d.partial" % (self._token, self._count)

    def create(self, name: bytes) -> int:
        """A new file, open for writing; `name` is a temporary one."""
        return os.open(name, _NEW_FILE, 0o600, dir_fd=self.fd)

    def publish(self, temporary: bytes, name: bytes, overwrite: bool) -> None:
        """Give what is whole its own name. Exists where that is taken, or by a directory."""
        fd = self.fd
        if overwrite:
            try:
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            except (IsADirectoryError, FileExistsError) as error:
                raise Exists("a directory is there already", self.shown(name)) from error
            return
        try:
            os.link(temporary, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        except FileExistsError as error:
            raise Exists("it is there already", self.shown(name)) from error
        except PermissionError:  # a file system without hard links
            if self.exists(name):
                raise Exists("it is there already", self.shown(name)) from None
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            return
        os.unlink(temporary, dir_fd=fd)

    def exists(self, name: bytes) -> bool:
        """Whether the current directory has such a name."""
        return self.status(name) is not None

    def status(self, name: bytes) -> os.stat_result | None:
        """What a name in the current directory is; None if it is not there."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def clear_temporaries(self) -> None:
        """Take away what a restore that was killed left in the current directory."""
        for text in os.listdir(self.fd):
            name = os.fsencode(text)
            status = self.status(name) if _TEMPORARY.fullmatch(name) else None
            if status is not None and not stat.S_ISDIR(status.st_mode):  # a directory may be of the backup
                os.unlink(name, dir_fd=self.fd)

    def remove(self, name: bytes) -> None:
        """Take away a temporary name, if it is still there."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return

    def identity(self, name: bytes) -> tuple[int, int]:
        """(device, inode) of a name in the current directory."""
        status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        return status.st_dev, status.st_ino

    def link(self, names: tuple[bytes, ...], identity: tuple[int, int], new_name: bytes) -> None:
        """A further name, in the current directory, of what was restored at `names` below the target."""
        folder = self._open(names[:-1])
        try:
            status = os.stat(names[-1], dir_fd=folder, follow_symlinks=False)
            if (status.st_dev, status.st_ino) != identity:
                raise RestoreError("the file it is a name of was replaced", self.shown(new_name))
            os.link(names[-1], new_name, src_dir_fd=folder, dst_dir_fd=self.fd, follow_symlinks=False)
        finally:
            if folder != self.fd:
                os.close(folder)

    @contextmanager
    def opened(self, names: tuple[bytes, ...], flags: int) -> Iterator[int]:
        """What is at `names` below the target, open. OSError if it is not there, or a link on the way."""
        folder = self._open(names[:-1])
        try:
            fd = os.open(names[-1], flags, dir_fd=folder)
        finally:
            if folder != self.fd:
                os.close(folder)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, names: tuple[bytes, ...]) -> int:
        """A directory below the target, each component a real directory."""
        if names == self.names():
            return self.fd
        fd = os.dup(self.first_fd)
        for name in names:
            try:
                below = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def failing(target: HostDirectory) -> Iterator[None]:
    """Errors of the target that end the restore: no room, taken away, cannot be written."""
    try:
        yield
    except Ext4Error:  # some are OSErrors, too
        raise
    except OSError as error:
        raise RestoreError(f"the restore cannot go on: {error.strerror}", target.shown()) from error


def _make(path: str, folder: int | None) -> bool:
    try:
        os.mkdir(path, 0o700, dir_fd=folder)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=folder).st_mode):
            raise
        return False
    return True
