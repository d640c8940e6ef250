"""The files with several names: where a name of each was restored, so that others can be linked to it.

Any name can be the first: an archive's further name refers to the first one, and if that was not
restored, the next name takes its place.
"""

from __future__ import annotations

from ext4img.archive.entry import Entry
from ext4img.errors import Ext4Error, UnsafeArchiveError
from ext4img.hostfs.safe_dir import Identity
from ext4img.names.paths import decode_path

Names = tuple[bytes, ...]
"""A path below the target, by its components."""


class HardLink:
    """A restored file that may have names to come. `identity` is that of its inode, `size` its st_size.

    Names are first made under temporary ones. The newest of these, and one that is final, are enough:
    temporary names become final or are refused in the order in which they were made.
    """

    __slots__ = ("_final", "_newest", "count", "identity", "inode", "kind", "names_remaining", "size")

    def __init__(self, entry: Entry, identity: Identity, size: int) -> None:
        self.identity = identity
        self.kind = entry.type
        self.inode = entry.inode
        self.size = size
        self.names_remaining = entry.links - 1
        self.count = 0
        """How many names are there, or are to become final."""
        self._final: Names | None = None
        self._newest: Names | None = None

    @property
    def names(self) -> Names | None:
        """A name that leads to the file; None if all of them were refused."""
        return self._newest if self._newest is not None else self._final

    def next_kind(self) -> str:
        """What the next name counts as: "link", or the type if no other name is there."""
        return "link" if self.count else self.kind

    def made(self, names: Names) -> None:
        """A name was made, perhaps a temporary one."""
        self.count += 1
        self._newest = names

    def spare(self, names: Names) -> None:
        """A name was made that only serves to link others to it."""
        self._final = names

    def committed(self, temporary: Names, name: bytes) -> None:
        """A temporary name was replaced by its final one, in the same directory."""
        self._final = (*temporary[:-1], name)
        if self._newest == temporary:
            self._newest = None

    def refused(self, temporary: Names) -> str:
        """A name could not become final, and is removed; returns what it counted as."""
        self.count -= 1
        if self._newest == temporary:
            self._newest = None
        return self.next_kind()


class HardLinks:
    """Files of several names, by the path of the first name in the archive."""

    def __init__(self) -> None:
        self._by_path: dict[bytes, HardLink] = {}
        self._lost: dict[bytes, Ext4Error] = {}

    def add(self, entry: Entry, identity: Identity, size: int) -> HardLink:
        """Note a file that has more names; its own names are noted in what is returned."""
        link = self._by_path[entry.path] = HardLink(entry, identity, size)
        self._lost.pop(entry.path, None)
        return link

    def lose(self, path: bytes, error: Ext4Error) -> None:
        """Note that the file with this first name can't be restored under any name."""
        self._lost[path] = error

    def why_lost(self, entry: Entry) -> Ext4Error | None:
        """The error because of which the file that `entry` is a further name of can't be restored."""
        return self._lost.get(entry.link_target)

    def find(self, entry: Entry) -> HardLink | None:
        """The file that `entry` is a further name of; None if none of its names is there."""
        link = self._by_path.get(entry.link_target)
        return None if link is None or link.names is None else link

    def use(self, entry: Entry, link: HardLink) -> None:
        """A name is linked to the file: after its last name it is forgotten.

        UnsafeArchiveError if it is another file than the archive says.
        """
        check_same_file(entry, link.kind, link.inode)
        link.names_remaining -= 1
        if not link.names_remaining:
            del self._by_path[entry.link_target]


def check_same_file(link: Entry, kind: str, inode: int) -> None:
    """UnsafeArchiveError if a further name is not one of a file of this type and inode number."""
    if (inode, kind) != (link.inode, link.type):
        raise UnsafeArchiveError(
            f"a hard link of a {link.type}, inode {link.inode}, to {decode_path(link.link_target)!r},"
            f" a {kind}, inode {inode}",
            link.shown,
        )
