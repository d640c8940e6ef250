"""The names that a caller sees, without those that are impossible."""

from __future__ import annotations

from typing import NamedTuple

from ext4img.errors import CorruptionError, Place
from ext4img.structs.inode import (
    EXT4_EA_INODE_FL,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFREG,
    S_IFSOCK,
)
from ext4img.volume.dir_entry import DirEntry, DirListing
from ext4img.volume.inode import StoredInode
from ext4img.volume.problems import Problems

# The upper four bits of the modes that have a file type.
IN_USE = frozenset(kind >> 12 for kind in (S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK))
_IMPOSSIBLE = frozenset((b"", b".", b".."))


class NamedEntry(NamedTuple):
    """A directory entry and the name under which it is shown."""

    name: bytes
    entry: DirEntry


def unused_inode_error(text: str, directory: int, inode: StoredInode) -> CorruptionError:
    """The error for a name of an inode without links or type: the kernel returns ESTALE or EFSCORRUPTED."""
    what = f"which is not in use (mode {inode.mode:#o}, {inode.links} links)"
    if inode.flags & EXT4_EA_INODE_FL:
        what = "which holds an attribute's value"
    place = Place(inode=directory, record="ext4_dir_entry_2", field="inode")
    return CorruptionError(f"{text!r} names inode {inode.number}, {what}", place)


def shown_names(
    names: list[bytes], listing: DirListing, directory: int, problems: Problems, prefix: str = ""
) -> tuple[list[str], DirListing]:
    """The names as str (UTF-8, surrogateescape), each after `prefix`, which is empty or ends with "/".

    Impossible names, which every kernel refuses, are reported and skipped.
    """
    if not names:
        return [], listing
    # One decode and three searches for a whole directory; no name holds a NUL.
    before = prefix.encode("utf-8", "surrogateescape")
    joined = (b"\0" + before).join(names)
    texts = (prefix + joined.decode("utf-8", "surrogateescape")).split("\0")
    slashes = (len(names) - 1) * before.count(b"/")
    # Names as stored were checked with their block.
    is_checked = names is listing.names or not _IMPOSSIBLE.intersection(names)
    if is_checked and len(texts) == len(names) and joined.count(b"/") == slashes:
        return texts, listing
    possible = []
    for position, name in enumerate(names):
        if name in _IMPOSSIBLE or b"/" in name or b"\0" in name:
            place = Place(inode=directory, record="ext4_dir_entry_2")
            problems.found(CorruptionError(f"directory entry has the impossible name {name!r}", place))
        else:
            possible.append(position)
    texts = [prefix + names[position].decode("utf-8", "surrogateescape") for position in possible]
    return texts, listing.only(possible)
