"""Look-ups in a directory that are made again and again, when its names come to be kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

import ext4img
from ext4img.volume import blocks
from ext4img.volume import directory as directories
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


def test_threads_share_a_view(fixture_image: Callable[[str], UnpackedImage], monkeypatch: pytest.MonkeyPatch):
    """With caches so small that each drops what the others have just found."""
    monkeypatch.setattr(blocks, "CACHE_BYTES", 0)
    monkeypatch.setattr(directories, "_CACHED_NAMES", 10)
    monkeypatch.setattr(directories, "_CACHED_DIRECTORIES", 3)
    path = fixture_image("ext2-1k").path
    with ext4img.open(path) as fs:
        numbers = [(str(path), inode.number) for path, inode in fs.walk()]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ext4img.open(path) as fs:

            def look_up(seed: int) -> None:
                rng = Random(seed)
                for text, number in rng.choices(numbers, k=1500):
                    assert fs.path(text).inode.number == number
                    assert fs.inode(number).number == number

            with ThreadPoolExecutor(4) as threads:
                assert list(threads.map(look_up, range(4))) == [None] * 4
    finally:
        sys.setswitchinterval(interval)
