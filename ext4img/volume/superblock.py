"""The superblock: from its record to plain words, every count and size checked for its range.

Kernel: struct ext4_super_block and ext4_fill_super's checks (fs/ext4/super.c).
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from ext4img.errors import CorruptionError, NotExt4Error, Place, UnsupportedFeatureError
from ext4img.structs.group import EXT4_MAX_DESC_SIZE, EXT4_MIN_DESC_SIZE, EXT4_MIN_DESC_SIZE_64BIT
from ext4img.structs.superblock import (
    EXT2_FLAGS_SIGNED_HASH,
    EXT2_FLAGS_UNSIGNED_HASH,
    EXT3_JNL_BACKUP_BLOCKS,
    EXT4_CRC32C_CHKSUM,
    EXT4_DYNAMIC_REV,
    EXT4_GOOD_OLD_FIRST_INO,
    EXT4_GOOD_OLD_INODE_SIZE,
    EXT4_SUPER_BLOCK,
    EXT4_SUPER_MAGIC,
    SUPERBLOCK_OFFSET,
)
from ext4img.volume import checksum
from ext4img.volume.features import Compat, Features, Incompat, RoCompat, check_readable
from ext4img.volume.problems import Problems
from ext4img.volume.sparse_super import is_sparse_group

MIN_LOG_BLOCK_SIZE = 10
MAX_LOG_BLOCK_SIZE = 16
MAX_LOG_CLUSTER_SIZE = 30
MAX_BLOCKS = 1 << 48  # what extents and inodes can name


class Superblock(NamedTuple):
    """A superblock in plain words. Sizes are in bytes, times in seconds since 1970."""

    uuid: UUID
    label: str
    last_mounted: str
    features: Features
    revision: int
    creator_os: int
    state: int
    block_size: int
    cluster_size: int
    block_count: int
    free_blocks: int
    reserved_blocks: int
    first_data_block: int
    blocks_per_group: int
    clusters_per_group: int
    group_count: int
    inode_count: int
    free_inodes: int
    inodes_per_group: int
    inode_size: int
    first_inode: int
    descriptor_size: int
    reserved_descriptor_blocks: int
    preallocated_directory_blocks: int
    first_meta_group: int
    backup_groups: tuple[int, int]  # sparse_super2
    groups_per_flex: int
    group_number: int  # of the group that holds this copy
    checksum_seed: int | None  # metadata_csum_seed
    hash_seed: tuple[int, int, int, int]
    hash_version: int
    hash_unsigned: bool
    hash_signed: bool
    journal_inode: int
    journal_device: int
    journal_uuid: UUID
    journal_backup: bytes  # i_block and i_size (high, low) of the journal's inode; empty without
    last_orphan: int
    orphan_file_inode: int
    quota_inodes: tuple[int, int, int]  # user, group, project
    encoding: int
    encoding_flags: int
    password_salt: bytes
    mmp_block: int
    min_extra_size: int
    want_extra_size: int
    mkfs_time: int
    mount_time: int
    write_time: int
    check_time: int
    mount_count: int
    kilobytes_written: int
    error_count: int

    @property
    def size(self) -> int:
        """Size of the file system in bytes."""
        return self.block_count * self.block_size

    @property
    def descriptor_blocks(self) -> int:
        """How many blocks all group descriptors take."""
        return -(-self.group_count // (self.block_size // self.descriptor_size))

    @property
    def knows_hash(self) -> bool:
        """Whether it says how names are hashed: without a flag the kernel goes by the machine's char."""
        return (self.hash_unsigned or self.hash_signed) and any(self.hash_seed)

    @property
    def has_metadata_checksums(self) -> bool:
        """Whether structures carry crc32c checksums (metadata_csum)."""
        return RoCompat.METADATA_CSUM in self.features

    def group_has_superblock(self, group: int) -> bool:
        """Whether `group` holds a copy of superblock and descriptors (ext4_bg_has_super)."""
        if group == 0:
            return True
        if Compat.SPARSE_SUPER2 in self.features:
            return group in self.backup_groups
        return RoCompat.SPARSE_SUPER not in self.features or is_sparse_group(group)

    def is_copy_of(self, group: int) -> bool:
        """Whether this copy claims to be that of `group`.

        s_block_group_nr has 16 bits: the kernel cuts larger numbers off (resize.c), mke2fs writes 65,535
        for them (closefs.c). Revision 0 does not have the field.
        """
        return self.revision < EXT4_DYNAMIC_REV or self.group_number in (group & 0xFFFF, min(group, 0xFFFF))

    def group_first_block(self, group: int) -> int:
        """First block of a group."""
        return self.first_data_block + group * self.blocks_per_group


