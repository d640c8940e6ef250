"""The check of the file system's own structures: copies of superblock and descriptors, and their blocks."""

from __future__ import annotations

from collections.abc import Iterator

from ext4img.errors import ChecksumError, CorruptionError, Ext4Error, Place, SourceError
from ext4img.structs.group import EXT4_GROUP_DESC
from ext4img.structs.superblock import (
    EXT4_MMP_MAGIC,
    EXT4_SUPER_BLOCK,
    MMP_STRUCT,
    SUPERBLOCK_SIZE,
)
from ext4img.volume import checksum
from ext4img.volume.check.block_owners import FILE_SYSTEM, BlockOwners
from ext4img.volume.features import Compat, Incompat, RoCompat
from ext4img.volume.problems import Problems
from ext4img.volume.superblock import Superblock, parse_superblock
from ext4img.volume.volume import Volume

# The same in every copy. The kernel sets the features below only in the primary superblock.
_SAME = (
    "uuid", "block_size", "cluster_size", "block_count", "blocks_per_group", "inode_count", "inodes_per_group",
    "inode_size", "first_data_block", "descriptor_size", "checksum_seed",
)  # fmt: skip
_COMPAT_OF_PRIMARY = Compat.EXT_ATTR | Compat.FAST_COMMIT | Compat.DIR_INDEX
_INCOMPAT_OF_PRIMARY = Incompat.RECOVER | Incompat.EXTENTS | Incompat.ENCRYPT
_RO_COMPAT_OF_PRIMARY = (
    RoCompat.LARGE_FILE | RoCompat.DIR_NLINK | RoCompat.ORPHAN_PRESENT | RoCompat.EXTRA_ISIZE | RoCompat.VERITY
)
MAX_COPIES = 1000  # of superblocks, where every group has one


def check_superblocks(volume: Volume) -> None:
    """Check that the backups of superblock and descriptors agree with the primaries.

    What is wrong with a backup is a remark: nothing reads it while the primary is sound, and e2fsck
    does not look at it then. Kernels before 6.1 left stale ones when they enlarged a mounted file
    system, without their group's number and with an old checksum (update_backups, fs/ext4/resize.c).
    """
    for group in _groups_with_copies(volume):
        _check_copy(volume, group)
    _check_descriptor_copies(volume)
    if Incompat.MMP in volume.features:
        _check_mmp(volume)


def add_file_system_blocks(volume: Volume, owners: BlockOwners) -> None:
    """Add the blocks of superblocks, descriptors, bitmaps and inode tables."""
    superblock, groups = volume.superblock, volume.groups
    meta = Incompat.META_BG in superblock.features
    plain_blocks = superblock.descriptor_blocks
    if meta:
        plain_blocks = min(plain_blocks, superblock.first_meta_group)
    per_block = superblock.block_size // superblock.descriptor_size
    for number in groups.readable():
        first = superblock.group_first_block(number)
        if superblock.group_has_superblock(number):
            start = 0 if number == 0 and superblock.block_size == 1024 else first
            owners.add(start, first - start + 1 + (superblock.block_size == 1024 and first == 0), FILE_SYSTEM)
            if plain_blocks:
                owners.add(groups.descriptor_block(0, number), plain_blocks, FILE_SYSTEM)
        index, within = divmod(number, per_block)
        if meta and index >= superblock.first_meta_group and within in (0, 1, per_block - 1):
            copy = 0 if within == 0 else 1 if within == 1 else 2
            owners.add(groups.descriptor_block(index, copy), 1, FILE_SYSTEM)
        try:
            group = groups[number]
        except (CorruptionError, SourceError):
            continue  # reported when its inodes were scanned
        bitmaps = (group.block_bitmap, 1), (group.inode_bitmap, 1)
        for block, count in (*bitmaps, (group.inode_table, groups.table_blocks)):
            if superblock.first_data_block < block and block + count <= superblock.block_count:
                owners.add(block, count, FILE_SYSTEM)
    if Incompat.MMP in superblock.features and superblock.mmp_block:
        owners.add(superblock.mmp_block, 1, FILE_SYSTEM)


