"""Block groups: where their descriptors are, and their contents.

Descriptors are read block by block on demand, so a superblock that claims millions of groups costs
nothing. Kernel: descriptor_loc and ext4_group_desc_csum (fs/ext4/super.c).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from ext4img.errors import ChecksumError, CorruptionError, Place, SourceError
from ext4img.structs.group import (
    EXT4_BG_BLOCK_UNINIT,
    EXT4_BG_INODE_UNINIT,
    EXT4_GROUP_DESC,
    EXT4_GROUP_DESC_HI,
)
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.features import Incompat, RoCompat
from ext4img.volume.problems import Problems
from ext4img.volume.sparse_super import sparse_groups
from ext4img.volume.superblock import Superblock

MAX_LOST_GROUPS = 1000


class Group(NamedTuple):
    """One block group. Places are physical block numbers."""

    number: int
    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free_blocks: int  # clusters, with bigalloc
    free_inodes: int
    directories: int
    unused_inodes: int  # at the end of its inode table, never written
    inodes_uninitialised: bool
    blocks_uninitialised: bool
    block_bitmap_checksum: int
    inode_bitmap_checksum: int
    is_backup: bool = False  # from a copy: only the three block numbers are up to date there


class Groups:
    """The group descriptors of a volume, by group number."""

    def __init__(self, superblock: Superblock, blocks: BlockReader, seed: int, problems: Problems) -> None:
        self._superblock = superblock
        self._blocks = blocks
        self._seed = seed
        self._problems = problems
        self._per_block = superblock.block_size // superblock.descriptor_size
        self._known: dict[int, Group] = {}
        self._lost: dict[int, CorruptionError | SourceError] = {}
        self.table_blocks = -(-superblock.inodes_per_group * superblock.inode_size // superblock.block_size)

    def __len__(self) -> int:
        return self._superblock.group_count

    def __getitem__(self, number: int) -> Group:
        group = self._known.get(number)
        if group is None:
            if not 0 <= number < self._superblock.group_count:
                raise CorruptionError(f"group {number} of {self._superblock.group_count}", Place())
            if number in self._lost:
                raise self._lost[number]
            try:
                group = self._known[number] = self._read(number)
            except (CorruptionError, SourceError) as error:
                self._lost[number] = error
                raise
        return group

    def readable(self) -> range:
        """Numbers of the groups whose descriptors the image contains; all groups, unless it is cut short.

        Loops over all groups use this, because the count in the superblock can be any number.
        """
        there = self._blocks.blocks_there
        index = bisect_left(range(self._superblock.descriptor_blocks), there, key=self.descriptor_block)
        return range(min(index * self._per_block, self._superblock.group_count))

    def block_of(self, number: int) -> int:
        """Physical block of a group's (primary) descriptor."""
        return self.descriptor_block(number // self._per_block)

    def descriptor_block(self, index: int, copy: int = 0) -> int:
        """Physical block of the `index`-th block of descriptors; `copy` 0 is the primary.

        Any other `copy` is the number of a group that holds a backup of superblock and descriptors;
        with meta_bg, 1 and 2 are the second and third copy within the meta group.
        """
        superblock = self._superblock
        meta = Incompat.META_BG in superblock.features and index >= superblock.first_meta_group
        if not meta:
            if copy:
                return superblock.group_first_block(copy) + 1 + index
            return (1 if superblock.block_size == 1024 else 0) + 1 + index
        first = index * self._per_block
        group = first + (0, 1, self._per_block - 1)[min(copy, 2)]
        block = superblock.group_first_block(group) + superblock.group_has_superblock(group)
        if index == 0 and not copy and superblock.block_size == 1024 and superblock.first_data_block == 0:
            block += 1  # bigalloc with 1 KiB blocks: the superblock is in block 1
        return block

    def _read(self, number: int) -> Group:
        index, within = divmod(number, self._per_block)
        primary = self.descriptor_block(index)
        try:
            return self._parse(number, primary, within, self._problems.verify)
        except (CorruptionError, SourceError) as error:
            self._problems.unreadable(error, Place(block=primary, record=EXT4_GROUP_DESC.name))
            return self._from_backup(number, index, within, error)

    def _from_backup(self, number: int, index: int, within: int, error: CorruptionError | SourceError) -> Group:
        """The first backup with a sound descriptor; else the primary as it is, if its values are possible."""
        # If so many are lost without a copy, this is not a table of descriptors at all.
        for copy in self._backups(index) if len(self._lost) < MAX_LOST_GROUPS else ():
            block = self.descriptor_block(index, copy)
            try:
                group = self._parse(number, block, within, True)
            except (CorruptionError, SourceError):
                continue  # the primary's error has been reported; another copy may be sound
            place = error.place if isinstance(error, CorruptionError) else Place(record=EXT4_GROUP_DESC.name)
            self._problems.note(f"descriptor of group {number} is read from its copy in block {block}", place)
            # The kernel updates copies when a volume is resized, not when it uses a group.
            return group._replace(
                unused_inodes=0, inodes_uninitialised=False, blocks_uninitialised=False, is_backup=True
            )
        try:
            group = self._parse(number, self.descriptor_block(index), within, False)
        except (CorruptionError, SourceError):
            found = self._searched(number)
            if found is None:
                raise
            return found
        found = self._searched(number)
        return group if found is None or found.inode_table == group.inode_table else found

    def _searched(self, number: int) -> Group | None:
        """Group 0 with the inode table in which the root's inode is found.

        For small volumes, which have one group and no copy of its descriptor.
        """
        if number or self._problems.checks != "report":
            return None
        from ext4img.volume.salvage.inode_table import find_first_inode_table

        table = find_first_inode_table(self._superblock, self._blocks, self._seed)
        if table is None:
            return None
        self._problems.note(f"the inode table of group 0 is in block {table}: the root's inode was found there")
        nothing = Group(0, 0, 0, 0, 0, 0, 0, 0, False, False, 0, 0, is_backup=True)
        return nothing._replace(inode_table=table)

    def _backups(self, index: int) -> list[int]:
        superblock = self._superblock
        if Incompat.META_BG in superblock.features and index >= superblock.first_meta_group:
            first = index * self._per_block
            return [copy for copy, group in ((1, first + 1), (2, first + self._per_block - 1)) if group < len(self)]
        sparse = (group for group in _backup_candidates(superblock) if group < len(self))
        return [group for group in sparse if superblock.group_has_superblock(group)]

    def _parse(self, number: int, block: int, within: int, verify: bool) -> Group:
        superblock = self._superblock
        size = superblock.descriptor_size
        place = Place(block=block, offset=block * superblock.block_size + within * size, record=EXT4_GROUP_DESC.name)
        data = self._blocks.read(block)
        raw = data[within * size : (within + 1) * size]
        low = EXT4_GROUP_DESC.unpack(raw, 0, place)
        if verify:
            self._verify(number, raw, low.bg_checksum, place)
        block_bitmap, inode_bitmap, inode_table = low.bg_block_bitmap_lo, low.bg_inode_bitmap_lo, low.bg_inode_table_lo
        free_blocks, free_inodes = low.bg_free_blocks_count_lo, low.bg_free_inodes_count_lo
        directories, unused = low.bg_used_dirs_count_lo, low.bg_itable_unused_lo
        block_checksum, inode_checksum = low.bg_block_bitmap_csum_lo, low.bg_inode_bitmap_csum_lo
        if size >= EXT4_GROUP_DESC.size + EXT4_GROUP_DESC_HI.size:
            high = EXT4_GROUP_DESC_HI.unpack(raw, EXT4_GROUP_DESC.size, place)
            block_bitmap |= high.bg_block_bitmap_hi << 32
            inode_bitmap |= high.bg_inode_bitmap_hi << 32
            inode_table |= high.bg_inode_table_hi << 32
            free_blocks |= high.bg_free_blocks_count_hi << 16
            free_inodes |= high.bg_free_inodes_count_hi << 16
            directories |= high.bg_used_dirs_count_hi << 16
            unused |= high.bg_itable_unused_hi << 16
            block_checksum |= high.bg_block_bitmap_csum_hi << 16
            inode_checksum |= high.bg_inode_bitmap_csum_hi << 16
        end = superblock.block_count
        if inode_table < superblock.first_data_block + 1 or inode_table + self.table_blocks > end:
            raise CorruptionError(
                f"inode table of group {number} at block {inode_table} lies outside the volume's {end} blocks",
                Place(block=block, offset=place.offset, record=EXT4_GROUP_DESC.name, field="bg_inode_table_lo"),
            )
        if verify:
            for field, place_of in (("bg_block_bitmap_lo", block_bitmap), ("bg_inode_bitmap_lo", inode_bitmap)):
                if not superblock.first_data_block < place_of < end:
                    raise CorruptionError(
                        f"bitmap of group {number} at block {place_of} lies outside the volume's {end} blocks",
                        Place(block=block, offset=place.offset, record=EXT4_GROUP_DESC.name, field=field),
                    )
            if Incompat.FLEX_BG not in superblock.features:
                self._check_in_group(number, (block_bitmap, inode_bitmap, inode_table), place)
        uninit = RoCompat.GDT_CSUM in superblock.features or superblock.has_metadata_checksums
        flags = low.bg_flags if uninit else 0
        return Group(
            number=number,
            block_bitmap=block_bitmap,
            inode_bitmap=inode_bitmap,
            inode_table=inode_table,
            free_blocks=free_blocks,
            free_inodes=free_inodes,
            directories=directories,
            unused_inodes=min(unused, superblock.inodes_per_group) if uninit else 0,
            inodes_uninitialised=bool(flags & EXT4_BG_INODE_UNINIT),
            blocks_uninitialised=bool(flags & EXT4_BG_BLOCK_UNINIT),
            block_bitmap_checksum=block_checksum,
            inode_bitmap_checksum=inode_checksum,
        )

    def _check_in_group(self, number: int, blocks: tuple[int, int, int], place: Place) -> None:
        """CorruptionError for a bitmap or table outside its group, without flex_bg (ext4_check_descriptors)."""
        first = self._superblock.group_first_block(number)
        end = self._superblock.block_count
        if number + 1 < self._superblock.group_count:
            end = first + self._superblock.blocks_per_group
        for block in blocks:
            if not first <= block < end:
                what = f"bitmap or inode table of group {number} at block {block} is in another group"
                raise CorruptionError(f"{what}, without the flex_bg feature", place)

    def _verify(self, number: int, raw: bytes, stored: int, place: Place) -> None:
        superblock = self._superblock
        if superblock.has_metadata_checksums:
            computed = checksum.group_descriptor(self._seed, number, raw)
        elif RoCompat.GDT_CSUM in superblock.features:
            computed = checksum.group_descriptor_crc16(superblock.uuid, number, raw)
        else:
            return
        if computed != stored:
            raise ChecksumError(f"descriptor of group {number}: checksum is {stored:#x}, computed {computed:#x}", place)


def _backup_candidates(superblock: Superblock) -> list[int]:
    """The groups that may hold backups, nearest first: with sparse_super all of them, else some."""
    return sorted({*sparse_groups(superblock.group_count), *superblock.backup_groups} - {0})
