"""Traps: symbolic links."""

from __future__ import annotations

import pytest

import ext4img
from tests.hostile.editing import Edit
from tests.hostile.verdicts import assert_strict_refuses, assert_told


def test_a_symlink_in_the_inode_as_long_as_its_room(edit: Edit):
    """Kernel: "invalid fast symlink length": i_size must be below 60, and the text as long as it says."""
    image = edit("plain-4k")
    number = image.number("/symlinks/length-59")
    for size in (0, 30, 60):
        image.inode(number, i_size_lo=size)
        assert_told(image, f"inode {number}")
        assert_strict_refuses(image, lambda fs: fs.path("/symlinks/length-59").readlink())


def test_symlink_chains_end(edit: Edit):
    """Loops and long chains: ELOOP after 40."""
    with ext4img.open(edit("ext4-inline").data) as fs:
        for path in ("/symlinks/loop-a", "/symlinks/loop-b"):
            with pytest.raises(ext4img.SymlinkLoopError):
                fs.path(path).stat()
