"""What is made of an image beside reading it: backups, new images, and what the commands print.

Each takes an image that may be damaged in any way, and is held to the same: nothing but Ext4Error,
within bounds. What is written is thrown away, and ends where a disk would be full.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ext4img
from ext4img.cli.main import main as command_line
from ext4img.fs.filesystem import FileSystem
from ext4img.rebuilder.rebuild import Rebuild
from ext4img.sources import Source

MOST_BYTES_WRITTEN = 48 << 20
_MEMORY = Path("/dev/shm")

# One of them a run. They print what was read in every form: text, JSON, dates, trees, dumps.
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("info", "{image}"),
    ("info", "--json", "{image}"),
    ("ls", "-lR", "{image}"),
    ("ls", "-R", "--json", "{image}"),
    ("find", "{image}"),
    ("find", "--json", "{image}"),
    ("tree", "{image}"),
    ("check", "{image}"),
    ("check", "--json", "{image}"),
    ("stat", "{image}", "/", "{path}"),
    ("stat", "--json", "{image}", "/", "{path}"),
    ("xattr", "{image}", "/", "{path}"),
    ("metadata", "{image}", "{path}"),
    ("keys", "{image}"),
    ("keys", "--json", "{image}"),
    ("cat", "{image}", "{path}"),
)


class FullDisk(io.RawIOBase):
    """Takes `size` bytes and forgets them; then no space is left."""

    def __init__(self, size: int = MOST_BYTES_WRITTEN) -> None:
        self.left = size

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        if length > self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= length
        return length


def back_up(fs: FileSystem) -> None:
    """Write a backup of everything."""
    ext4img.backup(fs, FullDisk())  # type: ignore[arg-type]


def rebuild(fs: FileSystem) -> None:
    """Plan a new image of everything, and write it if it is small."""
    with Rebuild(fs) as planned, _directory() as directory:
        if planned.plan.data_bytes <= MOST_BYTES_WRITTEN:
            planned.write(directory / "image")


def run_command(image: Source, words: Sequence[str], path: str) -> int:
    """Run one of COMMANDS over the image as a file; the exit code."""
    with _directory() as directory:
        file = directory / "image"
        file.write_bytes(image.read_at(0, image.size))
        return _main([word.format(image=file, path=path) for word in words])


def _main(words: list[str]) -> int:
    """The command line in this process, with what it prints thrown away."""
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape") for _ in range(2))
    try:
        return command_line(words)
    finally:
        sys.stdout, sys.stderr = kept


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """A directory in memory where there is such a place."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None) as directory:
        yield Path(directory)
