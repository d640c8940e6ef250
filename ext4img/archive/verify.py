"""Is an archive whole, and still what was written?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ext4img.archive.input import ArchiveSource
from ext4img.archive.manifest import parse_member
from ext4img.archive.manifest_line import Closing, ManifestLine
from ext4img.archive.member_reader import MemberReader
from ext4img.archive.open_backup import BackupSource, open_backup
from ext4img.archive.reader import Archive
from ext4img.errors import ArchiveError, Ext4Error
from ext4img.progress import Progress

PROBLEMS_KEPT: Final = 10_000


@dataclass(slots=True)
class VerifyReport:
    """`members` that were read (names in the tree, and verity trees), in `bytes` of archive.

    `problems` are at most 10,000 of `damaged`.

    `incomplete` counts files with parts that could not be read when the backup was made: they
    are what was written, but not all that was on the image.
    """

    members: int = 0
    bytes: int = 0
    damaged: int = 0
    incomplete: int = 0
    problems: list[Ext4Error] = field(default_factory=list)
    digest: str = ""
    """SHA-256 of the manifest's lines, in hex: it stands for the whole archive."""

    @property
    def intact(self) -> bool:
        """Whether every byte is what was written."""
        return not self.damaged

    def add(self, problem: Ext4Error) -> None:
        """Note a damaged member."""
        self.damaged += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


def verify(
    archive: ArchiveSource | BackupSource,
    *,
    bases: Sequence[ArchiveSource] = (),
    progress: Progress | None = None,
) -> VerifyReport:
    """Read a whole backup: framing, order, records, digests, completeness.

    In an archive file one damaged member does not keep the others from being looked at, nor do
    damaged bodies in a directory. What is no backup at all, or one without its manifest, is an
    ArchiveError (TruncatedArchiveError) as for every reader. A stream is given up at the first
    thing that is wrong with it. Of an extracted tree only what the manifest can prove is proven.
    Of an incremental archive all that it takes from earlier ones (see `restore`) is read there.
    """
    opened = archive if isinstance(archive, BackupSource) else open_backup(archive, bases)
    try:
        report = VerifyReport()
        if isinstance(opened, Archive) and opened.seekable:
            _verify_file(opened, report, progress)
        else:
            for member in opened.members():
                report.members += 1
                report.incomplete += bool(member.unreadable)
                try:
                    for _ in member.chunks():
                        pass
                except ArchiveError as error:
                    if not opened.seekable:
                        raise
                    report.add(error)
                report.bytes = member.offset + member.stored_bytes
                if progress is not None:
                    progress(report.bytes, opened.total_bytes)
        closing = getattr(opened, "closing", None)
        if isinstance(closing, Closing):
            _close(closing, report)
        return report
    finally:
        if opened is not archive:
            opened.close()


def _close(closing: Closing, report: VerifyReport) -> None:
    report.bytes = closing.offset or report.bytes
    report.incomplete = closing.incomplete
    report.digest = closing.sha256


def _verify_file(archive: Archive, report: VerifyReport, progress: Progress | None) -> None:
    """Each member; after one whose header is damaged the manifest says where the next one is."""
    total = archive.input.size
    lines = _Lines(archive.raw_manifest())
    passage = MemberReader(archive.input.cursor(), lines)
    passage.read_info()
    while True:
        try:
            for member in passage.members(verify=False):
                report.members += 1
                try:
                    for _ in member.chunks():
                        pass
                except ArchiveError as error:
                    report.add(error)
                if progress is not None:
                    progress(member.offset + member.stored_bytes, total)
            return
        except ArchiveError as error:
            report.add(error)
            while (line := lines.peek()) is not None and line.offset <= passage.start:
                next(lines)
            if line is None:
                return
            passage = MemberReader(archive.input.cursor(line.offset), lines, archive.info)


class _Lines(Iterator[bytes]):
    """The manifest's lines with a look ahead."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._ahead: bytes | None = None

    def __next__(self) -> bytes:
        line, self._ahead = self._ahead, None
        return line if line is not None else next(self._lines)

    def peek(self) -> ManifestLine | None:
        """The line that comes next."""
        if self._ahead is None:
            self._ahead = next(self._lines, None)
        return parse_member(self._ahead) if self._ahead is not None else None
