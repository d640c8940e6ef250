"""The inode table as columns: what the objects of a scan say, for images of every kind and for noise."""

from __future__ import annotations

import lzma
from collections.abc import Iterable

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.errors import ChecksumError, CorruptionError
from ext4img.sources import BytesSource
from ext4img.structs.inode import EXT4_ENCRYPT_FL
from ext4img.volume.inode import InodeFormat, StoredInode, from_raw
from ext4img.volume.inode_arrays import InodeArrays, arrays_from, decode_arrays
from ext4img.volume.volume import Volume
from tests.images import FIXTURES

IMAGES = sorted(path.name.removesuffix(".img.xz") for path in FIXTURES.glob("*.img.xz"))
FORM = InodeFormat(256, 4096, True, True, False, True)
BILLION = 1_000_000_000


def image(name: str) -> bytearray:
    return bytearray(lzma.decompress((FIXTURES / f"{name}.img.xz").read_bytes()))


def facts(columns: Iterable[InodeArrays]) -> list[dict[str, int]]:
    return [
        dict(zip(InodeArrays._fields, map(int, row), strict=True))
        for part in columns
        for row in zip(*part, strict=True)
    ]


def expected(inode: StoredInode) -> dict[str, int]:
    said = {name: int(getattr(inode, name)) for name in InodeArrays._fields[:13]}
    for name, time_ns in zip(
        ("atime", "mtime", "ctime", "crtime"),
        (inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.crtime_ns or 0),
        strict=True,
    ):
        said[name], said[f"{name}_ns"] = divmod(time_ns, BILLION)
    return said | {"has_crtime": inode.crtime_ns is not None}


@pytest.mark.parametrize("name", IMAGES)
def test_columns_say_what_a_scan_says(name: str):
    data = bytes(image(name))
    for checks in ("strict", "off"):
        volume = Volume(BytesSource(data), checks=checks)
        inodes = list(volume.inodes.scan())
        assert facts(volume.inodes.arrays()) == list(map(expected, inodes))
        encrypted = [inode for inode in inodes if inode.flags & EXT4_ENCRYPT_FL]
        assert list(volume.inodes.scan(EXT4_ENCRYPT_FL)) == encrypted


@given(
    st.binary(min_size=1024, max_size=1024),
    st.sampled_from([128, 256, 512]),
    st.sampled_from([0, 4, 24, 28, 32, 33, 36, 128, 0xFFFF]),
    st.booleans(), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_noise(table: bytes, size: int, extra: int, huge: bool, wide: bool, large_dir: bool, project: bool):
    form = InodeFormat(size, 4096, huge, wide, large_dir, project)
    raws = [bytearray(table[start : start + size]) for start in range(0, 1024, size)]
    if size > 128:
        for raw in raws:
            raw[128:130] = extra.to_bytes(2, "little")
    columns, odd = decode_arrays(5, b"".join(raws), form)
    rows = facts([columns])
    for at, raw in enumerate(raws):
        if at in odd:
            continue
        inode = from_raw(5 + at, bytes(raw), form)
        assert rows[at] == expected(inode)
    assert odd == [] or (size > 128 and extra not in (0, 32, 36)) or (size == 256 and extra not in (0, 32, 36, 128))


def test_damage_is_told_as_a_scan_tells_it():
    """A changed byte in one inode: an error, a report and a row that is right as far as it can be."""
    data = image("plain-4k")
    place = Volume(BytesSource(bytes(data))).inodes.place(12)
    assert place.offset is not None
    data[place.offset + 4] ^= 1  # i_size_lo
    with pytest.raises(ChecksumError):
        list(Volume(BytesSource(bytes(data))).inodes.arrays())
    by_columns, by_scan = (Volume(BytesSource(bytes(data)), checks="report") for _ in range(2))
    assert facts(by_columns.inodes.arrays()) == list(map(expected, by_scan.inodes.scan()))
    assert list(by_columns.problems) == list(by_scan.problems)
    assert len(by_scan.problems) == 1


def test_what_is_impossible_is_left_to_the_careful_way():
    data = image("plain-4k")
    place = Volume(BytesSource(bytes(data))).inodes.place(12)
    assert place.offset is not None
    data[place.offset + 128] = 33  # i_extra_isize
    with pytest.raises(CorruptionError):
        list(Volume(BytesSource(bytes(data)), checks="strict").inodes.arrays())


def test_columns_of_objects():
    volume = Volume(BytesSource(bytes(image("plain-4k"))))
    inodes = list(volume.inodes.scan())
    columns = arrays_from(inodes)
    assert facts([columns]) == list(map(expected, inodes))
    large = columns.where(columns.size > numpy.uint64(4096))
    assert large.number.tolist() == [inode.number for inode in inodes if inode.size > 4096]
