"""`check`: the check of a whole file system, for callers who have a `FileSystem`."""

from __future__ import annotations

from ext4img.fs.filesystem import FileSystem
from ext4img.progress import Progress
from ext4img.volume.check import CheckSummary, run_check


def check(fs: FileSystem, *, contents: bool = False, progress: Progress | None = None) -> CheckSummary:
    """Check everything that docs/checks.md lists, and with `contents` read all files, too.

    Open the file system with checks="report": each problem goes to `fs.problems`, and the summary
    counts them. With "strict" the first problem is raised. Nothing is written and nothing repaired.
    `progress` is called with the number of inodes done and their total.
    """
    return run_check(fs.volume, contents=contents, progress=progress)
