"""The entries of one directory block, or of one part of an inline directory, as recovery changes them.

Kernel: ext4_find_dest_de, ext4_insert_dentry, ext4_generic_delete_entry (fs/ext4/namei.c).
"""

from __future__ import annotations

from collections.abc import Iterator

from ext4img.errors import CorruptionError, Place
from ext4img.structs.directory import EXT4_DIR_ENTRY, EXT4_DIR_MIN_REC_LEN, EXT4_FT_UNKNOWN, EXT4_TYPE_BY_MODE
from ext4img.structs.inode import S_IFMT
from ext4img.volume.dir_entry import BlockEntry, entry_size, rec_len_from_disk, rec_len_to_disk

_HEADER_SIZE = EXT4_DIR_ENTRY.size


class EntryArea:
    """Entries in `data`, back to back, up to byte `end`. `number` is the directory's inode, for messages."""

    def __init__(self, data: bytearray, end: int, has_filetype: bool, number: int) -> None:
        self.data = data
        self.end = end
        self._has_filetype = has_filetype
        self._number = number

    def __iter__(self) -> Iterator[BlockEntry]:
        """All entries, also unused ones. CorruptionError for a length that does not fit."""
        offset = 0
        while offset < self.end:
            if self.end - offset < _HEADER_SIZE:
                raise self._wrong("entry runs past the end", offset)
            inode, stored, name_len, file_type = EXT4_DIR_ENTRY.unpack_tuple(self.data, offset)
            rec_len = rec_len_from_disk(stored, len(self.data))
            if (
                rec_len < EXT4_DIR_MIN_REC_LEN
                or rec_len & 3
                or offset + rec_len > self.end
                or entry_size(name_len) > rec_len
            ):
                raise self._wrong(f"rec_len is {rec_len}", offset)
            start = offset + _HEADER_SIZE
            yield BlockEntry(offset, inode, rec_len, bytes(self.data[start : start + name_len]), file_type)
            offset += rec_len

    def insert(self, name: bytes, inode: int, mode: int) -> bool | None:
        """Put a name into the first gap. True if done, None if there is no gap, False if the name comes before it."""
        wanted = entry_size(len(name))
        for entry in self:
            if entry.inode and entry.name == name:
                return False
            if entry.rec_len - (entry_size(len(entry.name)) if entry.inode else 0) >= wanted:
                self.insert_at(entry.offset, name, inode, mode)
                return True
        return None

    def insert_at(self, offset: int, name: bytes, inode: int, mode: int) -> None:
        """Put a name into the spare space of the entry at `offset`, or over that entry if it is unused."""
        owner, stored, name_len, _ = EXT4_DIR_ENTRY.unpack_tuple(self.data, offset)
        rec_len = rec_len_from_disk(stored, len(self.data))
        if owner:
            used = entry_size(name_len)
            self.set_rec_len(offset, used)
            offset, rec_len = offset + used, rec_len - used
        self.put(offset, rec_len, name, inode, mode)

    def remove(self, name: bytes, inode: int) -> int:
        """Remove the name if it belongs to `inode`. Returns the inode that it names, 0 if it is not here."""
        if name not in self.data:
            return 0
        before: int | None = None
        for entry in self:
            if entry.inode and entry.name == name:
                if entry.inode == inode:
                    if before is None:
                        self.put(entry.offset, entry.rec_len)
                    else:
                        self.set_rec_len(before, entry.offset + entry.rec_len - before)
                        self.data[entry.offset : entry.offset + entry.rec_len] = bytes(entry.rec_len)
                return entry.inode
            before = entry.offset
        return 0

    def put(self, offset: int, rec_len: int, name: bytes = b"", inode: int = 0, mode: int = 0) -> None:
        """Write an entry, without a name an unused one."""
        file_type = EXT4_TYPE_BY_MODE.get(mode & S_IFMT, EXT4_FT_UNKNOWN) if self._has_filetype else EXT4_FT_UNKNOWN
        raw = EXT4_DIR_ENTRY.pack((inode, rec_len_to_disk(rec_len, len(self.data)), len(name), file_type)) + name
        self.data[offset : offset + rec_len] = raw.ljust(rec_len, b"\0")

    def set_rec_len(self, offset: int, rec_len: int) -> None:
        """Change the length of an entry."""
        inode, _, name_len, file_type = EXT4_DIR_ENTRY.unpack_tuple(self.data, offset)
        raw = EXT4_DIR_ENTRY.pack((inode, rec_len_to_disk(rec_len, len(self.data)), name_len, file_type))
        self.data[offset : offset + _HEADER_SIZE] = raw

    def stretch(self, end: int) -> None:
        """Extend the last entry to a new `end`; an area without entries gets an unused one."""
        last = 0
        for entry in self:
            last = entry.offset
        self.end = end
        self.set_rec_len(last, end - last)

    def pack(self, entries: list[bytes]) -> int:
        """Replace everything by these raw entries, the last one extended to the end. Returns its offset."""
        self.data[:] = bytes(len(self.data))
        offset = last = 0
        for raw in entries:
            self.data[offset : offset + len(raw)] = raw
            self.set_rec_len(offset, len(raw))
            last, offset = offset, offset + len(raw)
        self.set_rec_len(last, self.end - last)
        return last

    def raw(self, entry: BlockEntry) -> bytes:
        """The bytes of an entry without its spare space."""
        return bytes(self.data[entry.offset : entry.offset + entry_size(len(entry.name))])

    def _wrong(self, reason: str, offset: int) -> CorruptionError:
        place = Place(inode=self._number, offset=offset, record=EXT4_DIR_ENTRY.name, field="rec_len")
        return CorruptionError(f"directory: {reason}", place)
