"""The check of extended attributes: their hashes, and the reference counts of what several inodes share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ext4img.errors import CorruptionError, Ext4Error, Place, SourceError
from ext4img.structs.inode import SECTOR_SIZE
from ext4img.structs.xattr import EXT4_XATTR_ENTRY, EXT4_XATTR_HEADER
from ext4img.volume.check.block_owners import FILE_SYSTEM, BlockOwners
from ext4img.volume.features import Incompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import Volume
from ext4img.volume.xattr import is_lustre_value, xattr_entry_size
from ext4img.volume.xattr_hash import xattr_entry_hash


class ValueInodes(NamedTuple):
    """What an inode's attributes have in inodes of their own: how many, and the sectors charged for them."""

    number: int
    sectors: int


_NONE = ValueInodes(0, 0)


class AttributeChecker:
    """Checks the attributes of one volume's inodes, and at the end what several of them share."""

    def __init__(self, volume: Volume, owners: BlockOwners) -> None:
        self._volume = volume
        self._owners = owners
        self._problems = volume.problems
        self._has_values = Incompat.EA_INODE in volume.features
        self._unit = volume.superblock.cluster_size
        self._blocks: dict[int, int] = {}  # attribute block → inodes that share it
        self._in_block: dict[int, ValueInodes] = {}  # the same → its values in inodes
        self._references: dict[int, int] = {}  # value inode → attributes that have their value there

    def check(self, inode: StoredInode) -> ValueInodes:
        """Check the attributes of one inode, which have been read, so that their damage is known."""
        block = inode.xattr_block
        found = _NONE
        if self._has_values and inode.inline_xattrs:
            found = self._values(inode, inode.inline_xattrs[4:])
        if block:
            known = self._blocks.get(block, 0)
            self._blocks[block] = known + 1
            if not known:
                self._in_block[block] = self._check_block(inode, block)
            in_block = self._in_block[block]
            found = ValueInodes(found.number + in_block.number, found.sectors + in_block.sectors)
        return found

    def referenced(self, number: int) -> int:
        """How many attributes have their value in this inode."""
        return self._references.get(number, 0)

    def finish(self) -> None:
        """Check the reference counts of attribute blocks."""
        for block, count in self._blocks.items():
            self._owners.add(block, 1, FILE_SYSTEM)
            try:
                header = EXT4_XATTR_HEADER.unpack(self._volume.blocks.read(block))
            except (CorruptionError, SourceError):
                continue  # reported when the attributes were read
            if header.h_refcount != count:
                place = Place(block=block, record=EXT4_XATTR_HEADER.name, field="h_refcount")
                reason = f"attribute block counts {header.h_refcount} inodes, it has {count}"
                self._problems.found(CorruptionError(reason, place))

    def _check_block(self, inode: StoredInode, block: int) -> ValueInodes:
        """Check the hashes of a block's entries. Those in inodes have none."""
        try:
            data = self._volume.blocks.read(block)
        except (CorruptionError, SourceError):
            return _NONE  # reported when the attributes were read
        for offset, entry in _entries(data, EXT4_XATTR_HEADER.size):
            name_len, _, value_offset, value_inode, size, stored = entry
            if value_inode:
                continue
            start = offset + EXT4_XATTR_ENTRY.size
            name, value = data[start : start + name_len], data[value_offset : value_offset + size]
            if stored not in (xattr_entry_hash(name, value), xattr_entry_hash(name, value, signed=True)):
                place = Place(inode.number, block, offset, EXT4_XATTR_ENTRY.name, "e_hash")
                self._problems.found(CorruptionError(f"hash of attribute {name!r} is {stored:#x}", place))
        return self._values(inode, data[EXT4_XATTR_HEADER.size :])

    def _values(self, inode: StoredInode, area: bytes) -> ValueInodes:
        """Count the values in inodes that are referred to from an area of entries."""
        if not self._has_values:
            return _NONE
        count = sectors = 0
        for _, (_, _, _, number, size, _) in _entries(area, 0):
            if not number:
                continue
            count += 1
            self._references[number] = self._references.get(number, 0) + 1
            try:
                is_lustre = is_lustre_value(self._volume.inode(number), inode)
            except Ext4Error:
                continue  # reported when the value was read
            if not is_lustre:
                sectors += -(-size // self._unit) * (self._unit // SECTOR_SIZE)
        return ValueInodes(count, sectors)


def _entries(data: bytes, offset: int) -> Iterator[tuple[int, tuple[int, int, int, int, int, int]]]:
    """(offset, entry as a raw tuple) of all attributes from byte `offset` on."""
    while offset + EXT4_XATTR_ENTRY.size <= len(data) and data[offset : offset + 4] != bytes(4):
        entry = EXT4_XATTR_ENTRY.unpack_tuple(data, offset)
        yield offset, entry
        offset += xattr_entry_size(entry[0])
