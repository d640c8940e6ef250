"""The file system's own inodes: journal, orphan file, and the resize inode, which holds room for descriptors."""

from __future__ import annotations

from array import array
from typing import Final, NamedTuple

from ext4img.mkfs.geometry import Geometry, backup_groups
from ext4img.mkfs.inodes import NO_INODE
from ext4img.mkfs.nodes import Node
from ext4img.mkfs.options import Options
from ext4img.mkfs.tree import NodeTree
from ext4img.structs.directory import EXT4_ORPHAN_BLOCK_MAGIC, EXT4_ORPHAN_BLOCK_TAIL
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_JOURNAL_INO, EXT4_NDIR_BLOCKS, EXT4_RESIZE_INO, S_IFREG
from ext4img.structs.journal import JBD2_MAGIC_NUMBER, JBD2_SUPERBLOCK_V2, JOURNAL_SUPERBLOCK
from ext4img.volume import checksum
from ext4img.volume.features import Compat

_DOUBLE_INDIRECT: Final = EXT4_NDIR_BLOCKS + 1
_MODE: Final = S_IFREG | 0o600


class ReservedInodes(NamedTuple):
    """Indexes of the file system's own inodes; None without the feature."""

    journal: int | None
    orphans: int | None  # the orphan file
    resize: int | None  # e2fsprogs lib/ext2fs/res_gdt.c


def add_reserved_inodes(tree: NodeTree, geometry: Geometry, options: Options, free_number: int) -> ReservedInodes:
    """Add the inodes that the features need, without blocks yet. The orphan file gets the free inode number."""
    block_size = geometry.block_size
    features = geometry.features
    journal = orphans = resize = None
    if Compat.HAS_JOURNAL in features:
        journal = _add(tree, options, b"(journal)", EXT4_JOURNAL_INO, geometry.journal_blocks * block_size)
        tree.blocks[journal] = geometry.journal_blocks
    if Compat.ORPHAN_FILE in features:
        orphans = _add(tree, options, b"(orphan file)", free_number, geometry.orphan_blocks * block_size)
        tree.blocks[orphans] = geometry.orphan_blocks
    if Compat.RESIZE_INODE in features:
        per_block = block_size // 4
        size = (per_block * per_block + per_block + EXT4_NDIR_BLOCKS) * block_size
        resize = _add(tree, options, b"(resize)", EXT4_RESIZE_INO, size, flags=0)
    return ReservedInodes(journal, orphans, resize)


def _add(tree: NodeTree, options: Options, name: bytes, number: int, size: int, flags: int = EXT4_EXTENTS_FL) -> int:
    now = (options.created_s or 0) * 1_000_000_000
    node = Node((name,), _MODE, 0, 0, size, now, now, now, now)
    tree.blocks.append(0)
    index = tree.inodes.add(node, NO_INODE, b"", size, 1, flags)
    tree.inodes.numbers[index] = number
    return index


def journal_superblock(options: Options, geometry: Geometry) -> bytes:
    """The first block of an empty journal."""
    assert options.uuid is not None
    raw = JOURNAL_SUPERBLOCK.build(
        {
            "h_magic": JBD2_MAGIC_NUMBER,
            "h_blocktype": JBD2_SUPERBLOCK_V2,
            "s_blocksize": geometry.block_size,
            "s_maxlen": geometry.journal_blocks,
            "s_num_fc_blks": geometry.fast_commit_blocks,
            "s_first": 1,
            "s_sequence": 1,
            "s_nr_users": 1,
            "s_uuid": options.uuid.bytes,
        }
    )
    return raw.ljust(geometry.block_size, b"\0")


def orphan_block(block_size: int, pblk: int, seed_of_inode: int | None) -> bytes:
    """A block of the orphan file without orphans; without `seed_of_inode` it has no checksum."""
    entries = bytes(block_size - EXT4_ORPHAN_BLOCK_TAIL.size)
    value = 0 if seed_of_inode is None else checksum.orphan_block(seed_of_inode, pblk, entries)
    return entries + EXT4_ORPHAN_BLOCK_TAIL.pack((EXT4_ORPHAN_BLOCK_MAGIC, value))


def resize_i_block(map_block: int) -> bytes:
    """i_block of the resize inode: its only entry is the double indirect block."""
    words = array("I", bytes(4 * (_DOUBLE_INDIRECT + 1)))
    words[_DOUBLE_INDIRECT] = map_block
    return _little(words)


def resize_blocks(geometry: Geometry) -> int:
    """All blocks of the resize inode: the map, and the reserved blocks of every copy."""
    copies = len(backup_groups(geometry.group_count, geometry.features))
    return 1 + geometry.reserved_descriptor_blocks * copies


def resize_map(geometry: Geometry) -> bytes:
    """The double indirect block: the reserved descriptor blocks of the first group."""
    per_block = geometry.block_size // 4
    words = array("I", bytes(geometry.block_size))
    for position in range(geometry.reserved_descriptor_blocks):
        words[(geometry.descriptor_blocks + position) % per_block] = _reserved(geometry, position)
    return _little(words)


def reserved_blocks(geometry: Geometry) -> list[bytes]:
    """The reserved blocks of the first group: each lists its copies in the other groups."""
    groups = backup_groups(geometry.group_count, geometry.features)[1:]
    blocks = []
    for position in range(geometry.reserved_descriptor_blocks):
        first = _reserved(geometry, position)
        words = array("I", [first + group * geometry.blocks_per_group for group in groups])
        blocks.append(_little(words).ljust(geometry.block_size, b"\0"))
    return blocks


def _reserved(geometry: Geometry, position: int) -> int:
    return geometry.first_data_block + 1 + geometry.descriptor_blocks + position


def _little(words: array[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)
