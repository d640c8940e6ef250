"""Walking a tree: one traversal for paths with inodes, for paths alone, and for listings.

`Traversal` holds what all walks share: each directory is read once, a directory that is reached
twice is corruption, and damage is raised or reported as `checks` says. There is no recursion: only
the number of directories bounds the depth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TypeVar

from ext4img.errors import CorruptionError, NotDirectoryError, NotFoundError, PathError, Place, SourceError
from ext4img.fs.inode import Inode
from ext4img.fs.protocol import FileTree
from ext4img.fs.shown_names import IN_USE, unused_inode_error
from ext4img.structs.inode import EXT4_EA_INODE_FL, S_IFDIR, S_IFLNK
from ext4img.volume.dir_entry import DirEntryFields as EntryRow
from ext4img.volume.dir_entry import DirListing
from ext4img.volume.inode import StoredInode
from ext4img.volume.inode_batch import InodeFields

_INODES_AT_ONCE = 4096  # bounds what is held of a directory of any size
# Below paths longer than this, names alone are held: in a deep tree the paths of all levels together
# would be as long as the depth squared.
_LONG_PREFIX = 256
_DIRECTORY, _SYMLINK = S_IFDIR >> 12, S_IFLNK >> 12
_MODE, _LINKS, _FLAGS = (Inode._fields.index(name) for name in ("mode", "links", "flags"))

P = TypeVar("P")
MakePath = Callable[[FileTree, str, EntryRow, Inode, int], P]
"""Makes a path of the text, the directory entry, the inode and the directory's inode number."""


class Traversal:
    """One way through a tree. `visited` are the inode numbers of the directories entered so far."""

    __slots__ = ("_fs", "visited")

    def __init__(self, fs: FileTree) -> None:
        self._fs = fs
        self.visited: set[int] = set()

    def enter(self, number: int, path: str) -> bool:
        """Whether directory `number` is entered for the first time; a second time is corruption."""
        if number in self.visited:
            reason = f"directory {path!r} is reached twice (loop or second parent)"
            self._fs.problems.found(CorruptionError(reason, Place(inode=number)))
            return False
        self.visited.add(number)
        return True

    def names(self, directory: StoredInode, prefix: str = "", by_name: bool = False) -> tuple[list[str], DirListing]:
        """Names after `prefix` and entries, in the disk's order or by the names' bytes; empty if unreadable."""
        try:
            texts, listing = self._fs.listing(directory, prefix)
        except (CorruptionError, SourceError) as error:
            self.report(error, directory.number)
            return [], DirListing()
        if by_name:
            order = sorted(range(len(texts)), key=lambda at: texts[at].encode("utf-8", "surrogateescape"))
            texts, listing = [texts[at] for at in order], listing.only(order)
        return texts, listing

    def fields(self, numbers: list[int]) -> Iterator[InodeFields | None]:
        """The fields of the inodes; None for one that has to be read by itself, for its error."""
        rows = self._fs.volume.inodes.batch
        if len(numbers) <= _INODES_AT_ONCE:
            return iter(rows(numbers))
        pieces = (numbers[start : start + _INODES_AT_ONCE] for start in range(0, len(numbers), _INODES_AT_ONCE))
        return chain.from_iterable(map(rows, pieces))

    def inode(self, number: int) -> Inode | None:
        """The inode; None if it cannot be read."""
        try:
            return self._fs.inode(number)
        except (CorruptionError, SourceError, NotFoundError) as error:
            self.report(error, number)
            return None

    def report(self, error: CorruptionError | SourceError | NotFoundError, inode: int) -> None:
        """Raise when strict; otherwise note it, so that the walk continues with the rest."""
        problems = self._fs.problems
        if problems.checks == "strict":
            raise error
        problems.found(error if isinstance(error, CorruptionError) else CorruptionError(str(error), Place(inode=inode)))


def walk(
    fs: FileTree,
    path: str,
    top: Inode,
    made: P,
    make: MakePath[P],
    *,
    max_depth: int | None = None,
    by_name: bool = False,
) -> Iterator[tuple[P, Inode]]:
    """(path, inode) of `top` and all below it, at most `max_depth` levels; parents before children.

    `path` is the text of the path of `top`, `made` that path as `make` would make it. Within a
    directory the order is the disk's, or that of the names' bytes.
    """
    yield made, top
    deepest = sys.maxsize if max_depth is None else max_depth
    if not top.is_dir or deepest <= 0:
        return
    traversal = Traversal(fs)
    traversal.enter(top.number, path)
    table = fs.volume.inodes
    new = tuple.__new__
    reader = (fs,)
    prefix = prefix_of(path)
    # Directories whose children are still to come; each keeps the iterator to continue with.
    stack = [_InodeLevel(traversal, fs, top, prefix, by_name)]
    while stack:
        level = stack[-1]
        number, policy, is_deep = level.number, level.policy, level.prefix_length > 0
        if is_deep:
            prefix = prefix[: level.prefix_length]
        for text, entry, fields in level.children:
            if is_deep:
                text = prefix + text  # noqa: PLW2901 - the whole path, for `make`
            if fields is None:
                try:
                    fields = table[entry[1]]  # noqa: PLW2901 - the same, or the reason why it cannot be read
                except (CorruptionError, SourceError, NotFoundError) as error:
                    traversal.report(error, entry[1])
                    continue
            inode = new(Inode, fields + reader)  # `bind`, without its call
            kind = fields[_MODE] >> 12
            if not fields[_LINKS] or kind not in IN_USE or fields[_FLAGS] & EXT4_EA_INODE_FL:
                traversal.report(unused_inode_error(text, number, inode), inode.number)
                continue
            if policy is not None:
                fs.encrypted.report_policy_mismatch(level.directory, policy, inode)
            yield make(fs, text, entry, inode, number), inode
            if kind == _DIRECTORY and len(stack) < deepest and traversal.enter(inode.number, text):
                prefix = text + "/"
                stack.append(_InodeLevel(traversal, fs, inode, prefix, by_name))
                break
        else:
            stack.pop()


