"""What was restored aside is moved to its place: an archive read as a stream is known to be
whole only when its manifest, at the end, has been compared.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from ext4img.backup.destination import Exists
from ext4img.backup.entry import show

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def move_tree(source: int, target: int, overwrite: bool) -> None:
    """Move all that is in one open directory into another of the same file system.

    Directories that are on both sides are merged. Before anything is moved all names are
    compared: Exists where one is taken and not to be overwritten, or is of another kind.
    """
    _walk(source, target, overwrite, move=False)
    _walk(source, target, overwrite, move=True)


def _walk(source: int, target: int, overwrite: bool, *, move: bool) -> None:
    todo = [(os.dup(source), os.dup(target), b"")]
    while todo:
        here, there, path = todo.pop()
        try:
            for name in os.listdir(here):
                raw = os.fsencode(name)
                kind = _kind(raw, there)
                if kind is None:
                    if move:
                        _move(raw, here, there)
                    continue
                both = kind == _kind(raw, here) == stat.S_IFDIR
                if both:
                    below = os.open(raw, _DIRECTORY, dir_fd=here)
                    todo.append((below, os.open(raw, _DIRECTORY, dir_fd=there), path + raw + b"/"))
                elif not overwrite or stat.S_IFDIR in (kind, _kind(raw, here)):
                    raise Exists("it is there already", show(path + raw))
                elif move:
                    _move(raw, here, there)
        finally:
            os.close(here)
            os.close(there)


def _kind(name: bytes, folder: int) -> int | None:
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None


def _move(name: bytes, here: int, there: int) -> None:
    try:
        os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
    except PermissionError as error:
        if error.errno != errno.EACCES or _kind(name, here) != stat.S_IFDIR:
            raise
        # A directory must be writable to get another parent.
        fd = os.open(name, _DIRECTORY, dir_fd=here)
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            os.fchmod(fd, mode | stat.S_IWUSR)
            os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
