"""The files with several names: where the first name was restored, so that others can be linked to it."""

from __future__ import annotations

from ext4img.archive.entry import Entry
from ext4img.errors import UnsafeArchiveError
from ext4img.hostfs.safe_dir import Identity
from ext4img.names.paths import decode_path


class HardLink:
    """A restored file that has names to come: where it is below the target, and which file it is."""

    __slots__ = ("identity", "inode", "is_lost", "kind", "names", "names_remaining")

    def __init__(self, entry: Entry, names: tuple[bytes, ...], identity: Identity) -> None:
        self.names = names
        self.identity = identity
        self.kind = entry.type
        self.inode = entry.inode
        self.names_remaining = entry.links - 1
        self.is_lost = False
        """Whether the first name could not be made after all, so that nothing can be linked to it."""


class HardLinks:
    """Files whose first name was restored, by its path in the archive."""

    def __init__(self) -> None:
        self._by_path: dict[bytes, HardLink] = {}

    def add(self, entry: Entry, names: tuple[bytes, ...], identity: Identity) -> HardLink:
        """Note the first name of a file that has more."""
        link = self._by_path[entry.path] = HardLink(entry, names, identity)
        return link

    def find(self, entry: Entry) -> HardLink | None:
        """The file that `entry` is a further name of; None if its first name was not restored."""
        link = self._by_path.get(entry.link_target)
        return None if link is None or link.is_lost else link

    def use(self, entry: Entry) -> HardLink | None:
        """The same, to link `entry` to it: after its last name the file is forgotten.

        UnsafeArchiveError if it is another file than the archive says.
        """
        link = self.find(entry)
        if link is None:
            return None
        check_same_file(entry, link.kind, link.inode)
        link.names_remaining -= 1
        if not link.names_remaining:
            del self._by_path[entry.link_target]
        return link


def check_same_file(link: Entry, kind: str, inode: int) -> None:
    """UnsafeArchiveError if a further name is not one of a file of this type and inode number."""
    if (inode, kind) != (link.inode, link.type):
        raise UnsafeArchiveError(
            f"a hard link of a {link.type}, inode {link.inode}, to {decode_path(link.link_target)!r},"
            f" a {kind}, inode {inode}",
            link.shown,
        )
