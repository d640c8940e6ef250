"""Which names of the target are kept: those that an earlier restore made, and those that are not to be replaced."""

from __future__ import annotations

import os
import stat
from enum import Enum, auto

from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.entry import Entry
from ext4img.crypto.policy import Policy
from ext4img.restorer.hard_links import HardLink
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.target import Target


class Existing(Enum):
    """What becomes of a name that exists, or does not."""

    NEW = auto()  # it is made; if it exists, the options say whether it is replaced or reported
    KEEP = auto()
    REPLACE = auto()  # an interrupted restore made a file of its own of it: it becomes a name of its file again


class KeepRules:
    """Decides by type, size and time; contents are never compared. See `Overwrite`."""

    def __init__(self, target: Target, decryptor: EntryDecryptor | None, options: RestoreOptions) -> None:
        self._target = target
        self._decryptor = decryptor
        self._resume = options.resume
        self._if_newer = options.overwrite == "if-newer"
        self._if_changed = options.overwrite == "if-changed"
        self._replaces = options.replaces
        self._never_keeps = not (self._resume or self._if_newer or self._if_changed)

    def decide(
        self, entry: Entry, name: bytes, first: HardLink | None = None, policy: Policy | None = None
    ) -> Existing:
        """Whether `name`, of no directory, exists and is kept for an entry, or for a further name of `first`.

        With `policy` only a file that the kernel encrypts is kept. NameTaken, in a resumed restore, if
        it exists and is neither kept nor replaced: then its file may still have a name that is kept.
        """
        status = None if self._never_keeps else self._target.status(name)
        if status is None:
            return Existing.NEW
        existing = self._decide(entry, name, first, policy, status)
        if existing is Existing.NEW and not self._replaces:
            raise self._target.taken(name)
        return existing

    def keeps(self, entry: Entry, name: bytes) -> bool:
        """Whether `name` exists and is kept for an entry that would not be restored in any case."""
        status = None if self._never_keeps else self._target.status(name)
        return status is not None and self._decide(entry, name, None, None, status) is Existing.KEEP

    def _decide(
        self, entry: Entry, name: bytes, first: HardLink | None, policy: Policy | None, status: os.stat_result
    ) -> Existing:
        if stat.S_ISDIR(status.st_mode) or not self._target.has_exactly(name):
            return Existing.NEW
        if policy is not None and not self._target.is_encrypted(name, policy):
            return Existing.NEW
        if self._resume or self._if_changed:
            if first is None and self._is_unchanged(entry, name, status):
                self._target.keep(name, entry, status)
                return Existing.KEEP
            if first is not None:
                if first.identity == (status.st_dev, status.st_ino):
                    return Existing.KEEP
                if self._resume and self._is_torn_off(entry, first, status):
                    return Existing.REPLACE
        return Existing.KEEP if self._if_newer and status.st_mtime_ns >= entry.mtime_ns else Existing.NEW

    def _is_torn_off(self, entry: Entry, first: HardLink, status: os.stat_result) -> bool:
        found = stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns
        return found == (stat.S_IFMT(entry.mode), first.size, entry.mtime_ns)

    def _is_unchanged(self, entry: Entry, name: bytes, status: os.stat_result) -> bool:
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(entry.mode) or status.st_mtime_ns != entry.mtime_ns:
            return False
        if entry.type == "file":
            return status.st_size == self._size(entry)
        if entry.type == "symlink":
            return self._target.readlink(name) == self._link_target(entry)
        if entry.type in ("char", "block"):
            return status.st_rdev == os.makedev(*entry.rdev)
        return True

    def _size(self, entry: Entry) -> int:
        """The size of a file when it is restored: its true size if it is decrypted."""
        decrypted = entry.is_encrypted and self._decryptor is not None and self._decryptor.contents(entry) is not None
        return entry.size if decrypted else entry.body_size

    def _link_target(self, entry: Entry) -> bytes:
        decrypted = None
        if entry.is_encrypted and self._decryptor is not None:
            decrypted = self._decryptor.target(entry)
        return decrypted or entry.link_target


def is_same(old: os.stat_result, new: os.stat_result) -> bool:
    """Whether two files have the same type, size (of a symlink, that of its target), device numbers and mtime."""
    return (stat.S_IFMT(old.st_mode), old.st_size, old.st_rdev, old.st_mtime_ns) == (
        stat.S_IFMT(new.st_mode),
        new.st_size,
        new.st_rdev,
        new.st_mtime_ns,
    )
