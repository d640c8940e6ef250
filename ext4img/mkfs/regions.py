"""The regions of the new image: which blocks hold which group metadata or contents."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from ext4img.mkfs.allocator import BlockRange
from ext4img.mkfs.extents import DiskRun


class RegionKind(IntEnum):
    """The contents of a region. The first four belong to a group, the others to an inode (by index)."""

    HEAD = 0  # superblock, descriptors, and room reserved for descriptors
    BLOCK_BITMAP = 1
    INODE_BITMAP = 2
    INODE_TABLE = 3
    JOURNAL = 4
    RESIZE_MAP = 5  # the double indirect block of the resize inode
    DIRECTORY = 6
    FILE = 7
    UNWRITTEN = 8
    VALUE = 9  # of ea_inodes and long symlinks: contents that are already known
    EXTENT_TREE = 10
    XATTR_BLOCK = 11
    ORPHAN_FILE = 12


_KINDS: Final = tuple(RegionKind)


class Region(NamedTuple):
    """`length` blocks from `pblk` on hold `kind` of `owner`, from its logical block `lblk` on."""

    kind: RegionKind
    owner: int
    lblk: int
    pblk: int
    length: int


class RegionTable:
    """All regions of a file system, as columns."""

    def __init__(self) -> None:
        self.kinds = bytearray()
        self.owners = array("I")
        self.lblks = array("I")
        self.pblks = array("Q")
        self.counts = array("I")

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, position: int) -> Region:
        return Region(
            _KINDS[self.kinds[position]],
            self.owners[position],
            self.lblks[position],
            self.pblks[position],
            self.counts[position],
        )

    def add(self, kind: RegionKind, owner: int, lblk: int, pblk: int, count: int) -> None:
        """Append a region."""
        self.kinds.append(kind)
        self.owners.append(owner)
        self.lblks.append(lblk)
        self.pblks.append(pblk)
        self.counts.append(count)

    def in_order(self) -> Iterator[Region]:
        """All regions in the order of the disk."""
        for position in sorted(range(len(self)), key=self.pblks.__getitem__):
            yield self[position]


class Placement:
    """The place of everything: all regions, those of each inode, and the free blocks."""

    def __init__(self, inodes: int, groups: int) -> None:
        self.regions = RegionTable()
        self.first_region = array("I", bytes(4 * inodes))  # of an inode's contents and extent tree
        self.region_count = array("I", bytes(4 * inodes))
        self.block_bitmaps = array("Q", bytes(8 * groups))
        self.inode_bitmaps = array("Q", bytes(8 * groups))
        self.inode_tables = array("Q", bytes(8 * groups))
        self.free: list[BlockRange] = []

    def regions_of(self, index: int) -> list[Region]:
        """Contents and extent tree of an inode."""
        first = self.first_region[index]
        return [self.regions[position] for position in range(first, first + self.region_count[index])]

    def runs_of(self, index: int) -> list[DiskRun]:
        """Contents of an inode, by logical block."""
        return [
            DiskRun(region.lblk, region.pblk, region.length, region.kind == RegionKind.UNWRITTEN)
            for region in self.regions_of(index)
            if region.kind != RegionKind.EXTENT_TREE
        ]

    def tree_of(self, index: int) -> list[int]:
        """Blocks of an inode's extent tree, leaves first."""
        return [
            pblk
            for region in self.regions_of(index)
            if region.kind == RegionKind.EXTENT_TREE
            for pblk in range(region.pblk, region.pblk + region.length)
        ]