class _InodeLevel:
    """A directory on the way down: (path, entry, fields of the inode or None) for each name.

    For a deep directory the names replace the paths; `prefix_length` characters of the path precede them.
    """

    __slots__ = ("children", "directory", "number", "policy", "prefix_length")

    def __init__(self, traversal: Traversal, fs: FileTree, directory: Inode, prefix: str, by_name: bool) -> None:
        self.directory = directory
        self.number = directory.number
        self.policy = fs.policy_of(directory)
        self.prefix_length = len(prefix) if len(prefix) > _LONG_PREFIX else 0
        texts, listing = traversal.names(directory, "" if self.prefix_length else prefix, by_name)
        self.children = zip(texts, listing.rows(), traversal.fields(listing.inodes), strict=True)


def path_lists(fs: FileTree, path: str, top: Inode) -> Iterator[list[str]]:
    """The paths that `walk` makes, `top` itself first, in pieces; reads no inodes but those of directories.

    Entries decide what is a directory, see `FileSystem.paths`.
    """
    yield [path]
    if not top.is_dir:
        return
    traversal = Traversal(fs)
    traversal.enter(top.number, path)
    prefix = prefix_of(path)
    stack = [_NameLevel(traversal, fs, top, prefix)]
    while stack:
        level = stack[-1]
        texts = level.texts
        prefix = prefix[: level.prefix_length]
        for at in level.branches:
            yield level.paths(prefix, at + 1)
            inode = traversal.inode(level.inodes[at])
            if inode is not None and inode.is_dir and traversal.enter(inode.number, texts[at]):
                prefix += texts[at] + "/"
                stack.append(_NameLevel(traversal, fs, inode, prefix))
                break
        else:
            yield level.paths(prefix, len(texts))
            stack.pop()


class _NameLevel:
    """A directory on the way down: the paths in it, how many are done, and where directories may be.

    For a deep directory names replace the paths, as in `_InodeLevel`.
    """

    __slots__ = ("branches", "done", "inodes", "prefix_length", "texts")

    def __init__(self, traversal: Traversal, fs: FileTree, directory: StoredInode, prefix: str) -> None:
        self.prefix_length = len(prefix) if len(prefix) > _LONG_PREFIX else 0
        self.texts, listing = traversal.names(directory, "" if self.prefix_length else prefix)
        self.inodes = listing.inodes
        self.branches = iter(_branches(traversal, fs, listing))
        self.done = 0

    def paths(self, prefix: str, end: int) -> list[str]:
        """The paths up to number `end` that were not yielded yet; `prefix` is that of a deep directory."""
        texts = self.texts[self.done : end] if self.done or end < len(self.texts) else self.texts
        self.done = end
        return [prefix + text for text in texts] if prefix else texts


def _branches(traversal: Traversal, fs: FileTree, listing: DirListing) -> list[int]:
    """The positions of what may be a directory.

    When damage is reported the inodes decide, not the entries: an entry that calls a directory a file
    would hide all below it.
    """
    if fs.problems.checks != "report":
        return listing.branches()
    rows = traversal.fields(listing.inodes)
    return [at for at, fields in enumerate(rows) if fields is None or fields[_MODE] >> 12 == _DIRECTORY]


def walk_directories(
    fs: FileTree,
    top: str,
    top_down: bool,
    on_error: Callable[[OSError], object] | None,
    follow_symlinks: bool,
) -> Iterator[tuple[str, list[str], list[str]]]:
    """(path, names of directories, names of other files) of each directory; see `Ext4Path.walk`."""
    traversal = Traversal(fs)
    todo: list[str | tuple[str, list[str], list[str]]] = [top]
    while todo:
        path = todo.pop()
        if isinstance(path, tuple):
            yield path
            continue
        try:
            directory = fs.resolve(path, follow_symlinks or path == top)[0]
            if not directory.is_dir:
                raise NotDirectoryError.at(path)
        except (PathError, SourceError) as error:
            if on_error is not None:
                on_error(error)
            continue
        if follow_symlinks and directory.number in traversal.visited:
            continue
        if not traversal.enter(directory.number, path):
            continue
        prefix = prefix_of(path)
        directories: list[str] = []
        others: list[str] = []
        texts, listing = traversal.names(directory)
        for text, number, fields in zip(texts, listing.inodes, traversal.fields(listing.inodes), strict=True):
            inode = traversal.inode(number) if fields is None else fields
            kind = 0 if inode is None else inode[_MODE] >> 12
            is_directory = kind == _DIRECTORY
            if kind == _SYMLINK and follow_symlinks:
                is_directory = _leads_to_directory(fs, prefix + text)
            (directories if is_directory else others).append(text)
        if top_down:
            yield path, directories, others
        else:
            todo.append((path, directories, others))
        todo += [prefix + name for name in reversed(directories)]


def _leads_to_directory(fs: FileTree, path: str) -> bool:
    try:
        return fs.resolve(path)[0].is_dir
    except PathError:
        return False


def prefix_of(path: str) -> str:
    """The text before the names in a directory that makes their paths."""
    return path if path.endswith("/") else path + "/"
