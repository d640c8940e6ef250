"""Block groups: the blocks and inodes used in each, and the bytes of bitmaps and descriptors."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from ext4img.mkfs.allocator import BlockRange
from ext4img.mkfs.geometry import FIRST_INODE, Geometry
from ext4img.mkfs.inodes import InodeRecords
from ext4img.mkfs.regions import Placement, RegionKind, RegionTable
from ext4img.structs.directory import EXT4_FT_DIR
from ext4img.structs.group import (
    EXT4_BG_BLOCK_UNINIT,
    EXT4_BG_INODE_UNINIT,
    EXT4_BG_INODE_ZEROED,
    EXT4_GROUP_DESC,
    EXT4_GROUP_DESC_HI,
)
from ext4img.volume import checksum
from ext4img.volume.features import RoCompat


class GroupSummary(NamedTuple):
    """The values of a group's descriptor. Bitmaps and table are physical block numbers."""

    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free_blocks: int
    free_inodes: int
    directories: int
    unused_inodes: int  # at the end of the inode table
    flags: int


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """What each group uses: the free ranges of all groups, and the used inodes in the order of their numbers."""

    geometry: Geometry
    free: list[BlockRange]
    inodes_by_number: array[int]  # indexes of inodes
    numbers: array[int]  # their numbers

    def inodes_in(self, group: int) -> Sequence[int]:
        """Positions of a group's inodes in `inodes_by_number`."""
        first = group * self.geometry.inodes_per_group + 1
        return range(
            bisect_left(self.numbers, first), bisect_left(self.numbers, first + self.geometry.inodes_per_group)
        )

    def free_in(self, group: int) -> list[BlockRange]:
        """Free ranges of a group, relative to its first block."""
        start = self.geometry.first_block(group)
        end = start + self.geometry.blocks_in(group)
        position = max(bisect_left(self.free, (start, 0)) - 1, 0)
        ranges = []
        while position < len(self.free) and self.free[position].start < end:
            first = max(self.free[position].start, start)
            last = min(self.free[position].start + self.free[position].length, end)
            if last > first:
                ranges.append(BlockRange(first - start, last - first))
            position += 1
        return ranges

    def block_bitmap(self, group: int) -> bytes:
        """One block: the bits of used blocks are set, and all bits past the group's end."""
        bitmap = bytearray(b"\xff") * self.geometry.block_size
        for start, count in self.free_in(group):
            clear_bits(bitmap, start, count)
        return bytes(bitmap)

    def inode_bitmap(self, group: int) -> bytes:
        """One block: the bits of used and reserved inodes are set, and all bits past the group's inodes."""
        per_group = self.geometry.inodes_per_group
        bitmap = bytearray(b"\xff") * self.geometry.block_size
        clear_bits(bitmap, 0, per_group)
        first = group * per_group + 1
        for number in range(first, min(first + per_group, FIRST_INODE)):
            bitmap[number - first >> 3] |= 1 << (number - first & 7)
        for position in self.inodes_in(group):
            bit = self.numbers[position] - first
            bitmap[bit >> 3] |= 1 << (bit & 7)
        return bytes(bitmap)


