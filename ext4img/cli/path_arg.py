"""A PATH argument: a path on the image, or an inode by its number.

`inode:12` and `<12>` mean inode 12, as in debugfs; a file with such a name is `./<12>` or `/<12>`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from ext4img.errors import NotDirectoryError, NotFoundError
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.inode import Inode
from ext4img.fs.protocol import FileTree
from ext4img.fs.walk import path_lists, walk
from ext4img.structs.inode import EXT4_ROOT_INO
from ext4img.volume.dir_entry import DirEntry, DirEntryFields

_INODE = re.compile(r"inode:([0-9]{1,10})|<([0-9]{1,10})>")


class PathArg(NamedTuple):
    """A PATH argument, looked up. `path` is absolute, or "<12>" for an inode given by number.

    `entry` is the directory entry as stored, and `directory` the inode number of the directory
    that holds it; None and 0 for the root and for inodes given by number.
    """

    fs: FileSystem
    path: str
    inode: Inode
    entry: DirEntry | None
    directory: int

    @property
    def by_number(self) -> bool:
        """Whether it was given as an inode number."""
        return self.path.startswith("<")

    @property
    def shown(self) -> bytes:
        """The path as bytes."""
        return self.path.encode("utf-8", "surrogateescape")

    @property
    def name(self) -> bytes:
        """The last component; "/" for the root."""
        return self.shown.rpartition(b"/")[2] or b"/"

    def followed(self) -> Inode:
        """Its inode; for a symbolic link given by path, the inode of the link's target."""
        if self.inode.is_symlink and not self.by_number:
            return self.fs.resolve(self.path, follow=True)[0]
        return self.inode

    def walk(self, levels: int | None = None) -> Iterator[tuple[str, Inode]]:
        """(path, inode) of it and all below, or so many levels below; parents first."""
        return walk(self.fs, self.path, self.inode, self.path, _text, max_depth=levels)

    def path_lists(self) -> Iterator[list[str]]:
        """The paths alone, several times as fast, as many at a time as a directory has in a row."""
        return path_lists(self.fs, self.path, self.inode)


def _text(fs: FileTree, text: str, entry: DirEntryFields, inode: Inode, directory: int) -> str:
    return text


def resolve_path_arg(fs: FileSystem, argument: str) -> PathArg:
    """Look up a PATH argument. A symbolic link at the end of the path is not followed. Raises PathError."""
    match = _INODE.fullmatch(argument)
    if match:
        number = int(match[1] or match[2])
        if number == EXT4_ROOT_INO:
            return PathArg(fs, "/", fs.root(), None, 0)
        inode = fs.inode(number)
        if not inode.mode and not inode.links:
            raise NotFoundError.at(argument, "Inode is not in use")
        return PathArg(fs, f"<{number}>", inode, None, 0)
    path = fs.path(os.fsencode(argument))
    if argument.endswith("/"):  # follows a link, and requires a directory
        path = path.resolve()
        if not path.inode.is_dir:
            raise NotDirectoryError.at(argument)
    return PathArg(fs, str(path), path.inode, path.entry, path.directory)
