"""Looking for what everything else is found through, block by block, by what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from

from ext4img.errors import CorruptionError, SourceError
from ext4img.structs.directory import EXT4_DIR_ENTRY, EXT4_DIR_ENTRY_TAIL, EXT4_FT_DIR, EXT4_FT_DIR_CSUM
from ext4img.structs.extent import EXT4_EXT_MAGIC, EXT4_EXTENT, EXT4_EXTENT_HEADER
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INODE, EXT4_ROOT_INO, S_IFDIR, S_IFREG
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.dir_block import DirectoryFormat, verify_block
from ext4img.volume.features import Incompat
from ext4img.volume.inode import InodeFormat, StoredInode, from_raw
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.runs import Runs
from ext4img.volume.superblock import Superblock

SEARCHED_BYTES = 1 << 30
TABLE_SEARCHED_BYTES = 64 << 20
_WINDOW_BYTES = 1 << 20
_BLOCK_AREA = EXT4_INODE.span("i_block")
_MODE = EXT4_INODE.offset_of("i_mode")
_GENERATION = EXT4_INODE.offset_of("i_generation")


def journal_inode_copy(superblock: Superblock) -> StoredInode:
    """The journal's inode as the superblock keeps a copy of it (e2fsck/journal.c, s_jnl_blocks)."""
    backup = superblock.journal_backup
    size_high, size = unpack_from("<II", backup, _BLOCK_AREA.size)
    raw = EXT4_INODE.build(
        {
            "i_mode": S_IFREG | 0o600,
            "i_links_count": 1,
            "i_size_lo": size,
            "i_size_high": size_high,
            "i_flags": EXT4_EXTENTS_FL if backup[:2] == EXT4_EXT_MAGIC.to_bytes(2, "little") else 0,
            "i_block": backup[: _BLOCK_AREA.size],
        }
    )
    return from_raw(superblock.journal_inode, raw, InodeFormat.of(superblock)._replace(inode_size=EXT4_INODE.size))


def log_runs(superblock: Superblock, blocks: BlockReader, seed: int) -> Runs:
    """Where the journal stands: it holds older versions of what is looked for."""
    if not superblock.journal_backup:
        return ()
    return Mapper(superblock, blocks, seed, Problems("off")).runs(journal_inode_copy(superblock))


def in_log(block: int, log: Runs) -> bool:
    """Whether a block is one of the log's."""
    return any(run.pblk <= block < run.pblk + run.length for run in log)


def find_first_inode_table(superblock: Superblock, blocks: BlockReader, seed: int) -> int | None:
    """Where group 0's inode table begins, by the root's inode in it; None if it is not found."""
    size, start = superblock.inode_size, (EXT4_ROOT_INO - 1) * superblock.inode_size
    at, form = start % superblock.block_size, InodeFormat.of(superblock)
    log = log_runs(superblock, blocks, seed)
    for block, data in blocks_there(blocks, superblock.first_data_block + 1, TABLE_SEARCHED_BYTES):
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


def find_root_blocks(superblock: Superblock, blocks: BlockReader, seed: int) -> list[int]:
    """The root directory's blocks, its first one first; without checksums no other can be told."""
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
    tail = EXT4_DIR_ENTRY_TAIL.pack((0, EXT4_DIR_ENTRY_TAIL.size, 0, EXT4_FT_DIR_CSUM, 0))[:-4]
    for block, data in blocks_there(blocks, superblock.first_data_block + 1, SEARCHED_BYTES):
        begins = _begins_root(data)
        if not begins and (form.seed is None or data[-12:-4] != tail):
            continue
        if in_log(block, log):
            continue
        try:
            verify_block(data, form, block)
        except CorruptionError:
            continue  # another directory's, or what a directory has left behind
        if not begins:
            others.append(block)
        elif not first:
            first.append(block)
    return first + others if first else []


def _looks_like_root(inode: StoredInode, blocks: BlockReader) -> bool:
    """Whether the inode's first block is a directory that calls itself and its parent the root."""
    if inode.block_area[:2] == EXT4_EXT_MAGIC.to_bytes(2, "little"):
        _, _, high, low = EXT4_EXTENT.unpack_tuple(inode.block_area, EXT4_EXTENT_HEADER.size)
        pblk = low | high << 32
    else:
        pblk = int.from_bytes(inode.block_area[:4], "little")
    try:
        return _begins_root(blocks.read(pblk))
    except (CorruptionError, SourceError):
        return False


def _begins_root(data: bytes) -> bool:
    """Whether a block begins with "." and "..", both of them inode 2."""
    if data[:4] != EXT4_ROOT_INO.to_bytes(4, "little"):
        return False
    number, rec_len, name_len, kind = EXT4_DIR_ENTRY.unpack_tuple(data, 0)
    parent, _, parent_len, _ = EXT4_DIR_ENTRY.unpack_tuple(data, 12)
    return (
        (number, rec_len, name_len) == (EXT4_ROOT_INO, 12, 1)
        and kind in (0, EXT4_FT_DIR)
        and (parent, parent_len) == (EXT4_ROOT_INO, 2)
        and data[8:9] == b"."
        and data[20:22] == b".."
    )


def blocks_there(blocks: BlockReader, first: int, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of the blocks from `first` on that can be read."""
    size = blocks.block_size
    end = min(blocks.blocks_there, first + most_bytes // size)
    step = max(_WINDOW_BYTES // size, 1)
    for start in range(first, end, step):
        count = min(step, end - start)
        try:
            data = blocks.read_data(start, count)
        except SourceError:
            for block in range(start, start + count):
                try:
                    yield block, blocks.read(block)
                except SourceError:
                    continue  # what cannot be read is not what is looked for
            continue
        for number in range(count):
            yield start + number, data[number * size : (number + 1) * size]
