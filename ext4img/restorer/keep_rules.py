"""Which names of the target are kept: those that an earlier restore made, and those that are not to be replaced."""

from __future__ import annotations

import os
import stat

from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.entry import Entry
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.target import Target


class KeepRules:
    """Decides by type, size and time; contents are never compared. See `Overwrite`."""

    def __init__(self, target: Target, decryptor: EntryDecryptor | None, options: RestoreOptions) -> None:
        self._target = target
        self._decryptor = decryptor
        self._resume = options.resume
        self._if_newer = options.overwrite == "if-newer"
        self._if_changed = options.overwrite == "if-changed"
        self._never_keeps = not (self._resume or self._if_newer or self._if_changed)

    def keeps(self, entry: Entry, name: bytes) -> bool:
        """Whether `name` exists and is kept for an entry that is no directory. If not, it is replaced or reported."""
        if self._never_keeps:
            return False
        status = self._target.status(name)
        if status is None or stat.S_ISDIR(status.st_mode) or not self._target.has_exactly(name):
            return False
        if (self._resume or self._if_changed) and self._is_unchanged(entry, name, status):
            if not entry.is_link:
                self._target.keep(name, entry, (status.st_dev, status.st_ino))
            return True
        return self._if_newer and status.st_mtime_ns >= entry.mtime_ns

    def _is_unchanged(self, entry: Entry, name: bytes, status: os.stat_result) -> bool:
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(entry.mode):
            return False
        if entry.is_link:  # all names must be of the same file
            first = self._target.links.find(entry)
            return first is not None and first.identity == (status.st_dev, status.st_ino)
        if status.st_mtime_ns != entry.mtime_ns:
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
