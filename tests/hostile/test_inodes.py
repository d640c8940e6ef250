"""Traps: inodes: types, sizes and numbers near the end of what they can be."""

from __future__ import annotations

import pytest

import ext4img
from tests.hostile.editing import Edit
from tests.hostile.verdicts import assert_strict_refuses, assert_told, paths_of


@pytest.mark.parametrize("low", [0, 0xFFFFFFFF, 0xFFFFF000])
@pytest.mark.parametrize("high", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("path", ["/kinds/setuid", "/symlinks/length-1000", "/symlinks/length-59", "/kinds", "/many"])
def test_sizes_near_the_end_of_numbers(edit: Edit, path: str, low: int, high: int):
    image = edit("plain-4k")
    number = image.number(path)
    image.inode(number, i_size_lo=low, i_size_high=high)
    others = {name for name in paths_of(edit("plain-4k")) if not name.startswith(path)}
    assert others <= paths_of(image)
    is_file = image.volume.inode(number).is_file
    if is_file and high:

        def read_all(fs: ext4img.FileSystem) -> bytes:
            return fs.path(path).read_bytes()

        with ext4img.open(bytes(image), checks="off") as fs, pytest.raises(ext4img.LimitError):
            read_all(fs)
        if high >> 31:
            assert_strict_refuses(image, read_all)
    if not is_file or high >> 31:  # a file may be as long as that, and nearly all of it a hole
        assert_told(image, f"inode {number}")


@pytest.mark.parametrize("mode", [0, 0o7777, 0x3000, 0xF000, 0xFFFF])
def test_modes_without_a_type(edit: Edit, mode: int):
    image = edit("plain-4k")
    number = image.number("/kinds/empty")
    image.inode(number, i_mode=mode)
    assert "/kinds/empty" not in paths_of(image)
    assert_told(image, f"inode {number}")
    assert_strict_refuses(image, lambda fs: list(fs.walk()))


@pytest.mark.parametrize("extra", [1, 3, 129, 0xFFFF, 128])
def test_extra_size(edit: Edit, extra: int):
    image = edit("plain-4k")
    number = image.number("/attributes/in-inode")
    image.inode(number, i_extra_isize=extra)
    assert "/attributes/in-inode" in paths_of(image)
    if extra != 128:
        assert_told(image, f"inode {number}")


def test_root_that_is_no_directory(edit: Edit):
    """Refused by kernels; report mode finds the root's blocks by themselves."""
    image = edit("plain-4k")
    sound = paths_of(image)
    image.inode(2, i_mode=0o100644)
    assert_strict_refuses(image, lambda fs: list(fs.walk()))
    assert paths_of(image) == sound
    assert_told(image, "root directory's inode is lost")


@pytest.mark.parametrize("number", [0, 3, 0xFFFFFFFF])
def test_inode_numbers_outside(edit: Edit, number: int):
    with ext4img.open(edit("plain-4k").data) as fs:
        if number == 3:
            assert fs.inode(number).type == "unknown"
        else:
            with pytest.raises(ext4img.NotFoundError):
                fs.inode(number)