def _groups_with_copies(volume: Volume) -> Iterator[int]:
    found = 0
    for group in volume.groups.readable():
        if group and volume.superblock.group_has_superblock(group):
            found += 1
            if found > MAX_COPIES:
                return
            yield group


def _check_copy(volume: Volume, group: int) -> None:
    primary, problems = volume.superblock, volume.problems
    block = primary.group_first_block(group)
    offset = block * primary.block_size
    place = Place(block=block, offset=offset, record=EXT4_SUPER_BLOCK.name)
    try:
        raw = volume.blocks.read(block)[:SUPERBLOCK_SIZE]
        copy = parse_superblock(raw, offset, Problems("strict" if problems.verify else "off"))
    except Ext4Error as error:
        reason = error.reason if isinstance(error, CorruptionError) else str(error)
        problems.remark(f"backup superblock of group {group}: {reason}", place)
        return
    differing = [name for name in _SAME if getattr(copy, name) != getattr(primary, name)]
    differing += _differing_features(primary, copy)
    if not copy.is_copy_of(group):
        differing.append("group number")
    if differing:
        problems.remark(
            f"backup superblock of group {group} differs from the one in use: {', '.join(differing)}", place
        )


def _differing_features(one: Superblock, other: Superblock) -> list[str]:
    words = (
        (one.features.compat ^ other.features.compat) & ~int(_COMPAT_OF_PRIMARY),
        (one.features.incompat ^ other.features.incompat) & ~int(_INCOMPAT_OF_PRIMARY),
        (one.features.ro_compat ^ other.features.ro_compat) & ~int(_RO_COMPAT_OF_PRIMARY),
    )
    return [f"feature {name}" for name in type(one.features).from_words(*words).names]


def _check_descriptor_copies(volume: Volume) -> None:
    """Compare the three block numbers in copies of descriptors: copies are not up to date otherwise."""
    superblock, groups, problems = volume.superblock, volume.groups, volume.problems
    size = superblock.descriptor_size
    per_block = superblock.block_size // size
    places = EXT4_GROUP_DESC.offset_of("bg_free_blocks_count_lo")  # the three block numbers are before it
    meta = Incompat.META_BG in superblock.features
    copies = list(_groups_with_copies(volume))
    for index in range(-(-len(groups.readable()) // per_block)):
        primary = groups.descriptor_block(index)
        in_meta = meta and index >= superblock.first_meta_group
        first = index * per_block
        there = [copy for copy, group in ((1, first + 1), (2, first + per_block - 1)) if group < superblock.group_count]
        for copy in there if in_meta else copies:
            block = groups.descriptor_block(index, copy)
            try:
                one, other = volume.blocks.read(primary), volume.blocks.read(block)
            except (CorruptionError, SourceError) as error:
                problems.remark(f"copy of descriptors: {error}", Place(block=block, record=EXT4_GROUP_DESC.name))
                continue
            if one == other:
                continue
            in_block = min(per_block, superblock.group_count - index * per_block)
            starts = range(0, in_block * size, size)
            differing = sum(one[start : start + places] != other[start : start + places] for start in starts)
            if differing:
                reason = f"copy of the descriptors of groups {first} to {first + in_block - 1}: {differing} have other"
                problems.remark(f"{reason} block numbers", Place(block=block, record=EXT4_GROUP_DESC.name))


def _check_mmp(volume: Volume) -> None:
    block = volume.superblock.mmp_block
    place = Place(block=block, record=MMP_STRUCT.name)
    try:
        raw = volume.blocks.read(block)[: MMP_STRUCT.size]
        record = MMP_STRUCT.unpack(raw, 0, place)
    except (CorruptionError, SourceError) as error:
        volume.problems.unreadable(error, place)
        return
    if record.mmp_magic != EXT4_MMP_MAGIC:
        volume.problems.found(CorruptionError(f"multiple mount protection has magic {record.mmp_magic:#x}", place))
    elif volume.superblock.has_metadata_checksums and volume.problems.verify:
        computed = checksum.mmp(volume.checksum_seed, raw)
        if computed != record.mmp_checksum:
            reason = f"checksum of the multiple mount protection is {record.mmp_checksum:#x}, computed {computed:#x}"
            volume.problems.found(ChecksumError(reason, place))
