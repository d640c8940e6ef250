"""Directory entries as stored: one as an object, all of a directory as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

from ext4img.errors import CorruptionError
from ext4img.structs.directory import EXT4_DIR_ENTRY, EXT4_DIR_ENTRY_HASH, EXT4_FT_DIR, EXT4_FT_UNKNOWN

DirEntryFields = tuple[bytes, int, int, bytes]
"""The fields of a DirEntry."""

HUGE_BLOCK = 1 << 16
"""Of so many bytes: rec_len, which has 16 bits, needs an encoding."""

_DIRECTORIES = bytes((EXT4_FT_UNKNOWN, EXT4_FT_DIR))


def entry_size(name_len: int, hashed: bool = False) -> int:
    """Bytes that an entry needs, a multiple of 4 (kernel: ext4_dir_rec_len)."""
    return (EXT4_DIR_ENTRY.size + name_len + 3 & ~3) + (EXT4_DIR_ENTRY_HASH.size if hashed else 0)


def rec_len_from_disk(stored: int, block_size: int) -> int:
    """The length in bytes that a stored rec_len stands for (kernel: ext4_rec_len_from_disk)."""
    if block_size < HUGE_BLOCK:
        return stored
    return block_size if stored in (0xFFFF, 0) else stored & 0xFFFC | (stored & 3) << 16


def rec_len_to_disk(length: int, block_size: int) -> int:
    """The rec_len that stands for a length in bytes (kernel: ext4_rec_len_to_disk)."""
    if length < HUGE_BLOCK:
        return length
    return 0xFFFF if length == block_size else length & 0xFFFC | length >> 16 & 3


class DirEntry(NamedTuple):
    """A name in a directory, as stored.

    `file_type` is the type that the entry claims (0 unknown, 1 file, 2 dir, 3 char, 4 block, 5 fifo,
    6 socket, 7 symlink; always 0 without the filetype feature). `hash` holds the 8 bytes that
    follow the name in directories that are both encrypted and case-insensitive; elsewhere it is empty.
    """

    name: bytes
    inode: int
    file_type: int
    hash: bytes


class BlockEntry(NamedTuple):
    """An entry at byte `offset` of its block. Unused ones (`inode` 0), "." and ".." are entries, too."""

    offset: int
    inode: int
    rec_len: int
    name: bytes
    file_type: int


class DirListing:
    """The entries of a directory as columns, in the order of the disk: no object per entry.

    Names are as stored. `hashes` is empty where the directory has none. `DirEntry` says what each
    column holds. `damage` is an error that was read around, so that names may be missing.
    """

    __slots__ = ("damage", "hashes", "inodes", "names", "types")

    def __init__(self, entries: Iterable[DirEntryFields] = ()) -> None:
        self.damage: CorruptionError | None = None
        self.names: list[bytes] = []
        self.inodes: list[int] = []
        self.types = bytearray()
        self.hashes: list[bytes] = []
        for name, inode, file_type, hash_ in entries:
            self.add(name, inode, file_type, hash_)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: bytes, inode: int, file_type: int, hash_: bytes) -> None:
        """Add an entry. Either all entries of a directory have hashes, or none."""
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
        chosen = DirListing(rows[position] for position in positions)
        chosen.damage = self.damage
        return chosen

    def branches(self) -> list[int]:
        """The positions of entries that may be directories: those of type 0, too, whose inode has the type."""
        if len(self.types.translate(None, _DIRECTORIES)) == len(self.types):
            return []
        return [at for at, kind in enumerate(self.types) if kind in (EXT4_FT_DIR, EXT4_FT_UNKNOWN)]
