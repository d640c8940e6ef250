"""Adding names to directories and removing them during recovery, exactly as the kernel does it.

The place of a name decides when a directory grows, and so its size after recovery. Therefore every
step is the kernel's: the first gap in a block is used, a full one-block directory gets an index, a
full leaf is split by hash. Kernel: fs/ext4/namei.c (ext4_add_entry, ext4_dx_add_entry,
make_indexed_dir, do_split).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from ext4img.errors import CorruptionError, Place
from ext4img.names.dirhash import UNSIGNED, dirhash
from ext4img.structs.directory import (
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_HASH_TEA,
    DX_ROOT_ENTRIES_OFFSET,
    DX_ROOT_INFO,
    DX_ROOT_INFO_OFFSET,
    DX_TAIL,
    EXT4_DIR_ENTRY_TAIL,
    EXT4_DIR_MIN_REC_LEN,
)
from ext4img.structs.inode import EXT4_CASEFOLD_FL, EXT4_ENCRYPT_FL, EXT4_INDEX_FL
from ext4img.volume import checksum
from ext4img.volume.dir_block import DirectoryFormat, index_entries_offset, leaf_tail, verify_block
from ext4img.volume.features import Compat, Incompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.recovery.editor import RecoveryEditor
from ext4img.volume.recovery.entries import EntryArea
from ext4img.volume.recovery.extents import RecoveryExtents
from ext4img.volume.recovery.htree import IndexPath, index_limit
from ext4img.volume.recovery.inline import InlineDirectory
from ext4img.volume.runs import WRITTEN, Run


class RemoveResult(Enum):
    """The result of `RecoveryDirectory.remove`."""

    GONE = "the name was removed"
    OTHER = "the name belongs to another inode now, and stays"
    ABSENT = "there is no such name"


class RecoveryDirectory:
    """One directory under recovery. CorruptionError if it cannot be changed."""

    def __init__(self, editor: RecoveryEditor, extents: RecoveryExtents, inode: StoredInode) -> None:
        self._editor = editor
        self._extents = extents
        self._inode = inode
        self._number = inode.number
        self._size = editor.superblock.block_size
        if not inode.is_dir:
            raise self._wrong("a fast commit puts a name into an inode that is not a directory")
        if inode.flags & EXT4_ENCRYPT_FL:
            raise self._wrong("a fast commit puts a name into an encrypted directory, which needs the key")
        self._end = self._size - EXT4_DIR_ENTRY_TAIL.size if editor.has_checksums else self._size
        self._has_index = Compat.DIR_INDEX in editor.superblock.features
        self._form = DirectoryFormat(
            inode.number,
            editor.inode_seed(inode.number) if editor.has_checksums and editor.problems.verify else None,
            Incompat.FILETYPE in editor.superblock.features,
            False,
            editor.superblock.inode_count,
        )

    # Names

    def add(self, name: bytes, number: int, mode: int) -> bool:
        """Add a name; False if it already exists."""
        if self._inode.has_inline_data:
            inline = InlineDirectory(self._editor, self._inode, self._form.has_filetype)
            found = inline.add(name, number, mode)
            if found is not None:
                return found
            self._convert(inline)
        if self._is_indexed():
            return self._add_indexed(self._probe(name), name, number, mode)
        if self._inode.flags & EXT4_INDEX_FL:
            self._set_flags(self._inode.flags & ~EXT4_INDEX_FL)  # the index would not lead to the new name
        blocks = self._block_count()
        for lblk in self._leaves():
            pblk, area = self._read_leaf(lblk)
            found = area.insert(name, number, mode)
            if found is False:
                return False
            if found:
                self._write_leaf(pblk, area)
                return True
            if blocks == 1 and self._has_index and not self._inode.flags & EXT4_CASEFOLD_FL:
                self._make_indexed(pblk, area, name, number, mode)
                return True
        pblk, area = self._append_leaf()
        area.put(0, self._end)
        area.insert(name, number, mode)
        self._write_leaf(pblk, area)
        return True

    def remove(self, name: bytes, number: int) -> RemoveResult:
        """Remove a name, if it belongs to inode `number`."""
        owner = 0
        if self._inode.has_inline_data:
            owner = InlineDirectory(self._editor, self._inode, self._form.has_filetype).remove(name, number)
        else:
            for lblk in self._candidates(name):
                pblk, area = self._read_leaf(lblk)
                owner = area.remove(name, number)
                if owner == number:
                    self._write_leaf(pblk, area)
                if owner:
                    break
        if not owner:
            return RemoveResult.ABSENT
        return RemoveResult.GONE if owner == number else RemoveResult.OTHER

    def initialise(self, parent: int) -> None:
        """Give a new directory its first block, with "." and ".." (ext4_init_new_dir)."""
        self._set_size(0)
        pblk, area = self._append_leaf()
        area.put(0, EXT4_DIR_MIN_REC_LEN, b".", self._number, self._inode.mode)
        area.put(EXT4_DIR_MIN_REC_LEN, self._end - EXT4_DIR_MIN_REC_LEN, b"..", parent, self._inode.mode)
        self._write_leaf(pblk, area)

    # Blocks

    def _block_count(self) -> int:
        return self._inode.size // self._size

    def _read(self, lblk: int) -> tuple[int, bytearray]:
        """(physical block, its verified bytes)."""
        for run in self._extents.runs(self._number):
            if run.lblk <= lblk < run.end and run.state == WRITTEN:
                pblk = run.pblk + lblk - run.lblk
                block = self._editor.read(pblk)
                verify_block(block, self._form, pblk)
                return pblk, bytearray(block)
        raise self._wrong(f"directory has a hole at logical block {lblk}")

    def _append(self) -> tuple[int, bytearray]:
        """A new block at the directory's end (ext4_append). i_blocks does not change, as in the kernel."""
        lblk = self._block_count()
        runs = self._extents.runs(self._number)
        if runs and runs[-1].end > lblk:
            raise self._wrong("directory has blocks past its end")
        pblk = self._editor.allocate(runs[-1].pblk + runs[-1].length if runs else 0)
        self._extents.add(self._number, Run(lblk, pblk, 1, WRITTEN))
        self._set_size((lblk + 1) * self._size)
        return pblk, bytearray(self._size)

    def _read_leaf(self, lblk: int) -> tuple[int, EntryArea]:
        pblk, block = self._read(lblk)
        return pblk, EntryArea(block, self._end, self._form.has_filetype, self._number)

    def _append_leaf(self) -> tuple[int, EntryArea]:
        pblk, block = self._append()
        return pblk, EntryArea(block, self._end, self._form.has_filetype, self._number)

    def _write_leaf(self, pblk: int, area: EntryArea) -> None:
        block = area.data
        if self._end < self._size:
            # The checksum covers the bytes before the tail.
            stored = checksum.directory_block(self._editor.inode_seed(self._number), bytes(block))
            block[self._end :] = leaf_tail(stored)
        self._editor.write(pblk, block)

    def _convert(self, inline: InlineDirectory) -> None:
        """Move an inline directory into a first block. It may have no room for another name."""
        self._extents.forget(self._number)
        area = inline.to_block(self._size, self._end)
        self._inode = self._editor.inode(self._number)
        pblk = self._editor.allocate(0)
        self._extents.add(self._number, Run(0, pblk, 1, WRITTEN))
        self._write_leaf(pblk, area)

    def _set_size(self, size: int) -> None:
        self._inode = self._inode._replace(size=size)
        fields = {"i_size_lo": size & 0xFFFFFFFF}
        if Incompat.LARGEDIR in self._editor.superblock.features:
            fields["i_size_high"] = size >> 32
        self._editor.change_inode(self._number, **fields)

    def _set_flags(self, flags: int) -> None:
        self._inode = self._inode._replace(flags=flags)
        self._editor.change_inode(self._number, i_flags=flags)

    def _leaves(self) -> Iterator[int]:
        """Logical blocks of a directory that is used without an index, without index blocks left from one."""
        for lblk in range(self._block_count()):
            if not lblk or index_entries_offset(bytes(self._read(lblk)[1])) is None:
                yield lblk

    # The index

    def _is_indexed(self) -> bool:
        """Whether the index is used. That of a case-insensitive directory is not: it hashes folded names."""
        flags = self._inode.flags
        return self._has_index and bool(flags & EXT4_INDEX_FL) and not flags & EXT4_CASEFOLD_FL

    def _hash(self, name: bytes, version: int) -> int:
        superblock = self._editor.superblock
        if superblock.hash_unsigned and version <= DX_HASH_TEA:
            version += UNSIGNED
        return dirhash(name, version, superblock.hash_seed)[0]

    def _probe(self, name: bytes) -> IndexPath:
        """The path through the index to the leaf for `name`."""
        large = Incompat.LARGEDIR in self._editor.superblock.features
        path = IndexPath(self._read, self._number, large, DX_TAIL.size if self._editor.has_checksums else 0)
        path.probe(self._hash(name, path.hash_version))
        return path

    def _candidates(self, name: bytes) -> Iterator[int]:
        """Logical blocks that may hold `name`."""
        if not self._is_indexed():
            yield from self._leaves()
            return
        path = self._probe(name)
        yield path.leaf
        while path.advance():
            yield path.leaf

    def _add_indexed(self, path: IndexPath, name: bytes, number: int, mode: int) -> bool:
        pblk, area = self._read_leaf(path.leaf)
        found = area.insert(name, number, mode)
        if found is False:
            return False
        if found:
            self._write_leaf(pblk, area)
            return True
        while path.is_full:
            if not path.grow(self._append_node, self._write_node):
                path.probe(path.hash)  # the path has changed
        self._split(path, pblk, area, name, number, mode)
        return True

    def _append_node(self) -> tuple[int, int, bytearray]:
        lblk = self._block_count()
        return (lblk, *self._append())

    def _write_node(self, pblk: int, block: bytearray, base: int) -> None:
        """Write an index block, with its checksum behind the last possible entry."""
        limit, count = index_limit(block, base)
        if self._editor.has_checksums:
            seed = self._editor.inode_seed(self._number)
            tail = base + limit * DX_ENTRY.size
            end = tail + DX_TAIL.size
            covered = bytes(block[: base + count * DX_ENTRY.size])
            before = bytes(block[tail:end])
            reserved = DX_TAIL.unpack_tuple(before, 0)[0]  # part of the checksum, and not always 0
            block[tail:end] = DX_TAIL.pack((reserved, checksum.htree_block(seed, covered, before)))
        self._editor.write(pblk, block)

    def _make_indexed(self, pblk: int, full: EntryArea, name: bytes, number: int, mode: int) -> None:
        """Turn a full one-block directory into an index root with one leaf, and split that."""
        dots = list(full)[:2]
        if len(dots) < 2 or dots[1].offset != EXT4_DIR_MIN_REC_LEN:
            raise self._wrong("directory does not begin with '.' and '..'")
        first = dots[1].offset + dots[1].rec_len
        entries = bytes(full.data[first : self._end])
        leaf_pblk, leaf = self._append_leaf()
        self._set_flags(self._inode.flags | EXT4_INDEX_FL)
        leaf.data[: len(entries)] = entries
        leaf.end = len(entries)
        leaf.stretch(self._end)

        root = full.data
        root[EXT4_DIR_MIN_REC_LEN * 2 :] = bytes(self._size - EXT4_DIR_MIN_REC_LEN * 2)
        full.set_rec_len(EXT4_DIR_MIN_REC_LEN, self._size - EXT4_DIR_MIN_REC_LEN)
        version = self._editor.superblock.hash_version
        info = DX_ROOT_INFO.pack((0, version, DX_ROOT_INFO.size, 0, 0))
        tail = DX_TAIL.size if self._editor.has_checksums else 0
        limit = (self._size - DX_ROOT_ENTRIES_OFFSET - tail) // DX_ENTRY.size
        start = info + DX_COUNTLIMIT.pack((limit, 1)) + bytes([1])  # the leaf is logical block 1
        root[DX_ROOT_INFO_OFFSET : DX_ROOT_INFO_OFFSET + len(start)] = start
        self._write_node(pblk, root, DX_ROOT_ENTRIES_OFFSET)
        self._write_leaf(leaf_pblk, leaf)
        self._split(self._probe(name), leaf_pblk, leaf, name, number, mode)

    def _split(self, path: IndexPath, pblk: int, lower: EntryArea, name: bytes, number: int, mode: int) -> None:
        """Move the upper half of a full leaf's hashes to a new one, then add the name (do_split)."""
        used = [entry for entry in lower if entry.inode and entry.name]
        by_hash = [(self._hash(entry.name, path.hash_version), entry) for entry in used]
        by_hash.sort(key=lambda pair: pair[0])
        size = moved = 0
        for _, entry in reversed(by_hash):
            if size + entry.rec_len // 2 > self._size // 2:
                break
            size += entry.rec_len
            moved += 1
        position = len(by_hash) - moved
        if position <= 1:  # all entries fit into half a block, or all but one
            position = len(by_hash) // 2
        if not by_hash:
            raise self._wrong("a full directory block has no entries")
        middle = by_hash[position][0]
        continued = position > 0 and middle == by_hash[position - 1][0]
        new_lblk = self._block_count()
        new_pblk, upper = self._append_leaf()
        stay = {entry.offset for _, entry in by_hash[:position]}
        last_upper = upper.pack([lower.raw(entry) for _, entry in by_hash[position:]])
        last_lower = lower.pack([lower.raw(entry) for entry in used if entry.offset in stay])
        if path.hash >= middle:
            upper.insert_at(last_upper, name, number, mode)
        else:
            lower.insert_at(last_lower, name, number, mode)
        self._write_leaf(pblk, lower)
        self._write_leaf(new_pblk, upper)
        path.insert(middle + continued, new_lblk, self._write_node)

    def _wrong(self, reason: str) -> CorruptionError:
        return CorruptionError(reason, Place(inode=self._number))
