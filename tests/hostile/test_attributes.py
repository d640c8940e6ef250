"""Traps: extended attributes, in inodes, blocks, and inodes of their own."""

from __future__ import annotations

import pytest

from tests.hostile.editing import Edit
from tests.hostile.verdicts import assert_told, problems_of


@pytest.mark.parametrize(
    ("field", "value"),
    [("e_value_offs", 0xFFFF), ("e_value_size", 0xFFFFFFFF), ("e_value_size", 0x1000001), ("e_name_len", 255),
     ("e_value_inum", 0xFFFFFFFF), ("e_value_inum", 2), ("e_name_index", 99), ("h_magic", 0)],
)  # fmt: skip
def test_attributes_of_an_inode(edit: Edit, field: str, value: int):
    image = edit("ext4-inline")
    number = image.number("/inline/bytes-100")
    image.set(image.site("inode", number), field, value)
    assert problems_of(image)


@pytest.mark.parametrize("field", ["h_magic", "h_blocks", "h_refcount", "e_value_offs", "e_value_size", "e_name_len"])
@pytest.mark.parametrize("name", ["plain-4k", "ext2-1k"])
def test_attribute_blocks(edit: Edit, name: str, field: str):
    image = edit(name)
    site = image.site("xattr block")
    place = site.field(field)
    image.set(site, field, (1 << 8 * place.size) - 1)
    assert problems_of(image)


def test_attribute_value_inodes_that_are_none(edit: Edit):
    """ea_inode references: to the file itself, to a directory, to one that is too short."""
    image = edit("ext4-inline")
    number = image.number("/inline/huge-attribute")
    value = image.site("attribute value")
    block = image.site("xattr block", number) if image.volume.inode(number).xattr_block else image.site("inode", number)
    for other in (number, 2, image.number("/inline/bytes-1"), 0xFFFFFFFF):
        image.set(block, "e_value_inum", other)
        assert problems_of(image)
    assert value.inode is not None
    again = edit("ext4-inline")
    again.write(value.offset, b"\xff")
    assert_told(again, "attribute value", f"inode {value.inode}")
