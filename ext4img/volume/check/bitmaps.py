"""The check of block and inode bitmaps: their checksums, and whether they match the blocks and inodes in use."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ext4img.errors import ChecksumError, CorruptionError, Place, SourceError
from ext4img.structs.group import EXT4_MIN_DESC_SIZE_64BIT
from ext4img.volume import checksum
from ext4img.volume.check.block_owners import BlockOwners
from ext4img.volume.groups import Group
from ext4img.volume.volume import Volume

if TYPE_CHECKING:
    import numpy

MAX_RANGES = 8  # of one kind that are reported for one bitmap


def check_bitmaps(volume: Volume, owners: BlockOwners, inodes: array[int], directories: array[int]) -> None:
    """Compare every initialised bitmap with the blocks or inodes in use.

    `inodes` are the numbers of the inodes in use, ascending; `directories` those of directories.
    """
    import numpy

    superblock = volume.superblock
    unit = superblock.cluster_size // superblock.block_size
    starts, ends = owners.used(unit, superblock.first_data_block)
    used_inodes = numpy.frombuffer(inodes, numpy.uint32) if inodes else numpy.zeros(0, numpy.uint32)
    used_directories = numpy.frombuffer(directories, numpy.uint32) if directories else numpy.zeros(0, numpy.uint32)
    for number in volume.groups.readable():
        try:
            group = volume.groups[number]
        except (CorruptionError, SourceError):
            continue  # reported when its inodes were scanned
        _check_blocks(volume, group, starts, ends)
        _check_inodes(volume, group, used_inodes, used_directories)


def _check_blocks(volume: Volume, group: Group, starts: numpy.ndarray[Any, Any], ends: numpy.ndarray[Any, Any]) -> None:
    import numpy

    superblock = volume.superblock
    if group.blocks_uninitialised:
        return
    per_group = superblock.clusters_per_group
    unit = superblock.cluster_size // superblock.block_size
    stored = _read(volume, group, group.block_bitmap, per_group, group.block_bitmap_checksum, "block bitmap")
    if stored is None:
        return
    first = group.number * per_group
    count = min(per_group, -(-(superblock.block_count - superblock.first_data_block) // unit) - first)
    if not stored[count:].all():
        _unset_padding(volume, group, group.block_bitmap, "block bitmap")
    expected = numpy.zeros(count, numpy.uint8)
    low = int(numpy.searchsorted(ends, first, side="right"))
    for index in range(low, len(starts)):
        start, end = int(starts[index]) - first, int(ends[index]) - first
        if start >= count:
            break
        expected[max(start, 0) : min(end, count)] = 1
    stored = stored[:count]
    what = "block" if unit == 1 else "cluster"
    base = first + (superblock.first_data_block if unit == 1 else 0)
    place = Place(block=group.block_bitmap)
    _compare(volume, stored, expected, f"block bitmap of group {group.number}", what, base, place)
    free = count - int(stored.sum())
    if free != group.free_blocks and not group.is_backup:
        _wrong(volume, group, f"counts {group.free_blocks} free {what}s, its bitmap {free}", "bg_free_blocks_count_lo")


def _check_inodes(
    volume: Volume, group: Group, used: numpy.ndarray[Any, Any], directories: numpy.ndarray[Any, Any]
) -> None:
    import numpy

    superblock = volume.superblock
    if group.inodes_uninitialised:
        return
    per_group = superblock.inodes_per_group
    first = group.number * per_group + 1
    low, high = numpy.searchsorted(used, (first, first + per_group))
    expected = numpy.zeros(per_group, numpy.uint8)
    expected[used[low:high].astype(numpy.int64) - first] = 1
    if first < superblock.first_inode:
        expected[: superblock.first_inode - first] = 1  # reserved ones count as used
    stored = _read(volume, group, group.inode_bitmap, per_group, group.inode_bitmap_checksum, "inode bitmap")
    if stored is None:
        return
    place = Place(block=group.inode_bitmap)
    _compare(volume, stored, expected, f"inode bitmap of group {group.number}", "inode", first, place)
    if group.is_backup:
        return
    free = per_group - int(stored.sum())
    if free != group.free_inodes:
        _wrong(volume, group, f"counts {group.free_inodes} free inodes, its bitmap {free}", "bg_free_inodes_count_lo")
    low, high = numpy.searchsorted(directories, (first, first + per_group))
    if high - low != group.directories:
        _wrong(volume, group, f"counts {group.directories} directories, it has {high - low}", "bg_used_dirs_count_lo")
    unused = group.unused_inodes
    if unused and stored[per_group - unused :].any():
        reason = f"counts {unused} inodes at its end as never used, its bitmap marks some as used"
        _wrong(volume, group, reason, "bg_itable_unused_lo")


def _unset_padding(volume: Volume, group: Group, block: int, what: str) -> None:
    """Report bits that stand for nothing and are not set: an allocation could choose them."""
    reason = f"padding at the end of the {what} of group {group.number} is not set"
    volume.problems.found(CorruptionError(reason, Place(block=block)))


def _read(
    volume: Volume, group: Group, block: int, bits: int, stored_checksum: int, what: str
) -> numpy.ndarray[Any, Any] | None:
    """The bits of a bitmap, one byte each; None if it cannot be read."""
    import numpy

    place = Place(block=block)
    if not block:
        return None  # unknown, as the descriptor is lost
    try:
        data = volume.blocks.read(block)
    except (CorruptionError, SourceError) as error:
        volume.problems.unreadable(error, place)
        return None
    covered = data[: bits // 8]
    if volume.superblock.has_metadata_checksums and volume.problems.verify and not group.is_backup:
        computed = checksum.bitmap(volume.checksum_seed, covered)
        if volume.superblock.descriptor_size < EXT4_MIN_DESC_SIZE_64BIT:
            computed &= 0xFFFF
        if computed != stored_checksum:
            reason = f"checksum of the {what} of group {group.number} is {stored_checksum:#x}, computed {computed:#x}"
            volume.problems.found(ChecksumError(reason, place))
    if data[bits // 8 :].strip(b"\xff"):
        _unset_padding(volume, group, block, what)
    return numpy.unpackbits(numpy.frombuffer(data, numpy.uint8), bitorder="little")[:bits]


def _compare(
    volume: Volume,
    stored: numpy.ndarray[Any, Any],
    expected: numpy.ndarray[Any, Any],
    name: str,
    what: str,
    base: int,
    place: Place,
) -> None:
    if (stored == expected).all():
        return
    for value, how in ((1, "in use, but marked free"), (0, "marked used, but nothing uses them")):
        for count, (start, end) in enumerate(_ranges((stored != expected) & (expected == value))):
            if count == MAX_RANGES:
                volume.problems.found(CorruptionError(f"{name}: more such ranges ({how})", place))
                break
            text = f"{what} {base + start}" if end - start == 1 else f"{what}s {base + start} to {base + end - 1}"
            volume.problems.found(CorruptionError(f"{name}: {text} {how}", place))


def _ranges(mask: numpy.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    import numpy

    edges = numpy.flatnonzero(numpy.diff(mask.astype(numpy.int8), prepend=0, append=0))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _wrong(volume: Volume, group: Group, reason: str, field: str) -> None:
    where = Place(block=volume.groups.block_of(group.number), record="ext4_group_desc", field=field)
    volume.problems.found(CorruptionError(f"descriptor of group {group.number} {reason}", where))
