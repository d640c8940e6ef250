"""A directory in the target in which an archive is restored that is read as a stream.

Only the manifest at the end of a stream shows whether everything was complete. A killed restore
may leave this directory behind: it has a token by which the next restore knows and removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from ext4img.archive.entry import TYPE_OF_MODE
from ext4img.errors import Ext4Error
from ext4img.hostfs.safe_dir import OPEN_DIRECTORY, Identity, SafeDir
from ext4img.restorer.target_dir import TargetDir

_STAGING: Final = re.compile(rb"\.ext4img-([0-9a-f]{8})\.staging")
_TOKEN: Final = b"token"
_TREE: Final = b"tree"
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def staging(target: SafeDir) -> Iterator[tuple[TargetDir, tuple[bytes, ...]]]:
    """An empty directory in the target, and the names that lead to it from there.

    It is removed afterwards, with everything that is still in it. `target` must be where it starts.
    """
    token = secrets.token_hex(4).encode()
    name = b".ext4img-%b.staging" % token
    with TargetDir(name, target) as outer:
        try:
            fcntl.flock(outer.fd, fcntl.LOCK_EX)  # as long as it is in use
            fd = os.open(_TOKEN, _NEW, 0o600, dir_fd=outer.fd)
            try:
                os.write(fd, _token_text(token, outer.identity[1]))
            finally:
                os.close(fd)
            with TargetDir(_TREE, outer) as staged:
                yield staged, (name, _TREE)
        finally:
            _remove_staging(target.first_fd, name, outer.fd)


def _remove_staging(folder: int, name: bytes, outer: int) -> None:
    """Remove the tree first, and the token after it: a killed removal can still be recognised."""
    with suppress(FileNotFoundError):
        remove_tree(outer, _TREE)
    remove_tree(folder, name)


def clear_stagings(target: TargetDir) -> None:
    """Remove what killed restores left in the target, and nothing that only looks like it."""
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


def _token_text(token: bytes, inode: int) -> bytes:
    """The contents of the token's file. A copy of the directory has another inode number."""
    return b"an unfinished restore of ext4img %b %d\n" % (token, inode)


def _is_left_over(fd: int, token: bytes) -> bool:
    """Whether a directory was made by `staging` for this user, in a process that has ended."""
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        return False
    expected = _token_text(token, status.st_ino)
    try:
        file = os.open(_TOKEN, _READ, dir_fd=fd)
        try:
            if os.read(file, len(expected) + 1) != expected:
                return False
        finally:
            os.close(file)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # there is no such file, or a restore is using the directory
        return False
    return True


def remove_tree(folder: int, name: bytes, removed: Callable[[str], None] | None = None) -> None:
    """Remove a directory and everything below it, however deep; links are not followed.

    `removed` is called with the kind of everything below it, see `kind_of`.
    """
    walk = SafeDir(os.dup(folder))
    try:
        names: list[bytes] = []
        todo = [[name]]
        while True:
            if todo[-1]:
                below = todo[-1].pop()
                _force_step(walk, below)
                names.append(below)
                todo.append(_unlink_files(walk.fd, removed))
                if removed is not None and len(names) > 1:
                    removed("dir")
                continue
            todo.pop()
            if not todo:
                return
            walk.leave()
            os.rmdir(names.pop(), dir_fd=walk.fd)
            if len(todo) == 1:
                return
    finally:
        walk.close()


def _force_step(walk: SafeDir, name: bytes) -> None:
    """Enter a directory although its mode may forbid that to its owner."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=walk.fd)
    try:
        with suppress(PermissionError):  # then the step fails, or what follows
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
    walk.step(name)


def _unlink_files(folder: int, removed: Callable[[str], None] | None) -> list[bytes]:
    """Remove everything but the directories, whose names are returned."""
    directories = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(os.fsencode(entry.name))
                continue
            if removed is not None:
                removed(kind_of(os.stat(entry.name, dir_fd=folder, follow_symlinks=False)))
            os.unlink(entry.name, dir_fd=folder)
    return directories


def remove_files(
    staged: SafeDir, files: Mapping[Identity, Ext4Error], removed: Callable[[str, Ext4Error], None]
) -> None:
    """Remove all names of some files (no directories), by identity; `removed` is called with each name's kind."""
    walk = SafeDir(os.dup(staged.first_fd))
    try:
        todo = [_remove_files_here(walk, files, removed)]
        while todo:
            if todo[-1]:
                walk.step(todo[-1].pop())
                todo.append(_remove_files_here(walk, files, removed))
                continue
            todo.pop()
            if todo:
                walk.leave()
    finally:
        walk.close()


def _remove_files_here(
    walk: SafeDir, files: Mapping[Identity, Ext4Error], removed: Callable[[str, Ext4Error], None]
) -> list[bytes]:
    """The same in one directory, whose times stay; returns the directories in it."""
    before = os.fstat(walk.fd)
    directories, found = [], False
    with os.scandir(walk.fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(os.fsencode(entry.name))
                continue
            error = files.get((before.st_dev, entry.inode()))
            if error is not None:
                kind = kind_of(os.stat(entry.name, dir_fd=walk.fd, follow_symlinks=False))
                os.unlink(entry.name, dir_fd=walk.fd)
                removed(kind, error)
                found = True
    if found:
        os.utime(walk.fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    return directories


def kind_of(status: os.stat_result) -> str:
    """What a report counts a name of a file as: "link" if the file has others, else its type."""
    is_directory = stat.S_ISDIR(status.st_mode)
    return "link" if status.st_nlink > 1 and not is_directory else TYPE_OF_MODE[stat.S_IFMT(status.st_mode)]
