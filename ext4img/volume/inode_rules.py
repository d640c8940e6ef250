"""What an inode in use must not have: the kernel refuses such inodes whole (__ext4_iget, fs/ext4/inode.c).

Whole tables are searched for the few inodes in doubt, so that the others cost nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from ext4img.errors import CorruptionError, Place
from ext4img.structs.inode import (
    EXT4_APPEND_FL,
    EXT4_CASEFOLD_FL,
    EXT4_EXTENTS_FL,
    EXT4_IMMUTABLE_FL,
    EXT4_INDEX_FL,
    EXT4_INLINE_DATA_FL,
    EXT4_INODE,
    EXT4_NDIR_BLOCKS,
    SECTOR_SIZE,
)
from ext4img.volume.features import Compat, Incompat, RoCompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.inode_words import InodeWords, word_of
from ext4img.volume.superblock import Superblock

_FLAGS_WORD, _SIZE_HIGH_WORD, _XATTR_BLOCK_WORD = map(word_of, ("i_flags", "i_size_high", "i_file_acl_lo"))
_MAX_LFS_FILESIZE = (1 << 63) - 1
_MAX_SECTORS = (1 << 32) - 1  # i_blocks without huge_file
_MAX_BLOCKS = (1 << 48) - 1  # i_blocks with huge_file
_KEPT = EXT4_IMMUTABLE_FL | EXT4_APPEND_FL
_BOTH = EXT4_INLINE_DATA_FL | EXT4_EXTENTS_FL
_BOTH_APART = EXT4_INLINE_DATA_FL.bit_length() - EXT4_EXTENTS_FL.bit_length()


class InodeRules(NamedTuple):
    """The limits of one volume's inodes."""

    max_extents_size: int
    max_block_map_size: int
    first_block: int
    block_count: int
    refused_flags: int

    @classmethod
    def of(cls, superblock: Superblock) -> InodeRules:
        """The limits by the superblock's features and sizes."""
        features = superblock.features
        refused = 0
        if Incompat.CASEFOLD not in features:
            refused |= EXT4_CASEFOLD_FL
        if superblock.has_metadata_checksums and Compat.DIR_INDEX not in features:
            refused |= EXT4_INDEX_FL  # index blocks would be taken for leaves, whose checksums are elsewhere
        huge = RoCompat.HUGE_FILE in features
        return cls(
            max_extents_size(superblock.block_size, huge),
            max_block_map_size(superblock.block_size, huge),
            superblock.first_data_block,
            superblock.block_count,
            refused,
        )

    def max_size(self, inode: StoredInode) -> int:
        """The largest i_size that the inode can have, by the way its blocks are mapped."""
        return self.max_extents_size if inode.flags & EXT4_EXTENTS_FL else self.max_block_map_size

    def check(self, inode: StoredInode) -> None:
        """CorruptionError for an inode in use that the kernel refuses."""
        flags, xattr_block = inode.flags, inode.xattr_block
        if not inode.links or not inode.mode:
            return
        if flags & self.refused_flags:
            name = "EXT4_CASEFOLD_FL" if flags & self.refused_flags & EXT4_CASEFOLD_FL else "EXT4_INDEX_FL"
            raise _refused(inode, f"{name} is set without the feature", "i_flags")
        if flags & _BOTH == _BOTH:
            raise _refused(inode, "both inline data and extents", "i_flags")
        if flags & _KEPT and inode.is_symlink:
            raise _refused(inode, "a symbolic link that is immutable or append-only", "i_flags")
        if inode.size > self.max_block_map_size and inode.size > self.max_size(inode):
            reason = f"i_size is {inode.size}, it can be at most {self.max_size(inode)}"
            raise _refused(inode, reason, "i_size_high")
        if xattr_block and not self.first_block < xattr_block < self.block_count:
            reason = f"attribute block {xattr_block} lies outside the volume's {self.block_count} blocks"
            raise _refused(inode, reason, "i_file_acl_lo")

    def doubtful(self, words: InodeWords) -> list[int]:
        """The positions of inodes in a piece of inode table that `check` may refuse."""
        flags = words.column(_FLAGS_WORD)
        doubt = flags & words.repeated(self.refused_flags | _KEPT)
        doubt |= flags & flags >> _BOTH_APART & words.repeated(EXT4_EXTENTS_FL)
        doubt |= words.column(_SIZE_HIGH_WORD) & words.repeated(_bits_from(self.max_block_map_size >> 32))
        if not self.block_count >> 32:
            doubt |= words.column(_XATTR_BLOCK_WORD) & words.repeated(_bits_from(self.block_count))
        return words.positions(doubt)


def max_extents_size(block_size: int, huge_file: bool) -> int:
    """The largest file of extents, in bytes (kernel: ext4_max_size): 2^32 - 1 logical blocks."""
    size = ((1 << 32) - 1) * block_size
    return size if huge_file else min(size, _MAX_SECTORS * SECTOR_SIZE // block_size * block_size)


def max_block_map_size(block_size: int, huge_file: bool) -> int:
    """The largest file of a block map, in bytes (kernel: ext4_max_bitmap_size).

    The map has no more levels, or i_blocks, which counts the map's own blocks, too, no more room.
    """
    per_block = block_size // 4
    room = _MAX_BLOCKS if huge_file else _MAX_SECTORS * SECTOR_SIZE // block_size
    blocks = EXT4_NDIR_BLOCKS + per_block + per_block**2 + per_block**3
    own = 1 + (1 + per_block) + (1 + per_block + per_block**2)
    if blocks + own > room:
        left = room - EXT4_NDIR_BLOCKS - per_block
        own = 1 + 1 + -(-left // per_block)
        if left >= per_block**2:
            left -= per_block**2
            own = 1 + (1 + per_block) + 1 + -(-left // per_block) + -(-left // per_block**2)
        blocks = room - own
    return min(blocks * block_size, _MAX_LFS_FILESIZE)


def _bits_from(value: int) -> int:
    """The bits of a 32-bit word from the highest bit of `value` on: larger values have one of them."""
    return -(1 << max(value.bit_length() - 1, 0)) & 0xFFFFFFFF


def _refused(inode: StoredInode, reason: str, field: str) -> CorruptionError:
    return CorruptionError(reason, Place(inode=inode.number, record=EXT4_INODE.name, field=field))
