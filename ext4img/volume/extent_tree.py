"""Building extent trees, from the leaves upwards and packed full, as e2fsck expects them.

mapping_trees reads them. Kernel: fs/ext4/ext4_extents.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ext4img.structs.extent import (
    EXT4_EXT_MAGIC,
    EXT4_EXTENT,
    EXT4_EXTENT_HEADER,
    EXT4_EXTENT_IDX,
    EXT4_EXTENT_TAIL,
    EXT_INIT_MAX_LEN,
    EXT_UNWRITTEN_MAX_LEN,
)
from ext4img.structs.inode import I_BLOCK_SIZE
from ext4img.volume import checksum

TreeEntry = tuple[int, bytes]
"""An entry of a node, packed, with the logical block where it begins."""


def node_capacity(size: int) -> int:
    """Entries that fit into an extent node of `size` bytes. Blocks have room left for the checksum."""
    return (size - EXT4_EXTENT_HEADER.size) // EXT4_EXTENT.size


EXTENTS_IN_INODE = node_capacity(I_BLOCK_SIZE)


def extents_needed(length: int, unwritten: bool) -> int:
    """Extents that a run of `length` blocks takes."""
    return -(-length // (EXT_UNWRITTEN_MAX_LEN if unwritten else EXT_INIT_MAX_LEN))


def pack_extent(lblk: int, pblk: int, length: int, unwritten: bool = False) -> bytes:
    """One extent, which must not be longer than an extent can be."""
    stored = length + EXT_INIT_MAX_LEN if unwritten else length
    return EXT4_EXTENT.pack((lblk, stored, pblk >> 32, pblk & 0xFFFFFFFF))


def extents_of_run(lblk: int, pblk: int, length: int, unwritten: bool) -> Iterator[TreeEntry]:
    """The extents of a run of any length."""
    longest = EXT_UNWRITTEN_MAX_LEN if unwritten else EXT_INIT_MAX_LEN
    for done in range(0, length, longest):
        yield lblk + done, pack_extent(lblk + done, pblk + done, min(length - done, longest), unwritten)


def tree_levels(extents: int, block_size: int) -> list[int]:
    """How many blocks a tree of so many extents has on each level below the root, leaves first."""
    levels: list[int] = []
    while extents > EXTENTS_IN_INODE:
        extents = -(-extents // node_capacity(block_size))
        levels.append(extents)
    return levels


def build_node(entries: Sequence[bytes], depth: int, size: int, seed: int | None = None) -> bytes:
    """A node of `size` bytes. `seed` is the inode's, for the checksum; None leaves that out."""
    capacity = node_capacity(size)
    header = EXT4_EXTENT_HEADER.pack((EXT4_EXT_MAGIC, len(entries), capacity, depth, 0))
    covered = (header + b"".join(entries)).ljust(EXT4_EXTENT_HEADER.size + capacity * EXT4_EXTENT.size, b"\0")
    if seed is not None:
        covered += EXT4_EXTENT_TAIL.pack((checksum.extent_block(seed, covered),))
    return covered.ljust(size, b"\0")


EMPTY_ROOT = build_node((), 0, I_BLOCK_SIZE)
"""i_block of a file without blocks."""


def build_tree(
    extents: Iterable[TreeEntry], take_block: Callable[[], int], block_size: int, seed: int | None
) -> tuple[bytes, list[tuple[int, bytes]]]:
    """(i_block, the tree's blocks with their numbers, leaves first). `take_block` gives each its number."""
    entries = list(extents)
    blocks: list[tuple[int, bytes]] = []
    capacity = node_capacity(block_size)
    depth = 0
    while len(entries) > EXTENTS_IN_INODE:
        parents: list[TreeEntry] = []
        for start in range(0, len(entries), capacity):
            children = entries[start : start + capacity]
            pblk = take_block()
            blocks.append((pblk, build_node([raw for _, raw in children], depth, block_size, seed)))
            lblk = children[0][0]
            parents.append((lblk, EXT4_EXTENT_IDX.pack((lblk, pblk & 0xFFFFFFFF, pblk >> 32, 0))))
        entries = parents
        depth += 1
    return build_node([raw for _, raw in entries], depth, I_BLOCK_SIZE), blocks
