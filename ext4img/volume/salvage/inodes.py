"""Inodes that replace lost ones: a directory's, made of its blocks, and the journal's, from its copy."""

from __future__ import annotations

from struct import unpack_from

from ext4img.errors import Place
from ext4img.structs.extent import EXT4_EXT_MAGIC, EXT_INIT_MAX_LEN
from ext4img.structs.inode import (
    EXT4_EXTENTS_FL,
    EXT4_INODE,
    EXT4_INODE_EXTRA,
    EXT4_ROOT_INO,
    I_BLOCK_SIZE,
    S_IFDIR,
    S_IFREG,
    SECTOR_SIZE,
)
from ext4img.volume import checksum
from ext4img.volume.extent_tree import EXTENTS_IN_INODE, build_node, pack_extent
from ext4img.volume.inode import InodeFormat, StoredInode, from_raw
from ext4img.volume.problems import Problems
from ext4img.volume.superblock import Superblock


def journal_inode_copy(superblock: Superblock) -> StoredInode:
    """The superblock's copy of the journal's inode (s_jnl_blocks; e2fsck/journal.c)."""
    backup = superblock.journal_backup
    size_high, size = unpack_from("<II", backup, I_BLOCK_SIZE)
    raw = EXT4_INODE.build(
        {
            "i_mode": S_IFREG | 0o600,
            "i_links_count": 1,
            "i_size_lo": size,
            "i_size_high": size_high,
            "i_flags": EXT4_EXTENTS_FL if backup[:2] == EXT4_EXT_MAGIC.to_bytes(2, "little") else 0,
            "i_block": backup[:I_BLOCK_SIZE],
        }
    )
    return from_raw(superblock.journal_inode, raw, InodeFormat.of(superblock)._replace(inode_size=EXT4_INODE.size))


def directory_inode(
    superblock: Superblock, number: int, generation: int, found: list[int], seed: int, problems: Problems
) -> bytes:
    """An inode for a directory that has the blocks `found`. Notes the loss and the blocks."""
    runs = _runs(found)
    kept = runs[:EXTENTS_IN_INODE]
    text = ", ".join(str(block) for block in found[:8]) + (", …" if len(found) > 8 else "")
    what = "the root directory's" if number == EXT4_ROOT_INO else "a directory's"
    problems.note(f"{what} inode is lost; its entries are read from block {text}, which name it", Place(inode=number))
    if len(kept) < len(runs):
        left_out = sum(length for _, length in runs[len(kept) :])
        problems.note(f"{left_out} blocks of the directory are left out", Place(inode=number))
    return _directory_raw(superblock, number, generation, kept, seed)


def lost_and_found_inode(superblock: Superblock, number: int, seed: int) -> bytes:
    """An inode for a lost+found without blocks, with the mode that e2fsck gives it."""
    return _directory_raw(superblock, number, 0, [], seed, 0o700)


def _runs(found: list[int]) -> list[tuple[int, int]]:
    """(first block, length) of each row of adjacent blocks, none longer than an extent."""
    runs: list[tuple[int, int]] = []
    for block in found:
        if runs and sum(runs[-1]) == block and runs[-1][1] < EXT_INIT_MAX_LEN:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return runs


def _directory_raw(
    superblock: Superblock,
    number: int,
    generation: int,
    runs: list[tuple[int, int]],
    seed: int,
    permissions: int = 0o755,
) -> bytes:
    count = 0
    extents: list[bytes] = []
    for pblk, length in runs:
        extents.append(pack_extent(count, pblk, length))
        count += length
    fields = {
        "i_mode": S_IFDIR | permissions,
        "i_links_count": 2,
        "i_size_lo": count * superblock.block_size,
        "i_blocks_lo": count * (superblock.block_size // SECTOR_SIZE),
        "i_flags": EXT4_EXTENTS_FL,
        "i_block": build_node(extents, 0, I_BLOCK_SIZE),
        "i_generation": generation,
    }
    raw = bytearray(EXT4_INODE.build(fields).ljust(superblock.inode_size, b"\0"))
    if superblock.inode_size > EXT4_INODE.size:
        extra = EXT4_INODE_EXTRA.build({"i_extra_isize": EXT4_INODE_EXTRA.size})
        raw[EXT4_INODE.size : EXT4_INODE.size + len(extra)] = extra
    if superblock.has_metadata_checksums:
        seed_of_inode = checksum.inode_seed(seed, number, generation)
        checksum.store_inode(raw, checksum.inode(seed_of_inode, bytes(raw)))
    return bytes(raw)
