"""Traps: the superblock: sizes, counts and features that cannot be."""

from __future__ import annotations

import pytest

import ext4img
from ext4img.sources import BytesSource
from tests.hostile.editing import Edit
from tests.hostile.verdicts import assert_strict_refuses, assert_told, paths_of
from tools.fuzz.exercise import exercise


def test_inode_size_0_in_revision_0_is_128(edit: Edit):
    """Kernel: EXT4_GOOD_OLD_INODE_SIZE in ext4_inode_info_init; revision 0 has no s_inode_size."""
    sound = paths_of(edit("ext2-1k"))
    image = edit("ext2-1k").superblock(s_rev_level=0, s_inode_size=0, s_first_ino=0)
    with ext4img.open(bytes(image)) as fs:
        assert (fs.superblock.inode_size, fs.superblock.first_inode) == (128, 11)
        assert {str(path) for path, _ in fs.walk()} == sound


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("s_log_block_size", 377579286),
        ("s_log_block_size", 0xFFFFFFFF),
        ("s_log_block_size", 7),
        ("s_log_cluster_size", 0xFFFFFFFF),
        ("s_blocks_per_group", 0),
        ("s_blocks_per_group", 0xFFFFFFFF),
        ("s_inodes_per_group", 0),
        ("s_inodes_per_group", 0xFFFFFFFF),
        ("s_inodes_count", 0),
        ("s_blocks_count_lo", 0),
        ("s_blocks_count_lo", 1),
        ("s_blocks_count_lo", 0xFFFFFFFF),
        ("s_blocks_count_hi", 0xFFFFFFFF),
        ("s_first_data_block", 0xFFFFFFFF),
        ("s_inode_size", 0),
        ("s_inode_size", 127),
        ("s_inode_size", 0x8000),
        ("s_desc_size", 0),
        ("s_desc_size", 33),
        ("s_desc_size", 0xFFFF),
        ("s_rev_level", 2),
        ("s_first_ino", 0),
        ("s_reserved_gdt_blocks", 0xFFFF),
        ("s_magic", 0),
        ("s_feature_incompat", 0xFFFFFFFF),
        ("s_feature_incompat", 0x10),
        ("s_checksum_type", 7),
    ],
)
def test_absurd_geometry(edit: Edit, field: str, value: int):
    image = edit("plain-4k").superblock(**{field: value})
    with pytest.raises(ext4img.Ext4Error), ext4img.open(bytes(image)) as fs:
        for _, inode in fs.walk():
            inode.runs()
    exercise(BytesSource(bytes(image)), ())


def test_unknown_features(edit: Edit):
    """Incompatible ones are refused by name, read-only compatible ones told and read, others nobody's business."""
    sound = paths_of(edit("plain-4k"))
    superblock = edit("plain-4k").volume.superblock
    compat, incompat, ro_compat = (int(word) for word in superblock.features)
    with pytest.raises(ext4img.UnsupportedFeatureError, match="FEATURE_I30, FEATURE_I31") as caught:
        ext4img.open(bytes(edit("plain-4k").superblock(s_feature_incompat=incompat | 3 << 30)))
    assert caught.value.names == ("FEATURE_I30", "FEATURE_I31")
    for name, bit in (("compression", 0x1), ("dirdata", 0x1000)):
        with pytest.raises(ext4img.UnsupportedFeatureError, match=name):
            ext4img.open(bytes(edit("plain-4k").superblock(s_feature_incompat=incompat | bit)))
    image = edit("plain-4k").superblock(s_feature_ro_compat=ro_compat | 1 << 31)
    with ext4img.open(bytes(image)) as fs:
        assert {str(path) for path, _ in fs.walk()} == sound
        assert ["FEATURE_R31" in str(problem) for problem in fs.problems] == [True]
    image = edit("plain-4k").superblock(s_feature_compat=compat | 1 << 31)
    with ext4img.open(bytes(image)) as fs:
        assert {str(path) for path, _ in fs.walk()} == sound
        assert not fs.problems


@pytest.mark.parametrize("field", ["s_log_block_size", "s_blocks_per_group", "s_inodes_per_group"])
def test_absurd_geometry_is_read_by_a_backup(edit: Edit, field: str):
    sound = paths_of(edit("ext4-meta-bg"))
    image = edit("ext4-meta-bg").superblock(**{field: 377579286})
    assert paths_of(image) == sound
    assert_told(image, field, "copy in block")


def test_many_groups_of_an_image_cut_short(edit: Edit):
    """A superblock that claims half a billion groups: the work is that of what is there."""
    image = edit("ext2-1k").superblock(
        s_blocks_per_group=8, s_inodes_per_group=8, s_blocks_count_lo=0xFFFFFFF8, s_inodes_count=0xFFFFFFF8
    )
    cut = bytes(image)[: 1 << 18]  # as much as there can be descriptors in
    with pytest.raises(ext4img.Ext4Error), ext4img.open(cut):
        pass
    exercise(BytesSource(cut), ())


@pytest.mark.parametrize("length", [0, 1, 1024, 2047, 2048, 4096, 8192, 100_000, 1 << 20])
def test_images_cut_short(edit: Edit, length: int):
    data = bytes(edit("plain-4k").data[:length])
    seen = exercise(BytesSource(data), ())
    assert seen.complained
    if length > 2048:
        assert_strict_refuses(data, lambda fs: None)
