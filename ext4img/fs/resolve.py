"""Following a path, component by component, as path_resolution(7) describes.

At most 40 symbolic links are followed. Paths may be longer than PATH_MAX: images hold such paths.
"""

from __future__ import annotations

from ext4img.errors import NotDirectoryError, NotFoundError, SymlinkLoopError
from ext4img.fs.inode import Inode
from ext4img.fs.protocol import FileTree, Found
from ext4img.fs.shown_names import IN_USE, unused_inode_error
from ext4img.structs.inode import EXT4_EA_INODE_FL, EXT4_ROOT_INO

MAX_SYMLINKS = 40
MAX_DIRECTORIES = 4096  # that are kept; 4 MiB
_NO_KEY = "No such file or directory: without its key an encrypted directory shows other names"
_SPECIAL = ("", ".", "..")


class Resolver:
    """Follows paths of one file system. ".." of the root is the root; absolute targets start there."""

    def __init__(self, fs: FileTree) -> None:
        self._fs = fs
        self._directories: dict[int, Inode] = {}  # kept, as most paths begin alike
        self._prefixes: dict[str, Inode] = {}  # the same by path, if no key can change that path

    def resolve(self, path: str, follow: bool) -> Found:
        """(inode, its entry or None for the root, the directory's inode number)."""
        prefix, slash, last = path.rpartition("/")
        directory = self._prefixes.get(prefix) if slash and last not in _SPECIAL else None
        if directory is not None and "\0" not in last:
            found = self._step(path, directory, last)
            if not (follow and found[0].is_symlink):
                return found
        return self._follow(path, follow)

    def _step(self, path: str, directory: Inode, name: str) -> Found:
        """The last component, in a directory that is already known."""
        try:
            return self._child(path, directory, name.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise _no_name(path) from None

    def _child(self, path: str, directory: Inode, name: bytes) -> Found:
        fs = self._fs
        entry = fs.lookup(directory, name)
        if entry is None:
            raise NotFoundError.at(path, None if fs.has_key(directory) else _NO_KEY)
        child = self._inode(entry.inode)
        if not child.links or child.mode >> 12 not in IN_USE or child.flags & EXT4_EA_INODE_FL:
            fs.problems.found(unused_inode_error(path, directory.number, child))
            raise NotFoundError.at(path, f"Inode {child.number} is not in use")
        if directory.is_encrypted:
            policy = fs.policy_of(directory)
            if policy is not None:
                fs.encrypted.report_policy_mismatch(directory, policy, child)
        return child, entry, directory.number

    def _follow(self, path: str, follow: bool) -> Found:
        """Follow the path from the root."""
        fs = self._fs
        root: Found = (self._inode(EXT4_ROOT_INO), None, 0)
        trail: list[Found] = [root]
        # Components still to follow, the next one last.
        try:
            todo = _components(path.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise _no_name(path) from None
        if "\0" in path:
            raise NotFoundError.at(path, "A path cannot contain NUL")
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
            found = self._child(path, inode, name)
            child = found[0]
            if child.is_symlink and (todo or follow):
                links += 1
                if links > MAX_SYMLINKS:
                    raise SymlinkLoopError.at(path)
                target = fs.readlink(child, path)
                if not target:
                    raise NotFoundError.at(path)
                if target.startswith(b"/"):
                    trail = [root]
                todo += _components(target)
                continue
            trail.append(found)
        if not links:
            self._keep(path, trail)
        return trail[-1]

    def _keep(self, path: str, trail: list[Found]) -> None:
        """Keep the parent directory under its path, if that path is plain and the same with any keys."""
        prefix, _, last = path.rpartition("/")
        if last in _SPECIAL or len(trail) < 2 or prefix.count("/") != len(trail) - 2:
            return
        if any(above.is_encrypted for above, _, _ in trail[:-2]):
            return
        if len(self._prefixes) >= MAX_DIRECTORIES:
            self._prefixes.clear()
        self._prefixes[prefix] = trail[-2][0]

    def _inode(self, number: int) -> Inode:
        kept = self._directories.get(number)
        if kept is not None:
            return kept
        inode = self._fs.root() if number == EXT4_ROOT_INO else self._fs.inode(number)
        if inode.is_dir:
            if len(self._directories) >= MAX_DIRECTORIES:
                self._directories.clear()
            self._directories[number] = inode
        return inode


def _no_name(path: str) -> NotFoundError:
    return NotFoundError.at(path, "No name on disk can have these characters")


def _components(path: bytes) -> list[bytes]:
    """The components, the first one last. A trailing slash requires a directory, as "/." does."""
    parts = [part for part in path.split(b"/") if part]
    if path.endswith(b"/"):
        parts.append(b".")
    parts.reverse()
    return parts
