"""Backups of a device that a random writer changes: each is refused, or ends with 1 and says so.

    python -m tools.live_trials [--seed NUMBER] [--rounds NUMBER]

A file system is mounted from a loop device, and a process writes, overwrites, renames and removes
files there, and synchronises now and then. Meanwhile it is backed up: the device or the image file,
with `--live` and without it, mounted in this mount namespace or in another one that is hidden from
us, or mounted only after the backup has begun. Exit code 0 is right only where the file system was
unmounted all the time. Needs root.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tools.loop_mount import run

WRITER = """
import os, random, sys
randomly = random.Random(int(sys.argv[2]))
os.chdir(sys.argv[1])
print("writing", flush=True)
while True:
    name = f"f{randomly.randrange(300)}"
    what = randomly.random()
    if what < 0.6:
        with open(name, "r+b" if os.path.exists(name) and what < 0.3 else "wb") as file:
            file.write(randomly.randbytes(randomly.randrange(1, 40_000)))
            if what < 0.02:
                os.fsync(file.fileno())
    elif what < 0.8 and os.path.exists(name):
        os.rename(name, f"f{randomly.randrange(300)}")
    elif os.path.exists(name):
        os.unlink(name)
"""
KINDS = ("mounted", "mounted elsewhere", "mounted while it is read", "not mounted")


class Writer:
    """A random writer in a mounted file system; a process of its own, with a mount of its own if `elsewhere`."""

    def __init__(self, device: str, directory: Path, seed: int, elsewhere: bool) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = None if elsewhere else directory
        command = [sys.executable, "-c", WRITER, str(directory), str(seed)]
        if elsewhere:
            mount = 'mount --make-rprivate / && mount "$0" "$1" && shift && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, device, str(directory), *command]
        else:
            run("mount", device, directory)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def stop(self) -> None:
        """End the process and its mount."""
        with self._process:
            self._process.kill()
        if self._directory is not None:
            run("umount", self._directory)


def one_round(kind: str, live: bool, of_file: bool, seed: int, scratch: Path) -> tuple[int, str]:
    """(exit code, standard error) of a backup."""
    image = scratch / "a.img"
    if not image.exists():
        with open(image, "wb") as file:
            file.truncate(48 << 20)
        tree = scratch / "tree"
        tree.mkdir()
        (tree / "large").write_bytes(random.Random(seed).randbytes(4 << 20))  # more than a pipe holds
        run("mke2fs", "-q", "-t", "ext4", "-d", tree, "-F", image)
    device = run("losetup", "--find", "--show", image).decode().strip()
    writer = None
    try:
        if kind in KINDS[:2]:
            writer = Writer(device, scratch / "m", seed, kind == KINDS[1])
            time.sleep(random.Random(seed).uniform(0.0, 0.5))
        archive = scratch / "a.tar"
        archive.unlink(missing_ok=True)
        source = str(image) if of_file else device
        command = [sys.executable, "-m", "ext4img", "backup", source, "-", *(["--live"] if live else [])]
        with open(archive, "wb") as output:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as backup:
                assert backup.stdout is not None
                assert backup.stderr is not None
                output.write(backup.stdout.read(512))  # the backup has begun, and waits soon
                if kind == KINDS[2] and backup.poll() is None:
                    writer = Writer(device, scratch / "m", seed, elsewhere=False)
                while part := backup.stdout.read(1 << 20):
                    output.write(part)
                said = backup.stderr.read().decode(errors="replace")
            return backup.returncode, said
    finally:
        if writer is not None:
            writer.stop()
        run("losetup", "--detach", device)


def is_right(kind: str, code: int, said: str) -> bool:
    """Whether a backup was refused or told; or nothing was mounted, and it says nothing."""
    if kind == KINDS[3]:
        return code in (0, 1)  # 1 with --live and another process, never silent
    return (code == 1 and ("in use" in said or "changed while it was read" in said)) or code in (4, 8)


def trials(seed: int, rounds: int, report: Callable[[str], None]) -> int:
    """Backups of all kinds in turn; how many were silent where they must not be."""
    wrong = 0
    counts: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="ext4img-live-") as name:
        for number in range(rounds):
            kind = KINDS[number % len(KINDS)]
            live, of_file = bool(number // 4 % 2), bool(number // 8 % 2)
            code, said = one_round(kind, live, of_file, seed + number, Path(name))
            counts[kind][code] += 1
            if not is_right(kind, code, said):
                wrong += 1
                report(f"  {kind}, live={live}, of the file={of_file}: exit code {code}: {said}")
    for kind, found in counts.items():
        told = ", ".join(f"{count} with {code}" for code, count in sorted(found.items()))
        report(f"{kind:26} {told}")
    return wrong


def main() -> int:
    """See the module's text; 1 where a backup was silent."""
    parser = argparse.ArgumentParser(prog="python -m tools.live_trials", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rounds", type=int, default=68)
    options = parser.parse_args()
    print(f"live trials: SEED={options.seed}", flush=True)
    if os.geteuid():
        print("needs root: skipped")
        return 0
    wrong = trials(options.seed, options.rounds, lambda line: print(line, flush=True))
    print(f"{wrong} silent backups")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
