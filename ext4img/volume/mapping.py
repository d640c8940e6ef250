"""Where a file's blocks stand: runs, from the inode itself or from what it leads to (mapping_trees).

A run says whether its blocks are written, allocated but unwritten (they read as zeros), a hole,
or lost (their place could not be read; only where problems are reported, not raised).
Kernel: fs/ext4/extents.c, fs/ext4/indirect.c.
"""

from __future__ import annotations

from ext4img.structs.extent import (
    EXT4_EXT_MAGIC,
    EXT4_EXTENT,
    EXT4_EXTENT_HEADER,
    EXT_INIT_MAX_LEN,
)
from ext4img.structs.inode import (
    EXT4_EXTENTS_FL,
    EXT4_INLINE_DATA_FL,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    SECTOR_SIZE,
)
from ext4img.volume.blocks import BlockReader
from ext4img.volume.extent_tree import EXTENTS_IN_INODE
from ext4img.volume.features import Incompat, RoCompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.problems import Problems
from ext4img.volume.runs import LBLK_END, UNWRITTEN, WRITTEN, Mapping, Run, Runs, merged_runs
from ext4img.volume.superblock import Superblock

_ENTRY_SIZE = EXT4_EXTENT.size
_HEADER_SIZE = EXT4_EXTENT_HEADER.size
_EXTENTS_OR_INLINE = EXT4_EXTENTS_FL | EXT4_INLINE_DATA_FL


class Mapper:
    """Finds the runs of inodes of one volume.

    A file maps at most as many blocks as the volume has: a tree that says more comes to a block
    twice, and its runs would be as many as a hostile image likes (shared_blocks allows it).
    """

    def __init__(self, superblock: Superblock, blocks: BlockReader, seed: int, problems: Problems) -> None:
        self.blocks = blocks
        self._cluster_size = superblock.cluster_size
        self.seed = seed
        self.verify = superblock.has_metadata_checksums and problems.verify
        self.first_block = superblock.first_data_block
        self._block_count = superblock.block_count
        self.max_mapped = LBLK_END if RoCompat.SHARED_BLOCKS in superblock.features else superblock.block_count
        self._has_ea_inodes = Incompat.EA_INODE in superblock.features
        self.problems = problems

    def is_fast_symlink(self, inode: StoredInode) -> bool:
        """Whether the target stands in i_block (ext4_inode_is_fast_symlink): no block but xattrs'.

        With ea_inode the size decides, as values in inodes of their own are counted in i_blocks too.
        """
        if self._has_ea_inodes:
            return inode.is_symlink and not inode.has_inline_data and 0 < inode.size < len(inode.block_area)
        xattr_sectors = self._cluster_size // SECTOR_SIZE if inode.xattr_block else 0
        return inode.is_symlink and not inode.has_inline_data and inode.sectors == xattr_sectors

    def runs(self, inode: StoredInode) -> Runs:
        """All mapped runs, by logical block, neighbours merged; what lies between is a hole.

        Runs past i_size are there too (preallocated blocks, verity's Merkle tree). Empty for what
        has no blocks: inline data, fast symlinks, devices.
        """
        if inode.flags & _EXTENTS_OR_INLINE == EXT4_EXTENTS_FL and inode.mode & S_IFMT in (S_IFREG, S_IFDIR):
            few = self._few(inode.block_area)
            if few is not None:
                return few
        return self.mapping(inode).runs

    def _few(self, node: bytes) -> Runs | None:
        """The runs of sound extents that stand in the inode itself, as most files have them.

        None for anything else, which `mapping` takes.
        """
        magic, entries, most, depth, _ = EXT4_EXTENT_HEADER.unpack_tuple(node)
        if magic != EXT4_EXT_MAGIC or depth or not 0 < most <= EXTENTS_IN_INODE or entries > most:
            return None
        runs: list[Run] = []
        reached = mapped = 0
        for at in range(_HEADER_SIZE, _HEADER_SIZE + entries * _ENTRY_SIZE, _ENTRY_SIZE):
            lblk, length, start_high, start_low = EXT4_EXTENT.unpack_tuple(node, at)
            state = WRITTEN
            if length > EXT_INIT_MAX_LEN:
                length -= EXT_INIT_MAX_LEN
                state = UNWRITTEN
            pblk = start_low | start_high << 32
            if lblk < reached or not length or pblk <= self.first_block or pblk + length > self._block_count:
                return None
            reached = lblk + length
            mapped += length
            runs.append(Run(lblk, pblk, length, state))
        if reached > LBLK_END or mapped > self.max_mapped:
            return None
        return tuple(runs) if entries < 2 else merged_runs(runs)

    def mapping(self, inode: StoredInode) -> Mapping:
        """As `runs`, with the blocks of the extent tree or of the block map beside them."""
        if inode.mode & S_IFMT not in (S_IFREG, S_IFDIR, S_IFLNK) or inode.has_inline_data:
            return _NOTHING
        if self.is_fast_symlink(inode):
            return _NOTHING
        from ext4img.volume.mapping_trees import collect  # most files do without

        runs, tree_blocks = collect(self, inode)
        return Mapping(merged_runs(runs), frozenset(tree_blocks))


_NOTHING = Mapping((), frozenset())
