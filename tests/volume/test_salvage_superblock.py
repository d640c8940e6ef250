"""Backups of superblock and descriptors: found where the primary ones are damaged, or named by option."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img.sources import BytesSource
from ext4img.volume.salvage import superblock as superblock_search
from tests.conftest import UnpackedImage
from tests.faulty_source import FaultySource
from tests.hostile.editing import EditedImage

Fixture = Callable[[str], UnpackedImage]

# Geometries whose backups stand in different places: usual ones, odd ones, at the end only.
LAYOUTS = {
    "1k": ["-b", "1024"],
    "2k": ["-b", "2048"],
    "4k": ["-b", "4096"],
    "odd groups": ["-b", "1024", "-g", "2048"],
    "two copies": ["-b", "1024", "-O", "sparse_super2"],
    "copies everywhere": ["-b", "1024", "-O", "^sparse_super,^resize_inode"],
    "meta groups": ["-b", "1024", "-O", "meta_bg,^resize_inode"],
    "no checksums": ["-b", "1024", "-O", "^metadata_csum,^64bit"],
    "revision 0": ["-b", "1024", "-t", "ext2", "-r", "0"],
    "clusters": ["-b", "1024", "-C", "2048", "-O", "bigalloc"],
}


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A volume of several groups, as mke2fs makes it."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    raw = tmp_path_factory.mktemp("layout") / "image"
    options = LAYOUTS[request.param]
    kind = [] if "-t" in options else ["-t", "ext4"]
    size = "160M" if "4096" in options else "40M"
    done = subprocess.run(["mke2fs", "-q", "-F", *kind, *options, raw, size], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this mke2fs can't make it")
    data = raw.read_bytes()
    raw.unlink()
    return data


def shown(data: bytes | bytearray | FaultySource, **options: object) -> tuple[list[str], list[str]]:
    with ext4img.open(data, **options) as fs:  # type: ignore[arg-type]
        return [str(path) for path, _ in fs.walk()], [str(problem) for problem in fs.problems]


@pytest.mark.parametrize("how", ["zeros", "garbage", "checksum", "unreadable"])
def test_primary_superblock_lost(layout: bytes, how: str):
    sound, _ = shown(layout)
    data = bytearray(layout)
    source: bytearray | FaultySource = data
    if how == "unreadable":
        source = FaultySource(BytesSource(layout), [(1024, 2048)])
    elif how == "checksum":
        data[1024 + 0x3FC] ^= 0xFF
        if shown(layout)[0] and not ext4img.open(layout).superblock.has_metadata_checksums:
            pytest.skip("it has none")
    else:
        data[1024:2048] = (b"\0" if how == "zeros" else b"\xa5") * 1024
    with pytest.raises(ext4img.Ext4Error):
        ext4img.open(source)
    paths, problems = shown(source, checks="report")
    assert paths == sound
    assert any("is used instead" in problem for problem in problems)


def test_superblock_by_option(layout: bytes):
    sound, _ = shown(layout)
    data = bytearray(layout)
    copy = superblock_search.find_copy(BytesSource(data))
    assert copy is not None
    assert copy.block is not None
    data[1024:2048] = bytes(1024)
    with ext4img.open(data, superblock=copy.block) as fs:
        assert fs.superblock.group_number > 0
        assert [str(path) for path, _ in fs.walk()] == sound
        block_size = fs.block_size
    assert shown(data, superblock=copy.block, block_size=block_size)[0] == sound
    with pytest.raises(ext4img.NotExt4Error, match="no superblock in block"):
        ext4img.open(data, superblock=copy.block, block_size=65536 if block_size != 65536 else 1024)
    with pytest.raises(ext4img.NotExt4Error):
        ext4img.open(data, superblock=0)
    with pytest.raises(ext4img.NotExt4Error):
        ext4img.open(data, superblock=1 << 60)
    for wrong in ({"superblock": -1}, {"superblock": 1, "block_size": 1000}, {"block_size": 4096}):
        with pytest.raises(ValueError, match="block"):
            ext4img.open(data, **wrong)  # type: ignore[arg-type]


def test_primary_superblock_by_option(layout: bytes):
    """Naming the primary's own block is naming the primary."""
    block_size = ext4img.open(layout).block_size
    block = 1 if block_size == 1024 else 0
    assert ext4img.open(layout, superblock=block, block_size=block_size).superblock.group_number == 0


