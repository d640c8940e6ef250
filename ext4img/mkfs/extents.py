"""Runs of the new file system's files, and the extent trees that map them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from ext4img.errors import BuildError
from ext4img.structs.extent import EXT4_EXT_MAGIC, EXT4_EXTENT, EXT4_EXTENT_HEADER, EXT4_MAX_EXTENT_DEPTH
from ext4img.structs.inode import I_BLOCK_SIZE
from ext4img.volume.extent_tree import (
    EXTENTS_IN_INODE,
    TreeEntry,
    build_tree,
    extents_needed,
    extents_of_run,
    pack_extent,
    tree_levels,
)

_HEADER_OF_ONE: Final = EXT4_EXTENT_HEADER.pack((EXT4_EXT_MAGIC, 1, EXTENTS_IN_INODE, 0, 0))
_REST_OF_ONE: Final = bytes(I_BLOCK_SIZE - EXT4_EXTENT_HEADER.size - EXT4_EXTENT.size)


class DiskRun(NamedTuple):
    """`length` blocks of a file from `lblk` on, on the disk from `pblk` on."""

    lblk: int
    pblk: int
    length: int
    unwritten: bool


def extent_count(runs: Sequence[DiskRun]) -> int:
    """Extents that the runs take."""
    return sum(extents_needed(run.length, run.unwritten) for run in runs)


def tree_blocks(extents: int, block_size: int) -> tuple[int, ...]:
    """Blocks of each level below the root, leaves first; BuildError beyond 5 levels."""
    levels = tree_levels(extents, block_size)
    if len(levels) > EXT4_MAX_EXTENT_DEPTH:
        raise BuildError(f"the extents of a file need a tree of {len(levels)} levels, more than ext4 has")
    return tuple(levels)


def build_root(runs: Sequence[DiskRun], tree: Sequence[int], block_size: int) -> bytes:
    """The 60 bytes of i_block. `tree` are the blocks of the tree, leaves first, as `tree_blocks` counts them."""
    return build_tree(_extents(runs), iter(tree).__next__, block_size, None)[0]


def one_extent_root(pblk: int, length: int) -> bytes:
    """The same for a file whose first `length` blocks are one written extent, and all it has."""
    return _HEADER_OF_ONE + pack_extent(0, pblk, length) + _REST_OF_ONE


def build_blocks(runs: Sequence[DiskRun], tree: Sequence[int], block_size: int, seed: int | None) -> list[bytes]:
    """The blocks of the tree in the order of `tree`; `seed` is the inode's, None: no checksums."""
    return [block for _, block in build_tree(_extents(runs), iter(tree).__next__, block_size, seed)[1]]


def _extents(runs: Sequence[DiskRun]) -> Iterator[TreeEntry]:
    for run in runs:
        yield from extents_of_run(*run)
