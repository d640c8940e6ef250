"""Names put into and taken out of directories during recovery, block by block as the kernel does it.

Where a name goes decides when a directory grows, and so its size after recovery; so the kernel's
steps are followed to the letter: the first gap in a block, a one-block directory made an indexed
one, a full leaf split by hash. Kernel: fs/ext4/namei.c (ext4_add_entry, ext4_dx_add_entry,
make_indexed_dir, do_split, ext4_generic_delete_entry).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from ext4img.crypto.dirhash import dirhash
from ext4img.errors import CorruptionError, Place
from ext4img.structs.directory import (
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_HASH_TEA,
    DX_ROOT_INFO,
    DX_ROOT_INFO_OFFSET,
    DX_TAIL,
    EXT4_DIR_ENTRY,
    EXT4_DIR_ENTRY_TAIL,
    EXT4_FT_DIR_CSUM,
)
from ext4img.structs.inode import EXT4_CASEFOLD_FL, EXT4_ENCRYPT_FL, EXT4_INDEX_FL, S_IFMT
from ext4img.volume import checksum
from ext4img.volume.directory import DirectoryFormat, index_entries_offset, verify_block
from ext4img.volume.features import Compat, Incompat
from ext4img.volume.inode import Inode
from ext4img.volume.mapping import WRITTEN, Run
from ext4img.volume.recovery_editor import RecoveryEditor
from ext4img.volume.recovery_extents import RecoveryExtents
from ext4img.volume.recovery_htree import IndexPath, index_limit

_HEADER_SIZE = EXT4_DIR_ENTRY.size
_MIN_REC_LEN = 12
_DOTS_SIZE = 24  # "." and ".." at the start of block 0, 12 bytes each
_ROOT_ENTRIES = DX_ROOT_INFO_OFFSET + DX_ROOT_INFO.size
_SPLIT_MOST = 0x10000
_FILE_TYPES = {0x8: 1, 0x4: 2, 0x2: 3, 0x6: 4, 0x1: 5, 0xC: 6, 0xA: 7}  # S_IFMT >> 12 → EXT4_FT_*


class Removed(Enum):
    """What `RecoveryDirectory.remove` found."""

    GONE = "the name is gone"
    OTHER = "the name belongs to another inode by now, and stays"
    ABSENT = "there is no such name"


class RecoveryDirectory:
    """One directory under recovery. CorruptionError where it cannot be changed."""

    def __init__(self, editor: RecoveryEditor, extents: RecoveryExtents, inode: Inode) -> None:
        self._editor = editor
        self._extents = extents
        self._inode = inode
        self._number = inode.number
        self._size = editor.superblock.block_size
        place = Place(inode=inode.number)
        if not inode.is_dir:
            raise CorruptionError("a name in what is not a directory", place)
        if inode.flags & EXT4_ENCRYPT_FL:
            raise CorruptionError("a name in an encrypted directory, which needs the key", place)
        if inode.has_inline_data:
            raise CorruptionError("a name in a directory that is stored in its inode", place)
        self._tail = EXT4_DIR_ENTRY_TAIL.size if editor.has_checksums else 0
        self._form = DirectoryFormat(
            inode.number,
            editor.inode_seed(inode.number) if editor.has_checksums and editor.problems.verify else None,
            Incompat.FILETYPE in editor.superblock.features,
            False,
            editor.superblock.inode_count,
        )

    # What recovery asks for

    def add(self, name: bytes, number: int, mode: int) -> bool:
        """Put a name in; False where it is there already."""
        if self._is_indexed():
            path = self._probe(name)
            if path is not None:
                return self._add_indexed(path, name, number, mode)
        blocks = self._block_count()
        has_index = Compat.DIR_INDEX in self._editor.superblock.features
        for lblk in range(blocks):
            pblk, block = self._read(lblk)
            if lblk and index_entries_offset(bytes(block)) is not None:
                continue  # of an index that is no longer used
            found = self._insert(block, name, number, mode)
            if found is False:
                return False
            if found:
                self._write_leaf(pblk, block)
                return True
            if blocks == 1 and has_index and not self._inode.flags & EXT4_CASEFOLD_FL:
                self._make_indexed(pblk, block, name, number, mode)
                return True
        pblk, block = self._append()
        self._entry(block, 0, 0, self._size - self._tail, b"", 0)
        self._insert(block, name, number, mode)
        self._write_leaf(pblk, block)
        return True

    def remove(self, name: bytes, number: int) -> Removed:
        """Take a name out, if it belongs to inode `number`."""
        for lblk in self._candidates(name):
            pblk, block = self._read(lblk)
            if name not in block:
                continue
            before = None
            for offset, owner, rec_len, name_len in self._entries(block):
                if owner and self._name(block, offset, name_len) == name:
                    if owner != number:
                        return Removed.OTHER
                    if before is None:
                        self._entry(block, offset, 0, rec_len, b"", 0)
                    else:
                        self._set_rec_len(block, before, offset + rec_len - before)
                        block[offset : offset + rec_len] = bytes(rec_len)
                    self._write_leaf(pblk, block)
                    return Removed.GONE
                before = offset
        return Removed.ABSENT

    def initialise(self, parent: int) -> None:
        """Give a new directory its first block, with "." and ".." (ext4_init_new_dir)."""
        self._set_size(0)
        pblk, block = self._append()
        self._entry(block, 0, self._number, _MIN_REC_LEN, b".", 0x4000)
        self._entry(block, _MIN_REC_LEN, parent, self._size - self._tail - _MIN_REC_LEN, b"..", 0x4000)
        self._write_leaf(pblk, block)

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
        raise CorruptionError(f"directory has a hole at logical block {lblk}", Place(inode=self._number))

    def _append(self) -> tuple[int, bytearray]:
        """A new block at the directory's end (ext4_append). i_blocks stays, as in the kernel."""
        lblk = self._block_count()
        runs = self._extents.runs(self._number)
        if runs and runs[-1].end > lblk:
            raise CorruptionError("directory has blocks past its end", Place(inode=self._number))
        pblk = self._editor.allocate(runs[-1].end if runs else 0)
        self._extents.add(self._number, Run(lblk, pblk, 1, WRITTEN))
        self._set_size((lblk + 1) * self._size)
        return pblk, bytearray(self._size)

    def _set_size(self, size: int) -> None:
        self._inode = self._inode._replace(size=size)
        fields = {"i_size_lo": size & 0xFFFFFFFF}
        if Incompat.LARGEDIR in self._editor.superblock.features:
            fields["i_size_high"] = size >> 32
        self._editor.change_inode(self._number, **fields)

    def _set_flags(self, flags: int) -> None:
        self._inode = self._inode._replace(flags=flags)
        self._editor.change_inode(self._number, i_flags=flags)

    def _write_leaf(self, pblk: int, block: bytearray) -> None:
        if self._tail:
            start = self._size - self._tail
            seed = self._editor.inode_seed(self._number)
            # The checksum is over what stands before the tail.
            stored = checksum.directory_block(seed, bytes(block))
            block[start:] = EXT4_DIR_ENTRY_TAIL.pack((0, self._tail, 0, EXT4_FT_DIR_CSUM, stored))
        self._editor.write(pblk, block)

    # Entries of one block

    def _entries(self, block: bytearray) -> Iterator[tuple[int, int, int, int]]:
        """(offset, inode, rec_len, name_len) of every entry, also unused ones."""
        end = self._size - self._tail
        offset = 0
        while offset < end:
            number, rec_len, name_len, _ = EXT4_DIR_ENTRY.unpack_tuple(block, offset)
            rec_len = self._from_disk(rec_len)
            if rec_len < _MIN_REC_LEN or rec_len & 3 or offset + rec_len > end or _needed(name_len) > rec_len:
                place = Place(inode=self._number, offset=offset, record=EXT4_DIR_ENTRY.name, field="rec_len")
                raise CorruptionError(f"directory: rec_len is {rec_len}", place)
            yield offset, number, rec_len, name_len
            offset += rec_len

    def _name(self, block: bytearray, offset: int, name_len: int) -> bytes:
        return bytes(block[offset + _HEADER_SIZE : offset + _HEADER_SIZE + name_len])

    def _insert(self, block: bytearray, name: bytes, number: int, mode: int) -> bool | None:
        """Into the first gap: True; None where there is none, False where the name is there before it."""
        needed = _needed(len(name))
        for offset, owner, rec_len, name_len in self._entries(block):
            if owner and self._name(block, offset, name_len) == name:
                return False
            used = _needed(name_len) if owner else 0
            if rec_len - used >= needed:
                self._insert_at(block, offset, name, number, mode)
                return True
        return None

    def _insert_at(self, block: bytearray, offset: int, name: bytes, number: int, mode: int) -> None:
        """Into the space that the entry at `offset` has to spare, or into itself if it is unused."""
        owner, rec_len, name_len, _ = EXT4_DIR_ENTRY.unpack_tuple(block, offset)
        rec_len = self._from_disk(rec_len)
        if owner:
            used = _needed(name_len)
            self._set_rec_len(block, offset, used)
            offset, rec_len = offset + used, rec_len - used
        self._entry(block, offset, number, rec_len, name, mode)

    def _entry(self, block: bytearray, offset: int, number: int, rec_len: int, name: bytes, mode: int) -> None:
        file_type = _FILE_TYPES.get((mode & S_IFMT) >> 12, 0) if self._form.has_filetype else 0
        raw = EXT4_DIR_ENTRY.pack((number, self._to_disk(rec_len), len(name), file_type)) + name
        block[offset : offset + rec_len] = raw.ljust(rec_len, b"\0")

    def _set_rec_len(self, block: bytearray, offset: int, rec_len: int) -> None:
        number, _, name_len, file_type = EXT4_DIR_ENTRY.unpack_tuple(block, offset)
        raw = EXT4_DIR_ENTRY.pack((number, self._to_disk(rec_len), name_len, file_type))
        block[offset : offset + _HEADER_SIZE] = raw

    def _from_disk(self, rec_len: int) -> int:
        """16 bits do not hold 64 KiB (ext4_rec_len_from_disk)."""
        if self._size < _SPLIT_MOST:
            return rec_len
        return self._size if rec_len in (0xFFFF, 0) else rec_len & 0xFFFC | (rec_len & 3) << 16

    def _to_disk(self, rec_len: int) -> int:
        return rec_len if rec_len < _SPLIT_MOST else 0xFFFF

    # The index

    def _is_indexed(self) -> bool:
        return bool(self._inode.flags & EXT4_INDEX_FL) and Compat.DIR_INDEX in self._editor.superblock.features

    def _hash(self, name: bytes, version: int) -> int:
        superblock = self._editor.superblock
        if superblock.hash_unsigned and version <= DX_HASH_TEA:
            version += DX_HASH_TEA + 1
        return dirhash(name, version, superblock.hash_seed)[0]

    def _probe(self, name: bytes) -> IndexPath | None:
        """The way to the leaf for `name`; None where the index is of no use, which it then loses.

        Case-insensitive directories hash the folded name, which only the reader of names can do.
        """
        if not self._inode.flags & EXT4_CASEFOLD_FL:
            large = Incompat.LARGEDIR in self._editor.superblock.features
            path = IndexPath(self._read, self._number, large, DX_TAIL.size if self._tail else 0)
            path.probe(self._hash(name, path.hash_version))
            return path
        self._set_flags(self._inode.flags & ~EXT4_INDEX_FL)
        return None

    def _candidates(self, name: bytes) -> Iterator[int]:
        """Logical blocks that can hold `name`."""
        if self._is_indexed() and not self._inode.flags & EXT4_CASEFOLD_FL:
            path = self._probe(name)
            while path is not None:
                yield path.leaf
                if not path.go_on():
                    return
            return
        for lblk in range(self._block_count()):
            if not lblk or index_entries_offset(bytes(self._read(lblk)[1])) is None:
                yield lblk

    def _add_indexed(self, path: IndexPath, name: bytes, number: int, mode: int) -> bool:
        pblk, block = self._read(path.leaf)
        found = self._insert(block, name, number, mode)
        if found is False:
            return False
        if found:
            self._write_leaf(pblk, block)
            return True
        while path.is_full:
            grown = path.grow(self._append_node, self._write_node)
            if not grown:  # not yet there: the way has changed
                path.probe(path.hash)
        self._split(path, pblk, block, name, number, mode)
        return True

    def _append_node(self) -> tuple[int, int, bytearray]:
        lblk = self._block_count()
        return (lblk, *self._append())

    def _write_node(self, pblk: int, block: bytearray, base: int) -> None:
        """An index block, with its checksum after the last possible entry."""
        limit, count = index_limit(block, base)
        if self._tail:
            seed = self._editor.inode_seed(self._number)
            tail = base + limit * DX_ENTRY.size
            end = tail + DX_TAIL.size
            covered = bytes(block[: base + count * DX_ENTRY.size])
            before = bytes(block[tail:end])
            reserved = DX_TAIL.unpack_tuple(before, 0)[0]  # counts, and is not always 0
            block[tail:end] = DX_TAIL.pack((reserved, checksum.htree_block(seed, covered, before)))
        self._editor.write(pblk, block)

    def _make_indexed(self, pblk: int, root: bytearray, name: bytes, number: int, mode: int) -> None:
        """Turn a full one-block directory into an index root with one leaf, and split that."""
        end = self._size - self._tail
        entries = list(self._entries(root))
        if len(entries) < 2 or entries[1][0] != _MIN_REC_LEN:
            raise CorruptionError("directory does not begin with its dots", Place(inode=self._number))
        first = entries[1][0] + entries[1][2]
        if first > end:
            raise CorruptionError("directory does not begin with its dots", Place(inode=self._number))
        leaf_pblk, leaf = self._append()
        self._set_flags(self._inode.flags | EXT4_INDEX_FL)
        leaf[: end - first] = root[first:end]
        last = max((offset for offset, _, _, _ in entries if offset >= first), default=first)
        self._set_rec_len(leaf, last - first, end - last + first)
        root[first:] = bytes(self._size - first)
        self._set_rec_len(root, _MIN_REC_LEN, self._size - _MIN_REC_LEN)
        version = self._editor.superblock.hash_version
        root[_DOTS_SIZE:] = bytes(self._size - _DOTS_SIZE)
        root[_DOTS_SIZE : _DOTS_SIZE + DX_ROOT_INFO.size] = DX_ROOT_INFO.pack((0, version, DX_ROOT_INFO.size, 0, 0))
        limit = (self._size - _ROOT_ENTRIES - (DX_TAIL.size if self._tail else 0)) // DX_ENTRY.size
        root[_ROOT_ENTRIES : _ROOT_ENTRIES + DX_COUNTLIMIT.size] = DX_COUNTLIMIT.pack((limit, 1))
        root[_ROOT_ENTRIES + DX_COUNTLIMIT.size] = 1  # the leaf's logical block
        self._write_node(pblk, root, _ROOT_ENTRIES)
        self._write_leaf(leaf_pblk, leaf)
        path = self._probe(name)
        if path is None:
            raise CorruptionError("directory cannot be indexed", Place(inode=self._number))
        self._split(path, leaf_pblk, leaf, name, number, mode)

    def _split(self, path: IndexPath, pblk: int, block: bytearray, name: bytes, number: int, mode: int) -> None:
        """Move the upper half of a full leaf's hashes to a new one, then add the name (do_split)."""
        end = self._size - self._tail
        there = []
        for offset, owner, rec_len, name_len in self._entries(block):
            if owner and name_len:
                hash_ = self._hash(self._name(block, offset, name_len), path.hash_version)
                there.append((hash_, offset, rec_len, bytes(block[offset : offset + _needed(name_len)])))
        there.sort(key=lambda entry: entry[0])
        size = moved = 0
        for _, _, rec_len, _ in reversed(there):
            if size + rec_len // 2 > self._size // 2:
                break
            size += rec_len
            moved += 1
        position = len(there) - moved
        if position <= 1:  # all of them fit into half a block, or all but one
            position = len(there) // 2
        middle = there[position][0]
        continued = position > 0 and middle == there[position - 1][0]
        new_lblk = self._block_count()
        new_pblk, new = self._append()
        upper = [raw for _, _, _, raw in there[position:]]
        lower = [raw for _, _, _, raw in sorted(there[:position], key=lambda entry: entry[1])]
        last_upper = self._pack(new, upper, end)
        last_lower = self._pack(block, lower, end)
        if path.hash >= middle:
            self._insert_at(new, last_upper, name, number, mode)
        else:
            self._insert_at(block, last_lower, name, number, mode)
        self._write_leaf(pblk, block)
        self._write_leaf(new_pblk, new)
        path.insert(middle + continued, new_lblk, self._write_node)

    def _pack(self, block: bytearray, entries: list[bytes], end: int) -> int:
        """Entries one after another, the last reaching to the end; returns its offset."""
        block[:] = bytes(len(block))
        offset = last = 0
        for raw in entries:
            block[offset : offset + len(raw)] = raw
            self._set_rec_len(block, offset, len(raw))
            last, offset = offset, offset + len(raw)
        self._set_rec_len(block, last, end - last)
        return last


def _needed(name_len: int) -> int:
    """Bytes of an entry with a name of this length (ext4_dir_rec_len)."""
    return _HEADER_SIZE + (name_len + 3 & ~3)
