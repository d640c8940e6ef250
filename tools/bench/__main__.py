"""`python -m tools.bench DIRECTORY [GROUP ...]`: ext4img beside its peers, all in one run.

Makes the images below DIRECTORY where they are missing (root; 3 GB), runs each workload three times
in a process of its own and prints the best of CPU seconds, wall seconds and peak memory, with the
ratio of CPU to the first peer of the group. The page cache is warm for everybody.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tools import kernel_ioctl
from tools.bench.images import KEY, make
from tools.loop_mount import loop_mounted

RUNS = 3


class Measured(NamedTuple):
    """The best of some runs: seconds and MiB, and the last line of output."""

    cpu: float
    wall: float
    mebibytes: float
    said: str


def measure(command: list[str], runs: int = RUNS) -> Measured:
    """Run a command several times; standard output is read, as a user's pipe would."""
    best: Measured | None = None
    for _ in range(runs):
        started = os.times().elapsed
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        last = b""
        lines = 0
        while part := process.stdout.read(1 << 20):
            lines += part.count(b"\n")
            last = part
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said = last.strip().splitlines()[-1].decode(errors="replace")[:60] if lines == 1 else f"{lines} lines"
        if process.returncode:
            said = f"FAILED with {process.returncode}"
        now = Measured(usage.ru_utime + usage.ru_stime, os.times().elapsed - started, usage.ru_maxrss / 1024, said)
        best = now if best is None or now.cpu < best.cpu else best
    assert best is not None
    return best


def ours(name: str, reader: str, image: str | Path) -> list[str]:
    """The command of one workload."""
    return [sys.executable, "-m", "tools.bench.workloads", name, reader, str(image)]


