"""A target that is only looked at: what would be restored, and what is in the way."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ext4img.archive.entry import Entry
from ext4img.crypto.policy import Policy
from ext4img.errors import ArchiveError, Ext4Error, RestoreError
from ext4img.hostfs.safe_dir import Identity, NameTaken
from ext4img.restorer.commit_queue import DirDone
from ext4img.restorer.hard_links import HardLink, HardLinks
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.report import RestoreReport
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
        self._further_names: Counter[int] = Counter()
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
        self._names.append(name)

    def leave(self, done: DirDone | None) -> None:
        """See `Target`."""
        self._names.pop()

    def write_file(
        self,
        name: bytes,
        entry: Entry,
        size: int,
        chunks: Iterable[tuple[int, memoryview]],
        stored_bytes: int,
        with_records: bool,
    ) -> int:
        """See `Target`."""
        self._require_free(name)
        for offset, chunk in chunks:
            self._report.bytes += max(min(len(chunk), size - offset), 0)
        return self._made(name, entry)

    def make_node(self, name: bytes, entry: Entry, link_target: bytes, with_records: bool) -> int:
        """See `Target`."""
        self._require_free(name)
        return self._made(name, entry)

    def make_link(self, name: bytes, entry: Entry, first: HardLink) -> int:
        """See `Target`."""
        self._require_free(name)
        device, number = first.identity
        if device == _NO_DEVICE:
            self._further_names[number] += 1
        return number

    def keep(self, name: bytes, entry: Entry, identity: Identity) -> None:
        """See `Target`."""
        if entry.links > 1:
            self.links.add(entry, (*self._names, name), identity)

    def discard(self, damaged: Mapping[int, ArchiveError], removed: Callable[[str, Ext4Error], None]) -> None:
        """See `Target`."""
        for number, error in damaged.items():
            for _ in range(self._further_names[number]):
                removed("link", error)
            removed(self._kinds[number], error)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See `Target`."""
        with reporting_target_errors(self):
            yield

    def _path_of(self, name: bytes = b"") -> bytes:
        return os.path.join(os.fsencode(self.path), *self._names, name)

    def _require_free(self, name: bytes) -> None:
        """NameTaken if something exists that would not be replaced."""
        status = self.status(name)
        if status is not None and (not self._options.replaces or stat.S_ISDIR(status.st_mode)):
            raise self.taken(name)

    def _made(self, name: bytes, entry: Entry) -> int:
        number = len(self._kinds)
        self._kinds.append(entry.type)
        if entry.links > 1:
            self.links.add(entry, (*self._names, name), (_NO_DEVICE, number))
        return number
