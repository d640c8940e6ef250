"""`ext4img check`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ext4img.cli.error_report import about
from ext4img.cli.exit_codes import Exit
from ext4img.cli.few_of_each import TOLD_AS_JSON, More, few_of_each
from ext4img.cli.image_options import ChecksChoice, VolumeOptions
from ext4img.cli.open_image import open_file_system
from ext4img.cli.options import Json, Quiet
from ext4img.cli.output import Output
from ext4img.cli.progress_bar import progress
from ext4img.cli.quoting import harmless, quote
from ext4img.cli.units import plural, size_text
from ext4img.volume.check import CheckSummary, run_check
from ext4img.volume.problems import Problem


def run(
    image: VolumeOptions,
    contents: Annotated[bool, typer.Option("--contents", help="Also read the contents of all files.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Check a file system and report every problem found.

    Nothing is repaired. If the superblock is damaged, a backup superblock is used.
    """
    out = Output(json)
    with open_file_system(image, ChecksChoice.report) as fs, about(image.image):
        inode_size = fs.superblock.inode_size

        def show_inodes(done: int, total: int | None) -> None:
            if show is not None:
                show(done * inode_size, None if total is None else total * inode_size)

        with progress(f"Checking {image.image}", quiet) as show:
            summary = run_check(fs.volume, contents=contents, progress=show_inodes)
        problems = list(fs.problems)
    if json:
        for problem in few_of_each(problems, TOLD_AS_JSON):
            out.record(_more_record(problem) if isinstance(problem, More) else _problem_record(problem))
        out.record(_summary_record(summary))
    else:
        for problem in few_of_each(problems):
            is_remark = isinstance(problem, Problem) and problem.remark
            out.line(harmless(f"remark: {problem}" if is_remark else str(problem)))
        out.line(f"{quote(image.image)}: {_summary_text(summary)}")
    return Exit.DONE if summary.sound else Exit.DAMAGED


def _problem_record(problem: Problem) -> dict[str, Any]:
    place = problem.place
    return {
        "kind": "remark" if problem.remark else "problem",
        "reason": problem.reason,
        "inode": place.inode,
        "block": place.block,
        "offset": place.offset,
        "record": place.record,
        "field": place.field,
    }


def _more_record(more: More) -> dict[str, Any]:
    return {"kind": "more", "like": str(more.first), "number": more.number}


def _summary_record(summary: CheckSummary) -> dict[str, Any]:
    return {
        "kind": "summary",
        "sound": summary.sound,
        "problems": summary.problems + summary.problems_dropped,
        "problems_told": summary.problems,
        "remarks": summary.remarks,
        "inodes": summary.inodes,
        "directories": summary.directories,
        "names": summary.names,
        "blocks_used": summary.blocks_used,
        "bytes_read": summary.bytes_read,
    }


def _summary_text(summary: CheckSummary) -> str:
    totals = (
        f"{plural(summary.inodes, 'inode')}, {plural(summary.directories, 'directory', 'directories')},"
        f" {plural(summary.names, 'name')}, {plural(summary.blocks_used, 'block')} in use"
    )
    if summary.bytes_read:
        totals += f", {size_text(summary.bytes_read)} of contents"
    if summary.sound:
        remarks = f" ({plural(summary.remarks, 'remark')})" if summary.remarks else ""
        return f"sound{remarks}: {totals}"
    dropped = f" ({summary.problems_dropped} more not shown)" if summary.problems_dropped else ""
    return f"DAMAGED: {plural(summary.problems, 'problem')}{dropped}: {totals}"
