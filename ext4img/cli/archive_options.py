"""Opening a backup that a command reads, from files or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from ext4img.archive.incremental_chain import IncrementalChain
from ext4img.archive.open_backup import BackupSource, open_backup
from ext4img.cli.error_report import STDIN_NAME, Failure, about
from ext4img.cli.exit_codes import Exit
from ext4img.cli.output import warn
from ext4img.cli.quoting import quote

STDIN = "-"


@dataclass(frozen=True)
class ArchiveOptions:
    """Which backup."""

    archive: Annotated[
        str,
        typer.Argument(
            metavar="ARCHIVE",
            help="A backup: an archive, a directory store, or the tree that tar made of one; - is standard input.",
            show_default=False,
        ),
    ]
    base: Annotated[
        list[str] | None,
        typer.Option(
            "--base",
            metavar="PATH",
            help="Of an incremental backup: an archive that it builds on, or a directory of them; may be given several"
            " times. Its own directory is looked through besides.",
        ),
    ] = None

    @property
    def subject(self) -> str:
        """What failures are about."""
        return STDIN_NAME if self.archive == STDIN else self.archive

    @property
    def label(self) -> str:
        """What messages call it."""
        return quote(self.subject) if self.archive != STDIN else self.subject


@contextmanager
def open_archive(options: ArchiveOptions, *, salvage: bool = False) -> Iterator[BackupSource]:
    """The backup, open for reading; with `salvage` also one that was cut short. Failures in the block are about it."""
    with about(options.subject):
        opened = _open(options, salvage)
        with closing(opened):
            yield opened


def _open(options: ArchiveOptions, salvage: bool) -> BackupSource:
    source = sys.stdin.buffer if options.archive == STDIN else options.archive
    opened = open_backup(source, options.base or (), salvage=salvage)
    if isinstance(opened, IncrementalChain):
        for name in opened.unrelated:
            warn(f"{quote(name)}: warning: {options.label} does not build on it")
    return opened


def need_file(opened: BackupSource, options: ArchiveOptions, why: str) -> None:
    """Failure where the backup can only be read once, from its start, and `why` says that it has to be otherwise."""
    if opened.seekable:
        return
    if options.archive == STDIN:
        raise Failure(Exit.USAGE, f"{options.label}: {why}, so the backup has to be a file")
    advice = "unpack it with zstd -d; what `ext4img backup --compress zstd` makes is read as it is"
    raise Failure(Exit.USAGE, f"{options.label}: {why}, and it is compressed in one piece", advice)