def clear_bits(bitmap: bytearray, start: int, count: int) -> None:
    """Clear `count` bits from bit `start` on; the lowest bit of a byte comes first."""
    end = start + count
    first, last = -(-start // 8), end // 8
    if first > last:  # within one byte
        bitmap[last] &= ~((1 << (end & 7)) - (1 << (start & 7))) & 0xFF
        return
    if start & 7:
        bitmap[first - 1] &= (1 << (start & 7)) - 1
    bitmap[first:last] = bytes(last - first)
    if end & 7:
        bitmap[last] &= 0xFF << (end & 7) & 0xFF


def summarise_groups(usage: GroupUsage, inodes: InodeRecords, placement: Placement) -> list[GroupSummary]:
    """The descriptors' values for all groups."""
    geometry = usage.geometry
    per_group = geometry.inodes_per_group
    metadata = _metadata_blocks(placement.regions, geometry)
    last_group = geometry.group_count - 1
    summaries = []
    for group in range(geometry.group_count):
        free_blocks = sum(free.length for free in usage.free_in(group))
        first = group * per_group + 1
        used = usage.inodes_in(group)
        highest = usage.numbers[used[-1]] if used else 0
        reserved = max(0, min(per_group, FIRST_INODE - first))
        among_reserved = sum(usage.numbers[position] < FIRST_INODE for position in used[:FIRST_INODE])
        in_use = len(used) - among_reserved + reserved
        highest = max(highest, first + reserved - 1)
        directories = sum(inodes.types[usage.inodes_by_number[position]] == EXT4_FT_DIR for position in used)
        flags = 0
        unused = 0
        if geometry.group_checksums:
            flags = EXT4_BG_INODE_ZEROED
            unused = per_group - (highest - first + 1)
            if not in_use:
                flags |= EXT4_BG_INODE_UNINIT
            # The kernel makes such a bitmap itself, from the group's metadata alone. Never that of the last
            # group, which has bits set past the end.
            if group != last_group and free_blocks + metadata[group] == geometry.blocks_in(group):
                flags |= EXT4_BG_BLOCK_UNINIT
        summaries.append(
            GroupSummary(
                placement.block_bitmaps[group],
                placement.inode_bitmaps[group],
                placement.inode_tables[group],
                free_blocks,
                per_group - in_use,
                directories,
                unused,
                flags,
            )
        )
    return summaries


def _metadata_blocks(regions: RegionTable, geometry: Geometry) -> list[int]:
    """Blocks that each group's own metadata takes within the group."""
    counts = [0] * geometry.group_count
    for position in range(len(regions)):
        kind = regions.kinds[position]
        if kind > RegionKind.INODE_TABLE:
            break  # group metadata comes first
        owner = regions.owners[position]
        start = regions.pblks[position] - geometry.first_data_block
        group, within = divmod(start, geometry.blocks_per_group)
        if group == owner and within + regions.counts[position] <= geometry.blocks_per_group:
            counts[group] += regions.counts[position]
    return counts


def build_descriptors(usage: GroupUsage, summaries: Iterable[GroupSummary], uuid: UUID, seed: int) -> bytes:
    """The descriptors of all groups, as they follow every copy of the superblock."""
    geometry = usage.geometry
    wide = geometry.descriptor_size > EXT4_GROUP_DESC.size
    crc32c = RoCompat.METADATA_CSUM in geometry.features
    crc16 = RoCompat.GDT_CSUM in geometry.features
    pieces = []
    for group, summary in enumerate(summaries):
        block_crc = inode_crc = 0
        if crc32c:
            if not summary.flags & EXT4_BG_BLOCK_UNINIT:
                block_crc = checksum.bitmap(seed, usage.block_bitmap(group)[: geometry.blocks_per_group // 8])
            if not summary.flags & EXT4_BG_INODE_UNINIT:
                inode_crc = checksum.bitmap(seed, usage.inode_bitmap(group)[: geometry.inodes_per_group // 8])
        raw = _descriptor(summary, block_crc, inode_crc, wide, 0)
        value = 0
        if crc32c:
            value = checksum.group_descriptor(seed, group, raw)
        elif crc16:
            value = checksum.group_descriptor_crc16(uuid, group, raw)
        pieces.append(_descriptor(summary, block_crc, inode_crc, wide, value) if value else raw)
    return b"".join(pieces)


def _descriptor(summary: GroupSummary, block_crc: int, inode_crc: int, wide: bool, value: int) -> bytes:
    low = EXT4_GROUP_DESC.pack(
        (
            summary.block_bitmap & 0xFFFFFFFF,
            summary.inode_bitmap & 0xFFFFFFFF,
            summary.inode_table & 0xFFFFFFFF,
            summary.free_blocks & 0xFFFF,
            summary.free_inodes & 0xFFFF,
            summary.directories & 0xFFFF,
            summary.flags,
            0,
            block_crc & 0xFFFF,
            inode_crc & 0xFFFF,
            summary.unused_inodes & 0xFFFF,
            value,
        )
    )
    if not wide:
        return low
    return low + EXT4_GROUP_DESC_HI.pack(
        (
            summary.block_bitmap >> 32,
            summary.inode_bitmap >> 32,
            summary.inode_table >> 32,
            summary.free_blocks >> 16,
            summary.free_inodes >> 16,
            summary.directories >> 16,
            summary.unused_inodes >> 16,
            0,
            block_crc >> 16,
            inode_crc >> 16,
            0,
        )
    )
