"""Directory entries as stored: one as an object, all of a directory as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

from ext4img.structs.directory import EXT4_FT_DIR, EXT4_FT_UNKNOWN

DirEntryFields = tuple[bytes, int, int, bytes]
"""The fields of a DirEntry."""

_DIRECTORIES = bytes((EXT4_FT_UNKNOWN, EXT4_FT_DIR))


class DirEntry(NamedTuple):
    """A name in a directory, as stored.

    `file_type` is the entry's own word (0 unknown, 1 file, 2 dir, 3 char, 4 block, 5 fifo,
    6 socket, 7 symlink; always 0 without the filetype feature). `hash` holds the 8 bytes that
    follow the name in directories both encrypted and case-insensitive, else nothing.
    """

    name: bytes
    inode: int
    file_type: int
    hash: bytes


class DirListing:
    """Names as stored, inode numbers, file types and hashes, in the order of the disk.

    `hashes` is empty where the directory has none; see `DirEntry` for what each is.
    """

    __slots__ = ("hashes", "inodes", "names", "types")

    def __init__(self, entries: Iterable[DirEntryFields] = ()) -> None:
        self.names: list[bytes] = []
        self.inodes: list[int] = []
        self.types = bytearray()
        self.hashes: list[bytes] = []
        for name, inode, file_type, hash_ in entries:
            self.add(name, inode, file_type, hash_)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: bytes, inode: int, file_type: int, hash_: bytes) -> None:
        """One entry more. All entries of a directory have hashes, or none."""
        self.names.append(name)
        self.inodes.append(inode)
        self.types.append(file_type)
        if hash_:
            self.hashes.append(hash_)

    def rows(self) -> Iterator[DirEntryFields]:
        """Each entry's fields as a plain tuple."""
        return zip(self.names, self.inodes, self.types, self.hashes or repeat(b""), strict=False)

    def entries(self) -> list[DirEntry]:
        """Each entry as an object."""
        new = tuple.__new__
        return [new(DirEntry, row) for row in self.rows()]

    def only(self, positions: Iterable[int]) -> DirListing:
        """The entries at these positions."""
        rows = list(self.rows())
        return DirListing(rows[position] for position in positions)

    def branches(self) -> list[int]:
        """The positions of what may be a directory: type 0 is "unknown", and the inode has to tell."""
        if len(self.types.translate(None, _DIRECTORIES)) == len(self.types):
            return []
        return [at for at, kind in enumerate(self.types) if kind in (EXT4_FT_DIR, EXT4_FT_UNKNOWN)]
