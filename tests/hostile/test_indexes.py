"""Traps: directories' indexes."""

from __future__ import annotations

import pytest

import ext4img
from tests.hostile.editing import Edit
from tests.hostile.verdicts import assert_told, problems_of


@pytest.mark.parametrize(
    ("field", "value"),
    [("limit", 0), ("limit", 0xFFFF), ("count", 0), ("count", 0xFFFF), ("hash_version", 9), ("info_length", 9),
     ("indirect_levels", 3), ("indirect_levels", 0xFF), ("reserved_zero", 1), ("block", 0), ("block", 0x0FFFFFFF)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["plain-4k", "encrypted-old-layout"])
def test_index_roots(edit: Edit, name: str, field: str, value: int):
    image = edit(name)
    site = image.site("directory index block")
    image.set(site, field, value, sealed=field not in ("limit", "count"))
    assert problems_of(image)
    # Every name is found all the same: by reading all of the directory, as the kernel does.
    with ext4img.open(bytes(image), checks="report") as fs:
        for path, inode in list(fs.walk()):
            assert fs.path(path).inode.number == inode.number


def test_index_that_comes_to_the_same_leaf_again(edit: Edit):
    """All hashes alike and marked as going on: a look-up must not run for ever."""
    image = edit("plain-4k")
    site = image.site("directory index block")
    count = len([field for field in site.fields if field.name == "dx_entry.block"])
    for index in range(1, count):
        image.set(site, "hash", 1, index)
        image.set(site, "block", 1, index)
    with ext4img.open(bytes(image), checks="report") as fs:
        assert not fs.path("/many/no such name").exists()
    assert_told(image, "twice")
