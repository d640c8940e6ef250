"""A directory in the target to restore aside in, and the move from there to where it belongs.

An archive read as a stream is known to be whole only when its manifest, at the end, has been
compared. What a killed restore leaves aside is known again by a token, and taken away by the next.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Literal

from ext4img.archive.entry import TYPE_OF_MODE
from ext4img.errors import Ext4Error, RestoreError
from ext4img.hostfs.folder import Exists, Folder
from ext4img.hostfs.rename import rename_new
from ext4img.hostfs.safe_dir import OPEN_DIRECTORY, SafeDir
from ext4img.restorer import attributes
from ext4img.restorer.attributes import Unset
from ext4img.restorer.entry_error import is_entry_error
from ext4img.restorer.target_dir import TargetDir

Overwrite = bool | Literal["newer"]
Identity = tuple[int, int]

_STAGING: Final = re.compile(rb"\.ext4img-([0-9a-f]{8})\.staging")
_TOKEN: Final = b"token"
_TREE: Final = b"tree"
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def staging(target: TargetDir) -> Iterator[TargetDir]:
    """An empty directory in the target; gone afterwards, with all that is left in it."""
    token = secrets.token_hex(4).encode()
    name = b".ext4img-%b.staging" % token
    with TargetDir(name, target) as aside:
        try:
            fcntl.flock(aside.fd, fcntl.LOCK_EX)  # as long as it is in use
            fd = os.open(_TOKEN, _NEW, 0o600, dir_fd=aside.fd)
            try:
                os.write(fd, _token_of(token, aside.identity[1]))
            finally:
                os.close(fd)
            with TargetDir(_TREE, aside) as tree:
                yield tree
        finally:
            _remove_staging(target.first_fd, name, aside.fd)


def _remove_staging(folder: int, name: bytes, aside: int) -> None:
    """What is staged first: as long as there is any of it, the token is there to know it by."""
    with suppress(FileNotFoundError):
        remove_tree(aside, _TREE)
    remove_tree(folder, name)


def clear_stagings(target: TargetDir) -> None:
    """Take away what restores that were killed left aside, and nothing that only looks like it."""
    for text in os.listdir(target.fd):
        name = os.fsencode(text)
        match = _STAGING.fullmatch(name)
        if match is None:
            continue
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=target.fd)
        except OSError:  # no directory, or another user's
            continue
        try:
            if _is_left_over(fd, match[1]):
                _remove_staging(target.fd, name, fd)
                target.is_new |= not os.listdir(target.fd)
        finally:
            os.close(fd)


def _token_of(token: bytes, inode: int) -> bytes:
    """What stands in the token's file: a copy of the directory has another inode number."""
    return b"an unfinished restore of ext4img %b %d\n" % (token, inode)


def _is_left_over(fd: int, token: bytes) -> bool:
    """Whether a directory was made by `staging` of this user, in a process that is gone."""
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        return False
    expected = _token_of(token, status.st_ino)
    try:
        file = os.open(_TOKEN, _READ, dir_fd=fd)
        try:
            if os.read(file, len(expected) + 1) != expected:
                return False
        finally:
            os.close(file)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # there is no such file, or somebody is at work
        return False
    return True


def remove_tree(folder: int, name: bytes) -> None:
    """Remove a directory and all that is below it, however deep; no link is followed."""
    way = SafeDir(os.dup(folder))
    try:
        names: list[bytes] = []
        todo = [[name]]
        while True:
            if todo[-1]:
                below = todo[-1].pop()
                _step_anyway(way, below)
                names.append(below)
                todo.append(_unlink_files(way.fd))
                continue
            todo.pop()
            if not todo:
                return
            way.leave()
            os.rmdir(names.pop(), dir_fd=way.fd)
            if len(todo) == 1:
                return
    finally:
        way.close()


