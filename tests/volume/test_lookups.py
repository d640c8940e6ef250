"""Look-ups in a directory that are made again and again, when its names come to be kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import ext4img
from ext4img.volume.problems import Checks
from tests.conftest import UnpackedImage
from tests.hostile.editing import EditedImage


@pytest.mark.parametrize("checks", ["strict", "report", "off"])
def test_damage_elsewhere_in_a_directory(checks: Checks, fixture_image: Callable[[str], UnpackedImage]):
    """The kernel looks closely at the entry whose name fits, and goes by the lengths of all before it:
    it finds what stands on both sides of a name that is too long for its entry. So do we, the last time
    as the first.
    """
    image = EditedImage(fixture_image("ext2-1k").path.read_bytes())
    with ext4img.open(bytes(image)) as fs:
        expected = {bytes(path): path.inode.number for path in fs.path("/kinds").iterdir()}
    names = list(expected)
    damaged = names[len(names) // 2]
    del expected[damaged]
    image.entry("/kinds", damaged.rpartition(b"/")[2], name_len=255)
    with ext4img.open(bytes(image), checks=checks) as fs:
        for _ in range(4):
            assert {path: fs.path(path).inode.number for path in expected} == expected
            assert list(fs.problems) == []


def test_names_are_kept_where_all_is_sound(fixture_image: Callable[[str], UnpackedImage]):
    with ext4img.open(fixture_image("ext2-1k").path) as fs:
        numbers = {bytes(path): path.inode.number for path in fs.path("/kinds").iterdir()}
        for _ in range(3):
            assert {path: fs.path(path).inode.number for path in numbers} == numbers
            assert not fs.path("/kinds/none of them").exists()
