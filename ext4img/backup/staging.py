"""What was restored aside is moved to its place: an archive read as a stream is known to be
whole only when its manifest, at the end, has been compared.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Literal

from ext4img.backup.destination import Exists
from ext4img.backup.entry import show
from ext4img.backup.way import OPEN_DIRECTORY

Overwrite = bool | Literal["newer"]


def move_tree(source: int, target: int, overwrite: Overwrite) -> None:
    """Move all that is in one open directory into another of the same file system.

    Directories that are on both sides are merged. Before anything is moved all names are
    compared: Exists where one is taken and not to be overwritten, or is of another kind. With
    "newer" what is there stays unless it is older; what is not moved is left where it is.
    """
    _walk(source, target, overwrite, move=False)
    _walk(source, target, overwrite, move=True)


def _walk(source: int, target: int, overwrite: Overwrite, *, move: bool) -> None:
    todo = [(os.dup(source), os.dup(target), b"")]
    while todo:
        here, there, path = todo.pop()
        try:
            for name in os.listdir(here):
                raw = os.fsencode(name)
                old, new = _status(raw, there), os.stat(raw, dir_fd=here, follow_symlinks=False)
                if old is None:
                    if move:
                        _move(raw, here, there)
                    continue
                directories = stat.S_ISDIR(old.st_mode) + stat.S_ISDIR(new.st_mode)
                if directories == 2:
                    below = os.open(raw, OPEN_DIRECTORY, dir_fd=here)
                    todo.append((below, os.open(raw, OPEN_DIRECTORY, dir_fd=there), path + raw + b"/"))
                elif not overwrite or directories:
                    raise Exists("it is there already", show(path + raw))
                elif move and (overwrite != "newer" or old.st_mtime_ns < new.st_mtime_ns):
                    _move(raw, here, there)
        finally:
            os.close(here)
            os.close(there)


def _status(name: bytes, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _move(name: bytes, here: int, there: int) -> None:
    try:
        os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
    except PermissionError as error:
        status = _status(name, here)
        if error.errno != errno.EACCES or status is None or not stat.S_ISDIR(status.st_mode):
            raise
        # A directory must be writable to get another parent.
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=here)
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            os.fchmod(fd, mode | stat.S_IWUSR)
            os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
