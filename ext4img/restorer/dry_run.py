"""A target that is only looked at: what would be restored, and what is in the way."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ext4img.archive.entry import Entry
from ext4img.crypto.policy import Policy
from ext4img.errors import ArchiveError, Ext4Error, RestoreError
from ext4img.hostfs.ioctl import AT_FDCWD, is_encrypted
from ext4img.hostfs.safe_dir import OPEN_DIRECTORY, NameTaken
from ext4img.restorer import attributes
from ext4img.restorer.commit_queue import DirDone
from ext4img.restorer.hard_links import HardLink, HardLinks
from ext4img.restorer.kernel_encryption import check_encryptable
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.target import Chunks, Form
from ext4img.restorer.target_dir import reporting_target_errors

_NO_DEVICE: Final = -1  # of files that would be made


class DryRunTarget:
    """The `Target` of a dry run. It need not exist; all members are read, verified and decrypted."""

    def __init__(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        options: RestoreOptions,
        report: RestoreReport,
    ) -> None:
        self.path = os.fsdecode(path)
        self.links = HardLinks()
        self.may_discard = True
        self.is_broken = False
        self._options = options
        self._report = report
        self._names: list[bytes] = []
        self._kinds: list[str] = []  # of all files that would be made: their numbers are their places in it
        self._names_of: Counter[int] = Counter()  # how many names those of several names have
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise RestoreError("it cannot be restored to: Not a directory", self.path)

    def names(self) -> tuple[bytes, ...]:
        """See `Target`."""
        return tuple(self._names)

    def shown(self, name: bytes = b"") -> str:
        """See `Target`."""
        return os.fsdecode(b"/".join([*self._names, name] if name else self._names) or b".")

    def status(self, name: bytes) -> os.stat_result | None:
        """See `Target`."""
        try:
            return os.lstat(self._path_of(name))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def readlink(self, name: bytes) -> bytes:
        """See `Target`."""
        return os.readlink(self._path_of(name))

    def has_exactly(self, name: bytes) -> bool:
        """See `Target`."""
        return name in os.listdir(self._path_of())

    def taken(self, name: bytes) -> NameTaken:
        """See `Target`."""
        return NameTaken("it is there already", self.shown(name))

    def enter(self, name: bytes, entry: Entry, policy: Policy | None) -> None:
        """See `Target`."""
        status = self.status(name)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise NameTaken("something that is no directory is there already", self.shown(name))
        if policy is not None:
            self._check_encryptable(name, policy, entry.shown)
        self._names.append(name)

    def leave(self, done: DirDone | None) -> None:
        """See `Target`."""
        if done is not None and not self._options.merges_attributes and os.path.isdir(self._path_of()):
            entry = done.entry
            fd = os.open(self._path_of(), OPEN_DIRECTORY)
            try:
                if attributes.differs(fd, entry.mode, entry.uid, entry.gid, entry.xattrs):
                    self._report.kept_directories += 1
            finally:
                os.close(fd)
        self._names.pop()

    def is_encrypted(self, name: bytes, policy: Policy) -> bool:
        """See `Target`."""
        return is_encrypted(AT_FDCWD, self._path_of(name))

    def write_file(self, name: bytes | None, entry: Entry, size: int, chunks: Chunks, form: Form) -> int:
        """See `Target`."""
        self._require_free(name)
        written = sum(max(min(len(chunk), size - offset), 0) for offset, chunk in chunks)
        self._report.bytes += written
        return self._made(name, entry, size)

    def make_node(self, name: bytes | None, entry: Entry, link_target: bytes, form: Form) -> int:
        """See `Target`."""
        self._require_free(name)
        return self._made(name, entry, len(link_target))

    def make_link(self, name: bytes, entry: Entry, first: HardLink, replace: bool) -> int:
        """See `Target`."""
        if not replace:
            self._require_free(name)
        device, number = first.identity
        if device == _NO_DEVICE:
            self._names_of[number] += 1
        first.made((*self._names, name))
        return number

    def keep(self, name: bytes, entry: Entry, status: os.stat_result) -> None:
        """See `Target`."""
        if entry.links > 1:
            link = self.links.add(entry, (status.st_dev, status.st_ino), status.st_size)
            link.made((*self._names, name))

    def remove_spares(self) -> None:
        """See `Target`."""

    def discard(self, damaged: Mapping[int, ArchiveError], removed: Callable[[str, Ext4Error], None]) -> None:
        """See `Target`."""
        for number, error in damaged.items():
            names = self._names_of.get(number, 1)
            for _ in range(names - 1):
                removed("link", error)
            if names:
                removed(self._kinds[number], error)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See `Target`."""
        with reporting_target_errors(self):
            yield

    def _check_encryptable(self, name: bytes, policy: Policy, shown: str) -> None:
        """RestoreError if the directory of this name, or the nearest one above that exists, can't be encrypted so."""
        path = self._path_of(name)
        is_new = not os.path.isdir(path)
        while not os.path.isdir(path):
            path = os.path.dirname(path) or b"."
        fd = os.open(path, OPEN_DIRECTORY)
        try:
            check_encryptable(fd, policy, shown, is_new=is_new)
        finally:
            os.close(fd)

    def _path_of(self, name: bytes = b"") -> bytes:
        return os.path.join(os.fsencode(self.path), *self._names, name)

    def _require_free(self, name: bytes | None) -> None:
        """NameTaken if something exists that would not be replaced."""
        status = self.status(name) if name is not None else None
        if name is not None and status is not None and (not self._options.replaces or stat.S_ISDIR(status.st_mode)):
            raise self.taken(name)

    def _made(self, name: bytes | None, entry: Entry, size: int) -> int:
        number = len(self._kinds)
        self._kinds.append(entry.type)
        if entry.links > 1:
            link = self.links.add(entry, (_NO_DEVICE, number), size)
            self._names_of[number] = 0 if name is None else 1
            if name is None:
                link.spare(())
            else:
                link.made((*self._names, name))
        return number
