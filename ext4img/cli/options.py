"""Options that commands share, as groups; and how groups become a command's own options.

A command is a function. Where one of its parameters is a dataclass, `for_typer` puts the fields
of that dataclass in its place, and gathers their values again when the command is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from ext4img.restorer.options import Overwrite

_UNITS = {
    "": 1, "b": 1, "s": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip


def parse_bytes(text: str | int) -> int:
    """A number of bytes, with a unit if need be: 1048576, 1MiB, 1M, 2048s (sectors of 512)."""
    if isinstance(text, int):  # a default
        return text
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = _UNITS.get(text[len(digits) :].lower())
    if unit is None or not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        raise typer.BadParameter(f"{text!r} is not a number of bytes, like 1048576, 1MiB or 2048s (sectors)")
    return int(digits) * unit


class JournalChoice(StrEnum):
    """What to do with a journal that was not replayed."""

    replay = "replay"
    ignore = "ignore"


class BlockSizeChoice(StrEnum):
    """Bytes of a block."""

    b1024 = "1024"
    b2048 = "2048"
    b4096 = "4096"
    b8192 = "8192"
    b16384 = "16384"
    b32768 = "32768"
    b65536 = "65536"


class ChecksChoice(StrEnum):
    """How strict reading is."""

    strict = "strict"
    report = "report"
    off = "off"


class OverwriteChoice(StrEnum):
    """What to do with files that exist in the target."""

    never = "never"
    always = "always"
    if_newer = "if-newer"
    if_changed = "if-changed"


@dataclass(frozen=True)
class BareValue:
    """In the annotation of an option: its value where it is given without one. Any other value follows a "="."""

    value: str


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


Paths = Annotated[
    list[str] | None, typer.Argument(metavar="[PATH]...", help="Paths on the image, or inode:N.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="JSON Lines, for machines; docs/cli.md has the fields.")]
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


def for_typer(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function that Typer is to see in place of `run`; see the module's text.

    Arguments come first, then the command's own options, then those of its groups. It returns
    what is to be called: a command runs outside of Typer, which has ways of its own with exceptions.
    """
    arguments: list[inspect.Parameter] = []
    own: list[inspect.Parameter] = []
    common: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    hints = get_type_hints(run, include_extras=True)
    for name, parameter in inspect.signature(run).parameters.items():
        hint = hints[name]
        if not is_dataclass(hint):
            (arguments if _is_argument(hint) else own).append(_keyword(name, hint, parameter.default))
            continue
        assert isinstance(hint, type)
        inner = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            keyword = _keyword(field.name, inner[field.name], default)
            (arguments if _is_argument(keyword.annotation) else common).append(keyword)
        groups[name] = hint, [field.name for field in fields(hint)]

    def call(**values: Any) -> Any:
        for name, (group, names) in groups.items():
            values[name] = group(**{key: values.pop(key) for key in names})
        return partial(run, **values)

    parameters = arguments + own + common
    call.__name__ = run.__name__
    call.__doc__ = run.__doc__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(call)["__signature__"] = inspect.Signature(parameters)
    return call


def overwrite_of(overwrite: OverwriteChoice | None, update: bool) -> Overwrite:
    """The library's word for --overwrite, or else for --update."""
    if overwrite is None:
        return "if-newer" if update else "never"
    return overwrite.value


def with_bare_values(run: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """A command line in which each option that may lack its value has it, for `BareValue`."""
    bare = {}
    for hint in get_type_hints(run, include_extras=True).values():
        extras = getattr(hint, "__metadata__", ())
        values = [extra.value for extra in extras if isinstance(extra, BareValue)]
        for option in extras if values else ():
            if isinstance(option, typer.models.OptionInfo):
                # In an annotation the first name stands where the default is elsewhere.
                bare.update(dict.fromkeys((option.default, *(option.param_decls or ())), values[0]))
    end = words.index("--") if "--" in words else len(words)
    return [f"{word}={bare[word]}" if word in bare else word for word in words[:end]] + list(words[end:])


def _keyword(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _is_argument(hint: Any) -> bool:
    return any(isinstance(extra, typer.models.ArgumentInfo) for extra in getattr(hint, "__metadata__", ()))
