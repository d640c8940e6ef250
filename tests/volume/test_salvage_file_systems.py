"""File systems that begin somewhere in an image: mke2fs is told where, and the search has to say the same."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from ext4img.sources import BytesSource, FileSource
from ext4img.structs.superblock import SUPERBLOCK_SIZE
from ext4img.volume.salvage.file_systems import MAX_FOUND, SEARCHED_BYTES, find_file_systems
from tests.fs.conftest import needs_e2fsprogs
from tools.loop_mount import run

pytestmark = needs_e2fsprogs


def make(path: Path, offset: int, size: str, *options: str) -> str:
    """A file system at a byte of a file, and its UUID."""
    uuid = f"{offset:08x}-0000-4000-8000-000000000000"
    run("mke2fs", "-q", "-t", "ext4", "-F", "-U", uuid, "-E", f"offset={offset}", *options, path, size)
    return uuid


def found_in(path: Path) -> list[tuple[int, str, int | None]]:
    with FileSource(path) as source:
        return [(one.offset, str(one.superblock.uuid), one.superblock_block) for one in find_file_systems(source)]


@pytest.mark.parametrize("offset", [512, 3 * 512, 128 << 10, 1 << 20, (5 << 20) - 512])
@pytest.mark.parametrize("block_size", ["1024", "4096"])
def test_behind_a_header(tmp_path: Path, offset: int, block_size: str):
    image = tmp_path / "blob"
    uuid = make(image, offset, "16M", "-b", block_size)
    with image.open("r+b") as file:
        file.write(random.Random(offset).randbytes(offset))
    assert found_in(image) == [(offset, uuid, None)]


def test_a_disk_whose_table_is_gone(tmp_path: Path):
    """Two partitions, the second far behind what is searched sector by sector."""
    image = tmp_path / "disk"
    first = make(image, 1 << 20, "64M")
    far = SEARCHED_BYTES + (300 << 20)
    second = make(image, far, "200M")  # of several groups
    assert found_in(image) == [(1 << 20, first, None), (far, second, None)]


def test_the_file_system_at_the_start_is_not_searched_for(tmp_path: Path):
    image = tmp_path / "a.img"
    make(image, 0, "64M")
    assert found_in(image) == []


def test_images_in_files_are_left_out(tmp_path: Path):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    make(inner, 0, "4M", "-b", "1024")
    tree = tmp_path / "tree"
    tree.mkdir()
    shutil.copy(inner, tree / "file")
    uuid = make(outer, 1 << 20, "32M", "-b", "1024", "-d", str(tree))
    assert inner.read_bytes()[1024:2048] in outer.read_bytes()
    assert found_in(outer) == [(1 << 20, uuid, None)]


def test_a_damaged_primary_superblock_is_found_by_its_backup(tmp_path: Path):
    image = tmp_path / "disk"
    uuid = make(image, 1 << 20, "64M", "-b", "1024")
    with image.open("r+b") as file:
        file.seek((1 << 20) + 1024)
        file.write(bytes(SUPERBLOCK_SIZE))
    assert found_in(image) == [(1 << 20, uuid, 8193)]  # the first backup of 1 KiB blocks (mke2fs(8), -b)


def test_remains_of_a_superblock_alone_are_not_believed(tmp_path: Path):
    """A sound superblock that nothing agrees with: an old block, or one in a file."""
    image = tmp_path / "a.img"
    make(image, 0, "16M")
    superblock = image.read_bytes()[1024:2048]
    assert find_file_systems(BytesSource(bytes(8192) + superblock + bytes(1 << 20))) == []


def test_one_group_is_confirmed_by_its_root(tmp_path: Path):
    image = tmp_path / "a.img"
    uuid = make(image, 4096, "2M", "-b", "4096", "-O", "^has_journal")
    assert found_in(image) == [(4096, uuid, None)]
    with FileSource(image) as source:
        assert find_file_systems(source)[0].superblock.group_count == 1


def test_the_answer_is_bounded(tmp_path: Path):
    image = tmp_path / "disk"
    for number in range(1, MAX_FOUND + 3):
        make(image, number * (2 << 20), "1M", "-b", "1024", "-O", "^has_journal", "-N", "16")
    assert [offset for offset, _, _ in found_in(image)] == [n * (2 << 20) for n in range(1, MAX_FOUND + 1)]


def test_nothing_is_found_in_nothing():
    assert find_file_systems(BytesSource(b"")) == []
    assert find_file_systems(BytesSource(bytes(100))) == []
    assert find_file_systems(BytesSource(random.Random(1).randbytes(4 << 20))) == []
    magic = (bytes(56) + b"\x53\xef" + bytes(512 - 58)) * (4 << 11)  # everywhere a magic number, nowhere a superblock
    assert find_file_systems(BytesSource(magic)) == []
