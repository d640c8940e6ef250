"""What takes the place of inodes without which nothing is found: the root directory's, the journal's.

Only where problems are reported.
"""

from __future__ import annotations

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.structs.extent import EXT4_EXT_MAGIC, EXT4_EXTENT, EXT4_EXTENT_HEADER, EXT_INIT_MAX_LEN
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INODE, EXT4_INODE_EXTRA, EXT4_ROOT_INO, S_IFDIR
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.runs import WRITTEN
from ext4img.volume.salvage.root import find_root_blocks
from ext4img.volume.superblock import Superblock

_BLOCK_AREA = EXT4_INODE.span("i_block")
_EXTENTS_IN_INODE = (_BLOCK_AREA.size - EXT4_EXTENT_HEADER.size) // EXT4_EXTENT.size


def rescue_root(
    superblock: Superblock, blocks: BlockReader, inodes: InodeTable, mapper: Mapper, seed: int, problems: Problems
) -> None:
    """Put a root directory in the place of one whose inode is lost, if its blocks can be found.

    What the inode said besides (owner, mode, times) is gone.
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


def directory_inode(
    superblock: Superblock, number: int, generation: int, found: list[int], seed: int, problems: Problems
) -> bytes:
    """An inode for a directory of which these blocks were found; both are noted."""
    runs = _runs(found)
    kept = runs[:_EXTENTS_IN_INODE]
    text = ", ".join(str(block) for block in found[:8]) + (", …" if len(found) > 8 else "")
    what = "the root directory's" if number == EXT4_ROOT_INO else "a directory's"
    problems.note(f"{what} inode is lost; its entries are read from block {text}, which name it", Place(inode=number))
    if len(kept) < len(runs):
        left_out = sum(length for _, length in runs[len(kept) :])
        problems.note(f"{left_out} blocks of the directory are left out", Place(inode=number))
    return _directory_raw(superblock, number, generation, kept, seed)


def _runs(found: list[int]) -> list[tuple[int, int]]:
    """(first block, length) of neighbours that follow each other."""
    runs: list[tuple[int, int]] = []
    for block in found:
        if runs and sum(runs[-1]) == block and runs[-1][1] < EXT_INIT_MAX_LEN:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return runs


def _directory_raw(
    superblock: Superblock, number: int, generation: int, runs: list[tuple[int, int]], seed: int
) -> bytes:
    count = sum(length for _, length in runs)
    area = EXT4_EXTENT_HEADER.pack((EXT4_EXT_MAGIC, len(runs), _EXTENTS_IN_INODE, 0, 0))
    lblk = 0
    for pblk, length in runs:
        area += EXT4_EXTENT.pack((lblk, length, pblk >> 32, pblk & 0xFFFFFFFF))
        lblk += length
    fields = {
        "i_mode": S_IFDIR | 0o755,
        "i_links_count": 2,
        "i_size_lo": count * superblock.block_size,
        "i_blocks_lo": count * (superblock.block_size // 512),
        "i_flags": EXT4_EXTENTS_FL,
        "i_block": area.ljust(_BLOCK_AREA.size, b"\0"),
        "i_generation": generation,
    }
    raw = bytearray(EXT4_INODE.build(fields).ljust(superblock.inode_size, b"\0"))
    if superblock.inode_size > EXT4_INODE.size:
        extra = EXT4_INODE_EXTRA.build({"i_extra_isize": EXT4_INODE_EXTRA.size})
        raw[EXT4_INODE.size : EXT4_INODE.size + len(extra)] = extra
    if superblock.has_metadata_checksums:
        computed = checksum.inode(checksum.inode_seed(seed, number, generation), bytes(raw))
        low = EXT4_INODE.offset_of("l_i_checksum_lo")
        raw[low : low + 2] = (computed & 0xFFFF).to_bytes(2, "little")
        if superblock.inode_size > EXT4_INODE.size:
            high = EXT4_INODE.size + EXT4_INODE_EXTRA.offset_of("i_checksum_hi")
            raw[high : high + 2] = (computed >> 16).to_bytes(2, "little")
    return bytes(raw)
