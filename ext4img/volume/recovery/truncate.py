"""Truncating a file's mapping to its size, in place, to complete an interrupted truncate.

As in the kernel, only the path to the new end is changed, and everything past it is dropped. The rest
of the tree keeps its shape, so i_blocks is the same as the kernel's. The mapping must have been read
in full and found sound. Kernel: ext4_ext_remove_space (fs/ext4/extents.c),
ext4_ind_truncate (fs/ext4/indirect.c).
"""

from __future__ import annotations

from struct import pack, unpack

from ext4img.structs.extent import (
    EXT4_EXTENT,
    EXT4_EXTENT_HEADER,
    EXT4_EXTENT_IDX,
    EXT4_EXTENT_TAIL,
    EXT_INIT_MAX_LEN,
)
from ext4img.structs.inode import EXT4_NDIR_BLOCKS
from ext4img.volume import checksum
from ext4img.volume.extent_tree import EMPTY_ROOT
from ext4img.volume.recovery.editor import RecoveryEditor

_POINTER_SIZE = 4


class ExtentCut:
    """Cuts the extent tree of inode `number` to `end` logical blocks."""

    def __init__(self, editor: RecoveryEditor, number: int, end: int) -> None:
        self._editor = editor
        self._end = end
        self._ratio = editor.superblock.cluster_size // editor.superblock.block_size
        self._seed = editor.inode_seed(number) if editor.has_checksums else None
        self._clusters = 0
        self._reached = 0  # the cluster after the last counted

    def cut(self, i_block: bytes) -> tuple[bytes, int]:
        """(the new i_block, the clusters that are left, including the tree's)."""
        root = self._node(i_block)
        return root or EMPTY_ROOT, self._clusters

    def _node(self, node: bytes) -> bytes | None:
        """The node without its part past the end; None if nothing is left."""
        header = EXT4_EXTENT_HEADER.unpack(node)
        kept = self._leaf(node, header.eh_entries) if header.eh_depth == 0 else self._index(node, header.eh_entries)
        if not kept:
            return None
        whole = bytearray(node)
        changed = EXT4_EXTENT_HEADER.pack(header._replace(eh_entries=len(kept))) + b"".join(kept)
        whole[: len(changed)] = changed
        return bytes(whole)

    def _leaf(self, node: bytes, entries: int) -> list[bytes]:
        kept = []
        for extent in EXT4_EXTENT.unpack_many(node, entries, EXT4_EXTENT_HEADER.size):
            unwritten = EXT_INIT_MAX_LEN if extent.ee_len > EXT_INIT_MAX_LEN else 0
            length = min(extent.ee_len - unwritten, self._end - extent.ee_block)
            if length > 0:
                kept.append(EXT4_EXTENT.pack(extent._replace(ee_len=length + unwritten)))
                self._count(extent.ee_block, extent.ee_block + length)
        return kept

    def _index(self, node: bytes, entries: int) -> list[bytes]:
        kept = []
        for index in EXT4_EXTENT_IDX.unpack_many(node, entries, EXT4_EXTENT_HEADER.size):
            if index.ei_block >= self._end:
                break
            block = index.ei_leaf_lo | index.ei_leaf_hi << 32
            before = self._editor.read(block)
            after = self._node(before)
            if after is not None:
                kept.append(EXT4_EXTENT_IDX.pack(index))
                self._clusters += 1
                if after != before:
                    self._editor.write(block, self._with_checksum(after))
        return kept

    def _count(self, first: int, end: int) -> None:
        cluster, stop = max(first // self._ratio, self._reached), -(-end // self._ratio)
        self._clusters += max(stop - cluster, 0)
        self._reached = max(stop, self._reached)

    def _with_checksum(self, node: bytes) -> bytes:
        if self._seed is None:
            return node
        covered = EXT4_EXTENT_HEADER.size + EXT4_EXTENT_HEADER.unpack(node).eh_max * EXT4_EXTENT.size
        tail = EXT4_EXTENT_TAIL.pack((checksum.extent_block(self._seed, node[:covered]),))
        return node[:covered] + tail + node[covered + len(tail) :]


class BlockMapCut:
    """Cuts a block map of direct and indirect blocks to `end` logical blocks."""

    def __init__(self, editor: RecoveryEditor, number: int, end: int) -> None:
        self._editor = editor
        self._number = number
        self._end = end
        self._per_block = editor.superblock.block_size // _POINTER_SIZE
        self._counted = 0

    def cut(self, i_block: bytes) -> tuple[bytes, int]:
        """(the new i_block, the blocks that are left, indirect ones included)."""
        pointers = list(unpack(f"<{len(i_block) // _POINTER_SIZE}I", i_block))
        for lblk in range(EXT4_NDIR_BLOCKS):
            pointers[lblk] = self._kept(pointers[lblk], 0, lblk)
        first = EXT4_NDIR_BLOCKS
        for level in range(1, len(pointers) - EXT4_NDIR_BLOCKS + 1):
            index = EXT4_NDIR_BLOCKS + level - 1
            pointers[index] = self._kept(pointers[index], level, first)
            first += self._per_block**level
        return pack(f"<{len(pointers)}I", *pointers), self._counted

    def _kept(self, pblk: int, level: int, first: int) -> int:
        """The pointer, or 0 if all of its blocks, from logical block `first` on, are past the end."""
        if not pblk or first >= self._end:
            return 0
        self._counted += 1
        if not level:
            return pblk
        before = self._editor.read(pblk)
        pointers = list(unpack(f"<{self._per_block}I", before))
        span = self._per_block ** (level - 1)
        for index, child in enumerate(pointers):
            if child:
                pointers[index] = self._kept(child, level - 1, first + index * span)
        after = pack(f"<{self._per_block}I", *pointers)
        if after != before:
            self._editor.write(pblk, after)
        return pblk
