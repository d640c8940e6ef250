"""One word of every inode in a piece of inode table, as one large number: one operation tests all inodes."""

from __future__ import annotations

from ext4img.structs.inode import EXT4_INODE, EXT4_INODE_EXTRA

_WORD = 4


def word_of(name: str) -> int:
    """The index of the 32-bit word that holds a field, from the inode's start."""
    if name in EXT4_INODE.raw._fields:
        return EXT4_INODE.offset_of(name) // _WORD
    return (EXT4_INODE.size + EXT4_INODE_EXTRA.offset_of(name)) // _WORD


class InodeWords:
    """The columns of a piece of inode table, each gathered once. For little-endian machines only."""

    __slots__ = ("_columns", "_step", "_words", "count")

    def __init__(self, table: bytes, inode_size: int) -> None:
        self._words = memoryview(table).cast("I")
        self._step = inode_size // _WORD
        self._columns: dict[int, int] = {}
        self.count = len(table) // inode_size

    def column(self, word: int) -> int:
        """Word `word` of each inode, 32 bits each; the first inode is in the lowest bits."""
        known = self._columns.get(word)
        if known is None:
            known = self._columns[word] = int.from_bytes(self._words[word :: self._step].tobytes(), "little")
        return known

    def repeated(self, word: int) -> int:
        """The same word for each inode."""
        return int.from_bytes(word.to_bytes(_WORD, "little") * self.count, "little")

    def positions(self, columns: int) -> list[int]:
        """The positions of inodes whose word is not zero."""
        if not columns:
            return []
        marks = memoryview(columns.to_bytes(self.count * _WORD, "little")).cast("I")
        return [position for position, mark in enumerate(marks.tolist()) if mark]
