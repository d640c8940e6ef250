"""`ext4img verify`."""

from __future__ import annotations

from ext4img.archive.open_backup import BackupSource
from ext4img.archive.verify import VerifyReport, verify
from ext4img.cli.archive_options import ArchiveOptions, need_file, open_archive
from ext4img.cli.compare_options import AgainstOptions
from ext4img.cli.exit_codes import Exit
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json, Quiet
from ext4img.cli.output import Output, text_fields, warn
from ext4img.cli.progress_bar import progress
from ext4img.cli.quoting import quote
from ext4img.cli.units import plural
from ext4img.comparison.compare import compare


def run(backup: ArchiveOptions, against: AgainstOptions, quiet: Quiet = False, json: Json = False) -> int:
    """Check that a backup is whole and unaltered, and with --against that it is what an image holds.

    Every digest, record, offset and size is checked, and that nothing is missing; no key is
    needed. Each damaged member is named. Of an incremental backup all that it takes from those
    that it builds on is checked, too.
    """
    out = Output(json)
    against.check()
    label = backup.label
    with open_archive(backup) as opened:
        if against.image:
            need_file(opened, backup, "it is read twice with --against")
        with progress(f"Verifying {label}", quiet) as show:
            report = verify(opened, progress=show)
        _tell(report, out, label)
        if not report.intact:
            return Exit.ARCHIVE
        differs = bool(against.image) and not _compare(opened, against, out, label, quiet)
    return Exit.PARTLY if report.incomplete or differs else Exit.DONE


def _tell(report: VerifyReport, out: Output, label: str) -> None:
    for problem in report.problems:
        warn(f"{label}: {problem}")
    if out.json:
        out.record(
            {
                "intact": report.intact,
                "members": report.members,
                "bytes": report.bytes,
                "damaged": report.damaged,
                "incomplete": report.incomplete,
                "manifest_sha256": report.digest,
                "problems": [str(problem) for problem in report.problems],
            }
        )
    elif report.intact:
        digest = f", manifest {report.digest}" if report.digest else ""
        out.line(f"{label}: intact: {plural(report.members, 'member')}{digest}")
    else:
        out.line(f"{label}: DAMAGED: {report.damaged} of {plural(report.members, 'member')}")
    if report.intact and report.incomplete:
        warn(f"{label}: incomplete: of {plural(report.incomplete, 'file')} the image could not be read in full")


def _compare(opened: BackupSource, against: AgainstOptions, out: Output, label: str, quiet: bool) -> bool:
    """Tell where the backup is not what the image holds; whether it is."""
    image = quote(against.image)
    with open_image(against) as fs:
        if opened.info.uuid != fs.superblock.uuid:
            warn(f"{image}: warning: it is another file system than that of the backup: UUID {fs.superblock.uuid}")
        with progress(f"Comparing with {image}", quiet) as show:
            report = compare(opened, fs, progress=show)
        for path, what in report.differences:
            if out.json:
                out.record({"kind": "difference", **text_fields("path", path), "what": what.split(", ")})
            else:
                out.line(f"{quote(path)}: {what}")
        if out.json:
            out.record({"kind": "comparison", "members": report.members, "different": report.different})
        elif report.same:
            out.line(f"{label}: the same as {image}")
        else:
            untold = report.different - len(report.differences)
            more = f" ({untold} of them not told)" if untold else ""
            out.line(f"{label}: DIFFERS from {image}: {plural(report.different, 'path')}{more}")
    return report.same
