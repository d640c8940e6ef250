"""Images from elsewhere, through everything that reads them: `python -m tools.foreign_images DIR`.

Every image below DIR (raw, .gz, .bz2 or .xz) is unpacked into a temporary file and read within
bounds of time and memory; the table says how that went. Meant for collections of odd and damaged
images, such as the tests of e2fsprogs; they are not part of this project.

The exit code is 1 if anything but an Ext4Error came out of one, or it took too long or too much.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import lzma
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from ext4img.fs.filesystem import FileSystem
from ext4img.sources import FileSource
from ext4img.volume.problems import CHECKS, Checks
from tools.fuzz.consumers import back_up, rebuild
from tools.fuzz.exercise import exercise
from tools.fuzz.isolation import MEMORY_BYTES, SECONDS, Outcome, run_all

_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_WINDOW_BYTES = 1 << 20
MOST_INODES_COPIED = 20_000
MOST_BYTES = 64 << 30  # of an unpacked image, nearly all of it holes


def find_images(directory: Path) -> list[Path]:
    """Files that are an image by their name or their superblock, sorted."""
    found = []
    for path in sorted(directory.rglob("*")):
        if path.is_file() and (path.suffix in _OPENERS or _has_superblock(path)):
            found.append(path)
    return found


def _has_superblock(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(1024 + 56)
        return file.read(2) == b"\x53\xef"


def unpack(path: Path, target: Path) -> None:
    """Unpack into a sparse file. OSError, EOFError where it is not what its name says, or too large."""
    opener = _OPENERS.get(path.suffix)
    with cast("IO[bytes]", opener(path) if opener else path.open("rb")) as packed, target.open("wb") as raw:
        zeros = bytes(_WINDOW_BYTES)
        size = 0
        while window := packed.read(_WINDOW_BYTES):
            size += len(window)
            if size > MOST_BYTES:
                raise OSError(f"unpacks to more than {MOST_BYTES >> 30} GiB")
            if window == zeros[: len(window)]:
                raw.seek(len(window), os.SEEK_CUR)
            else:
                raw.write(window)
        raw.truncate(size)


def read_image(job: list[str]) -> dict[str, Any]:
    """What a worker does with one image: [path, checks]."""
    path, checks = job[0], cast("Checks", job[1])
    with tempfile.TemporaryDirectory(prefix="foreign-") as directory:
        raw = Path(directory) / "image"
        try:
            unpack(Path(path), raw)
        except (OSError, EOFError, lzma.LZMAError) as error:
            return {"size": 0, "names": 0, "problems": 0, "first": f"cannot be unpacked: {error}"}
        with FileSource(raw) as source:
            seen = exercise(source, (), (checks,), then=_make_of_it)
            size = source.size
    told = [*seen.errors, *seen.problems]
    return {"size": size, "names": len(seen.listing), "problems": len(told), "first": told[0] if told else ""}


def _make_of_it(fs: FileSystem) -> None:
    """A backup, and a new image; the first to fail does not keep the other from being tried.

    Not of large ones: the bounds are for each thing, and reading alone takes half of them.
    """
    if fs.superblock.inode_count - fs.superblock.free_inodes > MOST_INODES_COPIED:
        return
    try:
        back_up(fs)
    finally:
        rebuild(fs)


def _row(name: str, outcome: Outcome) -> str:
    result = outcome.result or {"size": 0, "names": 0, "problems": 0, "first": outcome.detail.strip()[-300:]}
    return (
        f"{name:39} {outcome.status:6} {outcome.seconds:6.2f} s {outcome.memory_bytes >> 20:5} MiB"
        f" {result['size'] >> 10:9} KiB {result['names']:6} shown {result['problems']:5} problems"
        f"  {result['first'][:110]}"
    )


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m tools.foreign_images", description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for each image ({SECONDS:.0f})")
    options = parser.parse_args()
    images = find_images(options.directory)
    jobs = [[str(path), checks] for path in images for checks in CHECKS]
    bad = 0
    slowest, most = 0.0, 0
    for job, outcome in zip(jobs, run_all(jobs, read_image, options.seconds, batch=1), strict=False):
        bad += not outcome.ok
        slowest, most = max(slowest, outcome.seconds), max(most, outcome.memory_bytes)
        name = Path(job[0]).relative_to(options.directory)
        print(_row(f"{name} {job[1]}", outcome), flush=True)
        if not outcome.ok:
            print(outcome.detail)
    print(
        f"{len(images)} images in {len(CHECKS)} modes, {bad} failed; slowest {slowest:.2f} s of {options.seconds:.0f},"
        f" most memory {most >> 20} MiB of {MEMORY_BYTES >> 20}"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
