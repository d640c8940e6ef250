"""Placing group metadata and contents on the disk, in the order of the nodes."""

from __future__ import annotations

from ext4img.errors import BuildError
from ext4img.mkfs.allocator import Allocator, BlockRange
from ext4img.mkfs.extents import (
    DiskRun,
    build_root,
    extent_count,
    one_extent_root,
    tree_blocks,
)
from ext4img.mkfs.file_runs import LogicalRun
from ext4img.mkfs.geometry import Geometry
from ext4img.mkfs.regions import Placement, RegionKind
from ext4img.mkfs.reserved_inodes import ReservedInodes, resize_blocks, resize_i_block
from ext4img.mkfs.tree import NodeTree
from ext4img.structs.directory import EXT4_FT_DIR
from ext4img.structs.extent import EXT_INIT_MAX_LEN, EXT_UNWRITTEN_MAX_LEN
from ext4img.structs.inode import SECTOR_SIZE
from ext4img.volume.extent_tree import EMPTY_ROOT, EXTENTS_IN_INODE


def blocks_needed(tree: NodeTree, block_size: int) -> int:
    """Blocks that contents, extent trees and attributes take, if no run is split."""
    total = sum(tree.blocks) + len(tree.xattr_blocks)
    for index, runs in tree.runs.items():
        total += sum(run.length for run in runs)
        total += sum(tree_blocks(_extents(tree, index), block_size))
    longest = 4 * 32768
    for index, blocks in enumerate(tree.blocks):
        if blocks > longest:
            total += sum(tree_blocks(_extents(tree, index), block_size))
    return total


def _extents(tree: NodeTree, index: int) -> int:
    return extent_count([DiskRun(run.lblk, 0, run.length, run.unwritten) for run in tree.logical_runs(index)])


def place_blocks(tree: NodeTree, geometry: Geometry, reserved: ReservedInodes) -> Placement:
    """Find room for everything, and fill i_block and i_blocks of all inodes.

    Each flex group begins with its metadata. The rest goes into the free space in this order: the
    reserved inodes, all directories, then inode by inode in the order of the nodes. BuildError if
    the file system is too small.
    """
    placer = _BlockPlacer(tree, geometry)
    placer.place_groups()
    if reserved.resize is not None:
        placer.place_resize_map(reserved.resize)
    if reserved.journal is not None:
        placer.place_contents(reserved.journal, RegionKind.JOURNAL)
    if reserved.orphans is not None:
        placer.place_contents(reserved.orphans, RegionKind.ORPHAN_FILE)
    for directory in tree.directories:
        placer.place_contents(directory.index, RegionKind.DIRECTORY)
    types = tree.inodes.types
    values = tree.values
    for index in range(len(tree.inodes)):
        if index in reserved:
            continue
        if types[index] != EXT4_FT_DIR:
            placer.place_contents(index, RegionKind.VALUE if index in values else RegionKind.FILE)
        if index in tree.xattr_block_of:
            placer.place_xattrs(index)
    placer.placement.free = placer.allocator.left()
    return placer.placement


