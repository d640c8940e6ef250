"""The root directory, found again by its blocks when its inode is lost."""

from __future__ import annotations

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.structs.inode import EXT4_ROOT_INO
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.dir_block import DirectoryFormat, stored_leaf_checksum, verify_block
from ext4img.volume.features import Incompat
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.runs import WRITTEN
from ext4img.volume.salvage.block_scan import SEARCHED_BYTES, in_log, log_runs, readable_blocks
from ext4img.volume.salvage.inode_table import begins_root
from ext4img.volume.salvage.inodes import directory_inode
from ext4img.volume.superblock import Superblock


def replace_lost_root(
    superblock: Superblock, blocks: BlockReader, inodes: InodeTable, mapper: Mapper, seed: int, problems: Problems
) -> None:
    """If the root directory's inode is lost, replace it by one made of the directory's blocks.

    Owner, mode and times are lost. Nothing happens if no blocks are found.
    """
    try:
        root = inodes[EXT4_ROOT_INO]
        if root.is_dir and (root.has_inline_data or any(run.state == WRITTEN for run in mapper.runs(root))):
            return
    except NotFoundError:
        return  # the superblock counts fewer than two inodes
    except (CorruptionError, SourceError) as error:
        problems.unreadable(error, Place(inode=EXT4_ROOT_INO))
    found = find_root_blocks(superblock, blocks, seed)
    if not found:
        return
    raw = directory_inode(superblock, EXT4_ROOT_INO, 0, found, seed, problems)
    inodes.overrides = {**inodes.overrides, EXT4_ROOT_INO: raw}


def find_root_blocks(superblock: Superblock, blocks: BlockReader, seed: int) -> list[int]:
    """The root directory's blocks, its first one first. Without checksums only that one can be recognised."""
    form = DirectoryFormat(
        EXT4_ROOT_INO,
        checksum.inode_seed(seed, EXT4_ROOT_INO, 0) if superblock.has_metadata_checksums else None,
        Incompat.FILETYPE in superblock.features,
        False,
        superblock.inode_count,
    )
    log = log_runs(superblock, blocks, seed)
    first: list[int] = []
    others: list[int] = []
    for block, data in readable_blocks(blocks, superblock.first_data_block + 1, SEARCHED_BYTES):
        begins = begins_root(data)
        if not begins and (form.seed is None or stored_leaf_checksum(data) is None):
            continue
        if in_log(block, log):
            continue
        try:
            verify_block(data, form, block)
        except CorruptionError:
            continue  # another directory's, or left behind by a deleted one
        if not begins:
            others.append(block)
        elif not first:
            first.append(block)
    return first + others if first else []
