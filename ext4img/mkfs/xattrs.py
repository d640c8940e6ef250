"""The place of an inode's attributes, and their bytes: in the inode, in a block, in ea_inodes.

Kernel: fs/ext4/xattr.c. Entries grow from the front, values from the end. Value offsets count from
the first entry in the inode, from the block's start in a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

from ext4img.errors import BuildError
from ext4img.mkfs.nodes import XattrKey
from ext4img.structs.xattr import (
    EXT4_XATTR_ENTRY,
    EXT4_XATTR_HEADER,
    EXT4_XATTR_IBODY_HEADER,
    EXT4_XATTR_MAGIC,
    XATTR_NAME_MAX,
    XATTR_SIZE_MAX,
)
from ext4img.volume import checksum
from ext4img.volume.xattr import ENCRYPTION_CONTEXT, INLINE_DATA, MAX_NAME_INDEX, xattr_entry_size, xattr_padded
from ext4img.volume.xattr_hash import hash_word, name_hash, xattr_entry_hash

_END: Final = 4  # zero bytes at the end of the list of entries
_VALUE_INODE: Final = EXT4_XATTR_ENTRY.offset_of("e_value_inum")
_IBODY_MAGIC: Final = EXT4_XATTR_IBODY_HEADER.pack((EXT4_XATTR_MAGIC,))
_PUT_U32: Final = Struct("<I").pack_into


class ValueReference(NamedTuple):
    """An entry with its value in an ea_inode: the offset of its e_value_inum, and the value."""

    offset: int
    value: bytes


class XattrBlock(NamedTuple):
    """A block of attributes without the gap in its middle."""

    entries: bytes
    values: bytes
    hash: int
    references: tuple[ValueReference, ...]

    def build(self, block_size: int, sharers: int, inodes: tuple[int, ...]) -> bytearray:
        """The whole block; `inodes` are the numbers of the ea_inodes, in the order of references."""
        block = bytearray(block_size)
        block[: EXT4_XATTR_HEADER.size] = EXT4_XATTR_HEADER.pack(
            (EXT4_XATTR_MAGIC, sharers, 1, self.hash, 0, bytes(12))
        )
        block[EXT4_XATTR_HEADER.size : EXT4_XATTR_HEADER.size + len(self.entries)] = self.entries
        if self.values:
            block[-len(self.values) :] = self.values
        for reference, number in zip(self.references, inodes, strict=True):
            _PUT_U32(block, reference.offset, number)
        return block


class XattrPlacement(NamedTuple):
    """The attributes of one inode: the bytes behind its fixed part, and a block for the rest, if any."""

    inline: bytes
    block: XattrBlock | None
    inline_data_offset: int  # in `inline`: the value of system.data, 0 if there is none


NOTHING: Final = XattrPlacement(b"", None, 0)


def place_xattrs(xattrs: Mapping[XattrKey, bytes], room: int, block_size: int, seed: int | None) -> XattrPlacement:
    """Distribute attributes: as many as fit in the inode's `room` bytes, the rest in one block.

    The encryption context and inline data come first, then the small ones. If the block is too small,
    the largest values go to ea_inodes, hashed with the file system's `seed`; None if ea_inodes are
    refused. BuildError, without a path, if they still don't fit.
    """
    if not xattrs:
        return NOTHING
    for (index, name), value in xattrs.items():
        if not 0 <= index <= MAX_NAME_INDEX or len(name) > XATTR_NAME_MAX or not (index or name):
            raise BuildError(f"extended attribute {name!r} of namespace {index}: not a valid name in ext4")
        if len(value) > XATTR_SIZE_MAX:
            raise BuildError(f"extended attribute {name!r}: {len(value)} bytes, more than {XATTR_SIZE_MAX}")
    ordered = sorted(xattrs, key=lambda key: (key != INLINE_DATA, key != ENCRYPTION_CONTEXT, len(xattrs[key]), key))
    left = room - len(_IBODY_MAGIC) - _END
    inside: list[XattrKey] = []
    outside: list[XattrKey] = []
    for key in ordered:
        size = xattr_entry_size(len(key[1])) + xattr_padded(len(xattrs[key]))
        if size <= left:
            inside.append(key)
            left -= size
        else:
            outside.append(key)
    inline, data_offset = _inline(sorted(inside, key=_order), xattrs, room)
    if not outside:
        return XattrPlacement(inline, None, data_offset)
    return XattrPlacement(inline, _block(sorted(outside, key=_order), xattrs, block_size, seed), data_offset)


def inline_room(xattrs: Mapping[XattrKey, bytes], room: int) -> int:
    """Bytes for inline data in an inode with these attributes, besides those in i_block; -1: no room at all."""
    context = xattrs.get(ENCRYPTION_CONTEXT)
    left = room - len(_IBODY_MAGIC) - _END - xattr_entry_size(len(INLINE_DATA[1]))
    if context is not None:
        left -= xattr_entry_size(len(ENCRYPTION_CONTEXT[1])) + xattr_padded(len(context))
    return left & ~3 if left >= 0 else -1


def _order(key: XattrKey) -> tuple[int, int, bytes]:
    """The order that the kernel's binary search in blocks requires (xattr_find_entry)."""
    return key[0], len(key[1]), key[1]


