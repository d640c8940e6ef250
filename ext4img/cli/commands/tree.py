"""`ext4img tree`."""

from __future__ import annotations

from typing import Annotated

import typer

from ext4img.cli.dir_listing import children
from ext4img.cli.image_options import ImageOptions
from ext4img.cli.inode_json import inode_record
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.long_format import target_of
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json
from ext4img.cli.output import Output
from ext4img.cli.path_arg import resolve_path_arg
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.inode import Inode
from ext4img.fs.walk import Traversal
from ext4img.names.paths import decode_path


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    path: Annotated[
        str, typer.Argument(metavar="[PATH]", help="Directory to start at, or inode:N.", show_default=False)
    ] = "/",
    level: Annotated[
        int | None, typer.Option("-L", "--level", metavar="N", min=1, help="Show at most N levels.")
    ] = None,
    directories: Annotated[bool, typer.Option("-d", "--directories", help="Show directories only.")] = False,
    json: Json = False,
) -> None:
    """Draw a directory tree, like tree -a.

    With --json each line is an inode with its path, parents first.
    """
    out = Output(json)
    with open_image(image, keys) as fs:
        top = resolve_path_arg(fs, path)
        inode = top.followed()
        tree = _TreeDrawing(fs, out, level, directories)
        if not json:
            out.write(out.name(top.shown) + b"\n")
        tree.show(top.shown, inode)
        if not json:
            files = "" if directories else f", {tree.others} other{'s' * (tree.others != 1)}"
            counted = f"{tree.directories} director{'y' if tree.directories == 1 else 'ies'}"
            out.line(f"\n{counted}{files}")


class _TreeDrawing:
    def __init__(self, fs: FileSystem, out: Output, level: int | None, only_directories: bool) -> None:
        self._fs = fs
        self._out = out
        self._level = level
        self._only_directories = only_directories
        self.directories = 0
        self.others = 0

    def show(self, path: bytes, top: Inode) -> None:
        """Draw everything below `top`, with a stack of the remaining entries of each level."""
        if self._out.json:
            self._out.record(inode_record(path, top))
        if not top.is_dir:
            return
        traversal = Traversal(self._fs)
        traversal.enter(top.number, decode_path(path))
        stack = [self._below(path, top)]
        while stack:
            if not stack[-1]:
                stack.pop()
                continue
            name, child_path, inode = stack[-1].pop()
            lead = b"".join("│   ".encode() if level else b"    " for level in stack[:-1])
            if self._out.json:
                if inode is not None:
                    self._out.record(inode_record(child_path, inode))
            else:
                branch = "├── " if stack[-1] else "└── "
                self._out.write(lead + branch.encode() + self._out.name(name) + target_of(self._out, inode) + b"\n")
            if inode is None or not inode.is_dir:
                self.others += 1
                continue
            self.directories += 1
            may_descend = self._level is None or len(stack) < self._level
            if may_descend and traversal.enter(inode.number, decode_path(child_path)):
                stack.append(self._below(child_path, inode))

    def _below(self, path: bytes, directory: Inode) -> list[tuple[bytes, bytes, Inode | None]]:
        """(name, path, inode) of the entries of a directory, the last first."""
        prefix = path if path.endswith(b"/") else path + b"/"
        found = []
        for child in reversed(children(self._fs, directory)):
            inode = child.inode(self._fs)
            if not self._only_directories or (inode is not None and inode.is_dir):
                found.append((child.name, prefix + child.name, inode))
        return found
