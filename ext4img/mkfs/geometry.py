"""The size of the file system, and its division into groups.

The rules are those of mke2fs (e2fsprogs lib/ext2fs/initialize.c): for the same size the result is the
same. Without a given size, the smallest that is large enough is found here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

from ext4img.errors import BuildError
from ext4img.mkfs.options import FeatureChoice, Options
from ext4img.structs.group import EXT4_MIN_DESC_SIZE, EXT4_MIN_DESC_SIZE_64BIT
from ext4img.structs.superblock import EXT4_GOOD_OLD_FIRST_INO
from ext4img.volume.features import Compat, Features, Incompat, RoCompat
from ext4img.volume.sparse_super import is_sparse_group, sparse_groups
from ext4img.volume.superblock import MAX_BLOCKS

GROUPS_PER_FLEX: Final = 16
FIRST_INODE: Final = EXT4_GOOD_OLD_FIRST_INO  # numbers below are reserved
MAX_INODES: Final = 0xFFFFFFFF
MAX_BLOCKS_32BIT: Final = 0xFFFFFFFF
MAX_AUTOMATIC_BYTES: Final = 1 << 44
"""The limit of automatic sizes: claims that more is needed may be hostile."""
_MIN_LAST_GROUP_BLOCKS: Final = 50  # blocks of a last group besides its metadata; with fewer it is left out
_GROWTH: Final = 1024  # resize_inode: there is room for descriptors of a file system so many times as large
_ROUNDS: Final = 100
# Size of the journal by blocks of the file system (ext2fs_default_journal_size).
_JOURNAL_SIZES: Final = (
    (2048, 0),
    (32768, 1024),
    (256 << 10, 4096),
    (512 << 10, 8192),
    (4096 << 10, 16384),
    (8192 << 10, 32768),
    (16384 << 10, 65536),
    (32768 << 10, 131072),
)
_SMALLEST_WITH_JOURNAL: Final = _JOURNAL_SIZES[0][0]
_LARGEST_JOURNAL: Final = 262144
_JOURNAL_TO_FAST_COMMITS: Final = 64


class SpaceDemand(NamedTuple):
    """What the file system must have room for: blocks of contents, directories and attributes; inodes."""

    blocks: int
    inodes: int  # used ones, without the reserved
    highest_inode: int  # the largest number that must exist


@dataclass(frozen=True, slots=True)
class Geometry:
    """The division of a file system. Sizes and counts are in blocks unless they say bytes."""

    features: Features
    block_size: int  # bytes
    inode_size: int  # bytes
    block_count: int
    blocks_per_group: int
    inodes_per_group: int
    descriptor_blocks: int
    reserved_descriptor_blocks: int
    journal_blocks: int
    fast_commit_blocks: int  # the last of the journal's
    orphan_blocks: int  # of the orphan file

    @property
    def first_data_block(self) -> int:
        """The first block of group 0: 1 if the superblock fills a block of 1 KiB, else 0."""
        return 1 if self.block_size == 1024 else 0

    @property
    def group_count(self) -> int:
        """The number of groups; the last one may be shorter."""
        return -(-(self.block_count - self.first_data_block) // self.blocks_per_group)

    @property
    def inode_count(self) -> int:
        """All inodes, used or not."""
        return self.group_count * self.inodes_per_group

    @property
    def table_blocks(self) -> int:
        """Blocks of one group's inode table."""
        return -(-self.inodes_per_group * self.inode_size // self.block_size)

    @property
    def descriptor_size(self) -> int:
        """Bytes of a group descriptor."""
        return _descriptor_size(self.features)

    @property
    def groups_per_flex(self) -> int:
        """Groups whose bitmaps and inode tables are together; 1 without flex_bg."""
        return GROUPS_PER_FLEX if Incompat.FLEX_BG in self.features else 1

    @property
    def group_checksums(self) -> bool:
        """Whether descriptors have checksums, and unused parts of groups need not be initialised."""
        return RoCompat.METADATA_CSUM in self.features or RoCompat.GDT_CSUM in self.features

    def first_block(self, group: int) -> int:
        """First block of a group."""
        return self.first_data_block + group * self.blocks_per_group

    def blocks_in(self, group: int) -> int:
        """Blocks of a group."""
        return min(self.blocks_per_group, self.block_count - self.first_block(group))

    def has_superblock(self, group: int) -> bool:
        """Whether a group begins with a copy of superblock and descriptors."""
        return has_superblock(group, self.features)

    def head_blocks(self, group: int) -> int:
        """Blocks of superblock, descriptors and room reserved for descriptors at the start of a group."""
        return 1 + self.descriptor_blocks + self.reserved_descriptor_blocks if self.has_superblock(group) else 0

    @property
    def overhead(self) -> int:
        """Blocks of group metadata in all."""
        heads = sum(self.head_blocks(group) for group in backup_groups(self.group_count, self.features))
        return self.first_data_block + heads + self.group_count * (2 + self.table_blocks)

    @property
    def metadata_blocks(self) -> int:
        """Blocks that are not for contents: group metadata, journal and orphan file."""
        return self.overhead + self.journal_blocks + self.orphan_blocks

    @property
    def max_free_ranges(self) -> int:
        """The largest number of ranges into which group metadata can divide the free space."""
        flexes = -(-self.group_count // self.groups_per_flex)
        return 1 + flexes + len(backup_groups(self.group_count, self.features))


def has_superblock(group: int, features: Features) -> bool:
    """Whether a group holds a copy of superblock and descriptors."""
    return RoCompat.SPARSE_SUPER not in features or is_sparse_group(group)


def backup_groups(count: int, features: Features) -> list[int]:
    """All groups below `count` that have a copy of the superblock, the first included."""
    return sparse_groups(count) if RoCompat.SPARSE_SUPER in features else list(range(count))


def choose_geometry(demand: SpaceDemand, options: Options, choice: FeatureChoice) -> Geometry:
    """A geometry with room for `demand`; BuildError if the given size is too small."""
    if options.size is None:
        geometry = _smallest(demand, options, choice)
    else:
        geometry = _given(options.size, demand, options, choice)
    for name in choice.dropped(geometry.features):
        what = f"{geometry.block_count} blocks of {geometry.block_size} bytes"
        reason = "too large" if geometry.block_count > MAX_BLOCKS_32BIT else "too small"
        raise BuildError(f"a file system of {what} is {reason} for the feature {name}, which was requested")
    return geometry


def _given(size: int, demand: SpaceDemand, options: Options, choice: FeatureChoice) -> Geometry:
    blocks = size // options.block_size
    geometry = _divide(blocks, demand, options, choice, exact=True)
    need = demand.blocks + geometry.metadata_blocks
    if need > geometry.block_count:
        kib = options.block_size // 1024
        raise BuildError(
            f"{size} bytes are too small: {need * kib} KiB are needed, {demand.blocks * kib} KiB of them for"
            f" files and directories, and the file system would have {geometry.block_count * kib} KiB"
        )
    return geometry


def _smallest(demand: SpaceDemand, options: Options, choice: FeatureChoice) -> Geometry:
    spare = ceil(demand.blocks * options.spare_percent / 100)
    inodes = max(demand.highest_inode, FIRST_INODE - 1 + demand.inodes)
    groups = -(-inodes // _max_inodes_per_group(options))
    least = _SMALLEST_WITH_JOURNAL if choice.wants_journal else 0
    blocks = max(least, demand.blocks + spare, (groups - 1) * _blocks_per_group(options.block_size) + 2)
    for _ in range(_ROUNDS):
        geometry = _divide(blocks, demand, options, choice, exact=False)
        # A file that is split between ranges of free space may need one more block for its extents.
        need = demand.blocks + spare + geometry.metadata_blocks + geometry.max_free_ranges
        if max(need, geometry.block_count) * options.block_size > MAX_AUTOMATIC_BYTES:
            raise BuildError(
                f"{max(need, geometry.block_count)} blocks of {options.block_size} bytes are needed, more than"
                f" {MAX_AUTOMATIC_BYTES >> 40} TiB: so large a file system is only made if its size is given"
            )
        if need <= geometry.block_count:
            return geometry
        # Overhead and journal grow far slower than the size, so this ends.
        blocks = max(need, geometry.block_count + 1)
    raise BuildError(f"no size was found with room for {demand.blocks} blocks and {demand.inodes} inodes")


def _divide(blocks: int, demand: SpaceDemand, options: Options, choice: FeatureChoice, *, exact: bool) -> Geometry:
    """Divide `blocks` into groups. A last group that is too short is left out, or extended unless `exact`."""
    block_size = options.block_size
    first = 1 if block_size == 1024 else 0
    maximum = MAX_BLOCKS if Incompat.BIT64 in choice else MAX_BLOCKS_32BIT
    per_group = _blocks_per_group(block_size)
    while True:
        if blocks > maximum:
            raise BuildError(f"{blocks} blocks of {block_size} bytes are more than the maximum of {maximum}")
        if blocks <= first:
            raise BuildError(f"a file system of {blocks} blocks of {block_size} bytes is too small")
        geometry = _geometry(blocks, per_group, demand, options, choice)
        rest = (blocks - first) % per_group
        last = geometry.group_count - 1
        minimum = geometry.head_blocks(last) + 2 + geometry.table_blocks + _MIN_LAST_GROUP_BLOCKS
        if not rest or rest >= minimum:
            return geometry
        if not exact:
            blocks += min(minimum, per_group) - rest
        elif last:
            blocks -= rest
        else:
            raise BuildError(f"{options.size} bytes are too small: the metadata alone needs {minimum * block_size}")


def _blocks_per_group(block_size: int) -> int:
    """As many as one bitmap has bits; with blocks of 64 KiB, as many as a descriptor can count in 16 bits."""
    return min(8 * block_size, 65528)


def _descriptor_size(features: Features) -> int:
    return EXT4_MIN_DESC_SIZE_64BIT if Incompat.BIT64 in features else EXT4_MIN_DESC_SIZE


def _geometry(blocks: int, per_group: int, demand: SpaceDemand, options: Options, choice: FeatureChoice) -> Geometry:
    block_size = options.block_size
    first = 1 if block_size == 1024 else 0
    groups = -(-(blocks - first) // per_group)
    features = choice.features
    if blocks > MAX_BLOCKS_32BIT:  # the resize inode has block numbers of 32 bits
        features = features._replace(compat=features.compat & ~Compat.RESIZE_INODE)
    descriptors = -(-groups * _descriptor_size(features) // block_size)
    reserved = 0
    if Compat.RESIZE_INODE in features:
        reserved = _reserved_descriptors(blocks, first, per_group, descriptors, options, features)
    if descriptors + reserved > per_group * 3 // 4:
        reserved = 0
        if descriptors > per_group * 3 // 4:
            raise BuildError(
                f"{groups} groups have too many descriptors for blocks of {block_size} bytes: larger blocks are needed"
            )
    journal = fast_commits = orphans = 0
    if Compat.HAS_JOURNAL in features:
        journal = _default_journal(blocks) if options.journal_size is None else options.journal_size // block_size
    if not journal:  # too small for one, as in mke2fs
        with_journal = Compat.HAS_JOURNAL | Compat.FAST_COMMIT | Compat.ORPHAN_FILE
        features = features._replace(compat=features.compat & ~with_journal)
    if Compat.FAST_COMMIT in features:
        fast_commits = journal // _JOURNAL_TO_FAST_COMMITS
    if Compat.ORPHAN_FILE in features:  # ext2fs_default_orphan_file_blocks
        orphans = min(max(blocks // 4096, 32), 512)
    geometry = Geometry(
        features=features,
        block_size=block_size,
        inode_size=options.inode_size,
        block_count=blocks,
        blocks_per_group=per_group,
        inodes_per_group=_inodes_per_group(blocks, groups, demand, options),
        descriptor_blocks=descriptors,
        reserved_descriptor_blocks=reserved,
        journal_blocks=journal + fast_commits,
        fast_commit_blocks=fast_commits,
        orphan_blocks=orphans,
    )
    if geometry.head_blocks(0) + 2 + geometry.table_blocks > per_group:
        raise BuildError(f"{geometry.inode_count} inodes are too many for {groups} groups of {per_group} blocks")
    return geometry


def _max_inodes_per_group(options: Options) -> int:
    """The limit by one bitmap, a 16-bit count, and an inode table of half a group."""
    per_block = options.block_size // options.inode_size
    unit = max(8, per_block)
    limit = min(8 * options.block_size, 65536 - per_block, _blocks_per_group(options.block_size) // 2 * per_block)
    return limit // unit * unit


def _inodes_per_group(blocks: int, groups: int, demand: SpaceDemand, options: Options) -> int:
    """A multiple of 8 that fills the blocks of the inode table, if that is enough for the demand."""
    need = max(demand.highest_inode, FIRST_INODE - 1 + demand.inodes)
    spare = ceil(demand.inodes * options.spare_percent / 100) if options.size is None else 0
    size = options.size or blocks * options.block_size
    wanted = max(size // max(options.bytes_per_inode, options.block_size), need + spare, FIRST_INODE + 1)
    per_block = options.block_size // options.inode_size
    unit = max(8, per_block)
    per_group = -(-min(wanted, MAX_INODES) // groups)
    # As in mke2fs: round up to whole blocks, then down to whole bytes of the bitmap.
    per_group = max(8, -(-per_group // per_block) * per_block // 8 * 8)
    if per_group * groups < need:
        per_group = -(-need // (groups * unit)) * unit
    per_group = min(per_group, _max_inodes_per_group(options), MAX_INODES // groups // unit * unit)
    if per_group * groups < need:
        raise BuildError(
            f"{need} inodes are needed, more than the {_max_inodes_per_group(options)} that each of {groups} groups"
            " can have: a larger size is needed"
        )
    return per_group


def _reserved_descriptors(
    blocks: int, first: int, per_group: int, descriptors: int, options: Options, features: Features
) -> int:
    """Blocks that resize_inode reserves (calc_reserved_gdt_blocks)."""
    grown = blocks * _GROWTH if blocks < MAX_BLOCKS_32BIT // _GROWTH else MAX_BLOCKS_32BIT
    groups = -(-(grown - first) // per_group)
    maximum = options.block_size // 4  # numbers in an indirect block
    return max(0, min(-(-groups * _descriptor_size(features) // options.block_size) - descriptors, maximum))


def _default_journal(blocks: int) -> int:
    for below, size in _JOURNAL_SIZES:
        if blocks < below:
            return size
    return _LARGEST_JOURNAL
