"""Group 0's inode table, found by the root's inode in it when no descriptor says where it is."""

from __future__ import annotations

from ext4img.errors import CorruptionError, SourceError
from ext4img.structs.directory import EXT4_DIR_ENTRY, EXT4_DIR_MIN_REC_LEN, EXT4_FT_DIR, EXT4_FT_UNKNOWN
from ext4img.structs.extent import EXT4_EXT_MAGIC, EXT4_EXTENT, EXT4_EXTENT_HEADER
from ext4img.structs.inode import EXT4_INODE, EXT4_ROOT_INO, S_IFDIR
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.inode import InodeFormat, StoredInode, from_raw
from ext4img.volume.salvage.block_scan import in_log, log_runs, readable_blocks
from ext4img.volume.superblock import Superblock

SEARCHED_BYTES = 64 << 20
_MODE = EXT4_INODE.offset_of("i_mode")
_GENERATION = EXT4_INODE.offset_of("i_generation")


def find_first_inode_table(superblock: Superblock, blocks: BlockReader, seed: int) -> int | None:
    """The first block of group 0's inode table, recognised by the root's inode; None if it is not found."""
    size, start = superblock.inode_size, (EXT4_ROOT_INO - 1) * superblock.inode_size
    at, form = start % superblock.block_size, InodeFormat.of(superblock)
    log = log_runs(superblock, blocks, seed)
    for block, data in readable_blocks(blocks, superblock.first_data_block + 1, SEARCHED_BYTES):
        raw = data[at : at + size]
        if raw[_MODE + 1] >> 4 != S_IFDIR >> 12:
            continue
        if superblock.has_metadata_checksums:
            generation = int.from_bytes(raw[_GENERATION : _GENERATION + 4], "little")
            computed = checksum.inode(checksum.inode_seed(seed, EXT4_ROOT_INO, generation), raw)
            sound = computed == checksum.stored_inode(raw)
        else:
            sound = _looks_like_root(from_raw(EXT4_ROOT_INO, raw, form), blocks)
        if sound and not in_log(block, log):
            return block - start // superblock.block_size
    return None


def _looks_like_root(inode: StoredInode, blocks: BlockReader) -> bool:
    """Whether the inode's first block is that of the root directory."""
    if inode.block_area[:2] == EXT4_EXT_MAGIC.to_bytes(2, "little"):
        _, _, high, low = EXT4_EXTENT.unpack_tuple(inode.block_area, EXT4_EXTENT_HEADER.size)
        pblk = low | high << 32
    else:
        pblk = int.from_bytes(inode.block_area[:4], "little")
    try:
        return begins_root(blocks.read(pblk))
    except (CorruptionError, SourceError):
        return False


def begins_root(data: bytes) -> bool:
    """Whether a block begins with "." and "..", and both name inode 2."""
    if data[:4] != EXT4_ROOT_INO.to_bytes(4, "little"):
        return False
    number, rec_len, name_len, kind = EXT4_DIR_ENTRY.unpack_tuple(data, 0)
    parent, _, parent_len, _ = EXT4_DIR_ENTRY.unpack_tuple(data, EXT4_DIR_MIN_REC_LEN)
    return (
        (number, rec_len, name_len) == (EXT4_ROOT_INO, EXT4_DIR_MIN_REC_LEN, 1)
        and kind in (EXT4_FT_UNKNOWN, EXT4_FT_DIR)
        and (parent, parent_len) == (EXT4_ROOT_INO, 2)
        and data[8:9] == b"."
        and data[20:22] == b".."
    )
