"""Moving a staged tree to where it belongs: the names that exist there are kept, replaced or merged."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ext4img.errors import RestoreError
from ext4img.hostfs.rename import rename_new
from ext4img.hostfs.safe_dir import Identity, NameTaken, SafeDir, close_again, open_closed
from ext4img.interruption import checkpoint
from ext4img.restorer import attributes
from ext4img.restorer.keep_rules import is_same
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.staging import kind_of, remove_tree
from ext4img.restorer.target_dir import TargetDir, is_entry_error


class MoveStaged:
    """Moves everything in `staged` to `target`, on the same file system; both stay open.

    Directories that exist on both sides are merged; if the options say so, those of the target
    get the attributes of the staged ones. Files that exist are kept or replaced as `Overwrite` says.
    With `resume` those of the same type, size and time are kept: an interrupted move was past them.
    What can't be moved is reported, and removed.
    """

    def __init__(self, staged: TargetDir, target: TargetDir, options: RestoreOptions, report: RestoreReport) -> None:
        self._staged = staged
        self._target = target
        self._options = options
        self._report = report
        self.merged: dict[Identity, Identity] = {}
        """Directories and files of the target that replace staged ones, by the identities of those."""

    def run(self) -> None:
        """Move everything, and set the attributes of merged directories."""
        with self._walks() as (here, there):
            for name, old, new in _names(here, there, self._options.merges_attributes):
                checkpoint()
                if name is None:
                    self._finish_directory(here, there, new)
                else:
                    self._move(name, old, new, here, there)

    @contextmanager
    def _walks(self) -> Iterator[tuple[SafeDir, SafeDir]]:
        """Walks through both trees that start at their roots."""
        here, there = SafeDir(os.dup(self._staged.first_fd)), SafeDir(os.dup(self._target.first_fd))
        try:
            yield here, there
        finally:
            here.close()
            there.close()

    def _move(
        self, name: bytes, old: os.stat_result | None, new: os.stat_result, here: SafeDir, there: SafeDir
    ) -> None:
        try:
            if old is None:
                _rename(name, stat.S_ISDIR(new.st_mode), here, there)
            elif not there.has_exactly(name) or stat.S_ISDIR(old.st_mode):
                raise there.taken(name)
            elif stat.S_ISDIR(new.st_mode):
                raise NameTaken("something that is no directory is there already", there.shown(name))
            elif self._keeps(name, old, new, here, there):
                self._report.keep(self._remove_staged(name, new, here))
                if self._options.resume and is_same(old, new):  # its immutable flags may not be set yet
                    self.merged[new.st_dev, new.st_ino] = old.st_dev, old.st_ino
                return
            elif not self._options.replaces and not (self._options.resume and is_same(old, new)):
                raise there.taken(name)
            else:
                os.rename(name, name, src_dir_fd=here.fd, dst_dir_fd=there.fd)
        except FileExistsError:
            self._refuse(name, new, here, there.taken(name))
        except NameTaken as error:
            self._refuse(name, new, here, error)
        except OSError as error:
            if not is_entry_error(error):
                raise
            self._refuse(name, new, here, RestoreError(f"it cannot be restored: {error.strerror}", there.shown(name)))
        else:
            there.note_made(name)

    def _refuse(self, name: bytes, status: os.stat_result, here: SafeDir, problem: RestoreError) -> None:
        """Report a name that can't be moved, and everything below it."""
        self._report.revoke(self._remove_staged(name, status, here), problem)
        if stat.S_ISDIR(status.st_mode):
            remove_tree(here.fd, name, self._report.revoke_below)

    def _remove_staged(self, name: bytes, status: os.stat_result, here: SafeDir) -> str:
        """Remove a name that is not moved, unless it is a directory's; returns what it was counted as."""
        kind = kind_of(os.stat(name, dir_fd=here.fd, follow_symlinks=False))
        if not stat.S_ISDIR(status.st_mode):
            here.remove(name)  # so that the last name of a file, and only that, is counted as the file
        return kind

    def _keeps(self, name: bytes, old: os.stat_result, new: os.stat_result, here: SafeDir, there: SafeDir) -> bool:
        options = self._options
        if options.resume and is_same(old, new):
            return new.st_nlink == 1  # all names of a file must be of the same one
        if options.overwrite == "if-changed":
            return new.st_nlink == 1 and is_same(old, new) and _same_link_target(name, new, here, there)
        return options.overwrite == "if-newer" and old.st_mtime_ns >= new.st_mtime_ns

    def _finish_directory(self, here: SafeDir, there: SafeDir, status: os.stat_result) -> None:
        if not here.depth:
            return
        self.merged[here.identity] = there.identity
        if self._options.resume and attributes.is_finished(
            there.fd, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns
        ):
            return
        if not self._options.merges_attributes:
            self._report.kept_directories += attributes.differ(here.fd, there.fd, status)
        else:
            attributes.copy(here.fd, there.fd, status, self._report.not_set)
            there.keep_mode()


def _names(
    here: SafeDir, there: SafeDir, force: bool
) -> Iterator[tuple[bytes | None, os.stat_result | None, os.stat_result]]:
    """(name, its status there, its status here) of everything but directories that are on both sides.

    Those are entered, and each ends with (None, None, its status here before); if they can't be
    entered, they are yielded like others. `force`: directories there that are closed to their owner
    are opened meanwhile.
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
            here.step(name, force=True)
            try:
                there.step(name, force=force)
            except PermissionError:  # another user's: nothing can be merged into it
                here.leave()
                yield name, old, new
                continue
            frames.append((os.listdir(here.fd), new))
        else:
            yield name, old, new


def _same_link_target(name: bytes, status: os.stat_result, here: SafeDir, there: SafeDir) -> bool:
    if not stat.S_ISLNK(status.st_mode):
        return True
    return os.readlink(name, dir_fd=here.fd) == os.readlink(name, dir_fd=there.fd)


def _rename(name: bytes, is_directory: bool, here: SafeDir, there: SafeDir) -> None:
    """Move to a name that does not exist."""
    try:
        rename_new(name, here.fd, name, there.fd)
    except PermissionError as error:
        if error.errno != errno.EACCES or not is_directory:
            raise
        # A directory must be writable to get another parent.
        fd, mode = open_closed(name, here.fd)
        try:
            rename_new(name, here.fd, name, there.fd)
        finally:
            close_again(fd, mode)
            os.close(fd)
