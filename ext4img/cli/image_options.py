"""The options of commands that read an image: which file system, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from ext4img.cli.options import BlockSizeChoice, parse_bytes


class JournalChoice(StrEnum):
    """What to do with a journal that was not replayed."""

    replay = "replay"
    ignore = "ignore"


class ChecksChoice(StrEnum):
    """How strict reading is."""

    strict = "strict"
    report = "report"
    off = "off"


@dataclass(frozen=True)
class VolumeOptions:
    """Which file system."""

    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A raw image or a block device.", show_default=False)]
    offset: Annotated[
        int,
        typer.Option(
            "--offset",
            metavar="BYTES",
            parser=parse_bytes,
            help="Where the file system starts; 2048s counts sectors of 512.",
            show_default=False,
        ),
    ] = 0
    partition: Annotated[
        int | None,
        typer.Option("--partition", metavar="N", min=1, help="The partition it is in, numbered as sfdisk does."),
    ] = None
    journal: Annotated[
        JournalChoice,
        typer.Option("--journal", help="Show a dirty image as it is after recovery (in memory), or as it stands."),
    ] = JournalChoice.replay
    journal_device: Annotated[
        str | None,
        typer.Option("--journal-device", metavar="FILE", help="The external journal, where the file system has one."),
    ] = None
    superblock: Annotated[
        int | None,
        typer.Option(
            "--superblock", metavar="BLOCK", min=0, help="The block of a backup superblock, to read by that one."
        ),
    ] = None
    block_size: Annotated[
        BlockSizeChoice | None,
        typer.Option("--block-size", help="What BLOCK counts; without it any size is tried."),
    ] = None


@dataclass(frozen=True)
class ImageOptions(VolumeOptions):
    """Which file system, and how it is read."""

    checks: Annotated[
        ChecksChoice,
        typer.Option(
            "--checks", help="Stop at wrong checksums and other damage, report it and read around it, or do not look."
        ),
    ] = ChecksChoice.strict
