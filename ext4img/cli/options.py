"""Options and arguments that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ext4img.cli.option_groups import BareValue

if TYPE_CHECKING:
    from ext4img.restorer.options import Overwrite

_UNITS = {
    "": 1, "b": 1, "s": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip


def parse_bytes(text: str | int) -> int:
    """A number of bytes, with an optional unit: 1048576, 1MiB, 1M, 2048s (sectors of 512)."""
    if isinstance(text, int):  # a default
        return text
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = _UNITS.get(text[len(digits) :].lower())
    if unit is None or not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        raise typer.BadParameter(f"{text!r} is not a number of bytes; examples: 1048576, 1MiB, 2048s (sectors)")
    return int(digits) * unit


class BlockSizeChoice(StrEnum):
    """A block size in bytes."""

    b1024 = "1024"
    b2048 = "2048"
    b4096 = "4096"
    b8192 = "8192"
    b16384 = "16384"
    b32768 = "32768"
    b65536 = "65536"


class OverwriteChoice(StrEnum):
    """What to do with files that exist in the target."""

    never = "never"
    always = "always"
    if_newer = "if-newer"
    if_changed = "if-changed"


Paths = Annotated[
    list[str] | None, typer.Argument(metavar="[PATH]...", help="Paths on the image, or inode:N.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON Lines; docs/cli.md lists the fields.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Draw no progress bar.")]
OverwriteOption = Annotated[
    OverwriteChoice | None,
    typer.Option(
        "--overwrite",
        metavar="[=WHEN]",
        help="Whether to replace files that exist: never (the default), always (also without WHEN), if-newer or"
        " if-changed.",
        show_default=False,
    ),
    BareValue(OverwriteChoice.always.value),
]
UpdateOption = Annotated[bool, typer.Option("--update", help="The same as --overwrite=if-newer.")]


def overwrite_of(overwrite: OverwriteChoice | None, update: bool) -> Overwrite:
    """The library's word for --overwrite, or else for --update."""
    if overwrite is None:
        return "if-newer" if update else "never"
    return overwrite.value
