"""Seeds found from checksums: those of the directories that the kernel and mke2fs wrote, and of any others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ext4img
from ext4img.structs.directory import EXT4_DIR_ENTRY_TAIL, EXT4_FT_DIR_CSUM
from ext4img.volume import checksum
from ext4img.volume.runs import WRITTEN
from ext4img.volume.salvage.checksum_seed import generation_of, seed_of_directory_block
from tests.conftest import UnpackedImage

words = st.integers(0, 0xFFFFFFFF)


@pytest.mark.parametrize("name", ["plain-4k", "ext4-meta-bg", "ext4-64k", "sample-encrypted"])
def test_blocks_of_directories_lead_to_their_inode(fixture_image: Callable[[str], UnpackedImage], name: str):
    blocks = 0
    with ext4img.open(fixture_image(name).path) as fs:
        volume = fs.volume
        for inode in volume.inodes.scan():
            if not inode.is_dir or inode.has_inline_data:
                continue
            due = checksum.inode_seed(volume.checksum_seed, inode.number, inode.generation)
            for run in volume.runs(inode):
                for pblk in range(run.pblk, run.pblk + run.length * (run.state == WRITTEN)):
                    found = seed_of_directory_block(volume.blocks.read(pblk))
                    assert found == due
                    assert generation_of(volume.checksum_seed, inode.number, found) == inode.generation
                    blocks += 1
    assert blocks > 3


@given(st.binary(min_size=24, max_size=300), words, words, words)
def test_any_block(data, seed, number, generation):
    seed_of_inode = checksum.inode_seed(seed, number, generation)
    data = b"\x0c\0\0\0\x10\0" + data[6:]  # an entry of 16 bytes is no index
    stored = checksum.directory_block(seed_of_inode, data + bytes(EXT4_DIR_ENTRY_TAIL.size))
    tail = EXT4_DIR_ENTRY_TAIL.pack((0, EXT4_DIR_ENTRY_TAIL.size, 0, EXT4_FT_DIR_CSUM, stored))
    assert seed_of_directory_block(data + tail) == seed_of_inode
    assert generation_of(seed, number, seed_of_inode) == generation


def test_what_has_no_checksum():
    assert seed_of_directory_block(bytes(1024)) is None
