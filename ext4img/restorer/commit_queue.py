"""Files get their names when the disk has their contents, and not before.

A name promises that its file is complete; but after a power cut a disk may have the name without
the contents. So a restore writes files under temporary names and notes each of its steps through
the target. Once the file system has been synchronised, a batch of steps is repeated and files get
their names. The synchronising of one batch goes on while the next is written.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Final, NamedTuple

from ext4img.archive.entry import Entry
from ext4img.errors import RestoreError
from ext4img.hostfs.safe_dir import Identity, SafeDir
from ext4img.hostfs.sync import sync_file_system
from ext4img.names.paths import decode_path
from ext4img.restorer.hard_links import HardLink
from ext4img.restorer.target_dir import TargetDir, is_entry_error

BATCH_NAMES: Final = 8192
BATCH_BYTES: Final = 256 << 20


class PendingRename(NamedTuple):
    """A complete file under a temporary name that is to get `name`.

    `kind` is what the report counts it as, if it has no other names. With `replace` it replaces a
    file of that name in any case.
    """

    temporary: bytes
    name: bytes
    kind: str
    link: HardLink | None = None
    replace: bool = False


class DirDone(NamedTuple):
    """A directory in which everything is done, and that gets its attributes; with its records if it stays encrypted."""

    entry: Entry
    with_records: bool


class _Enter(NamedTuple):
    name: bytes
    identity: Identity
    force: bool


class _Leave(NamedTuple):
    done: DirDone | None


_Steps = deque[PendingRename | _Enter | _Leave]


class CommitQueue:
    """Notes what is made in `target`, in this order, and commits it batch by batch.

    `refused` is called for a name that can't be made, with its kind; `finish_directory` gives
    an open directory its attributes.
    """

    def __init__(
        self,
        target: TargetDir,
        overwrite: bool,
        refused: Callable[[str, RestoreError], None],
        finish_directory: Callable[[int, DirDone], None],
    ) -> None:
        self._path = target.path
        self._walk = SafeDir(os.dup(target.first_fd))
        self._overwrite = overwrite
        self._refused = refused
        self._finish_directory = finish_directory
        self._file_systems = {self._walk.identity[0]: os.dup(target.first_fd)}
        self._open: _Steps = deque()
        self._sealed: _Steps = deque()
        self._names = 0  # in the open batch
        self._bytes = 0
        self._syncing: Thread | None = None
        self._failure: RestoreError | None = None
        self.is_broken = False
        """Whether a batch could not be synchronised or committed: no further file gets its name."""

    def enter(self, name: bytes, walk: SafeDir, *, force: bool) -> None:
        """The restore entered a directory, which is the current one of `walk` now. For `force` see `SafeDir.step`."""
        device = walk.identity[0]
        if device not in self._file_systems:  # something is mounted there
            self._file_systems[device] = os.dup(walk.fd)
        self._note(_Enter(name, walk.identity, force), 0)

    def leave(self, done: DirDone | None) -> None:
        """The restore left that directory, which gets its attributes if `done` has them."""
        held = sum(map(len, done.entry.xattrs.values())) if done is not None else 0
        self._note(_Leave(done), held)

    def add(self, new: PendingRename, size: int) -> None:
        """A complete file of `size` bytes was made in the current directory."""
        self._note(new, size)

    def settle(self) -> None:
        """Commit everything that is still to be committed, and synchronise."""
        self._seal()
        self._seal()
        self._start()
        self._wait()

    def rescue(self) -> None:
        """After a failure: complete files still get their names if the disk takes them, or are removed."""
        try:
            if not self.is_broken:
                self.settle()
        except (OSError, RestoreError):
            self.is_broken = True
        if self.is_broken:
            self._abandon()

    def close(self) -> None:
        """Close all descriptors."""
        if self._syncing is not None:
            self._syncing.join()
        for fd in self._file_systems.values():
            os.close(fd)
        self._file_systems.clear()
        self._walk.close()

    def _note(self, step: PendingRename | _Enter | _Leave, size: int) -> None:
        self._open.append(step)
        self._names += 1
        self._bytes += size
        if self._names >= BATCH_NAMES or self._bytes >= BATCH_BYTES:
            self._seal()

    def _seal(self) -> None:
        """Commit the batch before, which is on the disk by now or soon, and begin to synchronise this one."""
        try:
            self._wait()
            self._commit(self._sealed)
        except BaseException:
            self.is_broken = True
            raise
        self._sealed, self._open = self._open, self._sealed
        self._names = self._bytes = 0
        if self._sealed:
            self._start()

    def _start(self) -> None:
        self._syncing = Thread(target=self._sync, name="ext4img sync", daemon=True)
        self._syncing.start()

    def _sync(self) -> None:
        try:
            for fd in list(self._file_systems.values()):
                sync_file_system(fd, self._path)
        except RestoreError as error:  # raised again where the batch is waited for
            self._failure = error

    def _wait(self) -> None:
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None
        if self._failure is not None:
            raise self._failure

    def _commit(self, steps: _Steps) -> None:
        walk = self._walk
        while steps:
            step = steps[0]
            if type(step) is PendingRename:
                self._rename(step)
            elif type(step) is _Enter:
                self._step_into(step)
            elif type(step) is _Leave:
                if step.done is not None:
                    self._finish_directory(walk.fd, step.done)
                    walk.keep_mode()
                walk.leave()
            steps.popleft()

    def _rename(self, new: PendingRename) -> None:
        walk = self._walk
        try:
            walk.rename(new.temporary, new.name, self._overwrite or new.replace)
        except RestoreError as error:
            problem = error
        except OSError as error:
            if not is_entry_error(error):
                raise
            problem = RestoreError(f"it cannot be restored: {error.strerror}", walk.shown(new.name))
        else:
            if new.link is not None:
                new.link.committed((*walk.names(), new.temporary), new.name)
            return
        walk.remove(new.temporary)
        kind = new.kind if new.link is None else new.link.refused((*walk.names(), new.temporary))
        self._refused(kind, problem)

    def _step_into(self, step: _Enter) -> None:
        """Enter a directory, which must be the one that was filled."""
        walk = self._walk
        try:
            walk.step(step.name, force=step.force)
            found: Identity | None = walk.identity
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found != step.identity:
            if found is not None:
                walk.leave()
            raise RestoreError(f"somebody moved a directory that is in use: {decode_path(step.name)!r}", walk.shown())

    def _abandon(self) -> None:
        """Remove what has a temporary name, as far as it can be reached still."""
        for steps in (self._sealed, self._open):
            with suppress(OSError, RestoreError):
                while steps:
                    step = steps.popleft()
                    if type(step) is PendingRename:
                        self._walk.remove(step.temporary)
                    elif type(step) is _Enter:
                        self._step_into(step)
                    else:
                        self._walk.leave()
