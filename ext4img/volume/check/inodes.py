"""The check of each inode by itself: its fields, its blocks, its attributes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from ext4img.crypto.policy import parse_context
from ext4img.errors import CorruptionError, Ext4Error, Place, SourceError
from ext4img.structs.inode import (
    EXT4_BAD_INO,
    EXT4_CASEFOLD_FL,
    EXT4_EA_INODE_FL,
    EXT4_ENCRYPT_FL,
    EXT4_EXTENTS_FL,
    EXT4_HUGE_FILE_FL,
    EXT4_INDEX_FL,
    EXT4_INLINE_DATA_FL,
    EXT4_INODE,
    EXT4_VERITY_FL,
    S_IFREG,
    SECTOR_SIZE,
)
from ext4img.structs.xattr import EXT4_XATTR_ENTRY, EXT4_XATTR_HEADER
from ext4img.volume.check.block_owners import BlockOwners
from ext4img.volume.features import Compat, Incompat, RoCompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import LOST, UNWRITTEN, Mapping
from ext4img.volume.volume import Volume
from ext4img.volume.xattr import INLINE_DATA, xattr_entry_size

_FLAGS_NEED = (
    ("EXT4_EXTENTS_FL", EXT4_EXTENTS_FL, Incompat.EXTENTS),
    ("EXT4_INLINE_DATA_FL", EXT4_INLINE_DATA_FL, Incompat.INLINE_DATA),
    ("EXT4_ENCRYPT_FL", EXT4_ENCRYPT_FL, Incompat.ENCRYPT),
    ("EXT4_CASEFOLD_FL", EXT4_CASEFOLD_FL, Incompat.CASEFOLD),
    ("EXT4_EA_INODE_FL", EXT4_EA_INODE_FL, Incompat.EA_INODE),
    ("EXT4_VERITY_FL", EXT4_VERITY_FL, RoCompat.VERITY),
    ("EXT4_HUGE_FILE_FL", EXT4_HUGE_FILE_FL, RoCompat.HUGE_FILE),
    ("EXT4_INDEX_FL", EXT4_INDEX_FL, Compat.DIR_INDEX),
)


@dataclass(slots=True)
class InodeColumns:
    """Values of all inodes in use, as columns, by ascending number."""

    numbers: array[int] = field(default_factory=lambda: array("I"))
    modes: array[int] = field(default_factory=lambda: array("H"))
    links: array[int] = field(default_factory=lambda: array("H"))
    directories: array[int] = field(default_factory=lambda: array("I"))
    value_inodes: dict[int, int] = field(default_factory=dict)  # ea_inode → its reference count

    def add(self, inode: StoredInode) -> None:
        """Remember an inode."""
        self.numbers.append(inode.number)
        self.modes.append(inode.mode & 0xFFFF)
        self.links.append(inode.links)
        if inode.is_dir:
            self.directories.append(inode.number)


class InodeChecker:
    """Checks the inodes of one volume, one after the other, and then what several of them share."""

    def __init__(self, volume: Volume, owners: BlockOwners) -> None:
        self._volume = volume
        self._owners = owners
        self._problems = volume.problems
        self._superblock = volume.superblock
        self._cluster_blocks = self._superblock.cluster_size // self._superblock.block_size
        self._xattr_blocks: dict[int, int] = {}  # block → inodes that share it
        self._value_references: dict[int, int] = {}  # ea_inode → attributes that have their value there
        self.tables = InodeColumns()

    def check(self, inode: StoredInode) -> Mapping:
        """Check one inode by itself, and return its mapping."""
        self.tables.add(inode)
        for reason, name in self._wrong_fields(inode):
            self._found(inode, reason, name)
        mapping = self._volume.mapping(inode)
        self._add_owner(inode, mapping)
        values_blocks = self._attributes(inode)
        self._sizes(inode, mapping)
        self._sectors(inode, mapping, values_blocks)
        if inode.is_symlink:
            self._symlink(inode)
        if inode.is_encrypted:
            self._context(inode)
        if inode.flags & EXT4_EA_INODE_FL:
            seconds = inode.ctime_ns // 1_000_000_000 & 0xFFFFFFFF
            self.tables.value_inodes[inode.number] = seconds << 32 | inode.version & 0xFFFFFFFF
        return mapping

    def add_bad_blocks(self) -> None:
        """Add the bad blocks, which inode 1 lists; it has no mode."""
        try:
            inode = self._volume.inode(EXT4_BAD_INO)
        except Ext4Error:
            return  # reported when the table was scanned
        self._add_owner(inode, self._volume.mapping(inode._replace(mode=S_IFREG)))

    def finish(self) -> None:
        """Check what inodes share, attribute blocks and values: their reference counts must be right."""
        for block, count in self._xattr_blocks.items():
            self._owners.add(block, 1, 0)
            try:
                header = EXT4_XATTR_HEADER.unpack(self._volume.blocks.read(block))
            except (CorruptionError, SourceError):
                continue  # reported when the attributes were read
            if header.h_refcount != count:
                place = Place(block=block, record=EXT4_XATTR_HEADER.name, field="h_refcount")
                reason = f"attribute block counts {header.h_refcount} inodes, it has {count}"
                self._problems.found(CorruptionError(reason, place))
        for number, counted in self.tables.value_inodes.items():
            count = self._value_references.get(number, 0)
            if counted != count:
                reason = f"attribute value counts {counted} references, it has {count}"
                self._problems.found(CorruptionError(reason, Place(inode=number)))

    def _wrong_fields(self, inode: StoredInode) -> Iterator[tuple[str, str]]:
        flags = inode.flags
        if inode.type == "unknown":
            yield f"i_mode is {inode.mode:#o}, which has no file type", "i_mode"
        if inode.size >> 63:
            yield f"i_size is {inode.size}, which is negative to the kernel", "i_size_high"
        for name, flag, feature in _FLAGS_NEED:
            if flags & flag and feature not in self._superblock.features:
                yield f"{name} is set without the feature", "i_flags"
        if flags & EXT4_INLINE_DATA_FL and flags & EXT4_EXTENTS_FL:
            yield "both inline data and extents", "i_flags"
        if flags & EXT4_INDEX_FL and not inode.is_dir:
            yield "EXT4_INDEX_FL is set, but it is not a directory", "i_flags"
        if flags & EXT4_EA_INODE_FL and not inode.is_file:
            yield "EXT4_EA_INODE_FL is set, but it is not a regular file", "i_flags"
        if inode.dtime and inode.links:
            yield f"in use, but has a deletion time ({inode.dtime})", "i_dtime"

    def _add_owner(self, inode: StoredInode, mapping: Mapping) -> None:
        add = self._owners.add
        for run in mapping.runs:
            if run.state != LOST:
                add(run.pblk, run.length, inode.number)
        for block in mapping.tree_blocks:
            if 0 < block < self._superblock.block_count:
                add(block, 1, inode.number)

    def _attributes(self, inode: StoredInode) -> int:
        """Read all attributes. Returns the sectors of the values that are in inodes of their own."""
        volume = self._volume
        raw = volume.raw_xattrs(inode)
        if inode.flags & EXT4_INLINE_DATA_FL and INLINE_DATA not in raw:
            self._found(inode, "inline data without the attribute system.data", "i_flags")
        volume.xattrs(inode)
        block = inode.xattr_block
        if block:
            self._xattr_blocks[block] = self._xattr_blocks.get(block, 0) + 1
        sectors = 0
        for number, is_reference in self._value_inodes(inode):
            if is_reference:
                self._value_references[number] = self._value_references.get(number, 0) + 1
            try:
                sectors += volume.inode(number).sectors
            except Ext4Error:
                continue  # reported when the value was read
        return sectors

    def _value_inodes(self, inode: StoredInode) -> Iterator[tuple[int, bool]]:
        """Inodes that hold values of this one's attributes, and whether they were not counted for another one.

        A shared block refers to them once, but each of its users is charged for them.
        """
        if Incompat.EA_INODE not in self._superblock.features:
            return
        areas = [(inode.inline_xattrs[4:], True)] if inode.inline_xattrs else []
        if inode.xattr_block:
            is_first = self._xattr_blocks.get(inode.xattr_block) == 1
            with suppress(CorruptionError, SourceError):  # reported when the attributes were read
                areas.append((self._volume.blocks.read(inode.xattr_block)[EXT4_XATTR_HEADER.size :], is_first))
        for area, is_reference in areas:
            offset = 0
            while offset + EXT4_XATTR_ENTRY.size <= len(area) and area[offset : offset + 4] != b"\0\0\0\0":
                name_len, _, _, value_inode, _, _ = EXT4_XATTR_ENTRY.unpack_tuple(area, offset)
                if value_inode:
                    yield value_inode, is_reference
                offset += xattr_entry_size(name_len)

    def _sizes(self, inode: StoredInode, mapping: Mapping) -> None:
        block_size = self._superblock.block_size
        if inode.is_dir and not inode.has_inline_data and (not inode.size or inode.size % block_size):
            self._found(
                inode,
                f"directory of {inode.size} bytes, not whole blocks of {block_size}",
                "i_size_lo",
            )
        if inode.is_file and not inode.flags & EXT4_VERITY_FL:
            written = [run for run in mapping.runs if run.state not in (UNWRITTEN, LOST)]
            end = -(-inode.size // self._superblock.cluster_size) * self._cluster_blocks
            if written and written[-1].end > end:
                reason = f"{inode.size} bytes long, but has written blocks up to {written[-1].end * block_size}"
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

    def _symlink(self, inode: StoredInode) -> None:
        try:
            target = self._volume.symlink_target_stored(inode)
        except SourceError as error:
            self._problems.unreadable(error, Place(inode=inode.number))
            return
        if not inode.is_encrypted and (not target or b"\0" in target):
            self._found(inode, f"target of the symbolic link is shorter than its {inode.size} bytes", "i_size_lo")

    def _context(self, inode: StoredInode) -> None:
        place = Place(inode=inode.number, record="fscrypt_context")
        raw = self._volume.encryption_context(inode)
        try:
            if raw is None:
                raise CorruptionError("encrypted, but without an encryption context", place)
            parse_context(raw, place=place, supported_only=False)
        except CorruptionError as error:
            self._problems.found(error)
        except Ext4Error as error:
            self._problems.found(CorruptionError(str(error), place))

    def _found(self, inode: StoredInode, reason: str, name: str) -> None:
        place = Place(inode=inode.number, record=EXT4_INODE.name, field=name)
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
