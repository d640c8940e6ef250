"""Directories whose inodes are lost, found again by what their blocks say of themselves.

A directory's first block names itself and its parent. With metadata_csum every block's checksum
also tells the inode's seed, by which its other blocks are known, and its generation. Owner, mode,
times and attributes are gone. Only where problems are reported.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.structs.directory import EXT4_DIR_ENTRY, EXT4_DIR_ENTRY_TAIL, EXT4_FT_DIR, EXT4_FT_DIR_CSUM
from ext4img.structs.inode import EXT4_INODE, EXT4_ROOT_INO, S_IFDIR
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.dir_entry import DirListing
from ext4img.volume.groups import Groups
from ext4img.volume.inode import StoredInode
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.problems import Problems
from ext4img.volume.salvage.checksum_seed import generation_of, seed_of_directory_block
from ext4img.volume.salvage.inodes import directory_inode
from ext4img.volume.salvage.root import SEARCHED_BYTES, blocks_there, in_log, log_runs
from ext4img.volume.superblock import Superblock

MOST_RESCUED = 4096
_MOST_CANDIDATES = 64
_GENERATION = EXT4_INODE.offset_of("i_generation")
_LINKS, _MODE = StoredInode._fields.index("links"), StoredInode._fields.index("mode")
_DIRECTORY = S_IFDIR >> 12
_DOT = (12).to_bytes(2, "little") + b"\x01\x02."  # rec_len, name_len, file_type, name
_DOT_DOT = 12
_LEAF_TAIL = EXT4_DIR_ENTRY_TAIL.pack((0, EXT4_DIR_ENTRY_TAIL.size, 0, EXT4_FT_DIR_CSUM, 0))[:-4]
_BLOCK = (1 << 32) - 1  # below it a block number; above it what the block is looked for by


class LostDirectories:
    """Looks at every subdirectory that is come to, and puts an inode in the place of a lost one."""

    def __init__(
        self,
        superblock: Superblock,
        blocks: BlockReader,
        groups: Groups,
        inodes: InodeTable,
        seed: int,
        problems: Problems,
    ) -> None:
        self._superblock = superblock
        self._blocks = blocks
        self._groups = groups
        self._inodes = inodes
        self._seed = seed
        self._problems = problems
        self._has_checksums = superblock.has_metadata_checksums
        self._looked_at: set[int] = set()
        self._rescued = 0
        self._searched = False
        # Sorted: inode number or seed in the upper half, block number in the lower.
        self._first_blocks = array("Q")
        self._other_blocks = array("Q")
        self._bitmap: tuple[int, bytes] = (-1, b"")

    def look_after(self, directory: int, listing: DirListing) -> None:
        """See to the subdirectories that a directory names."""
        branches = [at for at in listing.branches() if listing.types[at] == EXT4_FT_DIR]
        if not branches:
            return
        numbers = [listing.inodes[at] for at in branches]
        for number, row in zip(numbers, self._inodes.batch(numbers), strict=True):
            if row is None or not row[_LINKS] or row[_MODE] >> 12 != _DIRECTORY:
                self.look_at(directory, number)

    def look_at(self, directory: int, number: int) -> None:
        """See to one that is named a subdirectory of inode `directory`."""
        if number in self._looked_at or number == EXT4_ROOT_INO:
            return
        self._looked_at.add(number)
        if self._is_lost(number) and self._rescued < MOST_RESCUED:
            self._rescue(directory, number)

    def _is_lost(self, number: int) -> bool:
        """Not that it was deleted, or that the name's type is wrong: then a sound inode stands there."""
        try:
            raw = self._inodes.raw(number)
            inode = self._inodes[number]
        except NotFoundError:
            return False
        except (CorruptionError, SourceError):
            return True
        if not any(raw[: EXT4_INODE.size]):
            return True
        if self._has_checksums:
            generation = int.from_bytes(raw[_GENERATION : _GENERATION + 4], "little")
            seed = checksum.inode_seed(self._seed, number, generation)
            return not inode.is_dir and checksum.inode(seed, raw) != checksum.stored_inode(raw)
        return not inode.is_dir or not inode.links

    def _rescue(self, directory: int, number: int) -> None:
        candidates = [block for block in self._candidates(number) if self._fits(block, directory)]
        if len(candidates) != 1:
            if candidates:
                text = ", ".join(map(str, candidates[:8]))
                self._problems.note(f"blocks {text} all call themselves this directory", Place(inode=number))
            return
        found, generation = candidates, 0
        if self._has_checksums:
            seed = seed_of_directory_block(self._blocks.read(candidates[0]))
            if seed is None:
                return
            generation = generation_of(self._seed, number, seed)
            others = _of(self._other_blocks, seed)
            found += [block for block in others if block != candidates[0] and self._is_in_use(block)]
        raw = directory_inode(self._superblock, number, generation, found, self._seed, self._problems)
        self._inodes.overrides = {**self._inodes.overrides, number: raw}
        self._rescued += 1

    def _candidates(self, number: int) -> list[int]:
        if not self._searched:
            self._searched = True
            self._search()
        return _of(self._first_blocks, number)[:_MOST_CANDIDATES]

    def _search(self) -> None:
        """Go through the volume once, for the blocks of all directories."""
        firsts, others = array("Q"), array("Q")
        log = log_runs(self._superblock, self._blocks, self._seed)
        for block, data in blocks_there(self._blocks, self._superblock.first_data_block + 1, SEARCHED_BYTES):
            number = _names_itself(data)
            seed = None
            if number is None and self._has_checksums and data[-12:-4] == _LEAF_TAIL:
                seed = seed_of_directory_block(data)
            if (number is None and seed is None) or block > _BLOCK or in_log(block, log):
                continue
            if number is not None:
                firsts.append(number << 32 | block)
            elif seed is not None:
                others.append(seed << 32 | block)
        self._first_blocks, self._other_blocks = array("Q", sorted(firsts)), array("Q", sorted(others))

    def _fits(self, block: int, directory: int) -> bool:
        """Whether a first block names this parent, and is not left over from a deleted directory."""
        try:
            parent = EXT4_DIR_ENTRY.unpack_tuple(self._blocks.read(block), _DOT_DOT)[0]
        except (CorruptionError, SourceError):
            return False
        return parent == directory and self._is_in_use(block)

    def _is_in_use(self, block: int) -> bool:
        """By the bitmap, if there is one to be read."""
        superblock = self._superblock
        group, offset = divmod(block - superblock.first_data_block, superblock.blocks_per_group)
        if self._bitmap[0] != group:
            try:
                known = self._groups[group]
                raw = b"" if known.blocks_uninitialised else self._blocks.read(known.block_bitmap)
            except (CorruptionError, SourceError):
                raw = b""
            self._bitmap = group, raw
        bit = offset // (superblock.cluster_size // superblock.block_size)
        raw = self._bitmap[1]
        return bit // 8 >= len(raw) or bool(raw[bit // 8] >> bit % 8 & 1)


def _of(keys: array[int], wanted: int) -> list[int]:
    """The blocks under one inode number or seed."""
    start = bisect_left(keys, wanted << 32)
    return [key & _BLOCK for key in keys[start : bisect_left(keys, wanted + 1 << 32)]]


def _names_itself(data: bytes) -> int | None:
    """The inode number of a directory whose first block this is."""
    if data[4:9] != _DOT or data[_DOT_DOT + 8 : _DOT_DOT + 10] != b".." or data[_DOT_DOT + 6] != 2:
        return None
    return int.from_bytes(data[:4], "little") or None