def _step_anyway(way: SafeDir, name: bytes) -> None:
    """Into a directory that its owner may have closed to himself."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=way.fd)
    try:
        with suppress(PermissionError):  # then the step fails, or what comes after it
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
    way.step(name)


def _unlink_files(folder: int) -> list[bytes]:
    """Remove all but the directories, which are given."""
    directories = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(os.fsencode(entry.name))
            else:
                os.unlink(entry.name, dir_fd=folder)
    return directories


def discard(
    source: TargetDir, unwanted: Mapping[Identity, Ext4Error], discarded: Callable[[str, Ext4Error], None]
) -> None:
    """Remove all names of some files (no directories); `discarded` is told of their types."""
    way = SafeDir(os.dup(source.first_fd))
    try:
        todo = [_discard_here(way, unwanted, discarded)]
        while todo:
            if todo[-1]:
                way.step(todo[-1].pop())
                todo.append(_discard_here(way, unwanted, discarded))
                continue
            todo.pop()
            if todo:
                way.leave()
    finally:
        way.close()


def _discard_here(
    way: SafeDir, unwanted: Mapping[Identity, Ext4Error], discarded: Callable[[str, Ext4Error], None]
) -> list[bytes]:
    """The same in one directory, whose times stay; the directories in it."""
    before = os.fstat(way.fd)
    directories, found = [], False
    with os.scandir(way.fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(os.fsencode(entry.name))
                continue
            error = unwanted.get((before.st_dev, entry.inode()))
            if error is not None:
                kind = _kind(os.stat(entry.name, dir_fd=way.fd, follow_symlinks=False))
                os.unlink(entry.name, dir_fd=way.fd)
                discarded(kind, error)
                found = True
    if found:
        os.utime(way.fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    return directories


class Move:
    """Of all that is in one directory into another of the same file system; both stay open.

    Directories that are on both sides are merged; with `overwrite` that of the target gets the
    other's attributes. With "newer" what is there stays unless it is older, with `resume` if it has
    the same type, size and time: an earlier move was interrupted behind it. What is not moved is
    left where it is; `refused` is told of the types of what should have been moved, and why it was not.
    """

    def __init__(
        self,
        source: TargetDir,
        target: TargetDir,
        overwrite: Overwrite,
        *,
        resume: bool = False,
        refused: Callable[[str, RestoreError], None],
        unset: Unset,
    ) -> None:
        self._source = source
        self._target = target
        self._overwrite = overwrite
        self._resume = resume
        self._refused = refused
        self._unset = unset
        self.merged: dict[Identity, Identity] = {}
        """What of the target has the place of what of the source: directories, and files moved earlier."""
        self.kept = 0
        """How many an earlier move had done, or are newer."""

    def check(self) -> None:
        """Compare all names before anything is moved: Exists where one is taken and not to be overwritten."""
        with _walks(self._source, self._target) as (here, there):
            for name, old, new in _names(here, there):
                if old is None or name is None:
                    continue
                if self._resume and _is_moved(old, new) and there.has_exactly(name):
                    continue
                if not self._overwrite or stat.S_ISDIR(old.st_mode) or stat.S_ISDIR(new.st_mode):
                    raise there.taken(name)

    def run(self) -> None:
        """Move, and finish what was merged."""
        with _walks(self._source, self._target) as (here, there):
            for name, old, new in _names(here, there):
                if name is None:
                    self._finish(here, there, new)
                else:
                    self._move(name, old, new, here, there)

    def _move(self, name: bytes, old: os.stat_result | None, new: os.stat_result, here: Folder, there: Folder) -> None:
        try:
            if old is None:
                _rename(name, stat.S_ISDIR(new.st_mode), here, there)
            elif not there.has_exactly(name):
                raise there.taken(name)
            elif self._stays(old, new):
                self.kept += 1
                if self._resume and _is_moved(old, new):  # it has yet to be locked, maybe
                    self.merged[new.st_dev, new.st_ino] = old.st_dev, old.st_ino
                return
            else:
                os.rename(name, name, src_dir_fd=here.fd, dst_dir_fd=there.fd)
        except FileExistsError:
            self._refused(_kind(new), there.taken(name))
        except Exists as error:
            self._refused(_kind(new), error)
        except OSError as error:
            if not is_entry_error(error):
                raise
            problem = RestoreError(f"it cannot be restored: {error.strerror}", there.shown(name))
            self._refused(_kind(new), problem)
        else:
            there.made(name)

    def _stays(self, old: os.stat_result, new: os.stat_result) -> bool:
        if self._resume and _is_moved(old, new):
            return new.st_nlink == 1  # names of one file must all be of the same one
        return self._overwrite == "newer" and old.st_mtime_ns >= new.st_mtime_ns

    def _finish(self, here: Folder, there: Folder, status: os.stat_result) -> None:
        if here.depth:
            self.merged[here.identity] = there.identity
            if self._resume and attributes.is_finished(
                there.fd, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns
            ):
                return
            if self._overwrite or self._resume:
                attributes.copy(here.fd, there.fd, status, self._unset)


@contextmanager
def _walks(source: TargetDir, target: TargetDir) -> Iterator[tuple[Folder, Folder]]:
    """Ways of their own from where two directories are open."""
    here, there = Folder(os.dup(source.first_fd)), Folder(os.dup(target.first_fd))
    try:
        yield here, there
    finally:
        here.close()
        there.close()


def _names(here: Folder, there: Folder) -> Iterator[tuple[bytes | None, os.stat_result | None, os.stat_result]]:
    """(name, what it is there, what it is here) of what is not a directory on both sides.

    Those are gone through, and in each the last is (None, None, what it was here before).
    """
    frames = [(os.listdir(here.fd), os.fstat(here.fd))]
    while frames:
        names, status = frames[-1]
        if not names:
            yield None, None, status
            frames.pop()
            if frames:
                here.leave()
                there.leave()
            continue
        name = os.fsencode(names.pop())
        new = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
        old = there.status(name)
        if old is not None and stat.S_ISDIR(old.st_mode) and stat.S_ISDIR(new.st_mode) and there.has_exactly(name):
            here.step(name)
            there.step(name)
            frames.append((os.listdir(here.fd), new))
        else:
            yield name, old, new


def _is_moved(old: os.stat_result, new: os.stat_result) -> bool:
    return (stat.S_IFMT(old.st_mode), old.st_size, old.st_mtime_ns) == (
        stat.S_IFMT(new.st_mode),
        new.st_size,
        new.st_mtime_ns,
    )


def _kind(status: os.stat_result) -> str:
    return TYPE_OF_MODE[stat.S_IFMT(status.st_mode)]


def _rename(name: bytes, is_directory: bool, here: Folder, there: Folder) -> None:
    """To a name that is free."""
    try:
        rename_new(name, here.fd, name, there.fd)
    except PermissionError as error:
        if error.errno != errno.EACCES or not is_directory:
            raise
        # A directory must be writable to get another parent.
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=here.fd)
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            os.fchmod(fd, mode | stat.S_IWUSR)
            rename_new(name, here.fd, name, there.fd)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
