"""Opening a backup that a command reads, from a file or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from ext4img.backup.source import BackupSource, open_backup
from ext4img.cli.failure import about
from ext4img.cli.quoting import quote

STDIN = "-"
ArchiveArgument = Annotated[
    str,
    typer.Argument(
        metavar="ARCHIVE", help="A backup, or the tree that tar made of one; - is standard input.", show_default=False
    ),
]


def archive_label(archive: str) -> str:
    """What messages call it."""
    return "<stdin>" if archive == STDIN else quote(archive)


@contextmanager
def open_archive(archive: str) -> Iterator[BackupSource]:
    """The backup, open for reading. Failures in the block are about it."""
    with about("<stdin>" if archive == STDIN else archive):
        opened = open_backup(sys.stdin.buffer if archive == STDIN else archive)
        with closing(opened):
            yield opened
