"""The options of commands that read a backup, and opening it: from files or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from ext4img.archive.incremental_chain import IncrementalChain
from ext4img.archive.open_backup import BackupSource, open_backup
from ext4img.cli.error_report import STDIN_NAME, CommandError, about
from ext4img.cli.exit_codes import Exit
from ext4img.cli.output import warn
from ext4img.cli.quoting import quote

STDIN = "-"


@dataclass(frozen=True)
class ArchiveOptions:
    """Which backup to read."""

    archive: Annotated[
        str,
        typer.Argument(
            metavar="ARCHIVE",
            help="An archive, a directory store or a tree extracted by tar; - reads standard input.",
            show_default=False,
        ),
    ]
    base: Annotated[
        list[str] | None,
        typer.Option(
            "--base",
            metavar="PATH",
            help="An archive that an incremental backup is based on, or a directory to search for them; repeatable. The"
            " archive's own directory is searched, too.",
        ),
    ] = None

    @property
    def subject(self) -> str:
        """The subject of error messages."""
        return STDIN_NAME if self.archive == STDIN else self.archive

    @property
    def label(self) -> str:
        """The backup's name in messages."""
        return quote(self.subject) if self.archive != STDIN else self.subject


@contextmanager
def open_archive(options: ArchiveOptions, *, salvage: bool = False) -> Iterator[BackupSource]:
    """Open the backup for reading, with `salvage` also a truncated one. Errors in the block are about it."""
    with about(options.subject):
        opened = _open(options, salvage)
        with closing(opened):
            yield opened


def _open(options: ArchiveOptions, salvage: bool) -> BackupSource:
    source = sys.stdin.buffer if options.archive == STDIN else options.archive
    opened = open_backup(source, options.base or (), salvage=salvage)
    if isinstance(opened, IncrementalChain):
        for name in opened.unrelated:
            warn(f"{quote(name)}: warning: {options.label} is not based on it")
    return opened


def require_seekable(opened: BackupSource, options: ArchiveOptions, why: str) -> None:
    """CommandError if the backup is a stream, which can be read only once; `why` it must be seekable."""
    if opened.seekable:
        return
    if options.archive == STDIN:
        raise CommandError(Exit.USAGE, f"{options.label}: {why}: the backup must be seekable, not a pipe")
    hint = "decompress it with zstd -d; archives made with `ext4img backup --compress zstd` are seekable"
    raise CommandError(Exit.USAGE, f"{options.label}: {why}: the backup must be seekable, not plain zstd", hint)
