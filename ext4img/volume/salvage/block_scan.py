"""Reading a volume block by block, without any of its structures."""

from __future__ import annotations

from collections.abc import Iterator

from ext4img.errors import SourceError
from ext4img.volume.blocks import BlockReader
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.runs import Runs
from ext4img.volume.salvage.inodes import journal_inode_copy
from ext4img.volume.superblock import Superblock

SEARCHED_BYTES = 1 << 30
_WINDOW_BYTES = 1 << 20


def readable_blocks(blocks: BlockReader, first: int, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of the readable blocks from `first` on, at most `max_bytes` of them."""
    size = blocks.block_size
    end = min(blocks.blocks_there, first + max_bytes // size)
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
                    continue  # the caller looks for blocks that it can recognise
            continue
        for number in range(count):
            yield start + number, data[number * size : (number + 1) * size]


def log_runs(superblock: Superblock, blocks: BlockReader, seed: int) -> Runs:
    """The journal's runs, by the superblock's copy of its inode. It holds older versions of other blocks."""
    if not superblock.journal_backup:
        return ()
    return Mapper(superblock, blocks, seed, Problems("off")).runs(journal_inode_copy(superblock))


def in_log(block: int, log: Runs) -> bool:
    """Whether a block belongs to the journal."""
    return any(run.pblk <= block < run.pblk + run.length for run in log)
