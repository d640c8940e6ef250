"""Inodes one by one and a window at a time: the same, or left to the one by one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ext4img
from ext4img.errors import CorruptionError
from ext4img.structs.group import EXT4_GROUP_DESC
from ext4img.structs.inode import EXT4_INODE, EXT4_INODE_EXTRA
from ext4img.structs.superblock import EXT4_SUPER_BLOCK
from ext4img.volume import checksum
from ext4img.volume.inode import InodeFormat, from_raw
from ext4img.volume.inode_batch import decode_batch
from tests.conftest import UnpackedImage

FORM = InodeFormat(256, 4096, True, True, False, True)


def raw_inode(size: int = 256, **fields: int | bytes) -> bytes:
    core = {name: value for name, value in fields.items() if name in EXT4_INODE.raw._fields}
    extra = {name: value for name, value in fields.items() if name not in core}
    built = EXT4_INODE.build(core)
    if size > EXT4_INODE.size:
        built += EXT4_INODE_EXTRA.build({"i_extra_isize": 32} | extra)
    return built.ljust(size, b"\0")


# Fields that are zero in all but rare inodes: rows are read in one way where they are, in another where not.
RARE = (
    "i_size_high", "l_i_blocks_high", "l_i_file_acl_high", "l_i_uid_high", "l_i_gid_high", "i_version_hi", "i_projid",
)  # fmt: skip
TIMES = ("i_ctime_extra", "i_mtime_extra", "i_atime_extra", "i_crtime_extra")


def offset(name: str) -> int:
    return EXT4_INODE.offset_of(name) if name in EXT4_INODE.raw._fields else 128 + EXT4_INODE_EXTRA.offset_of(name)


def usual(raw: bytearray) -> None:
    """Make noise an inode that has nothing rare in it."""
    for name in RARE:
        field = (EXT4_INODE if name in EXT4_INODE.raw._fields else EXT4_INODE_EXTRA).span(name)
        raw[offset(name) : offset(name) + field.size] = bytes(field.size)
    for name in TIMES:
        raw[offset(name)] &= 0xFC
    raw[offset("i_flags") + 2] &= 0xFB  # EXT4_HUGE_FILE_FL
    raw[128:130] = (32).to_bytes(2, "little")


@given(
    st.binary(min_size=1024, max_size=1024),
    st.lists(st.sampled_from([*RARE, *TIMES, "i_flags", "i_extra_isize", "all", ""]), min_size=4, max_size=4),
    st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([128, 256]),
)  # fmt: skip
def test_many_at_once_are_as_each_alone(
    table: bytes, rare: list[str], attributes: bool, huge: bool, wide: bool, large_dir: bool, project: bool, size: int
):
    form = InodeFormat(size, 4096, huge, wide, large_dir, project)
    inodes = [bytearray(table[start : start + 256]) for start in range(0, 1024, 256)]
    for raw, field in zip(inodes, rare, strict=True):
        noise = bytes(raw)
        usual(raw)
        if attributes:
            raw[160:164] = bytes.fromhex("000002ea")
        if field == "all":
            raw[:128] = noise[:128]
            raw[130:160] = noise[130:160]
        elif field:
            raw[offset(field) : offset(field) + 4] = noise[offset(field) : offset(field) + 4]
    inodes = [raw[:size] for raw in inodes]
    rows = decode_batch(7, b"".join(inodes), form)
    for number, (raw, row, field) in enumerate(zip(inodes, rows, rare, strict=True), 7):
        if row is not None:
            assert row == from_raw(number, bytes(raw), form)
        else:
            assert field  # none of those that the quick ways are for


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
    wrong = checksum.wrong_inodes(seed, first, bytes(wide), 256)
    assert {0, 2}.isdisjoint(wrong)
    for index in range(4):
        raw = bytes(wide[index * 256 : index * 256 + 256])
        generation = int.from_bytes(raw[100:104], "little")
        computed = checksum.inode(checksum.inode_seed(seed, first + index, generation), raw)
        assert (index in wrong) == (computed != checksum.stored_inode(raw))


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


@settings(deadline=None, max_examples=25)
@given(
    numbers=st.lists(st.integers(1, 600), min_size=150, max_size=300),  # so many that windows are decoded
    others=st.lists(st.integers(1, 600), max_size=20),
)
def test_rows_are_those_of_each(numbers: list[int], others: list[int], fixture_image: Callable[[str], UnpackedImage]):
    """In any order, with repetitions and with numbers that there are none of; whatever was asked before."""
    with ext4img.open(fixture_image("plain-4k").path) as fs, ext4img.open(fixture_image("plain-4k").path) as other:
        table, last = fs.volume.inodes, fs.superblock.inode_count
        for asked in (numbers, others, numbers):
            for number, row in zip(asked, table.batch(asked), strict=True):
                assert row is None or row == other.volume.inode(number)
                assert row is None or number <= last


def test_a_group_whose_last_block_has_room_for_more(tmp_path: Path):
    """No mke2fs makes such groups, but the kernel mounts them: what fills the block up has no numbers."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    path = tmp_path / "image"
    options = ["-b", "4096", "-g", "512", "-N", "128", "-O", "^metadata_csum,^uninit_bg,^64bit,^has_journal,^flex_bg"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *options, path, "8M"], capture_output=True, check=True)
    raw = bytearray(path.read_bytes())
    for field, value in (("s_inodes_per_group", 24), ("s_inodes_count", 4 * 24)):  # of 32, of 4 * 32
        at = 1024 + EXT4_SUPER_BLOCK.offset_of(field)
        raw[at : at + 4] = value.to_bytes(4, "little")
    for group in range(1, 4):
        table = EXT4_GROUP_DESC.unpack(raw, 4096 + group * EXT4_GROUP_DESC.size).bg_inode_table_lo
        for index in range(32):
            inode = raw_inode(i_mode=0o100644, i_links_count=1, i_uid=group * 100 + index)
            raw[table * 4096 + index * 256 : table * 4096 + (index + 1) * 256] = inode
    expected = {number: (number - 1) // 24 * 100 + (number - 1) % 24 for number in range(25, 97)}
    with ext4img.open(raw) as fs:
        table = fs.volume.inodes
        assert {number: fs.inode(number).uid for number in expected} == expected
        assert {row[0]: row[2] for row in table.batch(list(expected)) if row} == expected
        assert {inode.number: inode.uid for inode in table.scan() if inode.number > 24} == expected
