"""What was written gets its name when the disk has it, and not before.

A name promises that what it leads to is whole; a system that loses power keeps names and loses
contents that it had not written out yet. So what a restore makes is noted, and a batch of it gets
its names once the file system has been synchronised, which goes on beside the writing of the next.
Noted are the steps of the restore's way through the target, and the batch goes the same way again.
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
from ext4img.hostfs.folder import Folder
from ext4img.hostfs.safe_dir import sync_file_system
from ext4img.names.paths import decode_path
from ext4img.restorer.target_dir import TargetDir

BATCH_NAMES: Final = 8192
BATCH_BYTES: Final = 256 << 20


class HardLink:
    """The first name of a file that has more: where it is in the target, which file, names to come."""

    __slots__ = ("identity", "inode", "kind", "left", "names")

    def __init__(self, names: tuple[bytes, ...], identity: tuple[int, int], entry: Entry) -> None:
        self.names = names
        self.identity = identity
        self.kind = entry.type
        self.inode = entry.inode
        self.left = entry.links - 1


class PendingRename(NamedTuple):
    """Something whole under a temporary name that is to get `name`. `kind` is what the report counts it as."""

    temporary: bytes
    name: bytes
    kind: str
    linked: HardLink | None


class DirDone(NamedTuple):
    """A directory in which all is done gets its attributes, with its records if it stays as stored."""

    entry: Entry
    with_records: bool


class _Enter(NamedTuple):
    name: bytes
    identity: tuple[int, int]


class _Leave(NamedTuple):
    finish: DirDone | None


_Steps = deque[PendingRename | _Enter | _Leave]


class CommitQueue:
    """Notes what is made in `target`, in its order, and gives names batch by batch.

    `refused` is told of what can't get its name, which is taken away; `finish` gives an open
    directory its attributes. `leaves_out` tells which OSError is one entry's and not the target's.
    """

    def __init__(
        self,
        target: TargetDir,
        overwrite: bool,
        refused: Callable[[PendingRename, RestoreError], None],
        finish: Callable[[int, DirDone], None],
        leaves_out: Callable[[OSError], bool],
    ) -> None:
        self._path = target.path
        self._folder = Folder(os.dup(target.first_fd))
        self._overwrite = overwrite
        self._refused = refused
        self._finish = finish
        self._leaves_out = leaves_out
        self._file_systems = {self._folder.identity[0]: os.dup(target.first_fd)}
        self._open: _Steps = deque()
        self._sealed: _Steps = deque()
        self._names = 0  # in the open batch
        self._bytes = 0
        self._syncing: Thread | None = None
        self._failure: RestoreError | None = None
        self.is_broken = False
        """Whether a batch did not reach the disk, or could not be given its names: nothing gets a name any more."""

    def enter(self, name: bytes, folder: Folder) -> None:
        """The restore entered a directory, which is the current one of `folder` now."""
        device = folder.identity[0]
        if device not in self._file_systems:  # something is mounted there
            self._file_systems[device] = os.dup(folder.fd)
        self._note(_Enter(name, folder.identity), 0)

    def leave(self, finish: DirDone | None) -> None:
        """It left that directory, which is to be finished or not."""
        held = sum(map(len, finish.entry.xattrs.values())) if finish is not None else 0
        self._note(_Leave(finish), held)

    def add(self, new: PendingRename, size: int) -> None:
        """Something whole of `size` bytes was made in the current directory."""
        self._note(new, size)

    def settle(self) -> None:
        """Give all names that are still to be given, and have it all on the disk."""
        self._seal()
        self._seal()
        self._start()
        self._wait()

    def rescue(self) -> None:
        """After a failure: what is whole still gets its name if the disk takes it, or is taken away."""
        try:
            if not self.is_broken:
                self.settle()
        except (OSError, RestoreError):
            self.is_broken = True
        if self.is_broken:
            self._abandon()

    def close(self) -> None:
        """Close what is open."""
        if self._syncing is not None:
            self._syncing.join()
        for fd in self._file_systems.values():
            os.close(fd)
        self._file_systems.clear()
        self._folder.close()

    def _note(self, step: PendingRename | _Enter | _Leave, size: int) -> None:
        self._open.append(step)
        self._names += 1
        self._bytes += size
        if self._names >= BATCH_NAMES or self._bytes >= BATCH_BYTES:
            self._seal()

    def _seal(self) -> None:
        """The batch before is on the disk by now, or soon: it gets its names. This one is its successor."""
        try:
            self._wait()
            self._publish(self._sealed)
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
        except RestoreError as error:  # it is raised where the batch is waited for
            self._failure = error

    def _wait(self) -> None:
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None
        if self._failure is not None:
            raise self._failure

    def _publish(self, steps: _Steps) -> None:
        folder = self._folder
        while steps:
            step = steps[0]
            if type(step) is PendingRename:
                self._give(step)
            elif type(step) is _Enter:
                self._go(step)
            elif type(step) is _Leave:
                if step.finish is not None:
                    self._finish(folder.fd, step.finish)
                folder.leave()
            steps.popleft()

    def _give(self, new: PendingRename) -> None:
        folder = self._folder
        try:
            folder.publish(new.temporary, new.name, self._overwrite)
        except RestoreError as error:
            problem = error
        except OSError as error:
            if not self._leaves_out(error):
                raise
            problem = RestoreError(f"it cannot be restored: {error.strerror}", folder.shown(new.name))
        else:
            if new.linked is not None:
                new.linked.names = (*new.linked.names[:-1], new.name)
            return
        folder.remove(new.temporary)
        self._refused(new, problem)

    def _go(self, step: _Enter) -> None:
        """Into a directory, which must be the one that was filled."""
        folder = self._folder
        try:
            folder.step(step.name)
            found: tuple[int, int] | None = folder.identity
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found != step.identity:
            if found is not None:
                folder.leave()
            raise RestoreError(f"somebody moved a directory that is in use: {decode_path(step.name)!r}", folder.shown())

    def _abandon(self) -> None:
        """Take away what has temporary names; what cannot be reached any more is left as it is."""
        for steps in (self._sealed, self._open):
            with suppress(OSError, RestoreError):
                while steps:
                    step = steps.popleft()
                    if type(step) is PendingRename:
                        self._folder.remove(step.temporary)
                    elif type(step) is _Enter:
                        self._go(step)
                    else:
                        self._folder.leave()
