"""Choosing the superblock: the primary, a given backup, or one that is searched for.

Some groups begin with a copy of the superblock (sparse_super: 1 and the powers of 3, 5 and 7). Their
places depend on the block size and on the blocks per group, which only the superblock knows. So the
search begins with the places of usual geometries, as e2fsck's does, and then tries every kilobyte of
the image's beginning. A copy counts if it is sound and where it claims to be. Small volumes have one
group and no backup, but often a copy in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ext4img.errors import (
    CorruptionError,
    NotExt4Error,
    NotFoundError,
    Place,
    SourceError,
    UnsupportedFeatureError,
)
from ext4img.sources.base import Source
from ext4img.structs.inode import EXT4_ROOT_INO
from ext4img.structs.superblock import (
    EXT4_SUPER_BLOCK,
    EXT4_SUPER_MAGIC,
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
)
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.features import Compat, Incompat
from ext4img.volume.groups import Groups
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.problems import Problems
from ext4img.volume.superblock import (
    MAX_LOG_BLOCK_SIZE,
    MIN_LOG_BLOCK_SIZE,
    Superblock,
    has_magic,
    parse_superblock,
)

SEARCHED_BYTES = 256 << 20
MAX_TRIED = 10_000  # there may be images, with superblocks of their own, in files
MAX_LOGGED = 200
_WINDOW_BYTES = 4 << 20
_BLOCK_SIZES = tuple(1 << log for log in range(MIN_LOG_BLOCK_SIZE, MAX_LOG_BLOCK_SIZE + 1))
_USUAL_GROUPS = (1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343)
_MAGIC = EXT4_SUPER_MAGIC.to_bytes(2, "little")
_MAGIC_OFFSET = EXT4_SUPER_BLOCK.offset_of("s_magic")
_Damaged = (NotExt4Error, CorruptionError, UnsupportedFeatureError, SourceError)


def read_superblock(
    source: Source, problems: Problems, block: int | None = None, block_size: int | None = None
) -> Superblock:
    """The superblock of a volume.

    `block` is the number of the block that holds the copy to use, in blocks of `block_size` bytes, or
    of any size if that is None. Without `block` the primary is used. If that is damaged, and problems
    are reported, a backup is searched for. NotExt4Error, CorruptionError, UnsupportedFeatureError,
    SourceError.
    """
    if block is None and block_size is not None:
        raise ValueError("block_size needs superblock, whose unit it is")
    if source.size < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE:
        raise NotExt4Error(f"{source.name}: too short for a file system ({source.size} bytes)")
    if block is not None:
        return _superblock_in(source, problems, block, block_size)
    trial = Problems("strict" if problems.verify else "off")
    try:
        found = _parse(source, SUPERBLOCK_OFFSET, trial)
        for problem in trial:
            (problems.remark if problem.remark else problems.note)(problem.reason, problem.place)
        return found
    except _Damaged as error:
        if problems.checks != "report" or _is_sound_but_unsupported(source, error):
            raise
        copy = find_copy(source, _uuid_at(source, SUPERBLOCK_OFFSET))
        if copy is None:
            if not isinstance(error, CorruptionError):
                raise
            # Perhaps it can be used all the same; every problem is noted.
            return _parse(source, SUPERBLOCK_OFFSET, problems)
        place = error.place if isinstance(error, CorruptionError) else Place(offset=SUPERBLOCK_OFFSET)
        reason = error.reason if isinstance(error, CorruptionError) else str(error).removeprefix(f"{source.name}: ")
        where = f"in block {copy.block}" if copy.block is not None else f"in the log, at byte {copy.offset:#x},"
        problems.found(CorruptionError(f"{reason}; the copy {where} is used instead", place))
        return copy.superblock


class SuperblockCopy(NamedTuple):
    """A sound copy of the superblock. `block` is that of a backup; None for a copy in the log."""

    superblock: Superblock
    block: int | None
    offset: int  # bytes


def find_copy(source: Source, uuid: bytes | None = None) -> SuperblockCopy | None:
    """A sound copy of the superblock: a backup that is where it claims to be, else one in the log.

    One with this `uuid` is preferred, because there may be copies of an earlier file system. None if
    none is found.
    """
    tried: set[int] = set()
    other: SuperblockCopy | None = None
    logged: list[SuperblockCopy] = []
    for offset in _offsets(source):
        if offset in tried:
            continue
        tried.add(offset)
        if len(tried) > MAX_TRIED:
            break
        try:
            found = _parse(source, offset, Problems("strict"))
        except _Damaged:
            continue  # not a superblock, or not a sound one: the next place may have one
        group = backup_group(found, offset)
        if group:
            found = found._replace(group_number=group)  # revision 0 does not have the field
            copy = SuperblockCopy(found, found.group_first_block(group), offset)
            if uuid in (None, found.uuid.bytes):
                return copy
            other = other or copy
        elif found.group_number == 0 and Compat.HAS_JOURNAL in found.features and len(logged) < MAX_LOGGED:
            # The orphans of that time may be in use again. The log itself knows whether it needs replay.
            features = found.features._replace(incompat=found.features.incompat | Incompat.RECOVER)
            logged.append(SuperblockCopy(found._replace(last_orphan=0, features=features), None, offset))
    return other or _logged_copy(source, logged, uuid)


def _logged_copy(source: Source, logged: list[SuperblockCopy], uuid: bytes | None) -> SuperblockCopy | None:
    """The latest copy of the primary superblock in the log with which the root directory can be read."""
    for copy in sorted(logged, key=lambda copy: copy.superblock.write_time, reverse=True):
        superblock = copy.superblock
        if uuid not in (None, superblock.uuid.bytes):
            continue
        seed = checksum.filesystem_seed(superblock.uuid, superblock.checksum_seed)
        strict = Problems("strict")
        blocks = BlockReader(source, superblock.block_size, superblock.block_count)
        try:
            table = InodeTable(superblock, Groups(superblock, blocks, seed, strict), blocks, seed, strict)
            if table[EXT4_ROOT_INO].is_dir:
                return copy
        except (CorruptionError, NotFoundError, SourceError):
            continue  # of another file system: an image in a file
    return None


def backup_group(superblock: Superblock, offset: int) -> int:
    """The group that has its backup superblock at byte `offset`, where this one was read; 0 if none has."""
    block, rest = divmod(offset, superblock.block_size)
    group, within = divmod(block - superblock.first_data_block, superblock.blocks_per_group)
    if rest or within or not 0 < group < superblock.group_count or not superblock.group_has_superblock(group):
        return 0
    return group if superblock.is_copy_of(group) else 0


def _is_sound_but_unsupported(source: Source, error: Exception) -> bool:
    """Whether `error` refuses a sound superblock: of an unsupported file system, or of a journal device.

    Then a backup would be refused, too, or belong to an earlier file system on the device.
    """
    if not isinstance(error, UnsupportedFeatureError):
        return False
    raw = _raw(source, SUPERBLOCK_OFFSET)
    record = EXT4_SUPER_BLOCK.unpack(raw)
    return "journal_dev" in error.names or record.s_checksum == checksum.superblock(raw)


def _uuid_at(source: Source, offset: int) -> bytes | None:
    try:
        raw = _raw(source, offset)
    except SourceError:
        return None
    return bytes(EXT4_SUPER_BLOCK.unpack(raw).s_uuid) if has_magic(raw) else None


def _superblock_in(source: Source, problems: Problems, block: int, block_size: int | None) -> Superblock:
    if block_size is not None and block_size not in _BLOCK_SIZES:
        raise ValueError(f"a block size is a power of two from 1024 to 65536, not {block_size}")
    if block < 0:
        raise ValueError(f"block numbers are not negative: {block}")
    for size in _BLOCK_SIZES if block_size is None else (block_size,):
        offset = block * size
        if offset <= SUPERBLOCK_OFFSET < offset + size:
            offset = SUPERBLOCK_OFFSET
        if offset + SUPERBLOCK_SIZE > source.size:
            continue
        raw = _raw(source, offset)
        if not has_magic(raw):
            continue
        found = parse_superblock(raw, offset, problems)
        if found.block_size == size:
            return found._replace(group_number=backup_group(found, offset))
    sizes = "any size" if block_size is None else f"{block_size} bytes"
    raise NotExt4Error(f"{source.name}: no superblock in block {block} (of {sizes})")


def _parse(source: Source, offset: int, problems: Problems) -> Superblock:
    raw = _raw(source, offset)
    try:
        return parse_superblock(raw, offset, problems)
    except NotExt4Error as error:
        raise NotExt4Error(f"{source.name}: {error}") from None


def _raw(source: Source, offset: int) -> bytes:
    return source.read_at(offset, SUPERBLOCK_SIZE)


def _offsets(source: Source) -> Iterator[int]:
    """Byte offsets where a superblock may be, the usual ones first."""
    last = source.size - SUPERBLOCK_SIZE
    for size in _BLOCK_SIZES:
        first, per_group = (1 if size == 1024 else 0), 8 * size
        last_group = (source.size // size - first) // per_group  # sparse_super2
        for group in (*_USUAL_GROUPS, last_group):
            offset = (first + group * per_group) * size
            if SUPERBLOCK_OFFSET < offset <= last:
                yield offset
    for start in range(0, min(last, SEARCHED_BYTES), _WINDOW_BYTES):
        for piece in _readable(source, start, min(_WINDOW_BYTES, source.size - start)):
            offset, data = piece
            yield from _magic_places(offset, data)


def _readable(source: Source, start: int, length: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of a window, in smaller pieces if parts of it are unreadable."""
    try:
        yield start, source.read_at(start, length)
    except SourceError:
        half = length // 2 // SUPERBLOCK_SIZE * SUPERBLOCK_SIZE
        if half:
            yield from _readable(source, start, half)
            yield from _readable(source, start + half, length - half)


def _magic_places(start: int, data: bytes) -> Iterator[int]:
    """Multiples of 1,024 bytes at which the magic number of a superblock is in its place."""
    low, high = data[_MAGIC_OFFSET::SUPERBLOCK_SIZE], data[_MAGIC_OFFSET + 1 :: SUPERBLOCK_SIZE]
    position = low.find(_MAGIC[:1])
    while 0 <= position < len(high):
        if high[position] == _MAGIC[1] and start + position * SUPERBLOCK_SIZE > SUPERBLOCK_OFFSET:
            yield start + position * SUPERBLOCK_SIZE
        position = low.find(_MAGIC[:1], position + 1)
