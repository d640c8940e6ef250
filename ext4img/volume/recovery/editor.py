"""Changing inodes and blocks in a draft of the overlay, checksums included.

The kernel recovers fast commits and orphans by rewriting inodes, extent trees and directories on
disk. Here the same changes go to a `Draft`, so that later readers find ordinary blocks. Bitmaps and
free counts do not change, because no reader needs them. The exception is the field of a group
descriptor that says how much of an inode table is in use.
"""

from __future__ import annotations

from collections.abc import Sequence

from ext4img.errors import ChecksumError, CorruptionError, NotFoundError, Place
from ext4img.sources.base import Source
from ext4img.structs.group import EXT4_BG_INODE_UNINIT, EXT4_GROUP_DESC, EXT4_GROUP_DESC_HI
from ext4img.structs.inode import EXT4_INODE, SECTOR_SIZE
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.features import RoCompat
from ext4img.volume.groups import Groups
from ext4img.volume.inode import InodeFormat, StoredInode, from_raw
from ext4img.volume.problems import Problems
from ext4img.volume.recovery.overlay import Draft
from ext4img.volume.superblock import Superblock

MAX_GROUPS_SEARCHED = 4096

_GENERATION = EXT4_INODE.offset_of("i_generation")


class RecoveryEditor:
    """Reads and rewrites one volume's metadata through `draft`. `problems` decides what is verified.

    Blocks in `reserved`, which holds pairs of first block and end, are never allocated.
    """

    def __init__(
        self,
        source: Source,
        superblock: Superblock,
        seed: int,
        draft: Draft,
        problems: Problems,
        reserved: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.superblock = superblock
        self.seed = seed
        self.draft = draft
        self.problems = problems
        self.blocks = BlockReader(source, superblock.block_size, superblock.block_count, draft)
        self.groups = Groups(superblock, self.blocks, seed, problems)
        self.has_checksums = superblock.has_metadata_checksums
        self._form = InodeFormat.of(superblock)
        self._examined: set[int] = set()
        self._damaged: set[int] = set()  # inodes whose checksum was wrong before recovery
        self._allocator = _ClusterAllocator(self, reserved)

    def read(self, pblk: int) -> bytes:
        """A block with all changes so far."""
        return self.blocks.read(pblk)

    def write(self, pblk: int, block: bytes | bytearray) -> None:
        """Replace a block."""
        self.blocks.check(pblk, 1)
        self.draft.write(pblk, bytes(block))

    def allocate(self, near: int) -> int:
        """A free block, if possible at or behind `near`. CorruptionError if there is none."""
        return self._allocator.allocate(near)

    # Inodes

    def raw_inode(self, number: int) -> bytes:
        """The inode's bytes. NotFoundError for an impossible number."""
        pblk, offset = self._inode_place(number)
        return self.read(pblk)[offset : offset + self.superblock.inode_size]

    def inode(self, number: int, *, verify: bool = False) -> StoredInode:
        """An inode that is in use; NotFoundError or CorruptionError otherwise.

        Its checksum is verified only with `verify`: the kernel ignores it while it replays fast
        commits, because an inode may not have been written yet.
        """
        raw = self.raw_inode(number)
        inode = from_raw(number, raw, self._form)
        if not inode.links or not inode.mode:
            raise NotFoundError.at(f"inode {number}", "the inode is not in use")
        if verify and self.has_checksums and self.problems.verify:
            stored, computed = checksum.stored_inode(raw), self._inode_checksum(number, raw)
            if stored != computed:
                place = Place(inode=number, record=EXT4_INODE.name)
                raise ChecksumError(f"inode checksum is {stored:#x}, computed {computed:#x}", place)
        return inode

    def parsed(self, number: int, raw: bytes) -> StoredInode:
        """An inode from raw bytes that need not be in use."""
        return from_raw(number, raw, self._form)

    def write_inode(self, number: int, raw: bytes) -> None:
        """Replace an inode, with a new checksum unless the old one was wrong.

        The kernel ignores the old checksum while it replays fast commits. But a right checksum over a
        damaged inode would hide the damage from later readers, so a wrong one stays wrong.
        """
        self._examine(number)
        pblk, offset = self._inode_place(number)
        whole = bytearray(self.read(pblk))
        whole[offset : offset + len(raw)] = self._with_checksum(number, raw)
        self.write(pblk, whole)

    def change_inode(self, number: int, **fields: int | bytes) -> None:
        """Replace fields of the first 128 bytes, which are given by their kernel names."""
        raw = self.raw_inode(number)
        record = EXT4_INODE.unpack(raw)._replace(**fields)
        self.write_inode(number, EXT4_INODE.pack(record) + raw[EXT4_INODE.size :])

    def set_sectors(self, number: int, blocks: int) -> None:
        """Set i_blocks to the sectors of `blocks` blocks."""
        sectors = blocks * (self.superblock.block_size // SECTOR_SIZE)
        self.change_inode(number, i_blocks_lo=sectors & 0xFFFFFFFF, l_i_blocks_high=sectors >> 32 & 0xFFFF)

    def mark_inode_used(self, number: int) -> None:
        """Make the group's descriptor count the inode as initialised."""
        superblock = self.superblock
        if not (self.has_checksums or RoCompat.GDT_CSUM in superblock.features):
            return
        self._examine(number)
        if self._is_initialised(number):
            return
        group, index = divmod(number - 1, superblock.inodes_per_group)
        per_block = superblock.block_size // superblock.descriptor_size
        pblk = self.groups.descriptor_block(group // per_block)
        size = superblock.descriptor_size
        offset = group % per_block * size
        whole = bytearray(self.read(pblk))
        raw = bytes(whole[offset : offset + size])
        unused = superblock.inodes_per_group - index - 1
        low = EXT4_GROUP_DESC.unpack(raw)
        low = low._replace(bg_flags=low.bg_flags & ~EXT4_BG_INODE_UNINIT, bg_itable_unused_lo=unused & 0xFFFF)
        rest = raw[EXT4_GROUP_DESC.size :]
        if len(rest) >= EXT4_GROUP_DESC_HI.size:
            high = EXT4_GROUP_DESC_HI.unpack(rest)._replace(bg_itable_unused_hi=unused >> 16)
            rest = EXT4_GROUP_DESC_HI.pack(high) + rest[EXT4_GROUP_DESC_HI.size :]
        raw = EXT4_GROUP_DESC.pack(low) + rest
        if self.has_checksums:
            low = low._replace(bg_checksum=checksum.group_descriptor(self.seed, group, raw))
        else:
            low = low._replace(bg_checksum=checksum.group_descriptor_crc16(superblock.uuid, group, raw))
        whole[offset : offset + size] = EXT4_GROUP_DESC.pack(low) + rest
        self.write(pblk, whole)
        self.groups = Groups(superblock, self.blocks, self.seed, self.problems)

    def inode_seed(self, number: int) -> int:
        """Seed of the checksums of the inode's own blocks."""
        raw = self.raw_inode(number)
        return checksum.inode_seed(self.seed, number, int.from_bytes(raw[_GENERATION : _GENERATION + 4], "little"))

    def _inode_place(self, number: int) -> tuple[int, int]:
        """(block, byte offset in it) of an inode."""
        superblock = self.superblock
        if not 1 <= number <= superblock.inode_count:
            raise NotFoundError.at(f"inode {number}", f"the file system has inodes 1 to {superblock.inode_count}")
        group, index = divmod(number - 1, superblock.inodes_per_group)
        block, offset = divmod(index * superblock.inode_size, superblock.block_size)
        return self.groups[group].inode_table + block, offset

    def _is_initialised(self, number: int) -> bool:
        """Whether the inode has ever been written; otherwise its bytes mean nothing."""
        group, index = divmod(number - 1, self.superblock.inodes_per_group)
        known = self.groups[group]
        return not known.inodes_uninitialised and index < self.superblock.inodes_per_group - known.unused_inodes

    def _examine(self, number: int) -> None:
        """Before the first change, note whether the inode is damaged."""
        if number in self._examined or not (self.has_checksums and self.problems.verify):
            return
        self._examined.add(number)
        raw = self.raw_inode(number)
        wrong = checksum.stored_inode(raw) != self._inode_checksum(number, raw)
        if wrong and any(raw[: EXT4_INODE.size]) and self._is_initialised(number):
            self._damaged.add(number)

    def _inode_checksum(self, number: int, raw: bytes) -> int:
        generation = int.from_bytes(raw[_GENERATION : _GENERATION + 4], "little")
        return checksum.inode(checksum.inode_seed(self.seed, number, generation), raw)

    def _with_checksum(self, number: int, raw: bytes) -> bytes:
        if not self.has_checksums:
            return raw
        computed = self._inode_checksum(number, raw)
        if number in self._damaged:
            computed ^= 0xFFFFFFFF
        whole = bytearray(raw)
        checksum.store_inode(whole, computed)
        return bytes(whole)


class _ClusterAllocator:
    """Finds free clusters by the bitmaps on disk, and gives each only once.

    A bitmap is one integer here: bit n is set if cluster n of the group must not be used.
    """

    def __init__(self, editor: RecoveryEditor, reserved: Sequence[tuple[int, int]]) -> None:
        self._editor = editor
        self._reserved = reserved
        self._bitmaps: dict[int, int] = {}

    def allocate(self, near: int) -> int:
        superblock = self._editor.superblock
        groups, ratio = superblock.group_count, superblock.cluster_size // superblock.block_size
        first, offset = divmod(max(near - superblock.first_data_block, 0), superblock.blocks_per_group)
        skip = offset // ratio
        for step in range(min(groups, MAX_GROUPS_SEARCHED) + 1):  # at last the first one again, from its start
            group = (first + step) % groups
            bitmap = self._bitmap(group)
            free = ~bitmap & (1 << self._clusters(group)) - 1 & -1 << skip
            skip = 0
            if free:
                lowest = free & -free
                self._bitmaps[group] = bitmap | lowest
                return superblock.group_first_block(group) + (lowest.bit_length() - 1) * ratio
        raise CorruptionError("recovery needs a block, but none is free")

    def _bitmap(self, group: int) -> int:
        if group not in self._bitmaps:
            self._bitmaps[group] = self._read(group)
        return self._bitmaps[group]

    def _clusters(self, group: int) -> int:
        superblock = self._editor.superblock
        count = min(superblock.blocks_per_group, superblock.block_count - superblock.group_first_block(group))
        return count * superblock.block_size // superblock.cluster_size

    def _read(self, group: int) -> int:
        superblock = self._editor.superblock
        clusters = self._clusters(group)
        known = self._editor.groups[group]
        if known.blocks_uninitialised:
            # Only a copy of superblock and descriptors can be there, at the beginning of the group.
            bitmap = (1 << clusters // 2) - 1
        else:
            bitmap = int.from_bytes(self._editor.read(known.block_bitmap)[: -(-clusters // 8)], "little")
        ratio = superblock.cluster_size // superblock.block_size
        start = superblock.group_first_block(group)
        for pblk, end in self._reserved:
            first = max(pblk - start, 0) // ratio
            count = min(-(-(end - start) // ratio), clusters) - first
            if count > 0:
                bitmap |= (1 << count) - 1 << first
        return bitmap
