"""Following a path, component by component, as path_resolution(7) has it.

At most 40 symbolic links on the way. The path itself may be longer than PATH_MAX: images hold such.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ext4img.errors import NotDirectoryError, NotFoundError, SymlinkLoopError
from ext4img.structs.inode import EXT4_ROOT_INO
from ext4img.view.inode import Inode
from ext4img.view.names import IN_USE, not_in_use
from ext4img.view.policies import note_foreign
from ext4img.volume.directory import DirEntry

if TYPE_CHECKING:
    from ext4img.view.view import View

MOST_SYMLINKS = 40
MOST_DIRECTORIES = 4096  # that are kept; 4 MiB
_NO_KEY = "No such file or directory: without its key an encrypted directory shows other names"
Found = tuple[Inode, DirEntry | None, int]


class Resolver:
    """Follows paths of one view. ".." of the root is the root; absolute targets start there."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._directories: dict[int, Inode] = {}  # those on the way, as most paths begin alike

    def resolve(self, path: str, follow: bool) -> Found:
        """(inode, its entry or None for the root, the directory's inode number)."""
        view = self._view
        root: Found = (self._inode(EXT4_ROOT_INO), None, 0)
        trail: list[Found] = [root]
        # Components still to go, the next one last.
        try:
            todo = _components(path.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise NotFoundError.at(path, "No name on the disk can be written so") from None
        if "\0" in path:
            raise NotFoundError.at(path, "A path holds no NUL")
        links = 0
        while todo:
            name = todo.pop()
            inode = trail[-1][0]
            if not inode.is_dir:
                raise NotDirectoryError.at(path)
            if name == b".":
                continue
            if name == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            entry = view.lookup(inode, name)
            if entry is None:
                raise NotFoundError.at(path, None if view.has_key(inode) else _NO_KEY)
            child = self._inode(entry.inode)
            if not child.links or child.mode >> 12 not in IN_USE:
                view.problems.found(not_in_use(path, inode.number, child))
                raise NotFoundError.at(path, f"Inode {child.number} is not in use")
            policy = view.policy_of(inode)
            if policy is not None:
                note_foreign(view.volume, inode, policy, child)
            if child.is_symlink and (todo or follow):
                links += 1
                if links > MOST_SYMLINKS:
                    raise SymlinkLoopError.at(path)
                target = view.readlink(child, path)
                if not target:
                    raise NotFoundError.at(path)
                if target.startswith(b"/"):
                    trail = [root]
                todo += _components(target)
                continue
            trail.append((child, entry, inode.number))
        return trail[-1]

    def _inode(self, number: int) -> Inode:
        kept = self._directories.get(number)
        if kept is not None:
            return kept
        inode = self._view.root() if number == EXT4_ROOT_INO else self._view.inode(number)
        if inode.is_dir:
            if len(self._directories) >= MOST_DIRECTORIES:
                self._directories.clear()
            self._directories[number] = inode
        return inode


def _components(path: bytes) -> list[bytes]:
    """The components, the first one last. A trailing slash asks for a directory, as "/." does."""
    parts = [part for part in path.split(b"/") if part]
    if path.endswith(b"/"):
        parts.append(b".")
    parts.reverse()
    return parts
