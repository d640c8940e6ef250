"""The check of each inode by itself: its fields, its blocks, its attributes."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field

from ext4img.errors import CorruptionError, Ext4Error, Place, SourceError
from ext4img.structs.inode import (
    EXT4_BAD_INO,
    EXT4_EA_INODE_FL,
    EXT4_EXTENTS_FL,
    EXT4_INLINE_DATA_FL,
    EXT4_INODE,
    EXT4_ROOT_INO,
    EXT4_VERITY_FL,
    S_IFREG,
    SECTOR_SIZE,
)
from ext4img.volume.check.attributes import AttributeChecker, ValueInodes
from ext4img.volume.check.block_owners import BlockOwners
from ext4img.volume.check.inode_fields import wrong_fields, wrong_reserved_inode
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import LOST, UNWRITTEN, Mapping
from ext4img.volume.volume import Volume
from ext4img.volume.xattr import INLINE_DATA


@dataclass(slots=True)
class InodeColumns:
    """Values of all inodes in use, as columns, by ascending number."""

    numbers: array[int] = field(default_factory=lambda: array("I"))
    modes: array[int] = field(default_factory=lambda: array("H"))
    links: array[int] = field(default_factory=lambda: array("H"))
    directories: array[int] = field(default_factory=lambda: array("I"))
    value_inodes: dict[int, int | None] = field(default_factory=dict)
    """ea_inode → its reference count; None for Lustre's, which have none."""

    def add(self, inode: StoredInode) -> None:
        """Remember an inode."""
        self.numbers.append(inode.number)
        self.modes.append(inode.mode & 0xFFFF)
        self.links.append(inode.links)
        if inode.is_dir:
            self.directories.append(inode.number)
        if inode.flags & EXT4_EA_INODE_FL:
            seconds = inode.ctime_ns // 1_000_000_000 & 0xFFFFFFFF
            is_lustre = inode.ctime_ns == inode.atime_ns
            self.value_inodes[inode.number] = None if is_lustre else seconds << 32 | inode.version & 0xFFFFFFFF

    def mode_of(self, number: int) -> int:
        """The mode of an inode; 0 if it is not in use."""
        at = bisect_left(self.numbers, number)
        return self.modes[at] if at < len(self.numbers) and self.numbers[at] == number else 0


