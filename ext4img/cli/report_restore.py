"""The report of a restore or an extraction, and the exit code that follows from it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ext4img.cli.error_report import explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.few_of_each import TOLD_AS_JSON, More, few_of_each
from ext4img.cli.output import Output, hint, warn
from ext4img.cli.quoting import quote
from ext4img.cli.report_losses import report_losses
from ext4img.cli.units import plural, size_text
from ext4img.errors import NoKeyError
from ext4img.restorer.attributes import is_privileged
from ext4img.restorer.report import RestoreReport

_MAX_KINDS = 8  # of things that could not be set
# What to call one and several of a type.
NOUNS = {
    "file": ("file", "files"),
    "dir": ("directory", "directories"),
    "symlink": ("symlink", "symlinks"),
    "link": ("hard link", "hard links"),
    "char": ("character device", "character devices"),
    "block": ("block device", "block devices"),
    "fifo": ("fifo", "fifos"),
    "socket": ("socket", "sockets"),
}
_EXPECTED = ("device node", "verity")  # each has a line of its own, and is no failure


def report_restored(report: RestoreReport, out: Output, target: str, *, dry_run: bool = False) -> int:
    """Write what was restored, and on stderr what was not; returns the exit code."""
    for problem in few_of_each(report.problems):
        warn(f"left out: {problem if isinstance(problem, More) else explain(problem).text}")
    no_key = next((problem for problem in report.problems if isinstance(problem, NoKeyError)), None)
    if no_key is not None:
        for text in explain(no_key).hints:
            hint(text)
    all_set = _report_not_set(report.not_set, target)
    if report.kept_directories:
        kept = plural(report.kept_directories, "directory", "directories")
        warn(f"{quote(target)}: {kept} existed, and kept another mode, owner or attributes than the original's")
        hint("--overwrite or --update gives existing directories those of the original")
    if out.json:
        out.record(
            {
                "restored": dict(sorted(report.restored.items())),
                "bytes": report.bytes,
                "kept": report.kept,
                "kept_directories": report.kept_directories,
                "left_out": report.left_out,
                "no_key": report.no_key,
                "damaged": report.damaged,
                "losses": report.losses.total,
                "unset": dict(sorted(report.not_set.items())),
                "problems": [str(problem) for problem in few_of_each(report.problems, TOLD_AS_JSON)],
                "changes": list(report.changes),
            }
        )
    else:
        counted = [plural(report.restored[kind], *nouns) for kind, nouns in NOUNS.items() if report.restored.get(kind)]
        made = ", ".join(counted) or "nothing"
        mark, written = (" (dry run)", "would be written") if dry_run else ("", "written")
        out.line(f"{quote(target)}{mark}: {made}; {size_text(report.bytes)} {written}")
        if report.kept:
            out.line(f"{plural(report.kept, 'entry', 'entries')} there already, and kept")
        if report.left_out:
            why = f", {report.no_key} of them without a key" if report.no_key else ""
            out.line(f"{plural(report.left_out, 'entry', 'entries')} left out{why}")
        if report.damaged:
            out.line(f"the backup is DAMAGED: {plural(report.damaged, 'member')} could not be restored")
    report_losses(report.losses, quote(target))
    if report.damaged:
        return Exit.ARCHIVE
    is_complete = report.complete and all_set and not report.kept_directories and not report.changes
    return Exit.DONE if is_complete else Exit.PARTLY


def _report_not_set(not_set: Mapping[str, int], target: str) -> bool:
    """Write on stderr what could not be set; returns whether that was to be expected."""
    devices, verity = (not_set.get(what, 0) for what in _EXPECTED)
    if devices:
        warn(f"{quote(target)}: {plural(devices, 'device node')} not made: --devices makes them")
    if verity:
        warn(f"{quote(target)}: {plural(verity, 'file')} had fs-verity, which is not enabled again")
    rest = {what: count for what, count in not_set.items() if what not in _EXPECTED}
    of_root = {what: count for what, count in rest.items() if os.geteuid() and is_privileged(what)}
    failed = {what: count for what, count in rest.items() if what not in of_root}
    if of_root:
        warn(f"{quote(target)}: not set, since only root may set them: {_counted(of_root)}")
    if failed:
        warn(f"{quote(target)}: {sum(failed.values())} could not be set: {_counted(failed)}")
    return not failed


def _counted(not_set: Mapping[str, int]) -> str:
    kinds = [f"{what} ({count})" for what, count in sorted(not_set.items())]
    more = f", and {len(kinds) - _MAX_KINDS} kinds more" if len(kinds) > _MAX_KINDS else ""
    return ", ".join(kinds[:_MAX_KINDS]) + more
