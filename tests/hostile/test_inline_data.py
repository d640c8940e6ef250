"""Traps: inline data."""

from __future__ import annotations

import pytest

import ext4img
from tests.hostile.editing import Edit
from tests.hostile.verdicts import MODES, problems_of


def test_inline_data_goes_on_in_an_attribute(edit: Edit):
    """Sound: up to 60 bytes stand in i_block, the rest in the attribute system.data."""
    with ext4img.open(edit("ext4-inline").data) as fs:
        for size in (0, 1, 59, 60, 61, 100, 150, 160):
            assert len(fs.path(f"/inline/bytes-{size}").read_bytes()) == size
        assert fs.path("/inline/bytes-100").inode.has_inline_data


@pytest.mark.parametrize("path", ["/inline/bytes-100", "/inline/bytes-60", "/inline/directory-3"])
@pytest.mark.parametrize("size", [0, 61, 0xFFFFFFFF])
def test_inline_data_of_other_sizes(edit: Edit, path: str, size: int):
    image = edit("ext4-inline")
    number = image.number(path)
    image.inode(number, i_size_lo=size)
    problems_of(image)
    for checks in MODES:
        with ext4img.open(bytes(image), checks=checks) as fs:  # type: ignore[arg-type]
            shown = fs.path(path)
            try:
                data = shown.read_bytes() if shown.is_file() else b""
            except ext4img.Ext4Error:
                continue
            assert len(data) == (size if shown.is_file() else 0)
