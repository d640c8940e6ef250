"""The contents of the new file system, without places: inodes as columns, directories, attributes."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

from ext4img.mkfs.directories import PlannedDirectory
from ext4img.mkfs.file_runs import LogicalRun
from ext4img.mkfs.inodes import InodeRecords
from ext4img.mkfs.options import Options
from ext4img.mkfs.xattrs import XattrBlock

LOST_AND_FOUND: Final = b"lost+found"


@dataclass(slots=True)
class SharedXattrBlock:
    """A block of attributes, and the number of inodes that share it."""

    block: XattrBlock
    sharers: int
    values: tuple[int, ...]  # the indexes of its ea_inodes, which other blocks may share
    pblk: int = 0


class NodeTree:
    """All inodes and directories, without places. Filled by `collect_nodes`."""

    def __init__(self, options: Options) -> None:
        self.inodes = InodeRecords(options.inode_size)
        self.directories: list[PlannedDirectory] = []
        # Blocks of a file that is one written run from block 0 on; else 0, and `runs` may have runs.
        self.blocks = array("Q")
        self.runs: dict[int, tuple[LogicalRun, ...]] = {}
        self.ends: dict[int, int] = {}  # where contents end, if not at i_size
        self.values: dict[int, bytes] = {}  # contents of ea_inodes, and of symlinks that have a block
        self.inline_data: dict[int, int] = {}  # offset of the value of system.data among inline attributes
        self.xattr_blocks: list[SharedXattrBlock] = []
        self.xattr_block_of: dict[int, int] = {}
        self.value_blocks: dict[int, int] = {}  # blocks of ea_inodes, counted in the i_blocks of their user

    def logical_runs(self, index: int) -> tuple[LogicalRun, ...]:
        """The runs that an inode's contents need."""
        blocks = self.blocks[index]
        return (LogicalRun(0, blocks, False),) if blocks else self.runs.get(index, ())

    def cut(self, length: int) -> None:
        """Remove all but the first `length` inodes. The others must not have stored attributes yet."""
        for index in range(length, len(self.inodes)):
            for column in (self.runs, self.ends, self.values):
                column.pop(index, None)
        while self.directories and self.directories[-1].index >= length:
            self.directories.pop()
        del self.blocks[length:]
        self.inodes.cut(length)
