"""A target that folds case, as vfat and directories with the casefold flag do: names are found in any spelling.

A layer over the functions that take a name in an open directory.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from ext4img.hostfs import safe_dir
from ext4img.hostfs.rename import rename_new
from ext4img.restorer import move_staged

NAME_LIMIT_BYTES = 143  # eCryptfs


def _spelling(name: Any, folder_fd: int | None) -> Any:
    """How a name is spelled in the directory, if it is there in any way."""
    if folder_fd is None or not isinstance(name, bytes) or b"/" in name:
        return name
    if len(name) > NAME_LIMIT_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if b":" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    found = {other.lower(): other for other in map(os.fsencode, os.listdir(folder_fd))}
    return found.get(name.lower(), name)


def fold_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything that restore does meet such a target."""
    for function in ("open", "mkdir", "stat", "unlink", "rmdir", "mknod"):
        real = getattr(os, function)

        def one(name: Any, *args: Any, real: Any = real, dir_fd: int | None = None, **facts: Any) -> Any:
            return real(_spelling(name, dir_fd), *args, dir_fd=dir_fd, **facts)

        monkeypatch.setattr(os, function, one)
    for function in ("rename", "link"):
        real = getattr(os, function)

        def two(
            name: Any,
            new: Any,
            real: Any = real,
            src_dir_fd: int | None = None,
            dst_dir_fd: int | None = None,
            **facts: Any,
        ) -> Any:
            old, new = _spelling(name, src_dir_fd), _spelling(new, dst_dir_fd)
            return real(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **facts)

        monkeypatch.setattr(os, function, two)
    real_symlink = os.symlink

    def symlink(target: Any, name: Any, *, dir_fd: int | None = None) -> None:
        real_symlink(target, _spelling(name, dir_fd), dir_fd=dir_fd)

    def rename_unless_there(name: bytes, here: int, new: bytes, there: int) -> None:
        rename_new(_spelling(name, here), here, _spelling(new, there), there)

    monkeypatch.setattr(os, "symlink", symlink)
    monkeypatch.setattr(safe_dir, "rename_new", rename_unless_there)
    monkeypatch.setattr(move_staged, "rename_new", rename_unless_there)
