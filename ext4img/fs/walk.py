"""Going through a whole tree, each directory read once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.fs.inode import Inode
from ext4img.fs.path import Ext4Path
from ext4img.fs.shown_names import IN_USE, unused_inode_error
from ext4img.structs.inode import S_IFDIR
from ext4img.volume.dir_entry import DirListing
from ext4img.volume.inode import StoredInode
from ext4img.volume.inode_batch import InodeFields

if TYPE_CHECKING:
    from ext4img.fs.filesystem import FileSystem


_NUMBERS_AT_ONCE = 4096  # inodes asked for together: what is held of a directory of any size
# Below paths longer than this, names alone are held: in a deep tree the paths of all levels together
# would be as long as the depth squared.
_LONG_PREFIX = 256
_DIRECTORY = S_IFDIR >> 12
_MODE, _LINKS = Inode._fields.index("mode"), Inode._fields.index("links")


def walk(fs: FileSystem, top: Ext4Path) -> Iterator[tuple[Ext4Path, Inode]]:
    """See `FileSystem.walk`. No recursion: depth is bounded by the number of directories only."""
    first = top.inode
    yield top, first
    if not first.is_dir:
        return
    table = fs.volume.inodes
    known = Ext4Path.known
    new = tuple.__new__
    behind = (fs,)
    met = {first.number}
    # Directories whose children are still to come; a list's iterator is where to go on in it.
    prefix = top.prefix
    stack = [_Level(fs, first, prefix)]
    while stack:
        level = stack[-1]
        number, policy, is_deep = level.number, level.policy, level.prefix_length > 0
        if is_deep:
            prefix = prefix[: level.prefix_length]
        for text, entry, fields in level.children:
            if is_deep:
                text = prefix + text  # noqa: PLW2901 - what `known` is to be given
            if fields is None:
                try:
                    fields = table[entry[1]]  # noqa: PLW2901 - the same, or why it cannot be had
                except (CorruptionError, SourceError, NotFoundError) as error:
                    _report(fs, error, entry[1])
                    continue
            inode = new(Inode, fields + behind)  # `bind`, without its call
            kind = fields[_MODE] >> 12
            if not fields[_LINKS] or kind not in IN_USE:
                _report(fs, unused_inode_error(text, number, inode), inode.number)
                continue
            if policy is not None:
                fs.encrypted.report_policy_mismatch(level.directory, policy, inode)
            yield known(fs, text, entry, inode, number), inode
            if kind == _DIRECTORY and _is_new(fs, inode.number, text, met):
                prefix = text + "/"
                stack.append(_Level(fs, inode, prefix))
                break
        else:
            stack.pop()


class _Level:
    """A directory on the way down: (path, entry, fields of the inode or None) of what is in it.

    Of a deep one names stand for the paths; `prefix_length` characters of the path come before them.
    """

    __slots__ = ("children", "directory", "number", "policy", "prefix_length")

    def __init__(self, fs: FileSystem, directory: Inode, prefix: str) -> None:
        self.directory = directory
        self.number = directory.number
        self.policy = fs.policy_of(directory)
        self.prefix_length = len(prefix) if len(prefix) > _LONG_PREFIX else 0
        texts, listing = _listing(fs, "" if self.prefix_length else prefix, directory)
        self.children = zip(texts, listing.rows(), _rows(fs, listing.inodes), strict=True)


def _rows(fs: FileSystem, numbers: list[int]) -> Iterator[InodeFields | None]:
    rows = fs.volume.inodes.batch
    if len(numbers) <= _NUMBERS_AT_ONCE:
        return iter(rows(numbers))
    pieces = (numbers[start : start + _NUMBERS_AT_ONCE] for start in range(0, len(numbers), _NUMBERS_AT_ONCE))
    return chain.from_iterable(map(rows, pieces))


def paths(fs: FileSystem, top: Ext4Path) -> Iterator[str]:
    """See `FileSystem.paths`."""
    return chain.from_iterable(path_lists(fs, top))


def path_lists(fs: FileSystem, top: Ext4Path) -> Iterator[list[str]]:
    """The same, as many at a time as one directory has in a row."""
    first = top.inode
    yield [str(top)]
    if not first.is_dir:
        return
    met = {first.number}
    prefix = top.prefix
    stack = [_Names(fs, first, prefix)]
    while stack:
        level = stack[-1]
        texts = level.texts
        prefix = prefix[: level.prefix_length]
        for at in level.branches:
            yield level.paths(prefix, at + 1)
            inode = _inode(fs, level.inodes[at])
            if inode is not None and inode.is_dir and _is_new(fs, inode.number, texts[at], met):
                prefix += texts[at] + "/"
                stack.append(_Names(fs, inode, prefix))
                break
        else:
            yield level.paths(prefix, len(texts))
            stack.pop()


class _Names:
    """A directory on the way down: paths of what is in it, how many are done, and where directories may be.

    Of a deep one, names: see `_Level`.
    """

    __slots__ = ("branches", "done", "inodes", "prefix_length", "texts")

    def __init__(self, fs: FileSystem, directory: StoredInode, prefix: str) -> None:
        self.prefix_length = len(prefix) if len(prefix) > _LONG_PREFIX else 0
        self.texts, listing = _listing(fs, "" if self.prefix_length else prefix, directory)
        self.inodes = listing.inodes
        self.branches = iter(_directories(fs, listing))
        self.done = 0

    def paths(self, prefix: str, end: int) -> list[str]:
        """The paths that are still to come, up to number `end`; `prefix` is empty or the deep one's."""
        texts = self.texts[self.done : end] if self.done or end < len(self.texts) else self.texts
        self.done = end
        return [prefix + text for text in texts] if prefix else texts


def _directories(fs: FileSystem, listing: DirListing) -> list[int]:
    """The positions of what may be a directory. Where damage is reported the inodes tell, not the entries:
    one that calls a directory a file would hide all below it.
    """
    if fs.problems.checks != "report":
        return listing.branches()
    rows = _rows(fs, listing.inodes)
    return [at for at, fields in enumerate(rows) if fields is None or fields[_MODE] >> 12 == _DIRECTORY]


def _listing(fs: FileSystem, prefix: str, directory: StoredInode) -> tuple[list[str], DirListing]:
    try:
        return fs.listing(directory, prefix)
    except (CorruptionError, SourceError) as error:
        _report(fs, error, directory.number)
        return [], DirListing()


def _is_new(fs: FileSystem, number: int, text: str, met: set[int]) -> bool:
    if number in met:
        fs.problems.found(CorruptionError(f"directory {text!r} is met twice", Place(inode=number)))
        return False
    met.add(number)
    return True


def _inode(fs: FileSystem, number: int) -> StoredInode | None:
    try:
        return fs.volume.inode(number)
    except (CorruptionError, SourceError, NotFoundError) as error:
        _report(fs, error, number)
        return None


def _report(fs: FileSystem, error: CorruptionError | SourceError | NotFoundError, inode: int) -> None:
    """Raise when strict; else note it and go on with what is left."""
    problems = fs.problems
    if problems.checks == "strict":
        raise error
    problems.found(error if isinstance(error, CorruptionError) else CorruptionError(str(error), Place(inode=inode)))
