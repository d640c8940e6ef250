"""The names in a directory, for listings."""

from __future__ import annotations

from collections.abc import Iterator
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


def walk_levels(fs: FileSystem, path: str, top: Inode, levels: int) -> Iterator[tuple[str, Inode]]:
    """(path, inode) of `top` and of everything at most `levels` levels below it, parents first.

    A directory that is reached twice is corruption.
    """
    yield path, top
    seen = {top.number}
    # For each level on the way down: the path of the directory, and its remaining children.
    stack = [(path, iter(_below(fs, top)))] if levels else []
    while stack:
        parent, found = stack[-1]
        child = next(found, None)
        if child is None:
            stack.pop()
            continue
        inode = child.inode(fs)
        if inode is None:
            continue
        name = child.name.decode("utf-8", "surrogateescape")
        child_path = f"{'' if parent == '/' else parent}/{name}"
        yield child_path, inode
        if inode.is_dir and len(stack) < levels:
            if inode.number in seen:
                reason = f"directory {child_path!r} is reached twice"
                fs.problems.found(CorruptionError(reason, Place(inode=inode.number)))
                continue
            seen.add(inode.number)
            stack.append((child_path, iter(_below(fs, inode))))


def _below(fs: FileSystem, inode: Inode) -> list[Child]:
    return children(fs, inode, in_order=False) if inode.is_dir else []
