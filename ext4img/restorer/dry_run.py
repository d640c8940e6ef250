"""A restore that writes nothing: what would be restored, what is in the way, what no key opens."""

from __future__ import annotations

import os
import stat
from typing import Final

from ext4img.archive.entry import Entry
from ext4img.errors import ArchiveError, RestoreError
from ext4img.hostfs.folder import Exists
from ext4img.restorer.commit_queue import DirDone
from ext4img.restorer.restorable import Restorable
from ext4img.restorer.restorer import Restorer
from ext4img.restorer.target_dir import TargetDir

_SOMETHING: Final = 1  # in place of an inode number


class DryRunTarget(TargetDir):
    """A target that is looked at and never touched; it need not be there."""

    def __init__(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        self.path = os.fsdecode(path)
        self._names: list[bytes] = []
        self._stack = []
        there = os.path.exists(self.path)
        if there and not os.path.isdir(self.path):
            raise RestoreError("it cannot be restored to: Not a directory", self.path)
        self.is_new = not there or not os.listdir(self.path)

    @property
    def fd(self) -> int:
        """None is open."""
        return -1

    @property
    def created(self) -> bool:
        """Nothing is."""
        return False

    @property
    def identity(self) -> tuple[int, int]:
        """It does not matter."""
        return -1, -1

    def has_exactly(self, name: bytes) -> bool:
        """See `SafeDir.has_exactly`."""
        return name in os.listdir(os.path.join(os.fsencode(self.path), *self._names))

    def names(self) -> tuple[bytes, ...]:
        """See `SafeDir.names`."""
        return tuple(self._names)

    def shown(self, name: bytes = b"") -> str:
        """See `SafeDir.shown`."""
        return os.fsdecode(b"/".join([*self._names, name] if name else self._names) or b".")

    def has_default_acl(self) -> bool:
        """It does not matter."""
        return False

    def enter(self, name: bytes) -> None:
        """See `TargetDir.enter`."""
        status = self.status(name)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise Exists("something that is no directory is there already", self.shown(name))
        self._names.append(name)

    def leave(self) -> None:
        """See `SafeDir.leave`."""
        self._names.pop()

    def status(self, name: bytes) -> os.stat_result | None:
        """See `TargetDir.status`."""
        try:
            return os.lstat(os.path.join(os.fsencode(self.path), *self._names, name))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def clear_temporaries(self) -> None:
        """They stay."""


class Rehearsal(Restorer):
    """Goes through all that a restore does but for the writing; bodies are read and verified."""

    def _give_up(self, inode: int, error: ArchiveError) -> None:
        self.report.leave_out(error)

    def _finish_directory(self, fd: int, finish: DirDone) -> None:
        pass

    def _file(self, member: Restorable, name: bytes) -> None:
        entry = member.entry
        size = entry.body_size
        if entry.is_encrypted and self._plaintext is not None:
            if self._plaintext.contents(entry) is None:
                self._without_key(entry)
            else:
                size = entry.size
        self._check_way(entry, name)
        self._made = _SOMETHING
        for offset, part in member.chunks():
            self.report.bytes += max(min(len(part), size - offset), 0)

    def _special(self, entry: Entry, name: bytes) -> None:
        encrypted = entry.type == "symlink" and entry.is_encrypted
        if encrypted and self._plaintext is not None and self._plaintext.target(entry) is None:
            self._without_key(entry)
        self._check_way(entry, name)
        self._made = _SOMETHING

    def _link(self, member: Restorable, name: bytes) -> None:
        self._check_way(member.entry, name)
        self._made = _SOMETHING

    def _check_way(self, entry: Entry, name: bytes) -> None:
        """Exists where something is there that would stay."""
        status = self._target.status(name)
        if status is not None and (not self._overwrite or stat.S_ISDIR(status.st_mode)):
            raise Exists("it is there already", self._target.shown(name))
