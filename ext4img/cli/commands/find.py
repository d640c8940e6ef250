"""`ext4img find`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from fnmatch import translate
from functools import partial
from typing import Annotated

import typer

from ext4img.cli.image_options import ImageOptions
from ext4img.cli.inode_json import inode_record
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.long_format import ListingRow, LongFormat, long_lines
from ext4img.cli.multi_path import MultiPath
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json, Paths, parse_bytes
from ext4img.cli.output import Output
from ext4img.cli.path_arg import PathArg, resolve_path_arg
from ext4img.cli.quoting import quote
from ext4img.fs.inode import Inode

_TYPES = {"f": "file", "d": "dir", "l": "symlink", "b": "block", "c": "char", "p": "fifo", "s": "socket"}
_BILLION = 1_000_000_000
_LONG_BATCH = 512  # lines whose columns are aligned together
_PATH_BATCH = 4096
NameTest = Callable[[str], bool]
InodeTest = Callable[[Inode], bool]


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    paths: Paths = None,
    name: Annotated[
        str | None,
        typer.Option("--name", "-name", metavar="PATTERN", help="Pattern for the last component of the path."),
    ] = None,
    iname: Annotated[
        str | None, typer.Option("--iname", "-iname", metavar="PATTERN", help="Like --name, ignoring case.")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", "-path", metavar="PATTERN", help="Pattern for the whole path.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--type", "-type", metavar="LETTERS", help="One or more of f d l b c p s, like f,d.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", "-size", metavar="[+-]BYTES", help="Larger (+), smaller (-) or exactly.")
    ] = None,
    inum: Annotated[int | None, typer.Option("--inum", "-inum", metavar="N", help="Inode number.")] = None,
    uid: Annotated[int | None, typer.Option("--uid", "-uid", metavar="N", help="Owner.")] = None,
    gid: Annotated[int | None, typer.Option("--gid", "-gid", metavar="N", help="Group.")] = None,
    links: Annotated[int | None, typer.Option("--links", "-links", metavar="N", help="Number of hard links.")] = None,
    perm: Annotated[
        str | None,
        typer.Option(
            "--perm", "-perm", metavar="[-/]MODE", help="Octal mode: exactly, all (-) or any (/) of the bits."
        ),
    ] = None,
    newer: Annotated[
        str | None,
        typer.Option("--newer", metavar="TIME", help="Modified after this time, like 2024-05-01T12:00 (UTC)."),
    ] = None,
    older: Annotated[str | None, typer.Option("--older", metavar="TIME", help="Modified before this time.")] = None,
    encrypted: Annotated[
        bool | None,
        typer.Option(
            "--encrypted/--not-encrypted", help="Contents, names in the directory or link target are encrypted."
        ),
    ] = None,
    maxdepth: Annotated[
        int | None,
        typer.Option("--maxdepth", "-maxdepth", metavar="N", min=0, help="Descend at most N levels below PATH."),
    ] = None,
    mindepth: Annotated[
        int,
        typer.Option("--mindepth", "-mindepth", metavar="N", min=0, help="Skip paths fewer than N levels below PATH."),
    ] = 0,
    long: Annotated[bool, typer.Option("-l", "--ls", "-ls", help="Print lines like ls -li.")] = False,
    null: Annotated[bool, typer.Option("-0", "--print0", "-print0", help="End each path with NUL.")] = False,
    json: Json = False,
) -> int:
    """Print the paths below PATH that match all tests.

    The tests are named as those of find(1). Patterns are shell patterns, and * also matches slashes.
    """
    out = Output(json)
    name_tests = list(_name_tests(name, iname, path))
    inode_tests = [
        *_inode_tests(kind, size, perm, encrypted),
        *_number_tests(inum=inum, uid=uid, gid=gid, links=links),
        *_time_tests(newer, older),
    ]
    wanted = paths or ["/"]
    with open_image(image, keys) as fs:
        multi_path = MultiPath("find", image.image, len(wanted))
        for argument in wanted:
            with multi_path:
                top = resolve_path_arg(fs, argument)
                if inode_tests or long or json or mindepth or maxdepth is not None:
                    _print(out, _matching(top, name_tests, inode_tests, mindepth, maxdepth), long, null)
                else:
                    _print_paths(out, top, name_tests, null)
    return multi_path.code


def _print_paths(out: Output, top: PathArg, tests: list[NameTest], null: bool) -> None:
    """Print paths in batches, without reading their inodes."""
    end = "\0" if null else "\n"
    held: list[str] = []
    for paths in top.path_lists():
        if tests:
            paths = [text for text in paths if all(test(text) for test in tests)]  # noqa: PLW2901
        held += map(quote, paths) if out.is_terminal and not null else paths
        if len(held) >= _PATH_BATCH:
            out.write((end.join(held) + end).encode("utf-8", "surrogateescape"))
            held.clear()
    if held:
        out.write((end.join(held) + end).encode("utf-8", "surrogateescape"))


def _matching(
    top: PathArg, name_tests: list[NameTest], inode_tests: list[InodeTest], mindepth: int, maxdepth: int | None
) -> Iterator[tuple[bytes, Inode]]:
    base = 0 if top.path == "/" else top.path.count("/")
    for text, inode in top.walk(maxdepth):
        if mindepth and (0 if text == "/" else text.count("/") - base) < mindepth:
            continue
        if all(test(text) for test in name_tests) and all(test(inode) for test in inode_tests):
            yield text.encode("utf-8", "surrogateescape"), inode


def _print(out: Output, found: Iterator[tuple[bytes, Inode]], long: bool, null: bool) -> None:
    rows: list[ListingRow] = []
    for shown, inode in found:
        if out.json:
            out.record(inode_record(shown, inode))
        elif long:
            rows.append(ListingRow(shown, inode.number, inode))
            if len(rows) == _LONG_BATCH:
                long_lines(out, rows, LongFormat(inode=True))
                rows = []
        else:
            out.write(shown + b"\0" if null else out.name(shown) + b"\n")
    long_lines(out, rows, LongFormat(inode=True))


def _name_tests(name: str | None, iname: str | None, path: str | None) -> Iterator[NameTest]:
    if name is not None:
        matches = re.compile(translate(_text(name))).match
        yield lambda text: matches(_last(text)) is not None
    if iname is not None:
        matches_any_case = re.compile(translate(_text(iname)), re.IGNORECASE).match
        yield lambda text: matches_any_case(_last(text)) is not None
    if path is not None:
        matches_path = re.compile(translate(_text(path))).match
        yield lambda text: matches_path(text) is not None


def _inode_tests(kind: str | None, size: str | None, perm: str | None, encrypted: bool | None) -> Iterator[InodeTest]:
    if kind is not None:
        letters = kind.split(",") if "," in kind else list(kind)
        unknown = [letter for letter in letters if letter not in _TYPES]
        if unknown or not letters:
            raise typer.BadParameter(f"--type {kind!r}: the types are {', '.join(_TYPES)}")
        kinds = {_TYPES[letter] for letter in letters}
        yield lambda inode: inode.type in kinds
    if size is not None:
        wanted = parse_bytes(size.lstrip("+-"))
        if size.startswith("+"):
            yield lambda inode: inode.size > wanted
        elif size.startswith("-"):
            yield lambda inode: inode.size < wanted
        else:
            yield lambda inode: inode.size == wanted
    if perm is not None:
        try:
            bits = int(perm.lstrip("-/"), 8)
        except ValueError:
            raise typer.BadParameter(f"--perm {perm!r}: not an octal number; example: 4000") from None
        if perm.startswith("-"):
            yield lambda inode: inode.mode & bits == bits
        elif perm.startswith("/"):
            yield lambda inode: not bits or bool(inode.mode & bits)
        else:
            yield lambda inode: inode.permissions == bits
    if encrypted is not None:
        yield lambda inode: inode.is_encrypted is encrypted


def _number_tests(**wanted: int | None) -> Iterator[InodeTest]:
    for field, number in wanted.items():
        if number is not None:
            attribute = "number" if field == "inum" else field
            yield partial(_has, attribute, number)


def _has(attribute: str, number: int, inode: Inode) -> bool:
    return bool(getattr(inode, attribute) == number)


def _time_tests(newer: str | None, older: str | None) -> Iterator[InodeTest]:
    if newer is not None:
        after = _time_ns("--newer", newer)
        yield lambda inode: inode.mtime_ns > after
    if older is not None:
        before = _time_ns("--older", older)
        yield lambda inode: inode.mtime_ns < before


def _time_ns(option: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{option} {text!r}: not a time; examples: 2024-05-01, 2024-05-01T12:00:00+02:00"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * _BILLION + since.microseconds * 1000


def _last(text: str) -> str:
    return text.rpartition("/")[2] or text


def _text(pattern: str) -> str:
    return os.fsencode(pattern).decode("utf-8", "surrogateescape")
