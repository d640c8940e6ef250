"""How many names the inodes of a tree have, where i_links_count says too few.

Whoever groups the names of a file must know at the first of them whether more will follow. The count
in the inode is only a hint: mke2fs and debugfs have written images where it is 1 and several names
lead to one inode. So the directories are listed once before the tree is read.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import Final

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.structs.inode import S_IFDIR
from ext4img.volume.dir_entry import DirListing
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import Volume
from ext4img.worth_importing_numpy import worth_importing_numpy

_INODES_AT_ONCE: Final = 4096
_SORT_US: Final = 0.15  # of a name, without NumPy
_MODE: Final = StoredInode._fields.index("mode")
_LINKS: Final = StoredInode._fields.index("links")
_DIRECTORY: Final = S_IFDIR >> 12


class NameCounts:
    """Counts the names in directories; each directory is listed once. Damage is left to those who read the tree.

    Four bytes a name are held between `add_tree` and `too_low`, and the numbers of all directories.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._numbers = array("I")  # of the inode of each name
        self._listed: set[int] = set()
        self._added: set[tuple[int, bytes]] = set()

    def add_tree(self, directory: StoredInode) -> None:
        """Count the names in a directory and in all below it."""
        todo = [directory] if directory.number not in self._listed else []
        self._listed.add(directory.number)
        while todo:
            try:
                listing = self._volume.listing(todo.pop())
            except (CorruptionError, SourceError):
                continue
            self._numbers.extend(listing.inodes)
            todo += self._directories(listing)

    def add_name(self, directory: int, name: bytes, inode: int) -> None:
        """Count one name, as stored, in a directory that is not listed itself."""
        if directory not in self._listed and (directory, name) not in self._added:
            self._added.add((directory, name))
            self._numbers.append(inode)

    def too_low(self) -> dict[int, int]:
        """The number of names of every inode, other than a directory, whose link count is lower; noted as problems."""
        found: dict[int, int] = {}
        several_names = iter(self._several())
        while several := list(islice(several_names, _INODES_AT_ONCE)):
            rows = self._volume.inodes.batch([number for number, _ in several])
            for (number, names), fields in zip(several, rows, strict=True):
                inode = self._read(number) if fields is None else fields
                if inode is None or inode[_MODE] >> 12 == _DIRECTORY or inode[_LINKS] >= names:
                    continue
                found[number] = names
                reason = f"a link count of {inode[_LINKS]}, but {names} names lead to the inode"
                self._volume.problems.note(reason, Place(inode=number, record="ext4_inode", field="i_links_count"))
        return found

    def _directories(self, listing: DirListing) -> Iterator[StoredInode]:
        """The directories among the entries that were not listed yet."""
        numbers = [listing.inodes[at] for at in listing.branches()]
        for start in range(0, len(numbers), _INODES_AT_ONCE):
            part = numbers[start : start + _INODES_AT_ONCE]
            for number, fields in zip(part, self._volume.inodes.batch(part), strict=True):
                inode = self._read(number) if fields is None else tuple.__new__(StoredInode, fields)
                if inode is not None and inode.is_dir and number not in self._listed:
                    self._listed.add(number)
                    yield inode

    def _read(self, number: int) -> StoredInode | None:
        try:
            return self._volume.inode(number)
        except (CorruptionError, SourceError, NotFoundError):
            return None

    def _several(self) -> Iterable[tuple[int, int]]:
        """(number, names) of each inode of several names."""
        if worth_importing_numpy(len(self._numbers) * _SORT_US):
            import numpy as np

            numbers = np.array(self._numbers, dtype=np.uint32)
            numbers.sort()
            again = numbers[1:][numbers[1:] == numbers[:-1]]
            several, counts = np.unique(again, return_counts=True)
            return zip(several.tolist(), (counts + 1).tolist(), strict=True)
        again = Counter(number for number, other in pairwise(sorted(self._numbers)) if number == other)
        return ((number, count + 1) for number, count in again.items())