class InodeChecker:
    """Checks the inodes of one volume, one after the other."""

    def __init__(self, volume: Volume, owners: BlockOwners) -> None:
        self._volume = volume
        self._owners = owners
        self._problems = volume.problems
        self._superblock = volume.superblock
        self._cluster_blocks = self._superblock.cluster_size // self._superblock.block_size
        self.attributes = AttributeChecker(volume, owners)
        self.tables = InodeColumns()

    def check(self, inode: StoredInode) -> tuple[Mapping, ValueInodes]:
        """Check one inode by itself. Returns its mapping, and what its attributes have in inodes of their own."""
        self.tables.add(inode)
        for wrong in wrong_fields(self._superblock, inode, self._volume.inodes.raw(inode.number)):
            self._found(inode, *wrong)
        mapping = self._volume.mapping(inode)
        self._add_owner(inode, mapping)
        raw = self._volume.raw_xattrs(inode)
        if inode.flags & EXT4_INLINE_DATA_FL and INLINE_DATA not in raw:
            self._found(inode, "inline data without the attribute system.data", "i_flags")
        self._volume.xattrs(inode)
        values = self.attributes.check(inode)
        self._sizes(inode, mapping, len(raw.get(INLINE_DATA, b"")))
        self._sectors(inode, mapping, values.sectors)
        if inode.is_symlink:
            self._symlink(inode, mapping, values)
        return mapping, values

    def add_orphan(self, inode: StoredInode) -> None:
        """Add the blocks of an inode that is deleted, but not freed yet."""
        self._add_owner(inode, self._volume.mapping(inode))
        self.attributes.check(inode)

    def check_reserved(self) -> None:
        """Check the inodes that are reserved for the file system itself, and add the bad blocks of inode 1."""
        for number in range(1, self._superblock.first_inode):
            if number == EXT4_ROOT_INO:
                continue
            try:
                raw = self._volume.inodes.raw(number)
                wrong = wrong_reserved_inode(self._superblock, number, raw)
                if wrong is not None:
                    place = Place(inode=number, record=EXT4_INODE.name, field=wrong.field)
                    self._problems.found(CorruptionError(wrong.reason, place))
                if number == EXT4_BAD_INO:
                    inode = self._volume.inode(number)
                    self._add_owner(inode, self._volume.mapping(inode._replace(mode=S_IFREG)))
            except Ext4Error:
                continue  # reported when the table is scanned

    def finish(self) -> None:
        """Check the reference counts of what several inodes share."""
        self.attributes.finish()
        for number, counted in self.tables.value_inodes.items():
            count = self.attributes.referenced(number)
            if counted is not None and counted != count:
                reason = f"attribute value counts {counted} references, it has {count}"
                self._problems.found(CorruptionError(reason, Place(inode=number)))

    def _add_owner(self, inode: StoredInode, mapping: Mapping) -> None:
        add = self._owners.add
        for run in mapping.runs:
            if run.state != LOST:
                add(run.pblk, run.length, inode.number)
        for block in mapping.tree_blocks:
            if 0 < block < self._superblock.block_count:
                add(block, 1, inode.number)

    def _sizes(self, inode: StoredInode, mapping: Mapping, inline_bytes: int) -> None:
        """Check i_size against the blocks that are mapped.

        ext4 and e2fsck tolerate one block that is written past it: early versions of mke2fs made such
        journals.
        """
        block_size = self._superblock.block_size
        if inode.has_inline_data:
            if inode.is_dir and inode.size != len(inode.block_area) + inline_bytes:
                reason = f"directory of {inode.size} bytes, its inline data has {len(inode.block_area) + inline_bytes}"
                self._found(inode, reason, "i_size_lo")
        elif inode.is_dir:
            self._directory_size(inode, mapping)
        elif inode.is_file and not inode.flags & EXT4_VERITY_FL:
            written = [run for run in mapping.runs if run.state not in (UNWRITTEN, LOST)]
            end = -(-inode.size // self._superblock.cluster_size) * self._cluster_blocks
            if written and written[-1].end > max(end, inode.size // block_size + 1):
                reason = f"{inode.size} bytes long, but has written blocks up to {written[-1].end * block_size}"
                self._found(inode, reason, "i_size_lo")

    def _directory_size(self, inode: StoredInode, mapping: Mapping) -> None:
        block_size = self._superblock.block_size
        if not inode.size or inode.size % block_size:
            reason = f"directory of {inode.size} bytes, not whole blocks of {block_size}"
            self._found(inode, reason, "i_size_lo")
            return
        end = mapping.runs[-1].end if mapping.runs else 0
        allowed = inode.size // block_size + self._superblock.preallocated_directory_blocks
        if end > allowed:
            reason = f"directory of {inode.size} bytes, but has blocks up to {end * block_size}"
            self._found(inode, reason, "i_size_lo")

    def _sectors(self, inode: StoredInode, mapping: Mapping, value_sectors: int) -> None:
        """i_blocks counts what the inode takes on disk: its clusters, attribute block and values.

        Fast commits don't restore it, neither here nor in the kernel.
        """
        recovery = self._volume.recovery
        if recovery is not None and recovery.fast_commits.tags:
            return
        if inode.number < self._superblock.first_inode or any(run.state == LOST for run in mapping.runs):
            return
        unit = self._cluster_blocks
        if unit == 1:
            blocks = sum(run.length for run in mapping.runs) + len(mapping.tree_blocks)
        else:
            blocks = _clusters(mapping, unit) * unit
        sectors = (blocks + bool(inode.xattr_block) * unit) * (
            self._superblock.block_size // SECTOR_SIZE
        ) + value_sectors
        if sectors != inode.sectors:
            self._found(inode, f"i_blocks is {inode.sectors} sectors, the inode takes {sectors}", "i_blocks_lo")

    def _symlink(self, inode: StoredInode, mapping: Mapping, values: ValueInodes) -> None:
        is_fast = not inode.has_inline_data and not mapping.runs and inode.size < len(inode.block_area)
        if is_fast and inode.flags & EXT4_EXTENTS_FL:
            self._found(inode, "a symbolic link in the inode, but EXT4_EXTENTS_FL is set", "i_flags")
        if is_fast and values.sectors:
            # It takes i_blocks, which counts the values, for the target's.
            reason = "attribute values in inodes, but the target is in this one: e2fsck before 1.47.4 calls it damaged"
            self._problems.remark(f"symbolic link with {reason}", Place(inode=inode.number))
        try:
            target = self._volume.symlink_target_stored(inode)
        except SourceError as error:
            self._problems.unreadable(error, Place(inode=inode.number))
            return
        if not inode.is_encrypted and (not target or b"\0" in target):
            reason = f"target of the symbolic link is shorter than its {inode.size} bytes"
            if inode.has_inline_data and target:
                self._problems.remark(reason, Place(inode=inode.number))
            else:
                self._found(inode, reason, "i_size_lo")

    def _found(self, inode: StoredInode, reason: str, name: str, remark: bool = False) -> None:
        place = Place(inode=inode.number, record=EXT4_INODE.name, field=name)
        if remark:
            self._problems.remark(reason, place)
        else:
            self._problems.found(CorruptionError(reason, place))


def _clusters(mapping: Mapping, unit: int) -> int:
    """Clusters that runs and tree blocks take, each counted once."""
    pieces = [(run.pblk // unit, (run.pblk + run.length - 1) // unit) for run in mapping.runs if run.state != LOST]
    pieces += [(block // unit, block // unit) for block in mapping.tree_blocks]
    count, reached = 0, -1
    for first, last in sorted(pieces):
        count += max(last - max(first, reached + 1) + 1, 0)
        reached = max(reached, last)
    return count
