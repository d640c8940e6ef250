"""The long format of a listing, like ls -l; times are in UTC, owners are numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ext4img.cli.output import Output
from ext4img.cli.units import size_text, time_text
from ext4img.fs.inode import Inode


class LongFormat(NamedTuple):
    """The columns that a listing shows."""

    inode: bool = False
    human: bool = False
    full_time: bool = False


class ListingRow(NamedTuple):
    """One line: a name, the inode number, and the inode, or None if it could not be read."""

    name: bytes
    number: int
    inode: Inode | None


def long_lines(out: Output, rows: Iterable[ListingRow], form: LongFormat) -> None:
    """Write all lines with aligned columns."""
    table = [(_columns(row, form), row) for row in rows]
    if not table:
        return
    widths = [max(map(len, column)) for column in zip(*(columns for columns, _ in table), strict=True)]
    for columns, row in table:
        text = " ".join(column.rjust(width) for column, width in zip(columns, widths, strict=True) if width)
        out.write(text.encode() + b" " + out.name(row.name) + target_of(out, row.inode) + b"\n")


def target_of(out: Output, inode: Inode | None) -> bytes:
    """The arrow and target of a symbolic link; empty for other types."""
    return b" -> " + out.name(inode.readlink()) if inode is not None and inode.is_symlink else b""


def _columns(row: ListingRow, form: LongFormat) -> tuple[str, ...]:
    number = str(row.number) if form.inode else ""
    inode = row.inode
    if inode is None:
        return number, "??????????", "?", "?", "?", "?", "?"
    if inode.rdev is not None:
        size = f"{inode.rdev[0]}, {inode.rdev[1]}"
    else:
        size = size_text(inode.size) if form.human else str(inode.size)
    return (
        number,
        inode.mode_string,
        str(inode.links),
        str(inode.uid),
        str(inode.gid),
        size,
        time_text(inode.mtime_ns, form.full_time),
    )
