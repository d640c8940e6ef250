"""Going through a whole tree, each directory read once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.view.inode import Inode
from ext4img.view.names import NamedEntry
from ext4img.view.path import Ext4Path

if TYPE_CHECKING:
    from ext4img.view.view import View


def walk(view: View, top: Ext4Path) -> Iterator[tuple[Ext4Path, Inode]]:
    """See `View.walk`. No recursion: depth is bounded by the number of directories only."""
    first = top.inode
    yield top, first
    if not first.is_dir:
        return
    problems = view.problems
    met = {first.number}
    # Directories whose children are still to come; a list's iterator is where to go on in it.
    stack = [_children(view, top, first)]
    while stack:
        for path, inode in stack[-1]:
            yield path, inode
            if inode.is_dir:
                if inode.number in met:
                    reason = f"directory {str(path)!r} is met twice"
                    problems.found(CorruptionError(reason, Place(inode=inode.number)))
                    continue
                met.add(inode.number)
                stack.append(_children(view, path, inode))
                break
        else:
            stack.pop()


def _children(
    view: View, path: Ext4Path, directory: Inode
) -> list[tuple[Ext4Path, Inode]] | Iterator[tuple[Ext4Path, Inode]]:
    problems = view.problems
    try:
        named = view.listdir(directory)
    except (CorruptionError, SourceError) as error:
        if problems.checks == "strict":
            raise
        problems.found(_as_corruption(error, directory.number))
        return iter(())
    return _bound(view, path, directory, named)


def _bound(
    view: View, path: Ext4Path, directory: Inode, named: list[NamedEntry]
) -> Iterator[tuple[Ext4Path, Inode]]:
    child_of = path.child
    inode_of = view.volume.inode
    bind = view.bind
    problems = view.problems
    number = directory.number
    for name, entry in named:
        try:
            inode = bind(inode_of(entry.inode))
        except (CorruptionError, SourceError, NotFoundError) as error:
            if problems.checks == "strict":
                raise
            problems.found(_as_corruption(error, entry.inode))
            continue
        yield child_of(name, entry, inode, number), inode


def _as_corruption(error: CorruptionError | SourceError | NotFoundError, inode: int) -> CorruptionError:
    return error if isinstance(error, CorruptionError) else CorruptionError(str(error), Place(inode=inode))
