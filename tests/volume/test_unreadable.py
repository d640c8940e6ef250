"""Sectors that cannot be read: what hangs on them is told, by place and range, and the rest is shown."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

import ext4img
from ext4img.sources import BytesSource
from ext4img.volume.runs import WRITTEN
from tests.conftest import UnpackedImage
from tests.faulty_source import FaultySource, StutteringFile
from tools.damage import listing_of
from tools.fuzz.exercise import exercise

Fixture = Callable[[str], UnpackedImage]
PATH = "/extents/extents-360"


def test_ranges_of_a_file(fixture_image: Fixture):
    data = fixture_image("plain-4k").path.read_bytes()
    with ext4img.open(data) as fs:
        inode = fs.path(PATH).inode
        sound = inode.open().read()
        runs = [run for run in inode.runs() if run.state == WRITTEN]
    bad = [runs[3], runs[200]]
    source = FaultySource(BytesSource(data), [(run.pblk * 4096 + 512, run.pblk * 4096 + 1024) for run in bad])
    with ext4img.open(source) as fs, pytest.raises(ext4img.SourceError) as caught:
        fs.path(PATH).read_bytes()
    assert caught.value.errno == errno.EIO
    with ext4img.open(source, checks="report") as fs:
        got = fs.path(PATH).read_bytes()
        expected = bytearray(sound)
        for run in bad:
            expected[run.lblk * 4096 : (run.lblk + 1) * 4096] = bytes(4096)
        assert got == bytes(expected)
        told = [(problem.place.inode, problem.place.block, problem.reason) for problem in fs.problems]
        assert [(number, block) for number, block, _ in told] == [(inode.number, run.pblk) for run in bad]
        for run, (_, _, reason) in zip(bad, told, strict=True):
            assert f"contents from byte {run.lblk * 4096} to {(run.lblk + 1) * 4096} cannot be read" in reason


@pytest.mark.parametrize("name", ["plain-4k", "ext2-1k", "ext4-inline", "ext4-meta-bg", "sample-encrypted"])
def test_every_read_fails_once(fixture_image: Fixture, name: str):
    """A disk that dies at any moment: SourceError, or what was read before; nothing else."""
    data = fixture_image(name).path.read_bytes()
    source = FaultySource(BytesSource(data))
    exercise(source, (), ("report",))
    whole = len(source.accesses)
    for stop in {*range(min(whole, 12)), *range(12, whole, max(whole // 12, 1))}:
        for checks in ("strict", "report"):
            exercise(FaultySource(BytesSource(data), stop_after=stop), (), (checks,))


@pytest.mark.parametrize("name", ["plain-4k", "ext2-1k", "ext4-inline", "ext4-dirty", "encrypted-old-layout"])
def test_bad_stretches_everywhere(fixture_image: Fixture, name: str):
    """A long scratch, laid over one part of the image after the other."""
    data = fixture_image(name).path.read_bytes()
    step = len(data) // 24
    for start in range(0, len(data), step):
        seen = exercise(FaultySource(BytesSource(data), [(start, start + step // 2)]), (), ("report",))
        assert seen.complained or seen.listing


@pytest.mark.parametrize("most", [1, 7, 4095, 65536])
def test_short_reads_are_repeated(fixture_image: Fixture, most: int):
    data = fixture_image("ext4-bigalloc").path.read_bytes()[: 8 << 20]
    with ext4img.open(data) as fs:
        sound = {str(path): inode.fields for path, inode in fs.walk()}
    file = StutteringFile(data, most)
    with ext4img.open(file) as fs:
        assert {str(path): inode.fields for path, inode in fs.walk()} == sound
    assert file.reads > 0


def test_an_image_that_shrinks_while_it_is_read(fixture_image: Fixture, tmp_path):
    copy = tmp_path / "image"
    copy.write_bytes(fixture_image("plain-4k").path.read_bytes())
    with ext4img.open(copy, checks="report") as fs:
        walk = fs.walk()
        next(walk)
        with copy.open("r+b") as file:
            file.truncate(100_000)
        assert len(list(walk)) < 1000
        with pytest.raises(ext4img.SourceError):
            fs.volume.source.read_at(200_000, 4096)


def test_what_is_read(fixture_image: Fixture):
    """Opening reads little; nothing is read twice for one directory."""
    source = FaultySource(BytesSource(fixture_image("plain-4k").path.read_bytes()))
    with ext4img.open(source) as fs:
        opening = sum(length for _, length in source.accesses)
        assert opening < 256 << 10
        assert len(source.accesses) < 12
        del source.accesses[:]
        list(fs.path("/kinds").iterdir())
        assert len(source.accesses) < 12


@pytest.mark.parametrize("name", ["ext4-dirty", "ext4-orphans"])
def test_bad_sectors_under_what_the_log_replaces(fixture_image: Fixture, name: str):
    """Nobody needs them. But for superblock, descriptors and the journal's inode, which lead to the log."""
    data = fixture_image(name).path.read_bytes()
    with ext4img.open(data) as fs:
        sound = listing_of(fs)
        size = fs.block_size
        overlay = fs.volume.blocks.overlay
        to_the_log = {1024 // size, fs.volume.groups.block_of(0), fs.volume.inodes.place(8).block}
        bad = [(block * size, (block + 1) * size) for block in overlay if block not in to_the_log]
    assert len(bad) > 3
    with ext4img.open(FaultySource(BytesSource(data), bad)) as fs:
        assert listing_of(fs) == sound
        assert not fs.problems
