"""Going through a whole tree, each directory read once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.structs.directory import EXT4_FT_DIR, EXT4_FT_UNKNOWN
from ext4img.view.inode import Inode, bind
from ext4img.view.names import IN_USE, not_in_use
from ext4img.view.path import Ext4Path
from ext4img.view.policies import note_foreign
from ext4img.volume import inode as stored
from ext4img.volume.directory import DirEntry

if TYPE_CHECKING:
    from ext4img.view.view import View


Walked = tuple[Ext4Path, Inode]


def walk(view: View, top: Ext4Path) -> Iterator[Walked]:
    """See `View.walk`. No recursion: depth is bounded by the number of directories only."""
    first = top.inode
    yield top, first
    if not first.is_dir:
        return
    met = {first.number}
    # Directories whose children are still to come; a list's iterator is where to go on in it.
    stack = [_children(view, top.prefix, first)]
    while stack:
        for found in stack[-1]:
            yield found
            path, inode = found
            if inode.is_dir and _is_new(view, inode.number, str(path), met):
                stack.append(_children(view, path.prefix, inode))
                break
        else:
            stack.pop()


def paths(view: View, top: Ext4Path) -> Iterator[str]:
    """See `View.paths`."""
    first = top.inode
    yield str(top)
    if not first.is_dir:
        return
    met = {first.number}
    stack = [_named(view, top.prefix, first)]
    while stack:
        for text, entry in stack[-1]:
            yield text
            # Type 0 is "unknown": the inode has to tell.
            if entry.file_type in (EXT4_FT_DIR, EXT4_FT_UNKNOWN):
                inode = _inode(view, entry.inode)
                if inode is not None and inode.is_dir and _is_new(view, inode.number, text, met):
                    stack.append(_named(view, text + "/", inode))
                    break
        else:
            stack.pop()


def _is_new(view: View, number: int, text: str, met: set[int]) -> bool:
    if number in met:
        view.problems.found(CorruptionError(f"directory {text!r} is met twice", Place(inode=number)))
        return False
    met.add(number)
    return True


def _named(view: View, prefix: str, directory: stored.Inode) -> Iterator[tuple[str, DirEntry]]:
    try:
        texts, entries = view.children(directory)
    except (CorruptionError, SourceError) as error:
        _report(view, error, directory.number)
        return iter(())
    return zip([prefix + text for text in texts], entries, strict=True)


def _children(view: View, prefix: str, directory: Inode) -> Iterator[Walked]:
    table = view.volume.inodes
    known = Ext4Path.known
    number = directory.number
    policy = view.policy_of(directory)
    for text, entry in _named(view, prefix, directory):
        try:
            inode = bind(table[entry.inode], view)
        except (CorruptionError, SourceError, NotFoundError) as error:
            _report(view, error, entry.inode)
            continue
        if not inode.links or inode.mode >> 12 not in IN_USE:
            _report(view, not_in_use(text, number, inode), entry.inode)
            continue
        if policy is not None:
            note_foreign(view.volume, directory, policy, inode)
        yield known(view, text, entry, inode, number), inode


def _inode(view: View, number: int) -> stored.Inode | None:
    try:
        return view.volume.inode(number)
    except (CorruptionError, SourceError, NotFoundError) as error:
        _report(view, error, number)
        return None


def _report(view: View, error: CorruptionError | SourceError | NotFoundError, inode: int) -> None:
    """Raise when strict; else note it and go on with what is left."""
    problems = view.problems
    if problems.checks == "strict":
        raise error
    problems.found(error if isinstance(error, CorruptionError) else CorruptionError(str(error), Place(inode=inode)))
