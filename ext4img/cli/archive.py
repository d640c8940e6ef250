"""Opening a backup that a command reads, from a file or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from ext4img.backup.reader import Archive
from ext4img.cli.failure import about
from ext4img.cli.quoting import quote

STDIN = "-"
ArchiveArgument = Annotated[
    str, typer.Argument(metavar="ARCHIVE", help="A backup; - is standard input.", show_default=False)
]


def archive_label(archive: str) -> str:
    """What messages call it."""
    return "<stdin>" if archive == STDIN else quote(archive)


@contextmanager
def open_archive(archive: str) -> Iterator[Archive]:
    """The archive, open for reading. Failures in the block are about it."""
    with (
        about("<stdin>" if archive == STDIN else archive),
        Archive(sys.stdin.buffer if archive == STDIN else archive) as opened,
    ):
        yield opened