def _inline(keys: list[XattrKey], xattrs: Mapping[XattrKey, bytes], room: int) -> tuple[bytes, int]:
    if not keys:
        return b"", 0
    entries = []
    values: list[bytes] = []  # from the end backwards
    end = room - len(_IBODY_MAGIC)
    data_offset = 0
    for key in keys:
        value = xattrs[key]
        if value:
            end -= xattr_padded(len(value))
            values.append(value.ljust(xattr_padded(len(value)), b"\0"))
        if key == INLINE_DATA:
            data_offset = len(_IBODY_MAGIC) + end
        # As in the kernel, entries in the inode have no hash.
        entries.append(_entry(key, end if value else 0, len(value), 0))
    head = _IBODY_MAGIC + b"".join(entries)
    tail = b"".join(reversed(values))
    return head + bytes(room - len(head) - len(tail)) + tail, data_offset


def _entry(key: XattrKey, offset: int, size: int, entry_hash: int) -> bytes:
    index, name = key
    return EXT4_XATTR_ENTRY.pack((len(name), index, offset, 0, size, entry_hash)) + name.ljust(
        xattr_padded(len(name)), b"\0"
    )


def _block(keys: list[XattrKey], xattrs: Mapping[XattrKey, bytes], block_size: int, seed: int | None) -> XattrBlock:
    apart = _values_apart(keys, xattrs, block_size, seed is not None)
    entries = []
    values: list[bytes] = []
    references = []
    block_hash = 0
    unhashed = False
    offset = EXT4_XATTR_HEADER.size
    end = block_size
    for key in keys:
        value = xattrs[key]
        if key in apart:
            assert seed is not None
            entry_hash = hash_word(name_hash(key[1]), checksum.ea_inode_value(seed, value))
            references.append(ValueReference(offset + _VALUE_INODE, value))
            entries.append(_entry(key, 0, len(value), entry_hash))
        else:
            entry_hash = xattr_entry_hash(key[1], value)
            if value:
                end -= xattr_padded(len(value))
                values.append(value.ljust(xattr_padded(len(value)), b"\0"))
            entries.append(_entry(key, end if value else 0, len(value), entry_hash))
        offset += xattr_entry_size(len(key[1]))
        unhashed = unhashed or not entry_hash
        block_hash = hash_word(block_hash, entry_hash)
    return XattrBlock(b"".join(entries), b"".join(reversed(values)), 0 if unhashed else block_hash, tuple(references))


def _values_apart(
    keys: list[XattrKey], xattrs: Mapping[XattrKey, bytes], block_size: int, allowed: bool
) -> set[XattrKey]:
    """The keys of the values that do not stay in the block: the largest, until the others fit."""
    room = block_size - EXT4_XATTR_HEADER.size - _END
    need = sum(xattr_entry_size(len(key[1])) + xattr_padded(len(xattrs[key])) for key in keys)
    apart: set[XattrKey] = set()
    if need <= room:
        return apart
    if not allowed:
        raise BuildError(f"extended attributes of {need} bytes need the feature ea_inode, which was refused")
    for key in sorted(keys, key=lambda key: (-len(xattrs[key]), key)):
        if need <= room:
            return apart
        if xattrs[key] and key != ENCRYPTION_CONTEXT:
            apart.add(key)
            need -= xattr_padded(len(xattrs[key]))
    if need > room:
        raise BuildError(f"the names of {len(keys)} extended attributes do not fit in a block of {block_size} bytes")
    return apart
