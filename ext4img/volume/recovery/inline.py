"""Changing inline directories, which are stored in their inode, during recovery.

The entries are in i_block, behind the parent's number, and continue in the value of the inode's
attribute system.data. When a name does not fit, that value grows up to the end of the inode. When
that is full, too, the directory moves into a block. Kernel: ext4_try_add_inline_entry and
ext4_convert_inline_data_nolock (fs/ext4/inline.c).
"""

from __future__ import annotations

from typing import NamedTuple

from ext4img.errors import CorruptionError, Place
from ext4img.structs.directory import EXT4_DIR_MIN_REC_LEN, EXT4_INLINE_DOTDOT_SIZE
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INLINE_DATA_FL, EXT4_INODE
from ext4img.structs.superblock import EXT4_GOOD_OLD_INODE_SIZE
from ext4img.structs.xattr import (
    EXT4_XATTR_ENTRY,
    EXT4_XATTR_IBODY_HEADER,
    EXT4_XATTR_MAGIC,
    EXT4_XATTR_PAD,
)
from ext4img.volume.dir_entry import entry_size
from ext4img.volume.extent_tree import EMPTY_ROOT
from ext4img.volume.inode import StoredInode
from ext4img.volume.recovery.editor import RecoveryEditor
from ext4img.volume.recovery.entries import EntryArea
from ext4img.volume.xattr import INLINE_DATA, xattr_entry_size, xattr_padded

_LAST_ENTRY_SIZE = 4  # zeros that end the list of entries
_I_BLOCK = EXT4_INODE.offset_of("i_block")
_I_BLOCK_END = EXT4_INODE.offset_of("i_generation")
_DOTS_SIZE = 2 * EXT4_DIR_MIN_REC_LEN


class _StoredXattr(NamedTuple):
    name_index: int
    name: bytes
    value: bytes
    value_inode: int
    value_size: int
    hash: int


class _InlineXattrs:
    """The attributes in an inode's own space behind its fixed part, parsed and built again."""

    def __init__(self, area: bytes, number: int) -> None:
        self._size = len(area)
        self._number = number
        self.entries: list[_StoredXattr] = []
        if area[: EXT4_XATTR_IBODY_HEADER.size] != EXT4_XATTR_IBODY_HEADER.pack((EXT4_XATTR_MAGIC,)):
            return
        start = offset = EXT4_XATTR_IBODY_HEADER.size
        while any(area[offset : offset + _LAST_ENTRY_SIZE]):
            if offset + EXT4_XATTR_ENTRY.size > len(area):
                raise self._wrong()
            length, index, at, inode, size, hash_ = EXT4_XATTR_ENTRY.unpack_tuple(area, offset)
            name = area[offset + EXT4_XATTR_ENTRY.size : offset + EXT4_XATTR_ENTRY.size + length]
            value = b"" if inode or not size else area[start + at : start + at + size]
            if len(name) != length or (not inode and len(value) != size):
                raise self._wrong()
            self.entries.append(_StoredXattr(index, name, value, inode, size, hash_))
            offset += xattr_entry_size(len(name))

    def data(self) -> bytes | None:
        """The value of system.data, None without that attribute."""
        return next((entry.value for entry in self.entries if (entry.name_index, entry.name) == INLINE_DATA), None)

    def set_data(self, value: bytes | None) -> None:
        """Replace the value of system.data; None removes the attribute."""
        position = [(entry.name_index, entry.name) for entry in self.entries].index(INLINE_DATA)
        if value is None:
            del self.entries[position]
        else:
            self.entries[position] = self.entries[position]._replace(value=value, value_size=len(value))

    def room_for_data(self) -> int:
        """The longest value that system.data can have (get_max_inline_xattr_value_size)."""
        used = sum(xattr_entry_size(len(entry.name)) for entry in self.entries)
        used += sum(
            xattr_padded(len(entry.value)) for entry in self.entries if (entry.name_index, entry.name) != INLINE_DATA
        )
        return self._size - EXT4_XATTR_IBODY_HEADER.size - used - _LAST_ENTRY_SIZE

    def build(self) -> bytes:
        """The bytes of the whole space: entries from the beginning, values from the end."""
        if not self.entries:
            return bytes(self._size)
        area = bytearray(self._size)
        start = offset = EXT4_XATTR_IBODY_HEADER.size
        area[:start] = EXT4_XATTR_IBODY_HEADER.pack((EXT4_XATTR_MAGIC,))
        end = self._size
        for entry in self.entries:
            at = 0
            if entry.value:
                end -= xattr_padded(len(entry.value))
                at = end - start
                area[end : end + len(entry.value)] = entry.value
            raw = EXT4_XATTR_ENTRY.pack(
                (len(entry.name), entry.name_index, at, entry.value_inode, entry.value_size, entry.hash)
            )
            area[offset : offset + len(raw) + len(entry.name)] = raw + entry.name
            offset += xattr_entry_size(len(entry.name))
        if offset + _LAST_ENTRY_SIZE > end or len(area) != self._size:
            raise self._wrong()
        return bytes(area)

    def _wrong(self) -> CorruptionError:
        return CorruptionError(
            "attributes in the inode do not fit", Place(inode=self._number, record=EXT4_XATTR_ENTRY.name)
        )


