"""The names in a directory, for listings."""

from __future__ import annotations

from typing import NamedTuple

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.inode import Inode
from ext4img.structs.directory import EXT4_FT_DIR, EXT4_FT_UNKNOWN


class Child(NamedTuple):
    """A name in a directory, and its inode number."""

    name: bytes
    number: int
    file_type: int

    @property
    def may_be_directory(self) -> bool:
        """Whether the entry's file type is directory or unknown."""
        return self.file_type in (EXT4_FT_UNKNOWN, EXT4_FT_DIR)

    def inode(self, fs: FileSystem) -> Inode | None:
        """The inode; None if it cannot be read and damage is only reported."""
        try:
            return fs.inode(self.number)
        except (CorruptionError, SourceError, NotFoundError) as error:
            if isinstance(error, NotFoundError):
                error = CorruptionError(f"the name {self.name!r} has an impossible inode number: {error.strerror}")
            fs.problems.unreadable(error, Place(inode=self.number))
            return None


def children(fs: FileSystem, directory: Inode, in_order: bool = True) -> list[Child]:
    """The names in a directory, sorted by bytes (`in_order`) or in disk order."""
    texts, entries = fs.children(directory)
    found = [
        Child(text.encode("utf-8", "surrogateescape"), entry.inode, entry.file_type)
        for text, entry in zip(texts, entries, strict=True)
    ]
    if in_order:
        found.sort()
    return found
