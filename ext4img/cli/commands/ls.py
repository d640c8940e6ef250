"""`ext4img ls`."""

from __future__ import annotations

from typing import Annotated

import typer

from ext4img.cli.dir_listing import Child, children
from ext4img.cli.image_options import ImageOptions
from ext4img.cli.inode_json import inode_record
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.long_format import ListingRow, LongFormat, long_lines
from ext4img.cli.multi_path import MultiPath
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json, Paths
from ext4img.cli.output import Output, text_fields
from ext4img.cli.path_arg import PathArg, resolve_path_arg
from ext4img.cli.quoting import columns_of, quote
from ext4img.errors import PathError
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.inode import Inode
from ext4img.fs.walk import Traversal
from ext4img.names.paths import decode_path

_GAP = 2


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    paths: Paths = None,
    long: Annotated[
        bool, typer.Option("-l", "--long", help="Show mode, links, owner, group, size, time, name.")
    ] = False,
    inode: Annotated[bool, typer.Option("-i", "--inode", help="Show inode numbers.")] = False,
    human: Annotated[bool, typer.Option("-h", "--human-readable", help="With -l: sizes like 4.0K.")] = False,
    full_time: Annotated[bool, typer.Option("--full-time", help="Like -l, with times to the nanosecond.")] = False,
    recursive: Annotated[bool, typer.Option("-R", "--recursive", help="List subdirectories, too.")] = False,
    directory: Annotated[
        bool, typer.Option("-d", "--directory", help="List directories themselves, not their contents.")
    ] = False,
    unsorted: Annotated[bool, typer.Option("-U", "--unsorted", help="Do not sort; list in disk order.")] = False,
    json: Json = False,
) -> int:
    """List directories, like ls -A.

    Names are sorted by bytes. On a terminal they are quoted as by GNU ls; into a pipe or file
    they are written unchanged, one a line.
    """
    wanted = paths or ["/"]
    form = LongFormat(inode, human, full_time) if long or full_time else None
    with open_image(image, keys) as fs:
        listing = _LsPrinter(fs, Output(json), form, inode, not unsorted)
        multi_path = MultiPath("ls", image.image, len(wanted))
        listing.has_headers = recursive or len(wanted) > 1
        single: list[PathArg] = []
        directories: list[tuple[bytes, Inode]] = []
        for argument in wanted:
            with multi_path:
                arg = resolve_path_arg(fs, argument)
                # As in ls, a link to a directory is listed as that directory, but with -l as a link.
                target = arg.inode if form or directory else _followed(arg)
                if target.is_dir and not directory:
                    directories.append((arg.shown, target))
                else:
                    single.append(arg)
        listing.show([ListingRow(arg.shown, arg.inode.number, arg.inode) for arg in single])
        for path, target in directories:
            with multi_path:
                if recursive:
                    listing.show_tree(path, target)
                else:
                    listing.show_directory(path, target)
    return multi_path.code


def _followed(arg: PathArg) -> Inode:
    """The target of a link; the link itself if it is broken."""
    try:
        return arg.followed()
    except PathError:
        return arg.inode


class _LsPrinter:
    def __init__(self, fs: FileSystem, out: Output, form: LongFormat | None, with_inode: bool, sort: bool) -> None:
        self._fs = fs
        self._out = out
        self._form = form
        self._with_inode = with_inode
        self._sort = sort
        self._is_first = True
        self.has_headers = False

    def show(self, rows: list[ListingRow], path: bytes | None = None) -> None:
        """Print names given as arguments, or with a `path` the names in that directory."""
        out = self._out
        if out.json:
            for row in rows:
                self._record(row, path)
        elif self._form is not None:
            long_lines(out, rows, self._form)
        elif out.is_terminal:
            self._columns(rows)
        else:
            width = max((len(str(row.number)) for row in rows), default=0)
            for row in rows:
                number = b"%*d " % (width, row.number) if self._with_inode else b""
                out.write(number + row.name + b"\n")
        self._is_first = self._is_first and not rows

    def show_directory(self, path: bytes, directory: Inode) -> list[Child]:
        """Print the names in a directory, with a header if several are listed."""
        out = self._out
        found = children(self._fs, directory, self._sort)
        if self.has_headers and not out.json:
            out.write((b"" if self._is_first else b"\n") + out.name(path) + b":\n")
            self._is_first = False
        needs_inodes = out.json or self._form is not None
        rows = [
            ListingRow(child.name, child.number, child.inode(self._fs) if needs_inodes else None) for child in found
        ]
        self.show(rows, path)
        return found

    def show_tree(self, path: bytes, top: Inode) -> None:
        """A directory and those below it, each once."""
        traversal = Traversal(self._fs)
        traversal.enter(top.number, decode_path(path))
        todo = [(path, top)]
        while todo:
            path, directory = todo.pop()
            below = []
            for child in self.show_directory(path, directory):
                inode = child.inode(self._fs) if child.may_be_directory else None
                if inode is None or not inode.is_dir:
                    continue
                child_path = _join(path, child.name)
                if traversal.enter(inode.number, decode_path(child_path)):
                    below.append((child_path, inode))
            todo.extend(reversed(below))

    def _record(self, row: ListingRow, directory: bytes | None) -> None:
        path = row.name if directory is None else _join(directory, row.name)
        if row.inode is None:
            self._out.record({**text_fields("path", path), "inode": row.number, "unreadable": True})
        else:
            self._out.record(inode_record(path, row.inode))

    def _columns(self, rows: list[ListingRow]) -> None:
        """Print names in columns, downwards first, as many columns as fit the terminal."""
        names = [f"{row.number} {quote(row.name)}" if self._with_inode else quote(row.name) for row in rows]
        widths = [columns_of(name) for name in names]
        if not rows:
            return
        width = self._out.width
        for count in range(min(len(names), width // (1 + _GAP) + 1), 0, -1):
            height = -(-len(names) // count)
            parts = [max(widths[start : start + height]) + _GAP for start in range(0, len(names), height)]
            if sum(parts) - _GAP <= width:
                break
        for line in range(height):
            cells = [
                names[at] + " " * (width - widths[at])
                for at, width in zip(range(line, len(names), height), parts, strict=False)
            ]
            self._out.line("".join(cells).rstrip())


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + name if directory.endswith(b"/") else directory + b"/" + name
