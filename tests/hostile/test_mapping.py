"""Traps: extent trees and block maps, and flags that tell one for the other."""

from __future__ import annotations

import pytest

import ext4img
from ext4img.structs.extent import EXT4_EXTENT, EXT4_EXTENT_HEADER
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INLINE_DATA_FL
from tests.hostile.editing import Edit, EditedImage
from tests.hostile.verdicts import assert_strict_refuses, assert_told, problems_of


@pytest.fixture
def tree(edit: Edit) -> tuple[EditedImage, int]:
    """An image with a file whose extents have a tree, and its number."""
    image = edit("plain-4k")
    return image, image.number("/extents/extents-360")


def assert_file_is_lost(image: EditedImage, number: int, *words: str) -> None:
    """The file's damage is told, strict reading refuses it, and all others are there."""
    assert_told(image, f"inode {number}", *words)
    assert_strict_refuses(image, lambda fs: fs.inode(number).open().pread(0, 100))
    with ext4img.open(bytes(image), checks="report") as fs:
        fs.inode(number).open().pread(0, 1 << 20)


@pytest.mark.parametrize("length", [0, 0x8001 - 1 + 0x8000 & 0xFFFF, 0x7FFF])
def test_extent_lengths(tree: tuple[EditedImage, int], length: int):
    image, number = tree
    leaf = image.site("extent block", number)
    image.set(leaf, "ee_len", length)
    assert_file_is_lost(image, number, "extent")


def test_unwritten_extent_of_the_longest_length(edit: Edit):
    """ee_len 0x8000 is 32768 written blocks, 0x8001 one unwritten block."""
    image = edit("plain-4k")
    number = image.number("/extents/extents-1")
    image.set(image.site("inode", number), "ee_len", 0x8001)
    with ext4img.open(bytes(image)) as fs:
        runs = fs.inode(number).runs()
        assert (runs[0].length, runs[0].state) == (1, 1)


@pytest.mark.parametrize(
    ("where", "field", "value", "word"),
    [
        ("inode", "eh_depth", 7, "depth"),
        ("inode", "eh_depth", 0xFFFF, "depth"),
        ("inode", "eh_magic", 0, "magic"),
        ("inode", "eh_entries", 5, "entries"),
        ("inode", "eh_max", 0xFFFF, "room"),
        ("extent block", "eh_depth", 7, "depth"),
        ("extent block", "eh_depth", 1, "depth"),
        ("extent block", "eh_magic", 0, "magic"),
        ("extent block", "eh_entries", 0xFFFF, "entries"),
        ("extent block", "eh_max", 0xFFFF, "room"),
        ("extent block", "eh_max", 0, "room"),
        ("inode", "ei_leaf_lo", 0, "block 0"),
        ("inode", "ei_leaf_lo", 0xFFFFFFFF, "outside"),
        ("inode", "ei_leaf_hi", 0xFFFF, "outside"),
        ("inode", "ei_block", 5, "begins"),
        ("extent block", "ee_start_lo", 0, "blocks"),
        ("extent block", "ee_start_hi", 0xFFFF, "blocks"),
        ("extent block", "ee_block", 0xFFFFFFFF, "extent"),
    ],
)
def test_extent_tree(tree: tuple[EditedImage, int], where: str, field: str, value: int, word: str):
    image, number = tree
    site = image.site(where, number)
    image.set(site, field, value, sealed=field != "eh_max")
    assert_told(image, f"inode {number}", word)
    assert_strict_refuses(image, lambda fs: fs.inode(number).runs())


def test_inner_node_without_magic(tree: tuple[EditedImage, int]):
    """A leaf made an inner node by its depth, and by that of the root above it."""
    image, number = tree
    leaf = image.site("extent block", number)
    image.set(leaf, "eh_depth", 1)
    image.set(leaf, "eh_magic", 0)
    image.set(image.site("inode", number), "eh_depth", 2)
    assert_file_is_lost(image, number, "magic")


def test_extent_tree_that_is_its_own_leaf(tree: tuple[EditedImage, int]):
    image, number = tree
    leaf = image.site("extent block", number)
    block = leaf.offset // image.volume.block_size
    image.set(leaf, "eh_depth", 1)
    image.set(leaf, "eh_entries", 1)
    image.set(leaf, "ee_start_lo", block)  # where ei_leaf_lo stands: 4 bytes earlier
    image.write(leaf.offset + EXT4_EXTENT_HEADER.size + 4, block.to_bytes(4, "little") + bytes(4), leaf)
    site = image.site("inode", number)
    image.set(site, "eh_depth", 2)
    assert_told(image, f"inode {number}", "twice")


def test_a_file_that_maps_one_block_over_and_over(tree: tuple[EditedImage, int]):
    """Otherwise the runs of a hostile file would be as many as its tree has room for."""
    image, number = tree
    leaf = image.site("extent block", number)
    start = image.volume.runs(image.volume.inode(number))[0].pblk
    end = leaf.offset + image.volume.block_size
    entries = (image.volume.block_size - 16) // 12
    raw = b"".join(EXT4_EXTENT.pack((100 * index, 100, 0, start)) for index in range(entries))
    image.write(leaf.offset + EXT4_EXTENT_HEADER.size, raw[: end - leaf.offset - 16])
    image.set(leaf, "eh_entries", entries)
    image.set(image.site("inode", number), "eh_entries", 1)
    assert_told(image, f"inode {number}", "more blocks than the volume")


@pytest.mark.parametrize("path", ["/kinds/three-names", "/extents/extents-360", "/many"])
def test_flags_that_contradict_the_features(edit: Edit, path: str):
    image = edit("plain-4k")
    number = image.number(path)
    flags = image.volume.inode(number).flags
    image.inode(number, i_flags=flags | EXT4_INLINE_DATA_FL)
    assert_told(image, f"inode {number}", "EXT4_INLINE_DATA_FL")
    image.inode(number, i_flags=flags & ~EXT4_EXTENTS_FL)
    assert problems_of(image)
    image = edit("ext2-1k")
    image.inode(image.number("/indirect/single"), i_flags=EXT4_EXTENTS_FL)
    assert_told(image, "EXT4_EXTENTS_FL")


@pytest.mark.parametrize("pointer", [0xFFFFFFFF, 1, 4096])
@pytest.mark.parametrize("level", [0, 12, 13, 14])
def test_block_map_pointers(edit: Edit, level: int, pointer: int):
    image = edit("ext2-1k")
    number = image.number("/indirect/single")
    area = bytearray(image.volume.inode(number).block_area)
    area[4 * level : 4 * level + 4] = pointer.to_bytes(4, "little")
    image.inode(number, i_block=bytes(area))
    assert problems_of(image)


def test_block_map_that_is_its_own_block(edit: Edit):
    image = edit("ext2-1k")
    number = image.number("/indirect/single")
    block = image.site("indirect block", number)
    own = block.offset // 1024
    image.write(block.offset, own.to_bytes(4, "little") * 256)
    area = bytearray(image.volume.inode(number).block_area)
    area[56:60] = own.to_bytes(4, "little")  # as a triple indirect block, too
    image.inode(number, i_block=bytes(area))
    assert_told(image, f"inode {number}")
