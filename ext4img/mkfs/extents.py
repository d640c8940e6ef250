"""Extent trees, built from the leaves upwards and packed full, as e2fsck wants them.

Kernel: fs/ext4/ext4_extents.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ext4img.errors import BuildError
from ext4img.structs.extent import (
    EXT4_EXT_MAGIC,
    EXT4_EXTENT,
    EXT4_EXTENT_HEADER,
    EXT4_EXTENT_IDX,
    EXT4_EXTENT_TAIL,
    EXT4_MAX_EXTENT_DEPTH,
    EXT_INIT_MAX_LEN,
)
from ext4img.structs.inode import EXT4_INODE
from ext4img.volume import checksum

MAX_UNWRITTEN_BLOCKS: Final = EXT_INIT_MAX_LEN - 1
MAX_LBLK: Final = 0xFFFFFFFF  # number of blocks of a file (EXT_MAX_BLOCKS)
_AREA_SIZE: Final = EXT4_INODE.span("i_block").size
EXTENTS_IN_INODE: Final = (_AREA_SIZE - EXT4_EXTENT_HEADER.size) // EXT4_EXTENT.size
_extent = EXT4_EXTENT.pack
_header = EXT4_EXTENT_HEADER.pack
_HEAD_OF_ONE: Final = _header((EXT4_EXT_MAGIC, 1, EXTENTS_IN_INODE, 0, 0))
_REST_OF_ONE: Final = bytes(_AREA_SIZE - EXT4_EXTENT_HEADER.size - EXT4_EXTENT.size)


class DiskRun(NamedTuple):
    """`length` blocks of a file from `lblk` on, on the disk from `pblk` on."""

    lblk: int
    pblk: int
    length: int
    unwritten: bool


def per_block(block_size: int) -> int:
    """Entries of an extent block, one of which holds headers and another, or the remainder, the checksum."""
    return (block_size - EXT4_EXTENT_HEADER.size) // EXT4_EXTENT.size


def extent_count(runs: Sequence[DiskRun]) -> int:
    """Extents that the runs take: none is longer than 32,768 blocks, or 32,767 if unwritten."""
    return sum(-(-run.length // (MAX_UNWRITTEN_BLOCKS if run.unwritten else EXT_INIT_MAX_LEN)) for run in runs)


def tree_blocks(extents: int, block_size: int) -> tuple[int, ...]:
    """Blocks of each level below the root, from the leaves upwards; BuildError beyond 5 levels."""
    levels: list[int] = []
    while extents > EXTENTS_IN_INODE:
        extents = -(-extents // per_block(block_size))
        levels.append(extents)
    if len(levels) > EXT4_MAX_EXTENT_DEPTH:
        raise BuildError(f"the extents of a file need a tree of {len(levels)} levels, more than ext4 has")
    return tuple(levels)


def build_root(runs: Sequence[DiskRun], tree: Sequence[int], block_size: int) -> bytes:
    """The 60 bytes of i_block. `tree` are the blocks of the tree, leaves first, as `tree_blocks` counts them."""
    entries, _ = _levels(runs, tree, block_size)
    levels = len(tree_blocks(extent_count(runs), block_size))
    return _node(entries, EXTENTS_IN_INODE, levels).ljust(_AREA_SIZE, b"\0")


def one_extent_root(pblk: int, length: int) -> bytes:
    """The same for one written extent of a file's first `length` blocks, all there is."""
    return _HEAD_OF_ONE + _extent((0, length, pblk >> 32, pblk & 0xFFFFFFFF)) + _REST_OF_ONE


def build_blocks(runs: Sequence[DiskRun], tree: Sequence[int], block_size: int, seed: int | None) -> list[bytes]:
    """The blocks of the tree in the order of `tree`; `seed` is the inode's, None: no checksums."""
    _, nodes = _levels(runs, tree, block_size)
    blocks = []
    for node in nodes:
        tail = b"" if seed is None else EXT4_EXTENT_TAIL.pack((checksum.extent_block(seed, node),))
        blocks.append((node + tail).ljust(block_size, b"\0"))
    return blocks


def _levels(runs: Sequence[DiskRun], tree: Sequence[int], block_size: int) -> tuple[list[bytes], list[bytes]]:
    """Entries of the root, and all nodes below it, leaves first."""
    first_lblks: list[int] = []
    entries: list[bytes] = []
    for run in runs:
        most = MAX_UNWRITTEN_BLOCKS if run.unwritten else EXT_INIT_MAX_LEN
        for done in range(0, run.length, most):
            length = min(run.length - done, most)
            stored = length + EXT_INIT_MAX_LEN if run.unwritten else length
            pblk = run.pblk + done
            entries.append(_extent((run.lblk + done, stored, pblk >> 32, pblk & 0xFFFFFFFF)))
            first_lblks.append(run.lblk + done)
    nodes: list[bytes] = []
    capacity = per_block(block_size)
    depth = 0
    while len(entries) > EXTENTS_IN_INODE:
        above: list[bytes] = []
        above_lblks: list[int] = []
        for start in range(0, len(entries), capacity):
            pblk = tree[len(nodes)]
            lblk = first_lblks[start]
            above.append(EXT4_EXTENT_IDX.pack((lblk, pblk & 0xFFFFFFFF, pblk >> 32, 0)))
            above_lblks.append(lblk)
            nodes.append(_node(entries[start : start + capacity], capacity, depth))
        entries, first_lblks = above, above_lblks
        depth += 1
    return entries, nodes


def _node(entries: Sequence[bytes], capacity: int, depth: int) -> bytes:
    """Header and entries, up to where the checksum goes."""
    head = _header((EXT4_EXT_MAGIC, len(entries), capacity, depth, 0))
    return (head + b"".join(entries)).ljust(EXT4_EXTENT_HEADER.size + capacity * EXT4_EXTENT.size, b"\0")
