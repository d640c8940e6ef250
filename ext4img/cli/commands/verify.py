"""`ext4img verify`."""

from __future__ import annotations

from ext4img.backup.verify import verify
from ext4img.cli.archive import ArchiveArgument, archive_label, open_archive
from ext4img.cli.exits import Exit
from ext4img.cli.facts import plural
from ext4img.cli.options import Json, Quiet
from ext4img.cli.output import Output, warn
from ext4img.cli.progress import progress


def run(archive: ArchiveArgument, quiet: Quiet = False, json: Json = False) -> int:
    """Check that a backup is whole and unaltered.

    Every digest, record, offset and size is checked, and that nothing is missing; no key is
    needed. Each damaged member is named.
    """
    out = Output(json)
    label = archive_label(archive)
    with open_archive(archive) as opened, progress(f"Verifying {label}", quiet) as show:
        report = verify(opened, progress=show)
    for problem in report.problems:
        warn(f"{label}: {problem}")
    if json:
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
    if not report.intact:
        return Exit.ARCHIVE
    if report.incomplete:
        warn(f"{label}: incomplete: of {plural(report.incomplete, 'file')} the image could not be read in full")
        return Exit.PARTLY
    return Exit.DONE
