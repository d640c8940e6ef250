"""What is made in the directories of a target: everything by one name in an open directory.

No link is followed. Files get their own name when they are whole; until then a temporary one.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ext4img.errors import RestoreError
from ext4img.hostfs.rename import rename_new
from ext4img.hostfs.safe_dir import OPEN_DIRECTORY, SafeDir
from ext4img.names.paths import decode_path

_TEMPORARY: Final = re.compile(rb"\.ext4img-[0-9a-f]{8}-[0-9]+\.partial")
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Exists(RestoreError):
    """Something is there already, and is not to be overwritten."""


class Folder(SafeDir):
    """A current directory to make things in. RestoreError names the path below the target."""

    def __init__(self, fd: int, created: bool = False) -> None:
        super().__init__(fd, created)
        self._token = secrets.token_hex(4).encode()
        self._count = 0

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
            if not self.has_exactly(name):
                raise self.taken(name) from None
            created = False
        try:
            self.step(name, created)
        except (NotADirectoryError, FileNotFoundError) as error:
            raise Exists("something that is no directory is there already", self.shown(name)) from error

    def temporary(self) -> bytes:
        """A name nobody uses."""
        self._count += 1
        return b".ext4img-%b-%d.partial" % (self._token, self._count)

    def create(self, name: bytes) -> int:
        """A new file, open for writing."""
        return os.open(name, _NEW_FILE, 0o600, dir_fd=self.fd)

    def publish(self, temporary: bytes, name: bytes, overwrite: bool) -> None:
        """Give what is whole its own name. Exists where that is taken, by a directory or in another spelling too."""
        fd = self.fd
        try:
            rename_new(temporary, fd, name, fd)
        except FileExistsError:
            if not overwrite or not self.has_exactly(name):
                raise self.taken(name) from None
            try:
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            except (IsADirectoryError, FileExistsError) as error:
                raise Exists("a directory is there already", self.shown(name)) from error
            # rename() leaves the temporary name where both are names of the same file already.
            self.remove(temporary)
        self.made(name)

    def made(self, name: bytes) -> None:
        """Note a name that was made in the current directory."""
        listing = self._stack[-1].listing
        if listing is not None:
            listing.add(name)

    def taken(self, name: bytes) -> Exists:
        """Why a name that is found can't be made."""
        if self.has_exactly(name):
            return Exists("it is there already", self.shown(name))
        other = self.listing().alike(name)
        what = f"{decode_path(other)!r}, which" if other is not None else "another name, which"
        return Exists(f"{what} the target takes for the same name, is there already", self.shown(name))

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
