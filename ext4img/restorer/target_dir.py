"""A directory of the host that is restored into, and never left."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from ext4img.errors import Ext4Error, RestoreError
from ext4img.hostfs.folder import Exists, Folder
from ext4img.hostfs.safe_dir import OPEN_DIRECTORY, sync_file_system

__all__ = ["Exists", "TargetDir", "failing"]


class TargetDir(Folder):
    """The target, with a current directory in it (at first the target itself).

    The target is made if it is not there. `is_new` tells whether it was, or
    was empty. RestoreError names the path below the target.
    """

    def __init__(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes], inside: Folder | None = None) -> None:
        self.path = os.fsdecode(path)
        folder = None if inside is None else inside.fd
        try:
            created = _make(self.path, folder)
            # Whoever names the target may name a link to it; inside it no link is followed.
            fd = os.open(self.path, OPEN_DIRECTORY if inside else OPEN_DIRECTORY & ~os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            raise RestoreError(f"it cannot be restored to: {error.strerror}", self.path) from error
        super().__init__(fd, created)
        self.is_new = created or not os.listdir(fd)

    def sync(self) -> None:
        """Have the system write out what it still holds of the target's file system."""
        sync_file_system(self.first_fd, self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def failing(target: TargetDir) -> Iterator[None]:
    """Errors of the target that end the restore: no room, taken away, cannot be written."""
    try:
        yield
    except Ext4Error:  # some are OSErrors, too
        raise
    except OSError as error:
        inside = target.shown()
        place = target.path if inside == "." else inside
        raise RestoreError(f"the restore cannot go on: {error.strerror}", place) from error


def _make(path: str, folder: int | None) -> bool:
    try:
        os.mkdir(path, 0o700, dir_fd=folder)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=folder).st_mode):
            raise
        return False
    return True
