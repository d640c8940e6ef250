"""Directories whose inodes are lost, found again by their blocks.

The first block of a directory names the directory itself and its parent. With metadata_csum the
checksum of every block leads back to the inode's seed, which identifies the directory's other
blocks and gives its generation. Owner, mode, times and attributes are lost.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.structs.directory import EXT4_DIR_ENTRY, EXT4_DIR_MIN_REC_LEN, EXT4_FT_DIR
from ext4img.structs.inode import EXT4_INODE, EXT4_ROOT_INO, S_IFDIR
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.dir_block import stored_leaf_checksum
from ext4img.volume.dir_entry import DirListing
from ext4img.volume.groups import Groups
from ext4img.volume.inode import StoredInode
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.problems import Problems
from ext4img.volume.salvage.block_scan import SEARCHED_BYTES, in_log, log_runs, readable_blocks
from ext4img.volume.salvage.checksum_seed import generation_of, seed_of_directory_block
from ext4img.volume.salvage.inodes import directory_inode
from ext4img.volume.superblock import Superblock

MAX_REPLACED = 4096
_MAX_CANDIDATES = 64
_GENERATION = EXT4_INODE.offset_of("i_generation")
_LINKS, _MODE = StoredInode._fields.index("links"), StoredInode._fields.index("mode")
_DIRECTORY = S_IFDIR >> 12
_DOT = EXT4_DIR_MIN_REC_LEN.to_bytes(2, "little") + b"\x01\x02."  # rec_len, name_len, file_type, name
_DOT_DOT = EXT4_DIR_MIN_REC_LEN
_BLOCK = (1 << 32) - 1  # the part of a search key that is the block number


class LostDirectories:
    """Checks the inode of every subdirectory that is reached, and replaces it if it is lost."""

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
        self._seen: set[int] = set()
        self._replaced = 0
        self._searched = False
        # Sorted keys: the inode number or seed in the upper half, the block number in the lower.
        self._first_blocks = array("Q")
        self._other_blocks = array("Q")
        self._bitmap: tuple[int, bytes] = (-1, b"")

    def replace_lost_subdirectories(self, directory: int, listing: DirListing) -> None:
        """Replace the lost ones among the subdirectories that a directory names."""
        branches = [at for at in listing.branches() if listing.types[at] == EXT4_FT_DIR]
        if not branches:
            return
        numbers = [listing.inodes[at] for at in branches]
        for number, row in zip(numbers, self._inodes.batch(numbers), strict=True):
            if row is None or not row[_LINKS] or row[_MODE] >> 12 != _DIRECTORY:
                self.replace_if_lost(directory, number)

    def replace_if_lost(self, directory: int, number: int) -> None:
        """Replace inode `number`, which a name calls a subdirectory of inode `directory`, if it is lost."""
        if number in self._seen or number == EXT4_ROOT_INO:
            return
        self._seen.add(number)
        if self._is_lost(number) and self._replaced < MAX_REPLACED:
            self._replace(directory, number)

    def _is_lost(self, number: int) -> bool:
        """Whether the inode is damaged. One that was deleted or has another type is sound."""
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

    def _replace(self, directory: int, number: int) -> None:
        candidates = [block for block in self._candidates(number) if self._belongs_to(block, directory)]
        if len(candidates) != 1:
            if candidates:
                text = ", ".join(map(str, candidates[:8]))
                self._problems.note(f"blocks {text} all claim to be this directory", Place(inode=number))
            return
        found, generation = candidates, 0
        if self._has_checksums:
            seed = seed_of_directory_block(self._blocks.read(candidates[0]))
            if seed is None:
                return
            generation = generation_of(self._seed, number, seed)
            others = _blocks_of(self._other_blocks, seed)
            found += [block for block in others if block != candidates[0] and self._is_in_use(block)]
        raw = directory_inode(self._superblock, number, generation, found, self._seed, self._problems)
        self._inodes.overrides = {**self._inodes.overrides, number: raw}
        self._replaced += 1

    def _candidates(self, number: int) -> list[int]:
        if not self._searched:
            self._searched = True
            self._search()
        return _blocks_of(self._first_blocks, number)[:_MAX_CANDIDATES]

    def _search(self) -> None:
        """Search the volume once for the blocks of all directories."""
        firsts, others = array("Q"), array("Q")
        log = log_runs(self._superblock, self._blocks, self._seed)
        for block, data in readable_blocks(self._blocks, self._superblock.first_data_block + 1, SEARCHED_BYTES):
            number = _names_itself(data)
            seed = None
            if number is None and self._has_checksums and stored_leaf_checksum(data) is not None:
                seed = seed_of_directory_block(data)
            if (number is None and seed is None) or block > _BLOCK or in_log(block, log):
                continue
            if number is not None:
                firsts.append(number << 32 | block)
            elif seed is not None:
                others.append(seed << 32 | block)
        self._first_blocks, self._other_blocks = array("Q", sorted(firsts)), array("Q", sorted(others))

    def _belongs_to(self, block: int, directory: int) -> bool:
        """Whether a first block names this parent, and is still in use."""
        try:
            parent = EXT4_DIR_ENTRY.unpack_tuple(self._blocks.read(block), _DOT_DOT)[0]
        except (CorruptionError, SourceError):
            return False
        return parent == directory and self._is_in_use(block)

    def _is_in_use(self, block: int) -> bool:
        """Whether the bitmap marks the block as used, or cannot be read."""
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


def _blocks_of(keys: array[int], wanted: int) -> list[int]:
    """The blocks of one inode number or seed."""
    start = bisect_left(keys, wanted << 32)
    return [key & _BLOCK for key in keys[start : bisect_left(keys, wanted + 1 << 32)]]


def _names_itself(data: bytes) -> int | None:
    """The inode number of the directory whose first block this is; None for any other block."""
    if data[4:9] != _DOT or data[_DOT_DOT + 8 : _DOT_DOT + 10] != b".." or data[_DOT_DOT + 6] != len(b".."):
        return None
    return int.from_bytes(data[:4], "little") or None
