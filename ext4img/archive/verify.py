"""Verify a backup: whether every byte of it is what was written, and nothing is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ext4img.archive.damaged_reader import ManifestLookahead, members_past_damage
from ext4img.archive.input import ArchiveSource
from ext4img.archive.loss import Losses
from ext4img.archive.manifest_line import Closing, ManifestLine
from ext4img.archive.open_backup import BackupMember, BackupSource, open_backup, recorded_changes
from ext4img.archive.reader import Archive
from ext4img.errors import ArchiveError, Ext4Error
from ext4img.progress import Progress

MAX_PROBLEMS: Final = 10_000


@dataclass(slots=True)
class VerifyReport:
    """The result: `members` (names in the tree, and verity trees) were read, in `bytes` of archive.

    `damaged` members differ from what was written; `problems` has their errors, at most 10,000.

    `incomplete` counts files with parts that could not be read when the backup was made: they
    are as they were written, but lack data of the image. `losses` are all that it lacks, these parts and names,
    attributes, whole entries.
    """

    members: int = 0
    bytes: int = 0
    damaged: int = 0
    incomplete: int = 0
    losses: Losses = field(default_factory=Losses)
    problems: list[Ext4Error] = field(default_factory=list)
    digest: str = ""
    """SHA-256 of the manifest's lines, in hex: it stands for the whole archive."""
    changes: tuple[str, ...] = ()
    """Why it may be a mixture of old and new, as the backup recorded it."""

    @property
    def intact(self) -> bool:
        """Whether every byte is what was written."""
        return not self.damaged

    def add(self, problem: Ext4Error) -> None:
        """Count a damaged member, and keep its error."""
        self.damaged += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


def verify(
    archive: ArchiveSource | BackupSource,
    *,
    bases: Sequence[ArchiveSource] = (),
    read: Callable[[BackupMember], object] | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Read a whole backup and check framing, order, records, digests and completeness.

    In an archive file and in a directory, verification continues after a damaged member; in a stream
    it ends at the first error, which is raised. A source that is not a backup, or has lost its
    manifest, raises ArchiveError (TruncatedArchiveError) as for every reader. An extracted tree is
    checked only as far as its manifest reaches. Of an incremental archive the members that it takes
    from earlier archives (`bases`, see `restore`) are verified, too. `read` is called with each member in
    turn, to read its whole body for a purpose of the caller's.
    """
    read = _read_body if read is None else read
    opened = archive if isinstance(archive, BackupSource) else open_backup(archive, bases)
    try:
        report = VerifyReport()
        if isinstance(opened, Archive) and opened.seekable:
            _verify_file(opened, report, read, progress)
        else:
            for member in opened.members():
                report.members += 1
                report.incomplete += bool(member.unreadable)
                try:
                    read(member)
                except ArchiveError as error:
                    if not opened.seekable:
                        raise
                    report.add(error)
                report.bytes = member.position + member.data_size
                if progress is not None:
                    progress(report.bytes, opened.total_bytes)
        report.losses = opened.losses
        closing = getattr(opened, "closing", None)
        if isinstance(closing, Closing):
            _add_closing(closing, report)
        report.changes = recorded_changes(opened)
        return report
    finally:
        if opened is not archive:
            opened.close()


def _add_closing(closing: Closing, report: VerifyReport) -> None:
    report.bytes = closing.manifest_offset or report.bytes
    report.incomplete = closing.incomplete
    report.digest = closing.sha256


def _read_body(member: BackupMember) -> None:
    for _ in member.chunks():
        pass


def _verify_file(
    archive: Archive, report: VerifyReport, read: Callable[[BackupMember], object], progress: Progress | None
) -> None:
    """Verify each member; continue after damaged ones."""

    def on_damage(error: ArchiveError, _line: ManifestLine | None, _lines: ManifestLookahead) -> None:
        report.add(error)

    total = archive.input.size
    for member in members_past_damage(archive, on_damage):
        report.members += 1
        try:
            read(member)
        except ArchiveError as error:
            report.add(error)
        if progress is not None:
            progress(member.position + member.data_size, total)
