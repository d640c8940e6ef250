"""The bytes of directories: blocks of entries, index nodes, and inline entries in an inode."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from struct import Struct
from typing import Final

from ext4img.mkfs.directories import DOTS_BYTES, DirectoryOptions, PlannedDirectory
from ext4img.structs.directory import (
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_NODE_ENTRIES_OFFSET,
    DX_ROOT_DOTS,
    DX_ROOT_INFO,
    DX_ROOT_INFO_OFFSET,
    DX_TAIL,
    EXT4_DIR_ENTRY,
    EXT4_DIR_MIN_REC_LEN,
    EXT4_FT_DIR,
    EXT4_INLINE_DIR_PARENT,
    FAKE_DIRENT,
)
from ext4img.structs.inode import I_BLOCK_SIZE
from ext4img.volume import checksum
from ext4img.volume.dir_block import leaf_tail
from ext4img.volume.dir_entry import entry_size, rec_len_to_disk

INLINE_ENTRIES: Final = I_BLOCK_SIZE - EXT4_INLINE_DIR_PARENT.size
_DOT: Final = EXT4_DIR_MIN_REC_LEN
_HEAD: Final = Struct("<IHBB")  # struct ext4_dir_entry_2, for the loop over entries
_U32: Final = Struct("<I")
assert _HEAD.size == EXT4_DIR_ENTRY.size


class DirectoryWriter:
    """Makes the blocks of one directory. `numbers` and `types` give inode number and file_type by index.

    `seed` is that of the checksums of the directory's inode; None: no checksums.
    """

    def __init__(
        self,
        directory: PlannedDirectory,
        form: DirectoryOptions,
        numbers: array[int],
        types: bytearray,
        seed: int | None,
    ) -> None:
        self._directory = directory
        self._form = form
        self._numbers = numbers
        self._types = types
        self._seed = seed
        layout = directory.layout
        self._first_leaf = 0 if layout.leaf_hashes is None else 1 + sum(layout.levels)

    def blocks(self, first: int, count: int) -> Iterator[bytes]:
        """The directory's blocks from logical block `first` on."""
        for lblk in range(first, first + count):
            if lblk >= self._first_leaf:
                yield self._leaf(lblk - self._first_leaf)
            elif lblk:
                yield self._node(lblk)
            else:
                yield self._root()

    def inline(self, size: int) -> tuple[bytes, bytes]:
        """i_block and the value of system.data of an inline directory of `size` bytes."""
        parent = self._numbers[self._directory.parent]
        names = self._directory.names
        split = inline_split(self._directory)
        i_block = EXT4_INLINE_DIR_PARENT.pack((parent,)) + self._entries(0, split, INLINE_ENTRIES, b"")
        rest = size - I_BLOCK_SIZE
        return i_block, self._entries(split, len(names), rest, b"") if rest else b""

    def _leaf(self, leaf: int) -> bytes:
        starts = self._directory.layout.starts
        start = starts[leaf]
        end = starts[leaf + 1] if leaf + 1 < len(starts) else len(self._directory.names)
        dots = b""
        if leaf == 0 and not self._first_leaf:
            dots = self._dots(_DOT if end > start else self._form.room - _DOT)
        return self._tailed(self._entries(start, end, self._form.room, dots))

    def _entries(self, start: int, end: int, room: int, before: bytes) -> bytes:
        """`before` and the entries `start` to `end`, the last one extended to fill `room` bytes."""
        directory = self._directory
        if start == end:
            if before:
                return before.ljust(room, b"\0")
            return _HEAD.pack(0, rec_len_to_disk(room, self._form.block_size), 0, 0).ljust(room, b"\0")
        numbers, types, names, children = self._numbers, self._types, directory.names, directory.children
        hashed = directory.hashed_names
        pack = _HEAD.pack
        pieces = [before]
        left = room - len(before)
        for position in range(start, end - 1):
            name = names[position]
            child = children[position]
            size = len(name) + 11 & ~3
            if hashed:
                pieces.append(pack(numbers[child], size + 8, len(name), types[child]) + name.ljust(size - 8, b"\0"))
                pieces.append(bytes(directory.hashes[8 * position : 8 * position + 8]))
                left -= size + 8
            else:
                pieces.append(pack(numbers[child], size, len(name), types[child]) + name.ljust(size - 8, b"\0"))
                left -= size
        name = names[end - 1]
        child = children[end - 1]
        pieces.append(pack(numbers[child], rec_len_to_disk(left, self._form.block_size), len(name), types[child]))
        pieces.append(name.ljust((len(name) + 3) & ~3, b"\0"))
        if hashed:
            pieces.append(bytes(directory.hashes[8 * (end - 1) : 8 * end]))
        return b"".join(pieces).ljust(room, b"\0")

    def _dots(self, last: int) -> bytes:
        """The two entries at the beginning of every directory, the second `last` bytes long."""
        return DX_ROOT_DOTS.pack(
            (
                self._numbers[self._directory.index],
                _DOT,
                1,
                EXT4_FT_DIR,
                b".\0\0\0",
                self._numbers[self._directory.parent],
                rec_len_to_disk(last, self._form.block_size),
                2,
                EXT4_FT_DIR,
                b"..\0\0",
            )
        )

    def _tailed(self, entries: bytes) -> bytes:
        if not self._form.checksums:
            return entries
        value = 0
        if self._seed is not None:
            value = checksum.directory_block(self._seed, entries + leaf_tail(0))
        return entries + leaf_tail(value)

    def _root(self) -> bytes:
        layout = self._directory.layout
        info = DX_ROOT_INFO.pack((0, layout.hash_version, DX_ROOT_INFO.size, len(layout.levels), 0))
        head = self._dots(self._form.block_size - _DOT) + info
        first, hashes = self._index[0]
        return self._index_block(head, self._form.root_limit, first, hashes)

    def _node(self, lblk: int) -> bytes:
        head = FAKE_DIRENT.pack((0, rec_len_to_disk(self._form.block_size, self._form.block_size), 0, 0))
        level = 0
        position = lblk - 1
        levels = self._directory.layout.levels
        while position >= levels[level]:
            position -= levels[level]
            level += 1
        first, hashes = self._index[level + 1]
        start, end = _share(len(hashes), levels[level], position)
        return self._index_block(head, self._form.node_limit, first + start, hashes[start:end])

    @cached_property
    def _index(self) -> list[tuple[int, array[int]]]:
        """For each level of the index, from the root down: the first block below it, and all hashes."""
        layout = self._directory.layout
        hashes = layout.leaf_hashes
        if hashes is None:
            return []
        block = self._first_leaf
        index = [(block, hashes)]
        for count in reversed(layout.levels):
            # A node has the hash of its first child.
            hashes = array("I", [hashes[_share(len(hashes), count, i)[0]] for i in range(count)])
            block -= count
            index.insert(0, (block, hashes))
        return index

    def _index_block(self, head: bytes, limit: int, first: int, hashes: Sequence[int]) -> bytes:
        """An index block: pairs of hash and block; limit and count replace the first hash."""
        count = len(hashes)
        pieces = [head, DX_COUNTLIMIT.pack((limit, count)), _U32.pack(first)]
        pieces += [DX_ENTRY.pack((hashes[i], first + i)) for i in range(1, count)]
        covered = b"".join(pieces)
        if not self._form.checksums:
            return covered.ljust(self._form.block_size, b"\0")
        tail = DX_TAIL.pack((0, 0))
        if self._seed is not None:
            tail = DX_TAIL.pack((0, checksum.htree_block(self._seed, covered, tail)))
        return (covered.ljust(len(head) + limit * DX_ENTRY.size, b"\0") + tail).ljust(self._form.block_size, b"\0")


def _share(items: int, parts: int, part: int) -> tuple[int, int]:
    """Start and end of share `part` of `items`, which are divided into `parts` nearly equal shares."""
    return items * part // parts, items * (part + 1) // parts


def inline_split(directory: PlannedDirectory) -> int:
    """How many entries are in i_block, if the directory is inline."""
    left = INLINE_ENTRIES
    for position, name in enumerate(directory.names):
        left -= entry_size(len(name), False)
        if left < 0:
            return position
    return len(directory.names)


def inline_size(directory: PlannedDirectory) -> int:
    """i_size of the directory if it is inline: i_block and the bytes of the entries that do not fit there."""
    rest = directory.names[inline_split(directory) :]
    return I_BLOCK_SIZE + sum(entry_size(len(name), False) for name in rest)


assert DX_ROOT_INFO_OFFSET == DX_ROOT_DOTS.size == DOTS_BYTES
assert FAKE_DIRENT.size == DX_NODE_ENTRIES_OFFSET