def groups(directory: Path, mounts: dict[str, str]) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """(title, [(who, command)]): the peers first, the first of them the one compared with."""
    many, extents, secret = (str(directory / f"{name}.img") for name in ("many", "extents", "secret"))
    cli = [str(Path(sys.executable).with_name("ext4img"))]
    yield (
        "list every path",
        [
            ("fls -rp", ["fls", "-rp", many]),
            ("debugfs", ["sh", "-c", f"debugfs -R 'ls -lR /' {many}"]),
            ("kernel find", ["find", mounts["many"]]),
            ("ext4img", ours("paths", "ext4img", many)),
            ("ext4img find", [*cli, "find", many]),
        ],
    )
    yield (
        "list with all attributes",
        [
            ("pytsk3 (no xattrs)", ours("attributes", "pytsk3", many)),
            ("libfsext (no xattrs)", ours("attributes", "libfsext", many)),
            ("dissect.extfs (no xattrs)", ours("attributes", "dissect.extfs", many)),
            ("ext4img (with xattrs)", ours("attributes", "ext4img", many)),
        ],
    )
    yield (
        "scan the inode table",
        [
            ("ils -e", ["ils", "-e", many]),
            ("ext4img", ours("scan", "ext4img", many)),
        ],
    )
    yield (
        "20,000 path look-ups",
        [
            ("pytsk3 (1,000)", ours("lookups", "pytsk3", many)),
            ("libfsext (2,000)", ours("lookups", "libfsext", many)),
            ("ext4img", ours("lookups", "ext4img", many)),
        ],
    )
    yield (
        "20,000 random reads of 4 KiB, file of 20,000 extents",
        [
            ("pytsk3", ours("random reads", "pytsk3", extents)),
            ("libfsext", ours("random reads", "libfsext", extents)),
            ("ext4img", ours("random reads", "ext4img", extents)),
        ],
    )
    yield (
        "read a whole file",
        [
            ("ext4img, few extents", ours("few extents", "ext4img", extents)),
            ("ext4img, 20,000 extents", ours("20,000 extents", "ext4img", extents)),
        ],
    )
    yield "read every file (200,000 files, 966 MB)", [
        ("cat IMAGE", ["sh", "-c", f"cat {many} >/dev/null"]),
        ("debugfs rdump", ["sh", "-c", f"d=$(mktemp -d {directory}/rdump.XXXX) && debugfs -R \"rdump / $d\" {many}"
                           " 2>/dev/null; rm -rf $d"]),
        ("kernel, loop mount", ours("read all", "kernel", mounts["many"])),
        ("ext4img", ours("read all", "ext4img", many)),
    ]  # fmt: skip
    yield (
        "decrypt AES-256-XTS, 512 MiB",
        [
            (
                "openssl speed",
                ["sh", "-c", "openssl speed -evp aes-256-xts -bytes 4096 -seconds 2 2>/dev/null | tail -1"],
            ),
            ("one context per unit", ours("decrypt", "one context per unit", secret)),
            ("kernel, loop mount", ours("decrypt", "kernel", mounts["secret"])),
            ("ext4img", ours("decrypt", "ext4img", secret)),
        ],
    )
    yield "decrypt names", [("ext4img", ours("names", "ext4img", secret))]
    yield "ciphers alone: 64 MiB of contents, 4 KiB units, 1 MiB a call", [
        (name, ours("contents", name, "-")) for name in ("AES-256-XTS", "AES-128-CBC-ESSIV", "Adiantum", "SM4-XTS")
    ]
    yield "ciphers alone: 50,000 names, 1,000 a directory", [
        (name, ours("names", name, "-"))
        for name in ("AES-256-CTS", "AES-128-CTS", "AES-256-HCTR2", "Adiantum", "SM4-CTS")
    ]
    backup = str(directory / "many.tar")
    yield (
        "keyless backup of 1.7 GiB to a file",
        [
            ("cp of the image", ["sh", "-c", f"cp --sparse=never {many} {backup} && rm {backup}"]),
            ("tar of the mount", ["sh", "-c", f"tar -C {mounts['many']} -cf {backup} . && rm {backup}"]),
            ("ext4img backup", ["sh", "-c", f"{cli[0]} backup {many} {backup} && rm {backup}"]),
        ],
    )
    rebuilt = str(directory / "rebuilt.img")
    yield (
        "rebuild an image of 200,000 files, 1.5 GiB",
        [
            (
                "mke2fs -d of the mount",
                ["sh", "-c", f"rm -f {rebuilt}; mke2fs -qF -t ext4 -N 224000 -d {mounts['many']} {rebuilt} 1700M"],
            ),
            ("ext4img backup (what comes next is made of it)", [*cli, "backup", "--overwrite", many, backup]),
            ("ext4img restore --image", [*cli, "restore", "--overwrite", backup, "--image", rebuilt]),
            ("ext4img copy", [*cli, "copy", "--overwrite", many, rebuilt]),
            ("e2fsck -fn of that", ["sh", "-c", f"e2fsck -fn {rebuilt} | tail -n 1"]),
        ],
    )
    yield "open, print the superblock", [("ext4img info", [*cli, "info", many]), ("fsstat", ["fsstat", many])]


def main() -> None:
    """Make, mount, measure, print a Markdown table for each group."""
    directory = Path(sys.argv[1])
    chosen = [word.lower() for word in sys.argv[2:]]
    images = make(directory, ["many", "extents", "secret"])
    with ExitStack() as stack:
        for name in ("many.tar", "rebuilt.img"):
            stack.callback((directory / name).unlink, missing_ok=True)
        mounts = {name: stack.enter_context(loop_mounted(images[name], "ro")) for name in ("many", "secret")}
        kernel_ioctl.add_key(mounts["secret"], KEY, 2)
        for title, peers in groups(directory, mounts):
            if chosen and not any(word in title for word in chosen):
                continue
            print(f"\n| {title} | CPU s | wall s | ratio of CPU | MiB | |\n| --- | ---: | ---: | ---: | ---: | --- |")
            first: float | None = None
            for who, command in peers:
                if shutil.which(command[0]) is None:
                    print(f"| {who} | not installed | | | | |")
                    continue
                result = measure(command)
                first = result.cpu if first is None else first
                ratio = result.cpu / first if first else 0.0
                print(
                    f"| {who} | {result.cpu:.2f} | {result.wall:.2f} | {ratio:.2f} | {result.mebibytes:.0f}"
                    f" | {result.said} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