def has_magic(raw: bytes) -> bool:
    """Whether these 1,024 bytes carry ext4's magic number."""
    offset = EXT4_SUPER_BLOCK.offset_of("s_magic")
    return raw[offset : offset + 2] == EXT4_SUPER_MAGIC.to_bytes(2, "little")


def parse_superblock(raw: bytes, offset: int, problems: Problems) -> Superblock:
    """Verify and parse the 1,024 bytes that were read at byte `offset`.

    NotExt4Error without the magic number, UnsupportedFeatureError with the names, CorruptionError
    with the field.
    """
    place = Place(offset=offset, record=EXT4_SUPER_BLOCK.name)
    if not has_magic(raw):
        raise NotExt4Error(f"no ext2/3/4 superblock at byte offset {offset:#x}: its magic number 0xEF53 is missing")
    record = EXT4_SUPER_BLOCK.unpack(raw, 0, place)
    if record.s_rev_level > EXT4_DYNAMIC_REV:
        raise UnsupportedFeatureError(f"unsupported revision {record.s_rev_level} of the file system")
    features = _features(record)
    check_readable(features)
    if RoCompat.METADATA_CSUM in features and problems.verify:
        if record.s_checksum_type != EXT4_CRC32C_CHKSUM:
            raise UnsupportedFeatureError(f"unsupported checksum type {record.s_checksum_type} (1, crc32c, is known)")
        computed = checksum.superblock(raw)
        if computed != record.s_checksum:
            problems.checksum("superblock", record.s_checksum, computed, place)
    elif RoCompat.METADATA_CSUM not in features and record.s_checksum_type == EXT4_CRC32C_CHKSUM:
        # mke2fs and tune2fs set and clear the two together. Without this check a flipped feature bit
        # would turn all verification off, and nobody would notice.
        where = Place(offset=offset, record=EXT4_SUPER_BLOCK.name, field="s_feature_ro_compat")
        problems.remark("s_checksum_type is crc32c, but metadata_csum is not set: nothing can be verified", where)
    unknown = features.unknown_ro_compat()
    if unknown:
        problems.note(f"unknown read-only compatible features: {', '.join(unknown)}", place)
    superblock = from_raw(record, features, place)
    _check_mountable(record, superblock, problems, place)
    return superblock


def _check_mountable(record: Any, superblock: Superblock, problems: Problems, place: Place) -> None:
    """Report values with which kernels refuse to mount, though they can be read (fs/ext4/super.c)."""
    features, dynamic = superblock.features, superblock.revision >= EXT4_DYNAMIC_REV
    pairs = (
        ("s_log_cluster_size",
         RoCompat.BIGALLOC not in features and record.s_log_cluster_size != record.s_log_block_size,
         "differs from s_log_block_size without bigalloc"),
        ("s_first_ino", dynamic and not EXT4_GOOD_OLD_FIRST_INO <= superblock.first_inode <= superblock.inode_count,
         f"must be {EXT4_GOOD_OLD_FIRST_INO} to {superblock.inode_count}"),
        ("s_reserved_gdt_blocks", superblock.reserved_descriptor_blocks > superblock.block_size // 4,
         f"is more than {superblock.block_size // 4}"),
        ("s_first_meta_bg", Incompat.META_BG in features and superblock.first_meta_group > superblock.descriptor_blocks,
         f"there are {superblock.descriptor_blocks} blocks of descriptors"),
    )  # fmt: skip
    for field, wrong, why in pairs:
        if wrong:
            where = Place(offset=place.offset, record=EXT4_SUPER_BLOCK.name, field=field)
            problems.found(CorruptionError(f"{field} is {getattr(record, field)}: {why}", where))