class InlineDirectory:
    """The inline directory of `inode`. CorruptionError if it is damaged."""

    def __init__(self, editor: RecoveryEditor, inode: StoredInode, has_filetype: bool) -> None:
        self._editor = editor
        self._inode = inode
        self._raw = editor.raw_inode(inode.number)
        self._xattrs_at = EXT4_GOOD_OLD_INODE_SIZE + inode.extra_size
        self._xattrs = _InlineXattrs(self._raw[self._xattrs_at :], inode.number)
        data = self._xattrs.data()
        if data is None:
            raise CorruptionError("an inline directory without system.data", Place(inode=inode.number))
        first = bytearray(inode.block_area[EXT4_INLINE_DOTDOT_SIZE:])
        self._first = EntryArea(first, len(first), has_filetype, inode.number)
        self._second = EntryArea(bytearray(data), len(data), has_filetype, inode.number)
        self._has_filetype = has_filetype

    def add(self, name: bytes, number: int, mode: int) -> bool | None:
        """Add a name. True if done, False if it already exists, None if there is no room."""
        found = self._first.insert(name, number, mode)
        if found is None:
            if not self._second.end:
                self._grow()
            found = self._second.insert(name, number, mode)
        if found:
            self._store()
        return found

    def remove(self, name: bytes, number: int) -> int:
        """See `EntryArea.remove`."""
        owner = self._first.remove(name, number) or self._second.remove(name, number)
        if owner == number:
            self._store()
        return owner

    def to_block(self, size: int, end: int) -> EntryArea:
        """The directory as a block of `size` bytes with entries up to `end`. Removes it from the inode."""
        block = EntryArea(bytearray(size), _DOTS_SIZE, self._has_filetype, self._inode.number)
        parent = int.from_bytes(self._inode.block_area[:EXT4_INLINE_DOTDOT_SIZE], "little")
        block.put(0, EXT4_DIR_MIN_REC_LEN, b".", self._inode.number, self._inode.mode)
        block.put(EXT4_DIR_MIN_REC_LEN, EXT4_DIR_MIN_REC_LEN, b"..", parent, self._inode.mode)
        entries = bytes(self._first.data) + bytes(self._second.data)
        block.data[_DOTS_SIZE : _DOTS_SIZE + len(entries)] = entries
        block.end = _DOTS_SIZE + len(entries)
        block.stretch(end)
        self._xattrs.set_data(None)
        self._write(EMPTY_ROOT)
        flags = self._inode.flags & ~EXT4_INLINE_DATA_FL | EXT4_EXTENTS_FL
        self._editor.change_inode(self._inode.number, i_flags=flags, i_size_lo=size)
        return block

    def _grow(self) -> None:
        """Give system.data all the free space of the inode, if that is enough for a name."""
        room = self._xattrs.room_for_data() // EXT4_XATTR_PAD * EXT4_XATTR_PAD
        if room <= entry_size(1):
            return
        self._second.data[:] = bytes(room)
        self._second.end = room
        self._second.put(0, room)
        self._editor.change_inode(self._inode.number, i_size_lo=len(self._inode.block_area) + room)
        self._raw = self._editor.raw_inode(self._inode.number)
        self._store()

    def _store(self) -> None:
        self._xattrs.set_data(bytes(self._second.data))
        self._write(self._inode.block_area[:EXT4_INLINE_DOTDOT_SIZE] + bytes(self._first.data))

    def _write(self, i_block: bytes) -> None:
        raw = self._raw[:_I_BLOCK] + i_block + self._raw[_I_BLOCK_END : self._xattrs_at] + self._xattrs.build()
        self._editor.write_inode(self._inode.number, raw)
