"""The entries of one block of a directory, or of one piece of an inline one, as recovery changes them.

Kernel: ext4_find_dest_de, ext4_insert_dentry, ext4_generic_delete_entry (fs/ext4/namei.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ext4img.errors import CorruptionError, Place
from ext4img.structs.directory import EXT4_DIR_ENTRY
from ext4img.structs.inode import S_IFMT

MIN_REC_LEN = 12
_HEADER_SIZE = EXT4_DIR_ENTRY.size
_64_KIB = 0x10000
_FILE_TYPES = {0x8: 1, 0x4: 2, 0x2: 3, 0x6: 4, 0x1: 5, 0xC: 6, 0xA: 7}  # S_IFMT >> 12 → EXT4_FT_*


def needed(name_len: int) -> int:
    """Bytes of an entry with a name of this length (ext4_dir_rec_len)."""
    return _HEADER_SIZE + (name_len + 3 & ~3)


class StoredEntry(NamedTuple):
    """An entry where it stands; `inode` is 0 where it is unused."""

    offset: int
    inode: int
    rec_len: int
    name: bytes


class EntryArea:
    """Entries in `data`, back to back, up to byte `end`. `number` is the directory's, for messages."""

    def __init__(self, data: bytearray, end: int, has_filetype: bool, number: int) -> None:
        self.data = data
        self.end = end
        self._has_filetype = has_filetype
        self._number = number

    def __iter__(self) -> Iterator[StoredEntry]:
        """All entries, also unused ones. CorruptionError where a length does not fit."""
        offset = 0
        while offset < self.end:
            if self.end - offset < _HEADER_SIZE:
                raise self._wrong("entry runs past the end", offset)
            inode, stored, name_len, _ = EXT4_DIR_ENTRY.unpack_tuple(self.data, offset)
            rec_len = self._from_disk(stored)
            if rec_len < MIN_REC_LEN or rec_len & 3 or offset + rec_len > self.end or needed(name_len) > rec_len:
                raise self._wrong(f"rec_len is {rec_len}", offset)
            start = offset + _HEADER_SIZE
            yield StoredEntry(offset, inode, rec_len, bytes(self.data[start : start + name_len]))
            offset += rec_len

    def insert(self, name: bytes, inode: int, mode: int) -> bool | None:
        """Into the first gap: True; None where there is none, False where the name is met before it."""
        wanted = needed(len(name))
        for entry in self:
            if entry.inode and entry.name == name:
                return False
            if entry.rec_len - (needed(len(entry.name)) if entry.inode else 0) >= wanted:
                self.insert_at(entry.offset, name, inode, mode)
                return True
        return None

    def insert_at(self, offset: int, name: bytes, inode: int, mode: int) -> None:
        """Into the space that the entry at `offset` has to spare, or into itself if it is unused."""
        owner, stored, name_len, _ = EXT4_DIR_ENTRY.unpack_tuple(self.data, offset)
        rec_len = self._from_disk(stored)
        if owner:
            used = needed(name_len)
            self.set_rec_len(offset, used)
            offset, rec_len = offset + used, rec_len - used
        self.put(offset, rec_len, name, inode, mode)

    def remove(self, name: bytes, inode: int) -> int:
        """Take the name out if it is that of `inode`; returns whose it was, 0 if it is not here."""
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
        """Write an entry; without a name, an unused one."""
        file_type = _FILE_TYPES.get((mode & S_IFMT) >> 12, 0) if self._has_filetype else 0
        raw = EXT4_DIR_ENTRY.pack((inode, self._to_disk(rec_len), len(name), file_type)) + name
        self.data[offset : offset + rec_len] = raw.ljust(rec_len, b"\0")

    def set_rec_len(self, offset: int, rec_len: int) -> None:
        """Change how far an entry reaches."""
        inode, _, name_len, file_type = EXT4_DIR_ENTRY.unpack_tuple(self.data, offset)
        raw = EXT4_DIR_ENTRY.pack((inode, self._to_disk(rec_len), name_len, file_type))
        self.data[offset : offset + _HEADER_SIZE] = raw

    def stretch(self, end: int) -> None:
        """Let the last entry reach to a new `end`; an area without entries gets an unused one."""
        last = 0
        for entry in self:
            last = entry.offset
        self.end = end
        self.set_rec_len(last, end - last)

    def pack(self, entries: list[bytes]) -> int:
        """Nothing but these raw entries, the last one reaching to the end; returns its offset."""
        self.data[:] = bytes(len(self.data))
        offset = last = 0
        for raw in entries:
            self.data[offset : offset + len(raw)] = raw
            self.set_rec_len(offset, len(raw))
            last, offset = offset, offset + len(raw)
        self.set_rec_len(last, self.end - last)
        return last

    def raw(self, entry: StoredEntry) -> bytes:
        """The bytes of an entry without space to spare."""
        return bytes(self.data[entry.offset : entry.offset + needed(len(entry.name))])

    def _from_disk(self, rec_len: int) -> int:
        """16 bits do not hold 64 KiB (ext4_rec_len_from_disk)."""
        if len(self.data) < _64_KIB:
            return rec_len
        return len(self.data) if rec_len in (0xFFFF, 0) else rec_len & 0xFFFC | (rec_len & 3) << 16

    def _to_disk(self, rec_len: int) -> int:
        return rec_len if rec_len < _64_KIB else 0xFFFF

    def _wrong(self, reason: str, offset: int) -> CorruptionError:
        place = Place(inode=self._number, offset=offset, record=EXT4_DIR_ENTRY.name, field="rec_len")
        return CorruptionError(f"directory: {reason}", place)
