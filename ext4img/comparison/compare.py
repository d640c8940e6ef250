"""Comparing a backup with an image: does the image still hold what was backed up?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ext4img.archive.body import BodyStream, Buffer
from ext4img.archive.entry import ROOT, UNWRITTEN_KEPT, VERITY, Entry
from ext4img.archive.extracted_tree import ExtractedTree
from ext4img.archive.input import ArchiveSource
from ext4img.archive.open_backup import BackupMember, BackupSource, open_backup
from ext4img.archiver.collect import TreeScanner
from ext4img.comparison.rebuilt import ADDED, RebuildRules, data_digest, with_offsets
from ext4img.fs.filesystem import FileSystem
from ext4img.names.paths import decode_path
from ext4img.progress import Progress

MAX_DIFFERENCES: Final = 10_000


class Difference(NamedTuple):
    """One path that differs. `what` is "only in the backup", "only on the image", or the names of fields."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path!r}: {self.what}"


@dataclass(slots=True)
class CompareReport:
    """The result: `members` compared, `different` ones among them, and the first 10,000 `differences`."""

    members: int = 0
    different: int = 0
    differences: list[Difference] = field(default_factory=list)
    rebuilt: Counter[str] = field(default_factory=Counter)
    """What is not the same and need not be in a new image that was made of the backup, or of its source: how
    many inode numbers, sizes of directories, …; see `rebuilt.py`."""

    @property
    def same(self) -> bool:
        """Whether nothing differs but numbers that a rebuild changes."""
        return not self.different

    def add(self, entry: Entry, what: str) -> None:
        """Note a difference."""
        self.different += 1
        if len(self.differences) < MAX_DIFFERENCES:
            path = decode_path(entry.path) if entry.type != VERITY else f"verity tree of inode {entry.inode}"
            self.differences.append(Difference(path, what))


def compare(backup: ArchiveSource | BackupSource, fs: FileSystem, *, progress: Progress | None = None) -> CompareReport:
    """Compare every member with the image: names, attributes, records and bodies. No key is needed.

    Paths that a partial or filtered backup does not have are no differences; nor are times of the
    last access in a tree that tar extracted, as tar does not set them; nor what a rebuild changes, which
    is counted. `progress` is called with bytes of the backup. Damage in the backup is an ArchiveError;
    the `checks` of `fs` decide what damage in the image does.
    """
    opened = backup if isinstance(backup, BackupSource) else open_backup(backup)
    try:
        comparison = Comparison(opened, fs)
        for member in opened.members():
            comparison.add(member)
            if progress is not None:
                progress(member.position, opened.total_bytes)
        return comparison.finish()
    finally:
        if opened is not backup:
            opened.close()


class Comparison:
    """A comparison while the members are read by somebody else: `add` each in turn, then `finish`."""

    def __init__(self, backup: BackupSource, fs: FileSystem) -> None:
        self._backup = backup
        self._report = CompareReport()
        self._rules = RebuildRules(backup.info, fs)
        self._ignored = frozenset({"atime_ns"}) if isinstance(backup, ExtractedTree) else frozenset()
        only = [b"/" + path if path != ROOT else b"/" for path in backup.info.only]
        self._found = TreeScanner(fs, only).entries()
        self._current = next(self._found, None)

    def add(self, member: BackupMember) -> None:
        """Compare the next member, whose body is read to its end."""
        entry, report = member.entry, self._report
        report.members += 1
        if not self._is_at(entry):
            key = _key(entry)
            while self._current is not None and _key(self._current[0]) < key:
                self._only_on_image(self._current[0])
                self._current = next(self._found, None)
        if self._current is None or not self._is_at(entry):
            report.add(entry, "only in the backup")
            member.read_digest()
            return
        what = self._differences(member, *self._current)
        if what:
            report.add(entry, ", ".join(what))
        self._current = next(self._found, None)

    def finish(self) -> CompareReport:
        """After the last member: the result."""
        while self._current is not None:
            self._only_on_image(self._current[0])
            self._current = next(self._found, None)
        return self._report

    def _is_at(self, entry: Entry) -> bool:
        """Whether the image's next entry is this one."""
        if self._current is None:
            return False
        found = self._current[0]
        if VERITY in (entry.type, found.type):
            return _key(found) == _key(entry)
        return found.path == entry.path

    def _only_on_image(self, entry: Entry) -> None:
        if self._rules.may_add(entry):
            self._report.rebuilt[ADDED] += 1
        elif not self._backup.info.filtered:
            self._report.add(entry, "only on the image")

    def _differences(self, member: BackupMember, theirs: Entry, body: BodyStream | None) -> list[str]:
        """Names of the fields that differ, and "contents"; what a rebuild changes is counted instead."""
        ours = member.entry
        if len(ours.unwritten) == UNWRITTEN_KEPT:  # a stream and an extracted tree have no more than these
            theirs = theirs._replace(unwritten=theirs.unwritten[:UNWRITTEN_KEPT])
        what = [] if ours == theirs else self._unequal(ours, theirs)
        kept = ["UUID"] if self._rules.is_lost(ours) else []
        for name in what:
            kind = self._rules.kind(name, ours, theirs)
            if kind is None:
                kept.append(name)
            else:
                self._report.rebuilt[kind] += 1
        chunks = body.chunks if body is not None else ()
        if ours.segments == theirs.segments:
            same = not ours.body_size or _digest(chunks) == member.read_digest()
        elif "segments" in kept:
            member.read_digest()
            same = True  # what differs has been said
        else:
            same = data_digest(with_offsets(theirs.segments, chunks)) == data_digest(member.chunks())
        return kept if same else [*kept, "contents"]

    def _unequal(self, ours: Entry, theirs: Entry) -> list[str]:
        fields = zip(Entry._fields, ours, theirs, strict=True)
        return [name for name, one, other in fields if one != other and name not in self._ignored]


def _key(entry: Entry) -> tuple[bool, list[bytes]]:
    """The position in the order of a backup."""
    return entry.type == VERITY, entry.path.split(b"/") if entry.path != ROOT else []


def _digest(chunks: Iterable[Buffer]) -> str:
    """SHA-256 of a body's data, in hex."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
