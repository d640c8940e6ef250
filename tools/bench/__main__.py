"""`python -m tools.bench DIRECTORY [WORD ...]`: ext4img beside its peers, all in one run.

Makes the images below DIRECTORY where they are missing (root, a kernel with ext4 encryption; 12 GB),
runs each workload three times in a process of its own and prints a table for each group whose title
has one of the words: the best of CPU seconds, wall seconds, the ratio of CPU to the first row, peak
memory. The page cache is warm for everybody.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from tools import kernel_ioctl
from tools.bench.groups import Group, Scene
from tools.bench.images import KEY, make
from tools.bench.measure import measure
from tools.loop_mount import SBIN, loop_mounted, run


def show(group: Group) -> None:
    """Measure, and print a Markdown table."""
    print(f"\n| {group.title} | CPU s | wall s | ratio of CPU | MiB | |\n| --- | ---: | ---: | ---: | ---: | --- |")
    first: float | None = None
    for who, command in group.rows:
        if shutil.which(command[0]) is None:
            print(f"| {who} | not installed | | | | |")
            continue
        result = measure(command)
        first = result.cpu if first is None else first
        ratio = result.cpu / first if first else 0.0
        figures = f"{result.cpu:.2f} | {result.wall:.2f} | {ratio:.2f} | {result.mebibytes:.0f}"
        print(f"| {who} | {figures} | {result.said} |", flush=True)


def main() -> None:
    """Make, mount, measure."""
    os.environ["PATH"] += f":{SBIN}"
    directory = Path(sys.argv[1])
    words = [word.lower() for word in sys.argv[2:]]
    images = make(directory, ["many", "extents", "secret", "users"])
    with ExitStack() as stack:
        mounts = {name: stack.enter_context(loop_mounted(images[name], "ro")) for name in ("many", "secret", "users")}
        for name in ("secret", "users"):
            kernel_ioctl.add_key(mounts[name], KEY, 2)
        scene = Scene(directory, mounts)
        for path in scene.left():
            stack.callback(path.unlink, missing_ok=True)
        # In a process of its own, as the memory of this one is the least that any command shows.
        preparing = multiprocessing.get_context("fork").Process(target=scene.prepare)
        preparing.start()
        preparing.join()
        chosen = [group for group in scene.groups() if not words or any(word in group.title.lower() for word in words)]
        for archive, command in scene.archives():
            if any(str(archive) in argument for group in chosen for _, row in group.rows for argument in row):
                stack.callback(archive.unlink, missing_ok=True)
                run(*command)
        stack.callback((directory / "rebuilt.img").unlink, missing_ok=True)
        for group in chosen:
            show(group)


if __name__ == "__main__":
    main()
