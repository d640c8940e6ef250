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
from ext4img.cli.long_format import LongForm, Row, long_lines
from ext4img.cli.multi_path import Attempts
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json, Paths, parse_bytes
from ext4img.cli.output import Output
from ext4img.cli.path_arg import Located, locate
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
    name: Annotated[str | None, typer.Option("--name", "-name", metavar="PATTERN", help="The last component.")] = None,
    iname: Annotated[
        str | None, typer.Option("--iname", "-iname", metavar="PATTERN", help="As --name, whatever the case.")
    ] = None,
    path: Annotated[str | None, typer.Option("--path", "-path", metavar="PATTERN", help="The whole path.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", "-type", metavar="LETTERS", help="Any of f d l b c p s, as f,d.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", "-size", metavar="[+-]BYTES", help="More (+) or less (-) than, or just.")
    ] = None,
    inum: Annotated[int | None, typer.Option("--inum", "-inum", metavar="N", help="The inode number.")] = None,
    uid: Annotated[int | None, typer.Option("--uid", "-uid", metavar="N", help="The owner.")] = None,
    gid: Annotated[int | None, typer.Option("--gid", "-gid", metavar="N", help="The group.")] = None,
    links: Annotated[int | None, typer.Option("--links", "-links", metavar="N", help="The number of names.")] = None,
    perm: Annotated[
        str | None, typer.Option("--perm", "-perm", metavar="[-/]MODE", help="Octal; all (-) or any (/) of the bits.")
    ] = None,
    newer: Annotated[
        str | None, typer.Option("--newer", metavar="TIME", help="Modified after it: 2024-05-01T12:00, UTC.")
    ] = None,
    older: Annotated[str | None, typer.Option("--older", metavar="TIME", help="Modified before it.")] = None,
    encrypted: Annotated[
        bool | None, typer.Option("--encrypted/--not-encrypted", help="Contents, names in it or target are encrypted.")
    ] = None,
    maxdepth: Annotated[
        int | None, typer.Option("--maxdepth", "-maxdepth", metavar="N", min=0, help="Levels below PATH.")
    ] = None,
    mindepth: Annotated[int, typer.Option("--mindepth", "-mindepth", metavar="N", min=0, help="Leave levels out.")] = 0,
    long: Annotated[bool, typer.Option("-l", "--ls", "-ls", help="As ls -li.")] = False,
    null: Annotated[bool, typer.Option("-0", "--print0", "-print0", help="A NUL after each path.")] = False,
    json: Json = False,
) -> int:
    """Go through a tree and print the paths that pass all tests.

    Tests have the names that find has for them; patterns are the shell's, and * takes slashes too.
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
        attempts = Attempts("find", image.image, len(wanted))
        for argument in wanted:
            with attempts:
                top = locate(fs, argument)
                if inode_tests or long or json or mindepth or maxdepth is not None:
                    _print(out, _matching(top, name_tests, inode_tests, mindepth, maxdepth), long, null)
                else:
                    _print_paths(out, top, name_tests, null)
    return attempts.code


def _print_paths(out: Output, top: Located, tests: list[NameTest], null: bool) -> None:
    """Paths without a look at the inodes, many at a time."""
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
    top: Located, name_tests: list[NameTest], inode_tests: list[InodeTest], mindepth: int, maxdepth: int | None
) -> Iterator[tuple[bytes, Inode]]:
    base = 0 if top.path == "/" else top.path.count("/")
    for text, inode in top.walk(maxdepth):
        if mindepth and (0 if text == "/" else text.count("/") - base) < mindepth:
            continue
        if all(test(text) for test in name_tests) and all(test(inode) for test in inode_tests):
            yield text.encode("utf-8", "surrogateescape"), inode


def _print(out: Output, found: Iterator[tuple[bytes, Inode]], long: bool, null: bool) -> None:
    rows: list[Row] = []
    for shown, inode in found:
        if out.json:
            out.record(inode_record(shown, inode))
        elif long:
            rows.append(Row(shown, inode.number, inode))
            if len(rows) == _LONG_BATCH:
                long_lines(out, rows, LongForm(inode=True))
                rows = []
        else:
            out.write(shown + b"\0" if null else out.name(shown) + b"\n")
    long_lines(out, rows, LongForm(inode=True))


def _name_tests(name: str | None, iname: str | None, path: str | None) -> Iterator[NameTest]:
    if name is not None:
        fits = re.compile(translate(_text(name))).match
        yield lambda text: fits(_last(text)) is not None
    if iname is not None:
        fits_any_case = re.compile(translate(_text(iname)), re.IGNORECASE).match
        yield lambda text: fits_any_case(_last(text)) is not None
    if path is not None:
        fits_path = re.compile(translate(_text(path))).match
        yield lambda text: fits_path(text) is not None


def _inode_tests(kind: str | None, size: str | None, perm: str | None, encrypted: bool | None) -> Iterator[InodeTest]:
    if kind is not None:
        letters = kind.split(",") if "," in kind else list(kind)
        unknown = [letter for letter in letters if letter not in _TYPES]
        if unknown or not letters:
            raise typer.BadParameter(f"--type {kind!r}: types are {', '.join(_TYPES)}")
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
            raise typer.BadParameter(f"--perm {perm!r}: an octal number, like 4000") from None
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
        raise typer.BadParameter(f"{option} {text!r}: a time like 2024-05-01 or 2024-05-01T12:00:00+02:00") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * _BILLION + since.microseconds * 1000


def _last(text: str) -> str:
    return text.rpartition("/")[2] or text


def _text(pattern: str) -> str:
    return os.fsencode(pattern).decode("utf-8", "surrogateescape")
