"""The partitions of a disk image: MBR with its logical partitions, and GPT.

Numbers are those that sfdisk and the kernel give: 1 to 4 for primary partitions, from 5 on for
logical ones, the place in the table for GPT. Tables count in the disk's sectors, of 512 or 4,096
bytes. A GPT is looked for where either has it. An MBR does not say what it counts in: what is at
the places that it names decides.

Kernel: block/partitions/msdos.c, block/partitions/efi.c; UEFI specification, chapter 5.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple
from uuid import UUID

from ext4img.errors import ChecksumError, CorruptionError, Place, SourceError
from ext4img.sources.base import Source
from ext4img.sources.slice import SliceSource
from ext4img.structs.partition import (
    EFI_PMBR_OSTYPE_EFI_GPT,
    EXTENDED_PARTITIONS,
    GPT_ENTRY,
    GPT_HEADER,
    GPT_HEADER_SIGNATURE,
    MSDOS_LABEL_MAGIC,
    MSDOS_MAGIC_OFFSET,
    MSDOS_PARTITION,
    MSDOS_PARTITIONS,
    MSDOS_PARTITIONS_OFFSET,
)
from ext4img.structs.superblock import EXT4_SUPER_BLOCK, EXT4_SUPER_MAGIC, SUPERBLOCK_OFFSET

MBR_BYTES = 512
SECTOR_SIZES = (512, 4096)
MAX_LOGICAL_PARTITIONS = 256  # partitions of one disk that Linux knows (DISK_MAX_PARTS)
MAX_GPT_BYTES = 4 << 20
# (byte offset, magic bytes) of what partitions hold: ext2/3/4; FAT, NTFS and extended boot records; XFS, LUKS, LVM,
# btrfs, F2FS; Linux swap with pages of 4 KiB.
_STARTS = (
    (SUPERBLOCK_OFFSET + EXT4_SUPER_BLOCK.offset_of("s_magic"), EXT4_SUPER_MAGIC.to_bytes(2, "little")),
    (MSDOS_MAGIC_OFFSET, MSDOS_LABEL_MAGIC),
    (0, b"XFSB"),
    (0, b"LUKS\xba\xbe"),
    (512, b"LABELONE"),
    (0x10040, b"_BHRfS_M"),
    (1024, b"\x10\x20\xf5\xf2"),
    (4086, b"SWAPSPACE2"),
)
_START_BYTES = 0x10048
_TYPES = {
    "0x07": "NTFS or exFAT",
    "0x0b": "FAT32",
    "0x0c": "FAT32",
    "0x82": "Linux swap",
    "0x83": "Linux",
    "0x8e": "Linux LVM",
    "0xef": "EFI system",
    "0xfd": "Linux RAID",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "44479540-f297-41b2-9af7-d131d5f0458a": "Linux root (x86)",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "Linux root (ARM64)",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux extended boot",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
}


class Partition(NamedTuple):
    """One partition. `offset` and `size` are in bytes; `type` is "0x83" (MBR) or a GUID (GPT)."""

    number: int
    offset: int
    size: int
    type: str
    name: str = ""

    @property
    def is_extended(self) -> bool:
        """Whether it only holds logical partitions."""
        return self.type in {f"{kind:#04x}" for kind in EXTENDED_PARTITIONS}

    def describe(self) -> str:
        """A few words for people. Characters of the name that cannot be printed are escaped."""
        kind = "extended" if self.is_extended else _TYPES.get(self.type, f"type {self.type}")
        name = f" {self.name!r}" if self.name else ""
        return f"{kind}{name}, {self.size} bytes at offset {self.offset}"


def read_partitions(source: Source, sector_bytes: int | None = None) -> tuple[Partition, ...]:
    """The partition table, by number; empty where there is none.

    `sector_bytes` is the size of the disk's sectors, 512 or 4,096; None finds it out.
    CorruptionError where a table is there and makes no sense, ChecksumError where both copies of
    a GPT are damaged.
    """
    if sector_bytes is not None and sector_bytes not in SECTOR_SIZES:
        raise ValueError(f"a sector has 512 or 4096 bytes, not {sector_bytes}")
    if source.size < MBR_BYTES:
        return ()
    sector = source.read_at(0, MBR_BYTES)
    protective = _is_boot_record(sector) and any(
        entry.sys_ind == EFI_PMBR_OSTYPE_EFI_GPT for entry in _msdos_entries(sector)
    )
    gpt = _read_gpt(source, protective, SECTOR_SIZES if sector_bytes is None else (sector_bytes,))
    if gpt is not None:
        return gpt
    return _read_msdos(source, sector, sector_bytes)


def partition_source(source: Source, number: int, sector_bytes: int | None = None) -> SliceSource:
    """The bytes of one partition; closes `source` when closed. SourceError where there is none."""
    found = read_partitions(source, sector_bytes)
    if not found:
        raise SourceError(f"{source.name}: has no partition table")
    for partition in found:
        if partition.number == number:
            # The image may end within the partition: its file system reports that better.
            size = min(partition.size, max(source.size - partition.offset, 0))
            return SliceSource(source, partition.offset, size)
    numbers = ", ".join(str(partition.number) for partition in found)
    raise SourceError(f"{source.name}: has no partition {number}; it has {numbers}")


def _is_boot_record(sector: bytes) -> bool:
    return sector[MSDOS_MAGIC_OFFSET : MSDOS_MAGIC_OFFSET + 2] == MSDOS_LABEL_MAGIC


def _msdos_entries(sector: bytes) -> list[Any]:
    return MSDOS_PARTITION.unpack_many(sector, MSDOS_PARTITIONS, MSDOS_PARTITIONS_OFFSET)


def _read_msdos(source: Source, sector: bytes, sector_bytes: int | None) -> tuple[Partition, ...]:
    if not _is_boot_record(sector):
        return ()
    entries = _msdos_entries(sector)
    # The boot sector of a FAT file system has the same end, but text in the place of the table.
    if any(entry.boot_ind & 0x7F for entry in entries):
        return ()
    unit = sector_bytes or _sector_size_of(source, entries)
    found: list[Partition] = []
    extended = None
    for number, entry in enumerate(entries, 1):
        if entry.nr_sects:
            found.append(_msdos_partition(number, entry.start_sect, entry, unit))
            if entry.sys_ind in EXTENDED_PARTITIONS and extended is None:
                extended = entry
    if extended is not None:
        found += _logical(source, extended.start_sect, unit)
    return tuple(found)


def _sector_size_of(source: Source, entries: list[Any]) -> int:
    """What an MBR counts in: 512, unless more of its partitions begin with something known if it is 4,096."""
    counts = [
        sum(_begins_something(source, entry.start_sect * size) for entry in entries if entry.nr_sects)
        for size in SECTOR_SIZES
    ]
    return SECTOR_SIZES[counts.index(max(counts))]


def _begins_something(source: Source, offset: int) -> bool:
    """Whether a partition that starts at byte `offset` has the beginning of a file system, container or chain."""
    if not 0 < offset < source.size:
        return False
    try:
        start = source.read_at(offset, min(_START_BYTES, source.size - offset))
    except SourceError:
        return False
    return any(start.startswith(magic, at) for at, magic in _STARTS)


def _msdos_partition(number: int, start: int, entry: Any, unit: int) -> Partition:
    return Partition(number, start * unit, entry.nr_sects * unit, f"{entry.sys_ind:#04x}")


def _logical(source: Source, base: int, unit: int) -> list[Partition]:
    """The chain of extended boot records. Links count from `base`, partitions from their record."""
    found: list[Partition] = []
    visited: set[int] = set()
    record = base
    while True:
        place = Place(offset=record * unit, record="extended boot record")
        if record in visited or len(visited) > MAX_LOGICAL_PARTITIONS:
            raise CorruptionError("the chain of logical partitions has no end", place)
        visited.add(record)
        if record * unit + MBR_BYTES > source.size:
            raise CorruptionError("the chain of logical partitions leads outside the image", place)
        sector = source.read_at(record * unit, MBR_BYTES)
        if not _is_boot_record(sector):
            if record == base:  # an extended partition that was never used
                return found
            raise CorruptionError("the chain of logical partitions leads to a sector that is not a boot record", place)
        link = None
        for entry in _msdos_entries(sector):
            if not entry.nr_sects:
                continue
            if entry.sys_ind in EXTENDED_PARTITIONS:
                link = entry if link is None else link
            else:
                found.append(_msdos_partition(5 + len(found), record + entry.start_sect, entry, unit))
        if link is None:
            return found
        record = base + link.start_sect


def _read_gpt(source: Source, protective: bool, sizes: tuple[int, ...]) -> tuple[Partition, ...] | None:
    """The GPT's partitions from its first copy, or from the second; None where there is none."""
    failed: CorruptionError | None = None
    for sector_bytes in sizes:
        for lba in (1, source.size // sector_bytes - 1):
            offset = lba * sector_bytes
            # Without a protective MBR, a copy at the end may be left from an earlier use of the disk.
            if (lba != 1 and not protective) or offset <= 0 or offset + sector_bytes > source.size:
                continue
            raw = source.read_at(offset, sector_bytes)
            if not raw.startswith(GPT_HEADER_SIGNATURE):
                continue
            try:
                return _gpt_partitions(source, raw, lba, sector_bytes)
            except CorruptionError as error:
                failed = failed or error
    if failed is not None:
        raise failed
    return None


def _gpt_partitions(source: Source, raw: bytes, lba: int, sector_bytes: int) -> tuple[Partition, ...]:
    header = GPT_HEADER.unpack(raw)

    def place(field: str) -> Place:
        return Place(offset=lba * sector_bytes, record=GPT_HEADER.name, field=field)

    if not GPT_HEADER.size <= header.header_size <= sector_bytes:
        raise CorruptionError(f"GPT header of {header.header_size} bytes", place("header_size"))
    at = GPT_HEADER.span("header_crc32")
    covered = raw[: at.offset] + bytes(at.size) + raw[at.offset + at.size : header.header_size]
    _check_crc(covered, header.header_crc32, "GPT header", place("header_crc32"))
    if header.my_lba != lba:
        raise CorruptionError(f"GPT header claims to be in sector {header.my_lba}", place("my_lba"))
    size = header.sizeof_partition_entry
    if size < GPT_ENTRY.size or size & (size - 1):
        raise CorruptionError(f"GPT entries of {size} bytes", place("sizeof_partition_entry"))
    length = size * header.num_partition_entries
    start = header.partition_entry_lba * sector_bytes
    if length > MAX_GPT_BYTES or start + length > source.size:
        raise CorruptionError(
            f"GPT of {header.num_partition_entries} entries at byte {start}", place("num_partition_entries")
        )
    table = source.read_at(start, length)
    _check_crc(table, header.partition_entry_array_crc32, "GPT", place("partition_entry_array_crc32"))
    found = []
    for number in range(header.num_partition_entries):
        entry = GPT_ENTRY.unpack(table, number * size)
        if not any(entry.partition_type_guid):
            continue
        if entry.ending_lba < entry.starting_lba:
            reason = f"GPT partition {number + 1} ends at sector {entry.ending_lba}, before it starts"
            raise CorruptionError(reason, Place(offset=start + number * size, record=GPT_ENTRY.name))
        found.append(
            Partition(
                number + 1,
                entry.starting_lba * sector_bytes,
                (entry.ending_lba - entry.starting_lba + 1) * sector_bytes,
                str(UUID(bytes_le=entry.partition_type_guid)),
                entry.partition_name.decode("utf-16-le", "replace").split("\0", 1)[0],
            )
        )
    return tuple(found)


def _check_crc(data: bytes, stored: int, what: str, place: Place) -> None:
    computed = zlib.crc32(data)
    if stored != computed:
        raise ChecksumError(f"{what} checksum is {stored:#x}, computed {computed:#x}", place)
