"""The check of the tree: every name leads to an inode in use, every inode has its names, there are no loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ext4img.errors import CorruptionError, Ext4Error, Place
from ext4img.structs.directory import EXT4_DIR_ENTRY, EXT4_TYPE_BY_MODE
from ext4img.structs.inode import EXT4_INODE, EXT4_ROOT_INO, S_IFDIR, S_IFMT
from ext4img.volume.check.directories import NameReferences
from ext4img.volume.check.inodes import InodeColumns
from ext4img.volume.features import RoCompat
from ext4img.volume.volume import Volume

if TYPE_CHECKING:
    import numpy

MAX_NAMED = 200  # problems for which the directory is read again, to show the name


class LinkChecker:
    """Compares all names of the volume with all its inodes."""

    def __init__(self, volume: Volume, tables: InodeColumns, references: NameReferences) -> None:
        import numpy

        self._volume = volume
        self._tables = tables
        self._references = references
        self._named = 0
        self._numbers: numpy.ndarray[Any, Any] = numpy.array(tables.numbers, numpy.int64)
        self._modes: numpy.ndarray[Any, Any] = numpy.array(tables.modes, numpy.int64)
        self._children: numpy.ndarray[Any, Any] = numpy.array(references.children, numpy.int64)
        self._parents: numpy.ndarray[Any, Any] = numpy.array(references.parents, numpy.int64)
        self._types: numpy.ndarray[Any, Any] = numpy.array(references.types, numpy.int64)

    def check(self) -> None:
        """Check everything; problems are added to the volume's."""
        import numpy

        if not len(self._numbers):
            return
        where = numpy.searchsorted(self._numbers, self._children).clip(0, len(self._numbers) - 1)
        in_use = self._numbers[where] == self._children
        for index in numpy.flatnonzero(~in_use).tolist():
            self._entry(index, "names inode {child}, which is not in use")
        values = numpy.array(list(self._tables.value_inodes), numpy.int64)
        for index in numpy.flatnonzero(numpy.isin(self._children, values)).tolist():
            self._entry(index, "names inode {child}, which holds an attribute's value")
        self._check_types(where, in_use)
        is_directory = in_use & ((self._modes[where] & S_IFMT) == S_IFDIR)
        self._check_links(where, in_use, is_directory)
        self._check_parents(is_directory)

    def _check_types(self, where: numpy.ndarray[Any, Any], in_use: numpy.ndarray[Any, Any]) -> None:
        import numpy

        type_of = numpy.zeros(16, numpy.int64)
        for mode, kind in EXT4_TYPE_BY_MODE.items():
            type_of[mode >> 12] = kind
        expected = type_of[(self._modes[where] & S_IFMT) >> 12]
        for index in numpy.flatnonzero(in_use & (self._types != 0) & (self._types != expected)).tolist():
            self._entry(index, f"has type {int(self._types[index])}, inode {{child}} has {int(expected[index])}")

    def _check_links(
        self,
        where: numpy.ndarray[Any, Any],
        in_use: numpy.ndarray[Any, Any],
        is_directory: numpy.ndarray[Any, Any],
    ) -> None:
        import numpy

        superblock = self._volume.superblock
        named = numpy.bincount(where[in_use], minlength=len(self._numbers))
        at_parent = numpy.searchsorted(self._numbers, self._parents[is_directory])
        subdirectories = numpy.bincount(at_parent, minlength=len(self._numbers))
        directories = (self._modes & S_IFMT) == S_IFDIR
        counted = numpy.where(directories, 2 + subdirectories, named)
        links = numpy.array(self._tables.links, numpy.int64)
        wrong = counted != links
        if RoCompat.DIR_NLINK in superblock.features:
            wrong &= ~(directories & (links == 1) & (counted > 2))
        special = self._special()
        nameless = named == 0
        for index in numpy.flatnonzero(wrong | nameless).tolist():
            number = int(self._numbers[index])
            if number in special or (number < superblock.first_inode and number != EXT4_ROOT_INO):
                continue
            if nameless[index] and number != EXT4_ROOT_INO:
                self._inode(number, "in use, but no directory names it", None)
            elif wrong[index]:
                self._inode(number, f"i_links_count is {links[index]}, but it has {counted[index]}", "i_links_count")

    def _special(self) -> set[int]:
        """The inodes that need no name."""
        superblock = self._volume.superblock
        own = (superblock.journal_inode, superblock.orphan_file_inode, *superblock.quota_inodes)
        return {*own, *self._tables.value_inodes}

    def _check_parents(self, is_directory: numpy.ndarray[Any, Any]) -> None:
        """Check that each directory has one parent, that its ".." names that, and that the root leads to it."""
        parent_of: dict[int, int] = {}
        directories = set(self._tables.directories)
        for child, parent in zip(
            self._children[is_directory].tolist(), self._parents[is_directory].tolist(), strict=True
        ):
            if child == EXT4_ROOT_INO:
                self._inode(child, f"the root directory has a name in directory {parent}", None)
            elif child in parent_of:
                self._inode(child, f"directory with two parents, {parent_of[child]} and {parent}", None)
            else:
                parent_of[child] = parent
        if EXT4_ROOT_INO not in directories:
            self._inode(EXT4_ROOT_INO, "the root is not a directory in use", "i_mode")
        parent_of[EXT4_ROOT_INO] = EXT4_ROOT_INO
        for child, dotdot in self._references.dotdots.items():
            parent = parent_of.get(child)
            if parent is not None and dotdot != parent:
                self._inode(child, f"its '..' names inode {dotdot}, its parent is {parent}", None)
        reached = {EXT4_ROOT_INO}
        for start in parent_of:
            trail: list[int] = []
            on_trail: set[int] = set()
            number = start
            while number not in reached and number not in on_trail:
                trail.append(number)
                on_trail.add(number)
                if number not in parent_of:
                    break
                number = parent_of[number]
            if number in on_trail and number in parent_of:
                self._inode(number, "directory in a loop that is not below the root", None)
            reached.update(trail)

    def _entry(self, index: int, reason: str) -> None:
        child, parent = int(self._children[index]), int(self._parents[index])
        text = f"directory: entry{self._name_of(parent, child)} {reason.format(child=child)}"
        place = Place(inode=parent, record=EXT4_DIR_ENTRY.name, field="inode")
        self._volume.problems.found(CorruptionError(text, place))

    def _name_of(self, parent: int, child: int) -> str:
        """The name, for a problem's text. Only so many directories are read again for it."""
        self._named += 1
        if self._named > MAX_NAMED:
            return ""
        try:
            entries = self._volume.directory(self._volume.inode(parent))
        except Ext4Error:
            return ""  # the text does without a name: the damage there has been reported
        return next((f" {entry.name!r}" for entry in entries if entry.inode == child), "")

    def _inode(self, number: int, reason: str, name: str | None) -> None:
        place = Place(inode=number, record=EXT4_INODE.name if name else None, field=name)
        self._volume.problems.found(CorruptionError(reason, place))
