"""The names in a directory, for listings."""

from __future__ import annotations

from typing import NamedTuple

from ext4img.errors import CorruptionError, Place, SourceError
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.inode import Inode
from ext4img.names.paths import decode_path
from ext4img.structs.directory import EXT4_FT_DIR, EXT4_FT_UNKNOWN


class Child(NamedTuple):
    """A name in a directory, its inode number, and the directory's."""

    name: bytes
    number: int
    file_type: int
    directory: int

    @property
    def may_be_directory(self) -> bool:
        """Whether the entry's file type is directory or unknown."""
        return self.file_type in (EXT4_FT_UNKNOWN, EXT4_FT_DIR)

    def inode(self, fs: FileSystem) -> Inode | None:
        """The inode; None if it cannot be read or is not in use, and damage is only reported."""
        inode = fs.volume.named_inode(self.number, decode_path(self.name), self.directory)
        return None if inode is None else fs.bind(inode)


def children(fs: FileSystem, directory: Inode, in_order: bool = True) -> list[Child]:
    """The names in a directory, sorted by bytes (`in_order`) or in disk order.

    None if the directory cannot be read, and damage is only reported.
    """
    try:
        texts, entries = fs.children(directory)
    except (CorruptionError, SourceError) as error:
        fs.problems.unreadable(error, Place(inode=directory.number))
        return []
    found = [
        Child(text.encode("utf-8", "surrogateescape"), entry.inode, entry.file_type, directory.number)
        for text, entry in zip(texts, entries, strict=True)
    ]
    if in_order:
        found.sort()
    return found
