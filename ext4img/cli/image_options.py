"""The options of commands that read an image: which file system, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from ext4img.cli.options import BlockSizeChoice, parse_bytes


class JournalChoice(StrEnum):
    """How to treat a journal that needs replay."""

    replay = "replay"
    ignore = "ignore"


class SectorSizeChoice(StrEnum):
    """Bytes of a disk's sector."""

    b512 = "512"
    b4096 = "4096"


class ChecksChoice(StrEnum):
    """What to do about checksum errors and other damage."""

    strict = "strict"
    report = "report"
    off = "off"


@dataclass(frozen=True)
class VolumeOptions:
    """Which file system to read."""

    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A raw image or a block device.", show_default=False)]
    offset: Annotated[
        int,
        typer.Option(
            "--offset",
            metavar="BYTES",
            parser=parse_bytes,
            help="Start of the file system in IMAGE; 2048s means 2048 sectors of 512.",
            show_default=False,
        ),
    ] = 0
    partition: Annotated[
        int | None,
        typer.Option(
            "--partition", metavar="N", min=1, help="Partition that holds the file system, numbered as by sfdisk."
        ),
    ] = None
    sector_size: Annotated[
        SectorSizeChoice | None,
        typer.Option("--sector-size", help="Bytes of a sector, for --partition; default: detect."),
    ] = None
    journal: Annotated[
        JournalChoice,
        typer.Option("--journal", help="Replay a dirty journal in memory, or ignore it."),
    ] = JournalChoice.replay
    journal_device: Annotated[
        str | None,
        typer.Option("--journal-device", metavar="FILE", help="External journal of the file system."),
    ] = None
    superblock: Annotated[
        int | None,
        typer.Option("--superblock", metavar="BLOCK", min=0, help="Read a backup superblock at this block."),
    ] = None
    block_size: Annotated[
        BlockSizeChoice | None,
        typer.Option("--block-size", help="Block size for --superblock; default: try all."),
    ] = None
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Read an image or device that others write to; what is read may be a mixture of old and new."
        ),
    ] = False


@dataclass(frozen=True)
class ImageOptions(VolumeOptions):
    """Which file system to read, and how strictly."""

    checks: Annotated[
        ChecksChoice,
        typer.Option(
            "--checks", help="At checksum errors and other damage: stop, report and continue, or do not verify."
        ),
    ] = ChecksChoice.strict