def _features(record: Any) -> Features:
    # Revision 0 does not define these words; the kernel warns about them there, but uses them.
    return Features.from_words(record.s_feature_compat, record.s_feature_incompat, record.s_feature_ro_compat)


def from_raw(record: Any, features: Features, place: Place) -> Superblock:
    """Join halves and check ranges; `place` is where the record was read."""

    def wrong(field: str, why: str) -> CorruptionError:
        return CorruptionError(
            f"{field} is {getattr(record, field)}: {why}",
            Place(offset=place.offset, record=EXT4_SUPER_BLOCK.name, field=field),
        )

    log_block_size = record.s_log_block_size + MIN_LOG_BLOCK_SIZE
    if log_block_size > MAX_LOG_BLOCK_SIZE:
        raise wrong("s_log_block_size", "blocks are 1 KiB to 64 KiB")
    block_size = 1 << log_block_size
    bits_per_bitmap = block_size * 8

    bigalloc = RoCompat.BIGALLOC in features
    if bigalloc:
        log_cluster_size = record.s_log_cluster_size + MIN_LOG_BLOCK_SIZE
        if not log_block_size <= log_cluster_size <= MAX_LOG_CLUSTER_SIZE:
            raise wrong("s_log_cluster_size", "a cluster is at least a block and at most 1 GiB")
        cluster_size = 1 << log_cluster_size
        clusters_per_group = record.s_clusters_per_group
        if not 0 < clusters_per_group <= bits_per_bitmap:
            raise wrong("s_clusters_per_group", f"must be 1 to {bits_per_bitmap}")
        if record.s_blocks_per_group != clusters_per_group * (cluster_size // block_size):
            raise wrong("s_blocks_per_group", "is not the size of a group's clusters in blocks")
    else:
        cluster_size = block_size
        clusters_per_group = record.s_blocks_per_group
        if not 0 < record.s_blocks_per_group <= bits_per_bitmap:
            raise wrong("s_blocks_per_group", f"must be 1 to {bits_per_bitmap}")

    dynamic = record.s_rev_level >= EXT4_DYNAMIC_REV
    inode_size = record.s_inode_size if dynamic else EXT4_GOOD_OLD_INODE_SIZE
    if inode_size < EXT4_GOOD_OLD_INODE_SIZE or inode_size > block_size or inode_size & (inode_size - 1):
        raise wrong("s_inode_size", f"must be a power of two from 128 to {block_size}")
    inodes_per_block = block_size // inode_size
    if not inodes_per_block <= record.s_inodes_per_group <= bits_per_bitmap:
        raise wrong("s_inodes_per_group", f"must be {inodes_per_block} to {bits_per_bitmap}")

    wide = Incompat.BIT64 in features
    block_count = record.s_blocks_count_lo | (record.s_blocks_count_hi << 32 if wide else 0)
    first_data_block = record.s_first_data_block
    if block_count > MAX_BLOCKS:
        raise wrong("s_blocks_count_hi", "block numbers have 48 bits")
    if first_data_block >= block_count:
        raise wrong("s_first_data_block", f"the file system has {block_count} blocks")
    if first_data_block == 0 and cluster_size == 1024:
        raise wrong("s_first_data_block", "must be at least 1 with blocks and clusters of 1 KiB")
    data_blocks = block_count - first_data_block
    group_count = -(-data_blocks // record.s_blocks_per_group)
    if group_count > 0xFFFFFFFF:
        raise wrong("s_blocks_count_lo", "so many blocks make too many groups")
    if group_count * record.s_inodes_per_group != record.s_inodes_count:
        raise wrong("s_inodes_count", f"must be {group_count} groups of {record.s_inodes_per_group} inodes")

    descriptor_size = record.s_desc_size if wide else EXT4_MIN_DESC_SIZE
    if wide and (
        not EXT4_MIN_DESC_SIZE_64BIT <= descriptor_size <= EXT4_MAX_DESC_SIZE or descriptor_size & (descriptor_size - 1)
    ):
        raise wrong("s_desc_size", "must be a power of two from 64 to 1024 with 64bit")

    flags = record.s_flags
    return Superblock(
        uuid=UUID(bytes=record.s_uuid),
        label=_text(record.s_volume_name),
        last_mounted=_text(record.s_last_mounted),
        features=features,
        revision=record.s_rev_level,
        creator_os=record.s_creator_os,
        state=record.s_state,
        block_size=block_size,
        cluster_size=cluster_size,
        block_count=block_count,
        free_blocks=record.s_free_blocks_count_lo | (record.s_free_blocks_count_hi << 32 if wide else 0),
        reserved_blocks=record.s_r_blocks_count_lo | (record.s_r_blocks_count_hi << 32 if wide else 0),
        first_data_block=first_data_block,
        blocks_per_group=record.s_blocks_per_group,
        clusters_per_group=clusters_per_group,
        group_count=group_count,
        inode_count=record.s_inodes_count,
        free_inodes=record.s_free_inodes_count,
        inodes_per_group=record.s_inodes_per_group,
        inode_size=inode_size,
        first_inode=record.s_first_ino if dynamic else EXT4_GOOD_OLD_FIRST_INO,
        descriptor_size=descriptor_size,
        reserved_descriptor_blocks=record.s_reserved_gdt_blocks,
        preallocated_directory_blocks=record.s_prealloc_dir_blocks,
        first_meta_group=record.s_first_meta_bg,
        backup_groups=(record.s_backup_bgs_0, record.s_backup_bgs_1),
        groups_per_flex=1 << record.s_log_groups_per_flex if record.s_log_groups_per_flex < 32 else 0,
        group_number=record.s_block_group_nr,
        checksum_seed=record.s_checksum_seed if Incompat.CSUM_SEED in features else None,
        hash_seed=(record.s_hash_seed_0, record.s_hash_seed_1, record.s_hash_seed_2, record.s_hash_seed_3),
        hash_version=record.s_def_hash_version,
        hash_unsigned=bool(flags & EXT2_FLAGS_UNSIGNED_HASH),
        hash_signed=bool(flags & EXT2_FLAGS_SIGNED_HASH),
        journal_inode=record.s_journal_inum,
        journal_device=record.s_journal_dev,
        journal_uuid=UUID(bytes=record.s_journal_uuid),
        journal_backup=record.s_jnl_blocks if record.s_jnl_backup_type == EXT3_JNL_BACKUP_BLOCKS else b"",
        last_orphan=record.s_last_orphan,
        orphan_file_inode=record.s_orphan_file_inum if Compat.ORPHAN_FILE in features else 0,
        quota_inodes=(record.s_usr_quota_inum, record.s_grp_quota_inum, record.s_prj_quota_inum),
        encoding=record.s_encoding,
        encoding_flags=record.s_encoding_flags,
        password_salt=record.s_encrypt_pw_salt,
        mmp_block=record.s_mmp_block,
        min_extra_size=record.s_min_extra_isize,
        want_extra_size=record.s_want_extra_isize,
        mkfs_time=record.s_mkfs_time | record.s_mkfs_time_hi << 32,
        mount_time=record.s_mtime | record.s_mtime_hi << 32,
        write_time=record.s_wtime | record.s_wtime_hi << 32,
        check_time=record.s_lastcheck | record.s_lastcheck_hi << 32,
        mount_count=record.s_mnt_count,
        kilobytes_written=record.s_kbytes_written,
        error_count=record.s_error_count,
    )


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


__all__ = ["SUPERBLOCK_OFFSET", "Superblock", "from_raw", "has_magic", "parse_superblock"]
