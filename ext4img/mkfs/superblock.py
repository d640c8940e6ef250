"""The superblock of a new file system, as mke2fs and the kernel leave it after a clean unmount."""

from __future__ import annotations

from typing import Any

from ext4img.crypto.modes import AES_256_CTS, AES_256_XTS
from ext4img.mkfs.geometry import FIRST_INODE, GROUPS_PER_FLEX, Geometry
from ext4img.mkfs.options import HASH_VERSIONS, Options
from ext4img.structs.inode import EXT4_INODE_EXTRA, EXT4_JOURNAL_INO
from ext4img.structs.superblock import (
    EXT2_FLAGS_SIGNED_HASH,
    EXT2_FLAGS_UNSIGNED_HASH,
    EXT3_JNL_BACKUP_BLOCKS,
    EXT4_CRC32C_CHKSUM,
    EXT4_DEFM_ACL,
    EXT4_DEFM_XATTR_USER,
    EXT4_DYNAMIC_REV,
    EXT4_ENC_UTF8_12_1,
    EXT4_ERRORS_CONTINUE,
    EXT4_GOOD_OLD_INODE_SIZE,
    EXT4_SUPER_BLOCK,
    EXT4_SUPER_MAGIC,
    EXT4_VALID_FS,
)
from ext4img.volume import checksum
from ext4img.volume.features import Compat, Incompat, RoCompat

_NEVER = 0xFFFF  # s_max_mnt_count: no check after so many mounts


def build_superblock(
    options: Options,
    geometry: Geometry,
    *,
    free_blocks: int,
    free_inodes: int,
    journal_i_block: bytes,
    journal_size: int,
    orphan_file: int,
    least_extra_size: int,
    seed: int,
    group: int = 0,
) -> bytes:
    """The 1,024 bytes of the superblock copy in `group`.

    `journal_i_block` is the journal inode's i_block, of which the superblock keeps a copy.
    `orphan_file` is an inode number, or 0; `least_extra_size` the smallest i_extra_isize.
    """
    assert options.uuid is not None
    assert options.hash_seed is not None
    assert options.created_s is not None
    features = geometry.features
    block_count = geometry.block_count
    reserved = min(int(block_count * options.reserved_percent / 100), block_count // 2)
    log_block_size = geometry.block_size.bit_length() - 11
    created_low, created_high = options.created_s & 0xFFFFFFFF, options.created_s >> 32
    values: dict[str, Any] = {
        "s_inodes_count": geometry.inode_count,
        "s_blocks_count_lo": block_count & 0xFFFFFFFF,
        "s_blocks_count_hi": block_count >> 32,
        "s_r_blocks_count_lo": reserved & 0xFFFFFFFF,
        "s_r_blocks_count_hi": reserved >> 32,
        "s_free_blocks_count_lo": free_blocks & 0xFFFFFFFF,
        "s_free_blocks_count_hi": free_blocks >> 32,
        "s_free_inodes_count": free_inodes,
        "s_first_data_block": geometry.first_data_block,
        "s_log_block_size": log_block_size,
        "s_log_cluster_size": log_block_size,
        "s_blocks_per_group": geometry.blocks_per_group,
        "s_clusters_per_group": geometry.blocks_per_group,
        "s_inodes_per_group": geometry.inodes_per_group,
        "s_wtime": created_low,
        "s_wtime_hi": created_high,
        "s_max_mnt_count": _NEVER,
        "s_magic": EXT4_SUPER_MAGIC,
        "s_state": EXT4_VALID_FS,
        "s_errors": EXT4_ERRORS_CONTINUE,
        "s_lastcheck": created_low,
        "s_lastcheck_hi": created_high,
        "s_rev_level": EXT4_DYNAMIC_REV,
        "s_first_ino": FIRST_INODE,
        "s_inode_size": geometry.inode_size,
        "s_block_group_nr": group & 0xFFFF,  # truncated, as in e2fsprogs
        "s_feature_compat": int(features.compat),
        "s_feature_incompat": int(features.incompat),
        "s_feature_ro_compat": int(features.ro_compat),
        "s_uuid": options.uuid.bytes,
        "s_volume_name": options.label.encode("utf-8", "surrogateescape").ljust(16, b"\0"),
        "s_reserved_gdt_blocks": geometry.reserved_descriptor_blocks,
        "s_def_hash_version": HASH_VERSIONS[options.hash_version],
        "s_flags": EXT2_FLAGS_UNSIGNED_HASH if options.hash_unsigned else EXT2_FLAGS_SIGNED_HASH,
        "s_default_mount_opts": EXT4_DEFM_XATTR_USER | EXT4_DEFM_ACL,
        "s_mkfs_time": created_low,
        "s_mkfs_time_hi": created_high,
        "s_overhead_clusters": min(geometry.overhead + geometry.journal_blocks, 0xFFFFFFFF),
        "s_encrypt_pw_salt": options.password_salt,
        "s_orphan_file_inum": orphan_file,
    }
    for position in range(4):
        word = options.hash_seed[4 * position : 4 * position + 4]
        values[f"s_hash_seed_{position}"] = int.from_bytes(word, "little")
    if geometry.inode_size > EXT4_GOOD_OLD_INODE_SIZE:
        values["s_min_extra_isize"] = least_extra_size
        values["s_want_extra_isize"] = EXT4_INODE_EXTRA.size
    if Incompat.BIT64 in features:
        values["s_desc_size"] = geometry.descriptor_size
    if Incompat.FLEX_BG in features:
        values["s_log_groups_per_flex"] = GROUPS_PER_FLEX.bit_length() - 1
    if Incompat.CSUM_SEED in features:
        values["s_checksum_seed"] = seed ^ checksum.INVERT
    if Incompat.ENCRYPT in features:
        values["s_encrypt_algos"] = bytes((AES_256_XTS.number, AES_256_CTS.number, 0, 0))
    if Incompat.CASEFOLD in features:
        values["s_encoding"] = EXT4_ENC_UTF8_12_1
        values["s_encoding_flags"] = options.encoding_flags
    if Compat.HAS_JOURNAL in features:
        values["s_journal_inum"] = EXT4_JOURNAL_INO
        values["s_jnl_backup_type"] = EXT3_JNL_BACKUP_BLOCKS
        # i_block, then i_size_high and i_size_lo
        size_words = (journal_size >> 32).to_bytes(4, "little") + (journal_size & 0xFFFFFFFF).to_bytes(4, "little")
        values["s_jnl_blocks"] = journal_i_block + size_words
    if RoCompat.METADATA_CSUM not in features:
        return EXT4_SUPER_BLOCK.build(values)
    values["s_checksum_type"] = EXT4_CRC32C_CHKSUM
    values["s_checksum"] = checksum.superblock(EXT4_SUPER_BLOCK.build(values))
    return EXT4_SUPER_BLOCK.build(values)
