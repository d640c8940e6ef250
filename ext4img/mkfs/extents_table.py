"""What stands where: a table of areas, group metadata and contents alike."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from ext4img.mkfs.allocator import Piece
from ext4img.mkfs.extents import Run


class Kind(IntEnum):
    """What an area holds. The owner of the first four is a group, of the others an inode's index."""

    HEAD = 0  # superblock, descriptors, and room reserved for descriptors
    BLOCK_BITMAP = 1
    INODE_BITMAP = 2
    INODE_TABLE = 3
    JOURNAL = 4
    RESIZE_MAP = 5  # the double indirect block of the resize inode
    DIRECTORY = 6
    FILE = 7
    UNWRITTEN = 8
    VALUE = 9  # contents that are known: of ea_inodes and long symlinks
    EXTENT_TREE = 10
    XATTR_BLOCK = 11
    ORPHAN_FILE = 12


_KINDS: Final = tuple(Kind)


class Area(NamedTuple):
    """`length` blocks from `pblk` on hold `kind` of `owner`, from its block `lblk` on."""

    kind: Kind
    owner: int
    lblk: int
    pblk: int
    length: int


class Areas:
    """All areas of a file system, as columns."""

    def __init__(self) -> None:
        self.kinds = bytearray()
        self.owners = array("I")
        self.lblks = array("I")
        self.pblks = array("Q")
        self.counts = array("I")

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, position: int) -> Area:
        return Area(
            _KINDS[self.kinds[position]],
            self.owners[position],
            self.lblks[position],
            self.pblks[position],
            self.counts[position],
        )

    def add(self, kind: Kind, owner: int, lblk: int, pblk: int, count: int) -> None:
        """Append an area."""
        self.kinds.append(kind)
        self.owners.append(owner)
        self.lblks.append(lblk)
        self.pblks.append(pblk)
        self.counts.append(count)

    def in_order(self) -> Iterator[Area]:
        """By place on the disk."""
        for position in sorted(range(len(self)), key=self.pblks.__getitem__):
            yield self[position]


class Places:
    """Where everything is: the areas, which of them are an inode's, and what is left."""

    def __init__(self, inodes: int, groups: int) -> None:
        self.areas = Areas()
        self.first_area = array("I", bytes(4 * inodes))  # of an inode's contents and extent tree
        self.area_count = array("I", bytes(4 * inodes))
        self.block_bitmaps = array("Q", bytes(8 * groups))
        self.inode_bitmaps = array("Q", bytes(8 * groups))
        self.inode_tables = array("Q", bytes(8 * groups))
        self.free: list[Piece] = []

    def areas_of(self, index: int) -> list[Area]:
        """Contents and extent tree of an inode."""
        first = self.first_area[index]
        return [self.areas[position] for position in range(first, first + self.area_count[index])]

    def runs_of(self, index: int) -> list[Run]:
        """Contents of an inode, by logical block."""
        return [
            Run(area.lblk, area.pblk, area.length, area.kind == Kind.UNWRITTEN)
            for area in self.areas_of(index)
            if area.kind != Kind.EXTENT_TREE
        ]

    def tree_of(self, index: int) -> list[int]:
        """Blocks of an inode's extent tree, leaves first."""
        return [
            pblk
            for area in self.areas_of(index)
            if area.kind == Kind.EXTENT_TREE
            for pblk in range(area.pblk, area.pblk + area.length)
        ]
