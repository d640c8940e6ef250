"""Inodes one by one and a window at a time: the same, or left to the one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.errors import CorruptionError
from ext4img.structs.inode import EXT4_INODE, EXT4_INODE_EXTRA
from ext4img.volume import checksum
from ext4img.volume.inode import Inode, InodeFormat, from_raw, from_raw_many

FORM = InodeFormat(256, 4096, True, True, False, True)


def raw_inode(size: int = 256, **fields: int | bytes) -> bytes:
    core = {name: value for name, value in fields.items() if name in EXT4_INODE.raw._fields}
    extra = {name: value for name, value in fields.items() if name not in core}
    built = EXT4_INODE.build(core)
    if size > EXT4_INODE.size:
        built += EXT4_INODE_EXTRA.build({"i_extra_isize": 32} | extra)
    return built.ljust(size, b"\0")


@given(st.binary(min_size=512, max_size=512), st.booleans(), st.booleans(), st.booleans())
def test_many_at_once_are_as_each_alone(table: bytes, wide: bool, large_dir: bool, project: bool):
    form = FORM._replace(has_64bit=wide, has_large_dir=large_dir, has_project=project)
    usual = bytearray(table)
    usual[128:130] = (32).to_bytes(2, "little")  # or hardly any would be of the usual layout
    for number, many in enumerate(from_raw_many(7, bytes(usual), form)):
        if many is not None:
            assert many == from_raw(7 + number, bytes(usual[number * 256 : number * 256 + 256]), form)
            assert type(many) is Inode


@given(st.binary(min_size=1024, max_size=1024), st.integers(1, 1 << 31), st.integers(0, 0xFFFFFFFF))
def test_checksums_of_many_are_those_of_each(table: bytes, first: int, seed: int):
    wide = bytearray(table)
    for start in range(0, 1024, 256):
        wide[start + 128 : start + 130] = (32).to_bytes(2, "little")
        generation = int.from_bytes(wide[start + 100 : start + 104], "little")
        number = first + start // 256
        if start % 512 == 0:  # every second one is right
            right = checksum.inode(checksum.inode_seed(seed, number, generation), bytes(wide[start : start + 256]))
            wide[start + 124 : start + 126] = (right & 0xFFFF).to_bytes(2, "little")
            wide[start + 130 : start + 132] = (right >> 16).to_bytes(2, "little")
    sound = checksum.inodes(seed, first, bytes(wide), 256)
    assert sound[0]
    assert sound[2]
    for index, good in enumerate(sound):
        raw = bytes(wide[index * 256 : index * 256 + 256])
        generation = int.from_bytes(raw[100:104], "little")
        computed = checksum.inode(checksum.inode_seed(seed, first + index, generation), raw)
        assert good == (computed == checksum.stored_inode(raw))


@pytest.mark.parametrize(
    ("seconds", "extra", "expected_ns"),
    [
        # The table of Documentation/filesystems/ext4/inodes.rst: epoch bits above signed seconds.
        (0x7FFFFFFF, 0, 0x7FFFFFFF),
        (-0x80000000, 0, -0x80000000),
        (-1, 0, -1),
        (0x7FFFFFFF, 1, 0x17FFFFFFF),
        (-0x80000000, 1, 0x80000000),
        (0, 3, 0x300000000),
        (0x7FFFFFFF, 3, 0x37FFFFFFF),
        (-0x80000000, 2, 0x180000000),
    ],
)
def test_epoch_bits(seconds: int, extra: int, expected_ns: int):
    inode = from_raw(12, raw_inode(i_mtime=seconds, i_mtime_extra=extra | 999_999_999 << 2), FORM)
    assert inode.mtime_ns == expected_ns * 1_000_000_000 + 999_999_999


def test_128_byte_inodes_have_no_creation_time():
    inode = from_raw(12, raw_inode(128, i_mode=0o100644, i_mtime=-5), FORM._replace(inode_size=128))
    assert inode.crtime_ns is None
    assert inode.mtime_ns == -5_000_000_000
    assert inode.project_id == 0


def test_extra_size_that_does_not_fit():
    for wrong in (30, 129, 132):
        with pytest.raises(CorruptionError, match="i_extra_isize"):
            from_raw(12, raw_inode(i_extra_isize=wrong), FORM)


def test_owners_are_32_bits_wide():
    inode = from_raw(12, raw_inode(i_uid=0x1234, l_i_uid_high=0xABCD, i_gid=0x5678, l_i_gid_high=0x0001), FORM)
    assert (inode.uid, inode.gid) == (0xABCD1234, 0x00015678)


def test_devices_in_both_encodings():
    old = raw_inode(i_mode=0o060600, i_block=(0x0803).to_bytes(4, "little").ljust(60, b"\0"))
    assert from_raw(12, old, FORM).rdev == (8, 3)
    # new_encode_dev (include/linux/kdev_t.h) of major 259, minor 1048575
    word = 0xFF | 259 << 8 | (1048575 & ~0xFF) << 12
    new = raw_inode(i_mode=0o020600, i_block=(bytes(4) + word.to_bytes(4, "little")).ljust(60, b"\0"))
    assert from_raw(12, new, FORM).rdev == (259, 1048575)


def test_sizes_of_directories_have_32_bits_without_large_dir():
    raw = raw_inode(i_mode=0o040755, i_size_lo=4096, i_size_high=1)
    assert from_raw(2, raw, FORM).size == 4096
    assert from_raw(2, raw, FORM._replace(has_large_dir=True)).size == 4096 + (1 << 32)


def test_huge_files_count_blocks():
    raw = raw_inode(i_mode=0o100644, i_flags=0x40000, i_blocks_lo=3, l_i_blocks_high=1)
    assert from_raw(12, raw, FORM).sectors == (3 + (1 << 32)) * 8
    assert from_raw(12, raw, FORM._replace(has_huge_file=False)).sectors == 3
