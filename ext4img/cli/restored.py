"""What a restore or an extraction did, told."""

from __future__ import annotations

from ext4img.backup.restore import RestoreReport
from ext4img.cli.describe import size_text
from ext4img.cli.exits import Exit
from ext4img.cli.facts import plural
from ext4img.cli.failure import explain
from ext4img.cli.output import Output, warn
from ext4img.cli.quoting import quote

# What to call one and several of a type.
_MOST_TOLD = 8  # kinds of what could not be set
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


def tell_restored(report: RestoreReport, out: Output, target: str) -> int:
    """Write what was restored, and on stderr what was not; the exit code."""
    for problem in report.problems:
        warn(f"left out: {explain(problem).text}")
    unset = dict(report.unset)
    devices = unset.pop("device node", 0)
    if devices:
        warn(f"{quote(target)}: {plural(devices, 'device node')} not made: --devices makes them")
    if unset:
        kinds = [f"{what} ({count})" for what, count in sorted(unset.items())]
        more = f", and {len(kinds) - _MOST_TOLD} kinds more" if len(kinds) > _MOST_TOLD else ""
        warn(f"{quote(target)}: could not be set: {', '.join(kinds[:_MOST_TOLD])}{more}")
    if out.json:
        out.record(
            {
                "restored": dict(sorted(report.restored.items())),
                "bytes": report.bytes,
                "left_out": report.left_out,
                "no_key": report.no_key,
                "unset": dict(sorted(report.unset.items())),
                "problems": [str(problem) for problem in report.problems],
            }
        )
    else:
        counted = [plural(report.restored[kind], *nouns) for kind, nouns in NOUNS.items() if report.restored.get(kind)]
        out.line(f"{quote(target)}: {', '.join(counted) or 'nothing'}; {size_text(report.bytes)} written")
        if report.left_out:
            why = f", {report.no_key} of them for want of a key" if report.no_key else ""
            out.line(f"{plural(report.left_out, 'entry', 'entries')} left out{why}")
    return Exit.DONE if report.complete else Exit.PARTLY
