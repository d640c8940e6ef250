"""`ext4img verify`."""

from __future__ import annotations

from ext4img.archive.open_backup import BackupSource
from ext4img.archive.verify import VerifyReport, verify
from ext4img.cli.archive_options import ArchiveOptions, open_archive, require_seekable
from ext4img.cli.compare_options import CompareOptions
from ext4img.cli.exit_codes import Exit
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json, Quiet
from ext4img.cli.output import Output, text_fields, warn, warn_of_changes
from ext4img.cli.progress_bar import progress
from ext4img.cli.quoting import quote
from ext4img.cli.units import plural
from ext4img.comparison.compare import compare


def run(backup: ArchiveOptions, against: CompareOptions, quiet: Quiet = False, json: Json = False) -> int:
    """Verify that a backup is complete and undamaged.

    Checks every digest, record, offset and size, and that nothing is missing. No key is needed.
    Each damaged member is named. For an incremental backup, the members that it takes from the
    archives it is based on are verified, too. With --against the backup is also compared with an
    image.
    """
    out = Output(json)
    against.check()
    label = backup.label
    with open_archive(backup) as opened:
        if against.image:
            require_seekable(opened, backup, "--against reads it twice")
        with progress(f"Verifying {label}", quiet) as show:
            report = verify(opened, progress=show)
        _report(report, out, label)
        if not report.intact:
            return Exit.ARCHIVE
        differs = bool(against.image) and not _compare(opened, against, out, label, quiet)
    return Exit.PARTLY if report.incomplete or report.changes or differs else Exit.DONE


def _report(report: VerifyReport, out: Output, label: str) -> None:
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
                "changes": list(report.changes),
                "problems": [str(problem) for problem in report.problems],
            }
        )
    elif report.intact:
        digest = f", manifest {report.digest}" if report.digest else ""
        out.line(f"{label}: intact: {plural(report.members, 'member')}{digest}")
    else:
        out.line(f"{label}: DAMAGED: {report.damaged} of {plural(report.members, 'member')}")
    if report.intact and report.incomplete:
        warn(f"{label}: incomplete: {plural(report.incomplete, 'file')} could not be read completely from the image")
    warn_of_changes(label, report.changes)


def _compare(opened: BackupSource, against: CompareOptions, out: Output, label: str, quiet: bool) -> bool:
    """Report the differences between the backup and the image; whether there are none."""
    image = quote(against.image)
    with open_image(against) as fs:
        if opened.info.uuid != fs.superblock.uuid:
            warn(f"{image}: warning: not the file system of the backup; its UUID is {fs.superblock.uuid}")
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
            out.line(f"{label}: identical to {image}")
        else:
            unlisted = report.different - len(report.differences)
            more = f" ({unlisted} of them not listed)" if unlisted else ""
            out.line(f"{label}: DIFFERS from {image}: {plural(report.different, 'path')}{more}")
    return report.same