class _BlockPlacer:
    def __init__(self, tree: NodeTree, geometry: Geometry) -> None:
        self._tree = tree
        self._geometry = geometry
        self.placement = Placement(len(tree.inodes), geometry.group_count)
        self._regions = self.placement.regions
        self._sectors_per_block = geometry.block_size // SECTOR_SIZE
        self.allocator = Allocator([])

    def place_groups(self) -> None:
        """Place superblocks and descriptors where they must be, bitmaps and tables first in each flex group."""
        geometry = self._geometry
        free: list[BlockRange] = []
        unplaced: list[int] = []
        for first in range(0, geometry.group_count, geometry.groups_per_flex):
            groups = range(first, min(first + geometry.groups_per_flex, geometry.group_count))
            room = self._heads(groups)
            unplaced += self._tables(groups, room)
            free += room
        # The last flex group may be too short for its tables.
        if unplaced and (geometry.groups_per_flex == 1 or self._tables(unplaced, free)):
            raise BuildError("the inode tables do not fit: fewer inodes or a larger size are needed")
        self.allocator = Allocator(_merged_ranges(free))

    def _heads(self, groups: range) -> list[BlockRange]:
        """Place the heads of groups, and return the free ranges behind them."""
        geometry = self._geometry
        room: list[BlockRange] = []
        for group in groups:
            start, count = geometry.first_block(group), geometry.blocks_in(group)
            head = geometry.head_blocks(group)
            if head:
                self._regions.add(RegionKind.HEAD, group, 0, start, head)
            room.append(BlockRange(start + head, count - head))
        return _merged_ranges(room)

    def _tables(self, groups: range | list[int], room: list[BlockRange]) -> list[int]:
        """Place bitmaps and inode tables of groups at the front of `room`. Returns the groups that do not fit."""
        placement = self.placement
        missed: set[int] = set()
        for kind, column, count in (
            (RegionKind.BLOCK_BITMAP, placement.block_bitmaps, 1),
            (RegionKind.INODE_BITMAP, placement.inode_bitmaps, 1),
            (RegionKind.INODE_TABLE, placement.inode_tables, self._geometry.table_blocks),
        ):
            for group in groups:
                if column[group]:
                    continue
                pblk = _take_first(room, count)
                if pblk is None:
                    missed.add(group)
                    continue
                column[group] = pblk
                self._regions.add(kind, group, 0, pblk, count)
        return sorted(missed)

    def place_resize_map(self, index: int) -> None:
        """Place the block that maps the reserved descriptor blocks for the resize inode."""
        [block] = self.allocator.take(1)
        self._start(index)
        self._regions.add(RegionKind.RESIZE_MAP, index, 0, block.start, 1)
        self.placement.region_count[index] = 1
        self._tree.inodes.set_i_block(index, resize_i_block(block.start))
        self._count(index, resize_blocks(self._geometry))

    def place_contents(self, index: int, kind: RegionKind) -> None:
        """Place an inode's contents, and the extent tree that they need."""
        tree = self._tree
        inodes = tree.inodes
        blocks = tree.blocks[index]
        if 0 < blocks <= EXT_INIT_MAX_LEN:
            start = self.allocator.take_whole(blocks)
            if start is not None:  # the usual case: one extent
                self._start(index)
                self._regions.add(kind, index, 0, start, blocks)
                self.placement.region_count[index] = 1
                inodes.set_i_block(index, one_extent_root(start, blocks))
                self._count(index, blocks)
                return
        runs = tree.logical_runs(index)
        if not runs:
            if inodes.has_extents(index):
                inodes.set_i_block(index, EMPTY_ROOT)
            self._count(index, 0)
            return
        regions = self._regions
        first = len(regions)
        self._start(index)
        blocks = runs[0].length if len(runs) == 1 else sum(run.length for run in runs)
        pieces = self.allocator.take(blocks)
        physical = _spread(runs, pieces)
        for lblk, pblk, count, unwritten in physical:
            regions.add(RegionKind.UNWRITTEN if unwritten else kind, index, lblk, pblk, count)
        block_size = self._geometry.block_size
        need = 0
        if blocks > EXT_UNWRITTEN_MAX_LEN or len(physical) > EXTENTS_IN_INODE:
            need = sum(tree_blocks(extent_count(physical), block_size))
        tree_pblks: list[int] = []
        if need:
            at = 0
            for piece in self.allocator.take(need):
                regions.add(RegionKind.EXTENT_TREE, index, at, piece.start, piece.length)
                tree_pblks += range(piece.start, piece.start + piece.length)
                at += piece.length
        self.placement.region_count[index] = len(regions) - first
        inodes.set_i_block(index, build_root(physical, tree_pblks, block_size))
        self._count(index, blocks + need)

    def place_xattrs(self, index: int) -> None:
        """Place an inode's block of attributes, unless another inode that shares it did."""
        tree = self._tree
        inodes = tree.inodes
        shared = tree.xattr_blocks[tree.xattr_block_of[index]]
        if not shared.pblk:
            [block] = self.allocator.take(1)
            shared.pblk = block.start
            self._regions.add(RegionKind.XATTR_BLOCK, index, 0, block.start, 1)
        inodes.put(index, "i_file_acl_lo", shared.pblk & 0xFFFFFFFF)
        inodes.put(index, "l_i_file_acl_high", shared.pblk >> 32)

    def _start(self, index: int) -> None:
        self.placement.first_region[index] = len(self._regions)

    def _count(self, index: int, blocks: int) -> None:
        """Fill i_blocks: contents, their tree and the attributes, including ea_inodes.

        48 bits are enough: 2^32 blocks of 64 KiB are 2^39 sectors.
        """
        tree = self._tree
        blocks += tree.value_blocks.get(index, 0) + (index in tree.xattr_block_of)
        if blocks:
            sectors = blocks * self._sectors_per_block
            tree.inodes.put(index, "i_blocks_lo", sectors & 0xFFFFFFFF)
            if sectors >> 32:
                tree.inodes.put(index, "l_i_blocks_high", sectors >> 32)


def _merged_ranges(pieces: list[BlockRange]) -> list[BlockRange]:
    """The same ranges, sorted, adjacent ones merged."""
    joined: list[BlockRange] = []
    for piece in sorted(pieces):
        if not piece.length:
            continue
        if joined and joined[-1].start + joined[-1].length == piece.start:
            joined[-1] = BlockRange(joined[-1].start, joined[-1].length + piece.length)
        else:
            joined.append(piece)
    return joined


def _take_first(room: list[BlockRange], count: int) -> int | None:
    """Cut `count` blocks from the first range that has them. Returns the first block."""
    for position, (start, size) in enumerate(room):
        if size >= count:
            room[position] = BlockRange(start + count, size - count)
            return start
    return None


def _spread(logical: tuple[LogicalRun, ...], pieces: list[BlockRange]) -> list[DiskRun]:
    """Distribute logical runs over ranges of the disk, in order."""
    if len(logical) == len(pieces) == 1:
        return [DiskRun(logical[0].lblk, pieces[0].start, logical[0].length, logical[0].unwritten)]
    runs: list[DiskRun] = []
    rest = iter(pieces)
    start, left = 0, 0
    for run in logical:
        done = 0
        while done < run.length:
            if not left:
                start, left = next(rest)
            part = min(run.length - done, left)
            runs.append(DiskRun(run.lblk + done, start, part, run.unwritten))
            done += part
            start += part
            left -= part
    return runs
