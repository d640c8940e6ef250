"""Traps: too many of what there may be some of: names, directories below directories."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img.sources import BytesSource
from ext4img.structs.directory import EXT4_DIR_ENTRY
from ext4img.structs.extent import EXT4_EXTENT, EXT4_EXTENT_HEADER
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INODE, S_IFDIR
from tests.hostile.editing import EditedImage
from tools.fuzz.exercise import exercise
from tools.fuzz.isolation import run_all


def test_directory_of_130000_names(tmp_path: Path):
    """Written block by block: all names are listed and found, without an index to help."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    raw = tmp_path / "image"
    options = ["-b", "4096", "-O", "^metadata_csum,^has_journal,^resize_inode", "-E", "root_owner=0:0"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *options, raw, "16M"], check=True)
    image = EditedImage(raw.read_bytes())
    count, size = 130_000, 4096
    blocks, data = 0, bytearray()
    names = (b"%07d" % number for number in range(count))
    block = bytearray(EXT4_DIR_ENTRY.pack((2, 12, 1, 2)) + b".\0\0\0" + EXT4_DIR_ENTRY.pack((2, 12, 2, 2)) + b"..\0\0")
    for name in names:
        if len(block) + 16 > size:
            data += _filled(block, size)
            blocks += 1
            block = bytearray()
        block += EXT4_DIR_ENTRY.pack((11, 16, 7, 2)) + name + b"\0"
    data += _filled(block, size)
    blocks += 1
    start = 2048
    image.write(start * size, bytes(data))
    area = EXT4_EXTENT_HEADER.pack((0xF30A, 1, 4, 0, 0)) + EXT4_EXTENT.pack((0, blocks, 0, start))
    image.inode(2, i_block=area.ljust(60, b"\0"), i_size_lo=blocks * size, i_flags=EXT4_EXTENTS_FL)
    with ext4img.open(bytes(image), checks="report") as fs:
        assert len(list(fs.path("/").iterdir())) == count
        assert sum(1 for _ in fs.walk()) == count + 1
        assert fs.path("/0129999").inode.number == 11
        assert not fs.path("/0130000").exists()


def _filled(block: bytearray, size: int) -> bytes:
    """The last entry reaches the block's end."""
    block[-12:-10] = (size - len(block) + 16).to_bytes(2, "little")
    return bytes(block.ljust(size, b"\0"))


@pytest.mark.parametrize(
    ("what", "depth", "memory_bytes"), [("walk", 3000, 1 << 29), ("paths", 3000, 1 << 29), ("exercise", 2200, 1 << 29)]
)
def test_depth_squared_is_not_held(tmp_path: Path, what: str, depth: int, memory_bytes: int):
    """Directories one in the other, with names of 255 bytes: the paths of 3,000 together are 1.1 GB."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    size, first, inode_size = 1024, 1000, 128
    raw = tmp_path / "image"
    options = ["-b", "1024", "-I", "128", "-N", "4096", "-O", "^resize_inode"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", *options, raw, "8M"], check=True)
    data = bytearray(raw.read_bytes())
    with ext4img.open(bytes(data)) as fs:
        root_block = fs.root().runs()[0].pblk
        places = [fs.volume.inodes.place(number).offset or 0 for number in range(12, 12 + depth)]
        root = (fs.volume.inodes.place(2).offset or 0, fs.inode(2))

    def block_of(number: int, parent: int, child: int, name: bytes) -> bytes:
        dots = EXT4_DIR_ENTRY.pack((number, 12, 1, 2)) + b".\0\0\0"
        dots += EXT4_DIR_ENTRY.pack((parent, 12, 2, 2)) + b"..\0\0"
        return (dots + EXT4_DIR_ENTRY.pack((child, size - 24, len(name), 2)) + name).ljust(size, b"\0")

    fields = {"i_mode": S_IFDIR | 0o755, "i_links_count": 3, "i_size_lo": size, "i_blocks_lo": 2}
    data[root_block * size : (root_block + 1) * size] = block_of(2, 2, 12, b"top")
    assert root[1].is_dir
    for index, place in enumerate(places):
        number = 12 + index
        child = number + 1 if index + 1 < depth else 12
        inode = EXT4_INODE.build({**fields, "i_block": (first + index).to_bytes(4, "little").ljust(60, b"\0")})
        data[place : place + inode_size] = inode
        start = (first + index) * size
        data[start : start + size] = block_of(number, max(number - 1, 2), child, b"%0255d" % index)

    def read(_: Any) -> int:
        if what == "exercise":
            return len(exercise(BytesSource(data), (), ("report",)).listing)
        with ext4img.open(data, checks="report") as fs:
            shown = fs.walk() if what == "walk" else fs.paths()
            return sum(1 for _ in shown)

    (outcome,) = run_all([0], read, memory_bytes=memory_bytes)
    assert outcome.ok, outcome
    assert outcome.result > depth
