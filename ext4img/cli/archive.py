"""Opening a backup that a command reads, from a file or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from ext4img.backup.reader import Archive
from ext4img.cli.failure import about

STDIN = "-"
ArchiveArgument = Annotated[
    str, typer.Argument(metavar="ARCHIVE", help="A backup; - is standard input.", show_default=False)
]


def archive_label(archive: str) -> str:
    """What messages call it."""
    return "standard input" if archive == STDIN else archive


@contextmanager
def open_archive(archive: str) -> Iterator[Archive]:
    """The archive, open for reading. Failures in the block are about it."""
    with about(archive_label(archive)), Archive(sys.stdin.buffer if archive == STDIN else archive) as opened:
        yield opened
