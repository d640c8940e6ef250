"""The mapping of a file: which blocks of the disk hold its contents.

Most mappings fit into the inode and are read here; mapping_trees reads the others.
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

    A file maps at most as many blocks as the volume has. A tree with more uses some block twice, and
    a hostile image could give it any number of runs. Only shared_blocks allows that.
    """

    def __init__(self, superblock: Superblock, blocks: BlockReader, seed: int, problems: Problems) -> None:
        self._blocks = blocks
        self._cluster_size = superblock.cluster_size
        self._seed = seed
        self._verify = superblock.has_metadata_checksums and problems.verify
        self._first_block = superblock.first_data_block
        self._block_count = superblock.block_count
        self._max_mapped = LBLK_END if RoCompat.SHARED_BLOCKS in superblock.features else superblock.block_count
        self._has_ea_inodes = Incompat.EA_INODE in superblock.features
        self._problems = problems

    def is_fast_symlink(self, inode: StoredInode) -> bool:
        """Whether the target is in i_block (ext4_inode_is_fast_symlink): then only xattrs have a block.

        With ea_inode the size decides, because i_blocks also counts values in inodes of their own.
        """
        if self._has_ea_inodes:
            return inode.is_symlink and not inode.has_inline_data and 0 < inode.size < len(inode.block_area)
        xattr_sectors = self._cluster_size // SECTOR_SIZE if inode.xattr_block else 0
        return inode.is_symlink and not inode.has_inline_data and inode.sectors == xattr_sectors

    def runs(self, inode: StoredInode) -> Runs:
        """All mapped runs, by logical block, neighbours merged; there are holes between them.

        Runs past i_size are included (preallocated blocks, verity's Merkle tree). Inline data, fast
        symlinks and devices have no runs.
        """
        if inode.flags & _EXTENTS_OR_INLINE == EXT4_EXTENTS_FL and inode.mode & S_IFMT in (S_IFREG, S_IFDIR):
            in_inode = self._runs_in_inode(inode.block_area)
            if in_inode is not None:
                return in_inode
        return self.mapping(inode).runs

    def _runs_in_inode(self, node: bytes) -> Runs | None:
        """The runs of a mapping whose extents are all in the inode, which is the usual case.

        None for every other mapping, also a damaged one: `mapping` reads that.
        """
        magic, entries, capacity, depth, _ = EXT4_EXTENT_HEADER.unpack_tuple(node)
        if magic != EXT4_EXT_MAGIC or depth or not 0 < capacity <= EXTENTS_IN_INODE or entries > capacity:
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
            if lblk < reached or not length or pblk <= self._first_block or pblk + length > self._block_count:
                return None
            reached = lblk + length
            mapped += length
            runs.append(Run(lblk, pblk, length, state))
        if reached > LBLK_END or mapped > self._max_mapped:
            return None
        return tuple(runs) if entries < 2 else merged_runs(runs)

    def mapping(self, inode: StoredInode) -> Mapping:
        """The runs, and the blocks of the extent tree or of the block map."""
        if inode.mode & S_IFMT not in (S_IFREG, S_IFDIR, S_IFLNK) or inode.has_inline_data:
            return _NOTHING
        if self.is_fast_symlink(inode):
            return _NOTHING
        from ext4img.volume.mapping_trees import collect_runs  # most files do not need it

        runs, tree_blocks = collect_runs(
            inode,
            self._blocks,
            self._problems,
            seed=self._seed if self._verify else None,
            first_block=self._first_block,
            max_mapped=self._max_mapped,
        )
        return Mapping(merged_runs(runs), frozenset(tree_blocks))


_NOTHING = Mapping((), frozenset())
