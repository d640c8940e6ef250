"""Finding file systems that do not begin where the image does: behind a header, or on a disk whose table is gone.

A superblock is looked for at every sector of the image's beginning, then at every mebibyte, where
partitions start. A file or an old block may hold one, too, so a superblock is believed only if
something else that it leads to agrees: a backup of it, or the root directory's inode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ext4img.errors import CorruptionError, NotExt4Error, NotFoundError, SourceError, UnsupportedFeatureError
from ext4img.sources.base import Source
from ext4img.sources.slice import SliceSource
from ext4img.structs.inode import EXT4_ROOT_INO
from ext4img.structs.superblock import EXT4_SUPER_BLOCK, EXT4_SUPER_MAGIC, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.groups import Groups
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.problems import Problems
from ext4img.volume.salvage.superblock import backup_group
from ext4img.volume.superblock import Superblock, parse_superblock

SEARCHED_BYTES = 256 << 20
"""So much of the beginning is searched sector by sector."""
MAX_PROBES = 16_384
"""So many further places are looked at, a mebibyte apart."""
MAX_CANDIDATES = 2_000
MAX_FOUND = 16
_SECTOR_BYTES = 512
_STEP_BYTES = 1 << 20
_WINDOW_BYTES = 4 << 20
_MAGIC = EXT4_SUPER_MAGIC.to_bytes(2, "little")
_MAGIC_OFFSET = EXT4_SUPER_BLOCK.offset_of("s_magic")
_REFUSED = (NotExt4Error, CorruptionError, UnsupportedFeatureError, SourceError, NotFoundError)


class FoundFileSystem(NamedTuple):
    """A file system inside an image: the byte at which it starts, and the superblock that was found.

    `superblock_block` is the block of a backup by which it has to be read, as its primary superblock
    is damaged; None where the primary is sound.
    """

    offset: int
    superblock: Superblock
    superblock_block: int | None = None


def find_file_systems(source: Source) -> list[FoundFileSystem]:
    """The file systems in `source` that do not start at its first byte, by offset, at most 16.

    File systems within another one that was found (images in files) are left out. What cannot be
    read is passed over.
    """
    found: list[FoundFileSystem] = []
    backups: list[FoundFileSystem] = []
    candidates = 0
    end = 0  # of the last file system that was found
    for place in _places(source):
        if place - SUPERBLOCK_OFFSET < end:
            continue
        candidates += 1
        if candidates > MAX_CANDIDATES or len(found) >= MAX_FOUND:
            break
        start = place - SUPERBLOCK_OFFSET
        superblock = _sound(source, place)
        if superblock is None:
            continue
        if superblock.group_number:
            block = superblock.group_first_block(superblock.group_number)
            start = place - block * superblock.block_size
            if start > 0 and backup_group(superblock, place - start):
                backups.append(FoundFileSystem(start, superblock, block))
        elif start and _is_confirmed(source, start, superblock):
            found.append(FoundFileSystem(start, superblock))
            end = min(start + superblock.size, source.size)
    known = {(one.offset, one.superblock.uuid) for one in found}
    for one in backups:
        inside = any(other.offset <= one.offset < other.offset + other.superblock.size for other in found)
        if (one.offset, one.superblock.uuid) not in known and not inside and _is_confirmed(source, *one[:2]):
            known.add((one.offset, one.superblock.uuid))
            found.append(one)
    return sorted(found)[:MAX_FOUND]


def _sound(source: Source, place: int) -> Superblock | None:
    try:
        return parse_superblock(source.read_at(place, SUPERBLOCK_SIZE), place, Problems("strict"))
    except _REFUSED:
        return None


def _is_confirmed(source: Source, start: int, superblock: Superblock) -> bool:
    """Whether a backup of the superblock stands where it must, or else the root inode is a directory."""
    size = superblock.block_size
    for group in {1, *superblock.backup_groups}:
        if 0 < group < superblock.group_count and superblock.group_has_superblock(group):
            place = start + superblock.group_first_block(group) * size
            copy = _sound(source, place) if place + SUPERBLOCK_SIZE <= source.size else None
            if copy is not None and copy.uuid == superblock.uuid and backup_group(copy, place - start):
                return True
    seed = checksum.filesystem_seed(superblock.uuid, superblock.checksum_seed)
    strict = Problems("strict")
    try:
        blocks = BlockReader(SliceSource(source, start), size, superblock.block_count)
        table = InodeTable(superblock, Groups(superblock, blocks, seed, strict), blocks, seed, strict)
        return table[EXT4_ROOT_INO].is_dir
    except _REFUSED:
        return False


def _places(source: Source) -> Iterator[int]:
    """Bytes at which something with a superblock's magic number stands, in ascending order."""
    for start in range(0, min(source.size, SEARCHED_BYTES), _WINDOW_BYTES):
        try:
            data = source.read_at(start, min(_WINDOW_BYTES + SUPERBLOCK_SIZE, source.size - start))
        except SourceError:
            continue
        low, high = data[_MAGIC_OFFSET::_SECTOR_BYTES], data[_MAGIC_OFFSET + 1 :: _SECTOR_BYTES]
        position = low.find(_MAGIC[:1])
        while 0 <= position < min(len(high), _WINDOW_BYTES // _SECTOR_BYTES):
            place = start + position * _SECTOR_BYTES
            if high[position] == _MAGIC[1] and SUPERBLOCK_OFFSET < place <= source.size - SUPERBLOCK_SIZE:
                yield place
            position = low.find(_MAGIC[:1], position + 1)
    first = SEARCHED_BYTES + SUPERBLOCK_OFFSET
    for place in range(first, min(source.size - SUPERBLOCK_SIZE, first + MAX_PROBES * _STEP_BYTES), _STEP_BYTES):
        try:
            if source.read_at(place + _MAGIC_OFFSET, len(_MAGIC)) == _MAGIC:
                yield place
        except SourceError:
            continue
