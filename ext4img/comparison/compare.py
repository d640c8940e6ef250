"""Comparing a backup with an image: does the image still hold what was backed up?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ext4img.archive.body import BodyStream
from ext4img.archive.entry import ROOT, UNWRITTEN_KEPT, VERITY, Entry
from ext4img.archive.extracted_tree import ExtractedTree
from ext4img.archive.input import ArchiveSource
from ext4img.archive.open_backup import BackupMember, BackupSource, open_backup
from ext4img.archiver.collect import TreeScanner
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

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
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
    last access in a tree that tar extracted, as tar does not set them. `progress` is called with bytes
    of the backup. Damage in the backup is an ArchiveError; the `checks` of `fs` decide what damage in
    the image does.
    """
    opened = backup if isinstance(backup, BackupSource) else open_backup(backup)
    try:
        report = CompareReport()
        ignored = frozenset({"atime_ns"}) if isinstance(opened, ExtractedTree) else frozenset()
        only = [b"/" + path if path != ROOT else b"/" for path in opened.info.only]
        found = TreeScanner(fs, only).entries()
        current = next(found, None)
        for member in opened.members():
            key = _key(member.entry)
            while current is not None and _key(current[0]) < key:
                _only_on_image(current[0], opened, report)
                current = next(found, None)
            report.members += 1
            if current is None or _key(current[0]) != key:
                report.add(member.entry, "only in the backup")
            else:
                what = _differences(member, current[0], current[1], ignored)
                if what:
                    report.add(member.entry, ", ".join(what))
                current = next(found, None)
            if progress is not None:
                progress(member.position, opened.total_bytes)
        while current is not None:
            _only_on_image(current[0], opened, report)
            current = next(found, None)
        return report
    finally:
        if opened is not backup:
            opened.close()


def _key(entry: Entry) -> tuple[bool, list[bytes]]:
    """The position in the order of a backup."""
    return entry.type == VERITY, entry.path.split(b"/") if entry.path != ROOT else []


def _only_on_image(entry: Entry, backup: BackupSource, report: CompareReport) -> None:
    if not backup.info.filtered:
        report.add(entry, "only on the image")


def _differences(member: BackupMember, entry: Entry, body: BodyStream | None, ignored: frozenset[str]) -> list[str]:
    """Names of the fields that differ, without the `ignored` ones, and "contents"."""
    ours, theirs = member.entry, entry
    if len(ours.unwritten) == UNWRITTEN_KEPT:  # a stream and an extracted tree have no more than these
        theirs = theirs._replace(unwritten=theirs.unwritten[:UNWRITTEN_KEPT])
    fields = zip(Entry._fields, ours, theirs, strict=True)
    what = [name for name, one, other in fields if one != other and name not in ignored]
    if ours.segments == theirs.segments and ours.body_size:
        digests = hashlib.sha256(), hashlib.sha256()
        for _, part in member.chunks():
            digests[0].update(part)
        for chunk in body.chunks if body is not None else ():
            digests[1].update(chunk)
        if digests[0].digest() != digests[1].digest():
            what.append("contents")
    return what
