"""`ext4img verify`."""

from __future__ import annotations

from contextlib import ExitStack

from ext4img.archive.verify import VerifyReport, verify
from ext4img.cli.archive_options import ArchiveOptions, open_archive
from ext4img.cli.compare_options import CompareOptions
from ext4img.cli.exit_codes import Exit
from ext4img.cli.few_of_each import TOLD_AS_JSON, few_of_each
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json, Quiet
from ext4img.cli.output import Output, text_fields, warn, warn_of_changes
from ext4img.cli.progress_bar import progress
from ext4img.cli.quoting import quote
from ext4img.cli.report_losses import loss_records, report_losses
from ext4img.cli.units import plural
from ext4img.comparison.compare import CompareReport, Comparison


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
    with open_archive(backup) as opened, ExitStack() as stack:
        comparison = None
        if against.image:
            fs = stack.enter_context(open_image(against))
            if opened.info.uuid != fs.superblock.uuid:
                warn(
                    f"{quote(against.image)}: warning: not the file system of the backup; its UUID is"
                    f" {fs.superblock.uuid}"
                )
            comparison = Comparison(opened, fs)
        with progress(f"Verifying {label}", quiet) as show:
            report = verify(opened, read=comparison.add if comparison is not None else None, progress=show)
        _report(report, out, label)
        if not report.intact:
            return Exit.ARCHIVE
        differs = comparison is not None and not _report_comparison(comparison.finish(), against, out, label)
    return Exit.PARTLY if report.incomplete or report.losses or report.changes or differs else Exit.DONE


def _report(report: VerifyReport, out: Output, label: str) -> None:
    for problem in few_of_each(report.problems):
        warn(f"{label}: {problem}")
    if out.json:
        out.record(
            {
                "intact": report.intact,
                "members": report.members,
                "bytes": report.bytes,
                "damaged": report.damaged,
                "incomplete": report.incomplete,
                "losses": report.losses.total,
                "lost": loss_records(report.losses),
                "manifest_sha256": report.digest,
                "changes": list(report.changes),
                "problems": [str(problem) for problem in few_of_each(report.problems, TOLD_AS_JSON)],
            }
        )
    elif report.intact:
        digest = f", manifest {report.digest}" if report.digest else ""
        out.line(f"{label}: intact: {plural(report.members, 'member')}{digest}")
    else:
        out.line(f"{label}: DAMAGED: {report.damaged} of {plural(report.members, 'member')}")
    if report.intact and report.incomplete:
        warn(f"{label}: incomplete: {plural(report.incomplete, 'file')} could not be read completely from the image")
    report_losses(report.losses, label)
    warn_of_changes(label, report.changes)


def _report_comparison(report: CompareReport, against: CompareOptions, out: Output, label: str) -> bool:
    """Report the differences between the backup and the image; whether there are none."""
    image = quote(against.image)
    for path, what in report.differences:
        if out.json:
            out.record({"kind": "difference", **text_fields("path", path), "what": what.split(", ")})
        else:
            out.line(f"{quote(path)}: {what}")
    if out.json:
        out.record(
            {
                "kind": "comparison",
                "members": report.members,
                "different": report.different,
                "rebuilt": dict(sorted(report.rebuilt.items())),
            }
        )
        return report.same
    if not report.same:
        unlisted = report.different - len(report.differences)
        more = f" ({unlisted} of them not listed)" if unlisted else ""
        out.line(f"{label}: DIFFERS from {image}: {plural(report.different, 'path')}{more}")
    elif report.rebuilt:
        counts = ", ".join(plural(count, kind) for kind, count in sorted(report.rebuilt.items()))
        out.line(f"{label}: the same as {image}, but for what a rebuild changes: {counts}")
    else:
        out.line(f"{label}: identical to {image}")
    return report.same
