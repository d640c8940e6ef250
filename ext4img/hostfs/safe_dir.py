"""A walk through a directory tree of the host by open directories, and what is made in them.

Each step is one name in an open directory, and never a link: no path is ever followed twice. Only
some directories are held open; those further up are found again through "..", and must be the same.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from ext4img.errors import RestoreError
from ext4img.hostfs.rename import rename_new
from ext4img.names.paths import decode_path

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_OPEN: Final = 64


Identity = tuple[int, int]
"""Device and inode number of a file."""


class NameTaken(RestoreError):
    """A name exists already, and is not to be replaced."""


class ExactNames:
    """The names in an open directory, as they are spelled there; `add` those that are made later.

    A file system that folds case or normalises Unicode finds a name in another spelling, too. Only
    the list of names shows whether a name that is found is the very one.
    """

    def __init__(self, fd: int) -> None:
        self._names = {os.fsencode(name) for name in os.listdir(fd)}
        self._folded: dict[str, bytes] | None = None

    def __contains__(self, name: bytes) -> bool:
        return name in self._names

    def add(self, name: bytes) -> None:
        """Note a name that was made."""
        self._names.add(name)
        if self._folded is not None:
            self._folded.setdefault(_fold(name), name)

    def same_fold(self, name: bytes) -> bytes | None:
        """A name that differs only in case or in its Unicode normal form."""
        if self._folded is None:
            self._folded = {_fold(other): other for other in self._names}
        return self._folded.get(_fold(name))


def _fold(name: bytes) -> str:
    return unicodedata.normalize("NFD", os.fsdecode(name)).casefold()


@dataclass(slots=True)
class _DirOnPath:
    """A directory on the path to the current one. `created`: the caller made it."""

    name: bytes
    fd: int
    device: int
    inode: int
    created: bool
    exact_names: ExactNames | None = None
    mode: int | None = None  # to be given again, if its owner had to open it


def open_closed(name: bytes, folder: int | None) -> tuple[int, int]:
    """Open a directory for its owner, who may not enter it, list it or write in it; returns descriptor and old mode.

    It has `S_IRWXU` then: see `close_again`. OSError for others than the owner.
    """
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        mode = stat.S_IMODE(os.fstat(path).st_mode)
        inode = f"/proc/self/fd/{path}"
        os.chmod(inode, mode | stat.S_IRWXU)
        return os.open(inode, OPEN_DIRECTORY & ~os.O_NOFOLLOW), mode
    finally:
        os.close(path)


def _is_closed_to_its_owner(fd: int) -> bool:
    """Whether this user, its owner, may not do everything in an open directory."""
    user = os.geteuid()
    if not user:
        return False
    status = os.fstat(fd)
    return status.st_uid == user and status.st_mode & stat.S_IRWXU != stat.S_IRWXU


def close_again(fd: int, mode: int) -> None:
    """Give an open directory the mode that it had before `open_closed`, unless it got another one meanwhile."""
    if stat.S_IMODE(os.fstat(fd).st_mode) == mode | stat.S_IRWXU:
        os.fchmod(fd, mode)


def _close(level: _DirOnPath) -> None:
    try:
        if level.mode is not None:
            close_again(level.fd, level.mode)
    finally:
        os.close(level.fd)


class SafeDir:
    """A walk that starts at an open directory, which it owns from then on.

    RestoreError names paths below the start.
    """

    def __init__(self, fd: int, created: bool = False) -> None:
        self._levels: list[_DirOnPath] = []
        self._push(b".", fd, created)

    @property
    def depth(self) -> int:
        """How many levels the current directory is below the start."""
        return len(self._levels) - 1

    @property
    def fd(self) -> int:
        """The current directory."""
        return self._levels[-1].fd

    @property
    def created(self) -> bool:
        """Whether the caller made the current directory."""
        return self._levels[-1].created

    @property
    def identity(self) -> Identity:
        """The current directory's."""
        level = self._levels[-1]
        return level.device, level.inode

    @property
    def first_fd(self) -> int:
        """The directory where the walk starts."""
        return self._levels[0].fd

    def names(self) -> tuple[bytes, ...]:
        """The names that lead from the start to the current directory."""
        return tuple(level.name for level in self._levels[1:])

    def shown(self, name: bytes = b"") -> str:
        """The path of a name in the current directory, or of the directory itself, for messages."""
        names = [level.name for level in self._levels[1:]]
        return decode_path(b"/".join([*names, name] if name else names) or b".")

    def has_exactly(self, name: bytes) -> bool:
        """Whether the current directory had a name in just this spelling when its names were first read."""
        return name in self._exact_names()

    def _exact_names(self) -> ExactNames:
        """The names in the current directory, read once."""
        level = self._levels[-1]
        if level.exact_names is None:
            level.exact_names = ExactNames(level.fd)
        return level.exact_names

    def step(self, name: bytes, created: bool = False, *, force: bool = False) -> None:
        """Make a directory in the current one the current one. OSError if there is none of that name.

        With `force` its owner may do that although its mode forbids it; it has its mode again afterwards.
        """
        mode = None
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=self.fd)
        except PermissionError:
            if not force:
                raise
            fd, mode = open_closed(name, self.fd)
        if force and mode is None and _is_closed_to_its_owner(fd):
            os.close(fd)
            fd, mode = open_closed(name, self.fd)
        self._push(name, fd, created)
        self._levels[-1].mode = mode
        if len(self._levels) > _MAX_OPEN + 1:
            far = self._levels[-_MAX_OPEN - 1]
            if far.fd >= 0 and far is not self._levels[0]:
                os.close(far.fd)
                far.fd = -1

    def keep_mode(self) -> None:
        """The current directory has the mode that it is to keep, also if it was opened by force."""
        self._levels[-1].mode = None

    def leave(self) -> None:
        """Go back to the directory above; RestoreError if that is another one now."""
        left = self._levels.pop()
        try:
            above = self._levels[-1]
            if above.fd < 0:
                fd = os.open(b"..", OPEN_DIRECTORY, dir_fd=left.fd)
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) != (above.device, above.inode):
                    os.close(fd)
                    raise RestoreError("somebody moved a directory that is in use", self.shown(left.name))
                above.fd = fd
        finally:
            _close(left)

    def go(self, names: Sequence[bytes]) -> None:
        """Make the directory that `names` lead to, from the start, the current one."""
        common = 0
        for level, name in zip(self._levels[1:], names, strict=False):
            if level.name != name:
                break
            common += 1
        while self.depth > common:
            self.leave()
        for name in names[common:]:
            self.step(name)

    def close(self) -> None:
        """Close all directories. May be called twice."""
        for level in reversed(self._levels):
            if level.fd >= 0:
                _close(level)
        self._levels = []

    def _push(self, name: bytes, fd: int, created: bool) -> None:
        status = os.fstat(fd)
        self._levels.append(_DirOnPath(name, fd, status.st_dev, status.st_ino, created))

    def status(self, name: bytes) -> os.stat_result | None:
        """Lstat of a name in the current directory; None if there is no such name."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def has_default_acl(self) -> bool:
        """Whether new files inherit an ACL from the current directory."""
        try:
            return bool(os.getxattr(self.fd, "system.posix_acl_default"))
        except OSError:
            return False  # no such attribute, or no attributes at all

    def enter(self, name: bytes, *, force: bool = False) -> None:
        """Make `name` the current directory, and create it if need be; NameTaken if it is no directory.

        For `force` see `step`; a directory that is created may be closed to its owner by a umask or an ACL.
        """
        try:
            os.mkdir(name, 0o700, dir_fd=self.fd)
            created = True
        except FileExistsError:
            if not self.has_exactly(name):
                raise self.taken(name) from None
            created = False
        try:
            self.step(name, created, force=force or created)
        except (NotADirectoryError, FileNotFoundError) as error:
            raise NameTaken("something that is no directory is there already", self.shown(name)) from error

    def create(self, name: bytes) -> int:
        """A new file in the current directory, open for writing."""
        return os.open(name, NEW_FILE, 0o600, dir_fd=self.fd)

    def rename(self, temporary: bytes, name: bytes, overwrite: bool) -> None:
        """Give a file its own name. NameTaken if it exists as a directory, in another spelling, or at all.

        With `overwrite` a file of exactly that name is replaced.
        """
        fd = self.fd
        try:
            rename_new(temporary, fd, name, fd)
        except FileExistsError:
            if not overwrite or not self.has_exactly(name):
                raise self.taken(name) from None
            try:
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            except (IsADirectoryError, FileExistsError) as error:
                raise NameTaken("a directory is there already", self.shown(name)) from error
            # rename() keeps the temporary name if both are names of the same file already.
            self.remove(temporary)
        self.note_made(name)

    def note_made(self, name: bytes) -> None:
        """Note a name that was made in the current directory."""
        exact_names = self._levels[-1].exact_names
        if exact_names is not None:
            exact_names.add(name)

    def taken(self, name: bytes) -> NameTaken:
        """Why a name that is found can't be made."""
        if self.has_exactly(name):
            return NameTaken("it is there already", self.shown(name))
        other = self._exact_names().same_fold(name)
        what = f"{decode_path(other)!r}, which" if other is not None else "another name, which"
        return NameTaken(f"{what} the target takes for the same name, is there already", self.shown(name))

    def remove(self, name: bytes) -> None:
        """Unlink a name in the current directory, if it is there."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return

    def link(self, names: tuple[bytes, ...], identity: Identity, new_name: bytes) -> None:
        """Link the file at `names` below the start to a new name in the current directory.

        Directories on the way that their owner may not enter are opened for that.
        """
        with self._directory(names[:-1], force=True) as folder:
            status = os.stat(names[-1], dir_fd=folder, follow_symlinks=False)
            if (status.st_dev, status.st_ino) != identity:
                raise RestoreError("the file it is a name of was replaced", self.shown(new_name))
            os.link(names[-1], new_name, src_dir_fd=folder, dst_dir_fd=self.fd, follow_symlinks=False)

    @contextmanager
    def opened(self, names: tuple[bytes, ...], flags: int) -> Iterator[int]:
        """The file at `names` below the start, open. OSError if it is not there, or a link leads to it."""
        with self._directory(names[:-1]) as folder:
            fd = os.open(names[-1], flags, dir_fd=folder)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _directory(self, names: tuple[bytes, ...], *, force: bool = False) -> Iterator[int]:
        """The directory at `names` below the start; each component is a real directory. For `force` see `step`."""
        if names == self.names():
            yield self.fd
            return
        walk = SafeDir(os.dup(self.first_fd))
        try:
            for name in names:
                walk.step(name, force=force)
            yield walk.fd
        finally:
            walk.close()
