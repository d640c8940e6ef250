"""Partition tables as sfdisk reads them: tests/sources/make_partitions.sh made disks and answers."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.errors import ChecksumError, CorruptionError, Ext4Error, SourceError
from ext4img.sources import BytesSource
from ext4img.sources.partitions import MBR_BYTES, Partition, partition_source, read_partitions
from ext4img.structs.partition import MSDOS_PARTITION, MSDOS_PARTITIONS_OFFSET

DISKS = Path(__file__).parent / "partitions"
NAMES = sorted(path.stem for path in DISKS.glob("*.json"))


@cache
def disk(name: str) -> bytes:
    with lzma.open(DISKS / f"{name}.img.xz") as file:
        return file.read()


def expected(name: str) -> list[Partition]:
    """What sfdisk says, in bytes."""
    table = json.loads((DISKS / f"{name}.json").read_text(encoding="utf-8"))["partitiontable"]
    sector = table["sectorsize"]
    found = []
    for entry in table["partitions"]:
        number = int(entry["node"].removeprefix(table["device"]).removeprefix("p"))
        kind = entry["type"].lower() if "-" in entry["type"] else f"{int(entry['type'], 16):#04x}"
        found.append(Partition(number, entry["start"] * sector, entry["size"] * sector, kind, entry.get("name", "")))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_read_as_sfdisk_reads_them(name: str):
    assert list(read_partitions(BytesSource(disk(name)))) == expected(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_partition_is_its_bytes(name: str):
    raw = bytearray(disk(name))
    for partition in expected(name):
        if partition.type in ("0x05", "0x0f"):
            continue
        raw[partition.offset : partition.offset + 4] = b"HERE"
        source = partition_source(BytesSource(bytes(raw)), partition.number)
        assert source.size == partition.size
        assert source.read_at(0, 4) == b"HERE"


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_sectors_can_be_given(name: str):
    size = json.loads((DISKS / f"{name}.json").read_text(encoding="utf-8"))["partitiontable"]["sectorsize"]
    assert list(read_partitions(BytesSource(disk(name)), size)) == expected(name)
    other = BytesSource(disk(name))
    if name.startswith("gpt"):
        protective = [partition.type for partition in read_partitions(other, 4608 - size)]
        assert "0xee" in protective  # the MBR alone is left
    else:
        try:
            assert list(read_partitions(other, 4608 - size)) != expected(name)
        except CorruptionError:  # the chain of logical partitions leads elsewhere
            assert any(partition.is_extended for partition in expected(name))
    with pytest.raises(ValueError, match="512 or 4096"):
        read_partitions(other, 1024)


@pytest.mark.parametrize("lba", [1, 2])
def test_the_second_copy_of_a_gpt_serves_where_the_first_is_damaged(lba: int):
    raw = bytearray(disk("gpt"))
    raw[lba * MBR_BYTES + 40] ^= 0xFF
    assert list(read_partitions(BytesSource(bytes(raw)))) == expected("gpt")


def test_both_copies_of_a_gpt_damaged():
    raw = bytearray(disk("gpt"))
    raw[MBR_BYTES + 40] ^= 0xFF
    raw[-MBR_BYTES + 40] ^= 0xFF
    with pytest.raises(ChecksumError, match=r"GPT header checksum .*byte offset 0x200, gpt_header\.header_crc32"):
        read_partitions(BytesSource(bytes(raw)))


def test_a_disk_cut_short_still_shows_its_partitions():
    raw = disk("gpt")[: 8192 * 512 + 4096]
    source = partition_source(BytesSource(raw), 3)
    assert source.size == 4096
    assert partition_source(BytesSource(disk("gpt")[: 4 << 20]), 3).size == 0


def test_errors_say_what_is_there():
    with pytest.raises(SourceError, match="no partition 2; it has 1, 3, 7"):
        partition_source(BytesSource(disk("gpt")), 2)
    with pytest.raises(SourceError, match="no partition table"):
        partition_source(BytesSource(bytes(4096)), 1)


def test_no_table_where_none_is():
    assert read_partitions(BytesSource(b"")) == ()
    assert read_partitions(BytesSource(bytes(511))) == ()
    assert read_partitions(BytesSource(bytes(1 << 20))) == ()
    fat_boot_sector = b"\xeb\x3c\x90mkfs.fat" + b"Not a bootable disk " * 25
    assert read_partitions(BytesSource(fat_boot_sector[:510].ljust(510) + b"\x55\xaa" + bytes(4096))) == ()


def boot_record(*entries: dict[str, int]) -> bytes:
    table = b"".join(MSDOS_PARTITION.build(entry) for entry in entries).ljust(64, b"\0")
    return bytes(MSDOS_PARTITIONS_OFFSET) + table + b"\x55\xaa"


def test_an_endless_chain_of_logical_partitions():
    extended = {"sys_ind": 5, "start_sect": 1, "nr_sects": 10}
    logical = {"sys_ind": 0x83, "start_sect": 1, "nr_sects": 1}
    raw = boot_record(extended) + boot_record(logical, {"sys_ind": 5, "start_sect": 0, "nr_sects": 1}) + bytes(8192)
    with pytest.raises(CorruptionError, match="has no end"):
        read_partitions(BytesSource(raw))


def test_a_chain_that_leads_out_of_the_image():
    raw = boot_record({"sys_ind": 5, "start_sect": 1, "nr_sects": 10})
    raw += boot_record({"sys_ind": 5, "start_sect": 1 << 31, "nr_sects": 10})
    with pytest.raises(CorruptionError, match="outside the image"):
        read_partitions(BytesSource(raw))


def test_an_empty_extended_partition():
    raw = boot_record({"sys_ind": 5, "start_sect": 1, "nr_sects": 1}) + bytes(4096)
    assert [partition.number for partition in read_partitions(BytesSource(raw))] == [1]


@given(st.sampled_from(NAMES), st.data())
def test_damage_is_an_error_of_ours_or_nothing(name: str, data: st.DataObject):
    raw = bytearray(disk(name))
    places = [*range(440, 1024), *range(4096, 4200), *range(6144 * 512 + 440, 6144 * 512 + 512)]
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    try:
        read_partitions(BytesSource(raw))
    except Ext4Error:
        pass