@pytest.mark.parametrize("how", ["zeros", "unreadable"])
def test_primary_descriptors_lost(layout: bytes, how: str):
    sound, _ = shown(layout)
    with ext4img.open(layout) as fs:
        block, size = fs.volume.groups.block_of(0), fs.block_size
    start = block * size
    if how == "unreadable":
        paths, problems = shown(FaultySource(BytesSource(layout), [(start, start + size)]), checks="report")
    else:
        data = bytearray(layout)
        data[start : start + size] = bytes(size)
        with pytest.raises(ext4img.Ext4Error):
            shown(data)
        paths, problems = shown(data, checks="report")
    assert paths == sound
    assert any("descriptor of group" in problem for problem in problems)


def test_earlier_tenants_are_not_taken(layout: bytes):
    """A copy that an earlier file system left behind, before the right one; the UUID tells."""
    with ext4img.open(layout) as fs:
        if fs.block_size != 1024 or fs.superblock.group_count < 4 or not fs.superblock.has_metadata_checksums:
            pytest.skip("no room for two tenants")
        uuid = fs.superblock.uuid
    image = EditedImage(layout)
    first = image.site("backup superblock")
    image.set(first, "s_uuid", bytes(range(16)))
    image.superblock(s_free_blocks_count_lo=1)
    image.data[1024 + 0x3FC] ^= 1
    with ext4img.open(bytes(image), checks="report") as fs:
        assert fs.superblock.uuid == uuid


def test_superblock_that_only_the_log_has(fixture_image: Fixture):
    """One group, so no backup: but the log holds a copy, as every orphan goes through it."""
    data = bytearray(fixture_image("plain-4k").path.read_bytes())
    sound, _ = shown(data)
    data[1024:2048] = bytes(1024)
    paths, problems = shown(data, checks="report")
    assert paths == sound
    assert any("in the log" in problem for problem in problems)


def test_superblock_that_is_nowhere(fixture_image: Fixture):
    data = bytearray(fixture_image("ext4-bigalloc").path.read_bytes())
    data[1024:2048] = bytes(1024)
    modes: tuple[ext4img.Checks, ...] = ("strict", "report", "off")
    for checks in modes:
        with pytest.raises(ext4img.NotExt4Error, match="magic number"):
            ext4img.open(data, checks=checks)


def test_recovery_goes_on_from_a_backup(fixture_image: Fixture, tmp_path: Path):
    """Backups don't say that there is something to recover: the journal does."""
    data = bytearray(fixture_image("ext4-dirty").path.read_bytes())
    sound, _ = shown(data)
    data[1024:2048] = bytes(1024)
    assert shown(data, checks="report")[0] == sound


def test_images_in_files_are_not_taken(fixture_image: Fixture):
    """A file that holds another file system, superblock and all, in a volume without any copy."""
    data = bytearray(fixture_image("ext4-bigalloc").path.read_bytes())
    other = fixture_image("ext4-meta-bg").path.read_bytes()
    data[2 << 20 : (2 << 20) + (1 << 20)] = other[: 1 << 20]
    data[1024:2048] = bytes(1024)
    with pytest.raises(ext4img.NotExt4Error):
        ext4img.open(data, checks="report")


def test_searching_is_bounded(fixture_image: Fixture):
    """Copies of a superblock in every kilobyte, none of them where it says."""
    superblock = bytearray(fixture_image("ext2-1k").path.read_bytes()[1024:2048])
    superblock[0x5A:0x5C] = (7).to_bytes(2, "little")
    data = bytearray(superblock * (16 << 10))
    data[1024:2048] = bytes(1024)
    source = FaultySource(BytesSource(data))
    with pytest.raises(ext4img.NotExt4Error):
        ext4img.open(source, checks="report")
    assert len(source.accesses) < superblock_search.MAX_TRIED + 1000


def test_everything_unreadable():
    source = FaultySource(BytesSource(bytes(1 << 20)), [(0, 1 << 20)])
    with pytest.raises(ext4img.SourceError) as caught:
        ext4img.open(source, checks="report")
    assert caught.value.errno == errno.EIO


def test_lost_checksum_feature_is_told(fixture_image: Fixture):
    """A single flipped bit would turn all verification off."""
    image = EditedImage(fixture_image("plain-4k").path.read_bytes())
    ro_compat = int(image.volume.superblock.features.ro_compat)
    image.superblock(s_feature_ro_compat=ro_compat & ~0x400)
    for checks in ("strict", "report"):
        paths, problems = shown(bytes(image), checks=checks)
        assert len(paths) > 100
        assert any("metadata_csum is not set" in problem for problem in problems)
