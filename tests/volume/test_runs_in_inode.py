"""Runs of extents in the inode itself: the short way to them and the long one agree."""

from __future__ import annotations

import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.errors import CorruptionError
from ext4img.sources import BytesSource
from ext4img.structs.extent import EXT4_EXT_MAGIC, EXT4_EXTENT, EXT4_EXTENT_HEADER
from ext4img.structs.inode import EXT4_EXTENTS_FL, S_IFDIR, S_IFREG
from ext4img.volume.blocks import BlockReader
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.volume import Volume
from tests.images import FIXTURES

# A few logical and physical blocks, so that extents meet, overlap and run past every end.
LBLK = st.sampled_from([0, 1, 2, 3, 10, 0xFFFFFFFE, 0xFFFFFFFF])
LENGTH = st.sampled_from([0, 1, 2, 7, 0x8000, 0x8001, 0x8003, 0xFFFF])
PBLK = st.sampled_from([0, 1, 100, 101, 102, 103, 107, 2000, 1 << 31])
EXTENT = st.tuples(LBLK, LENGTH, st.sampled_from([0, 0, 0, 1]), PBLK)


def area(magic: int, entries: int, most: int, depth: int, extents: list[tuple[int, int, int, int]]) -> bytes:
    header = EXT4_EXTENT_HEADER.pack((magic, entries, most, depth, 0))
    return (header + b"".join(map(EXT4_EXTENT.pack, extents)))[:60].ljust(60, b"\0")


@pytest.fixture(scope="module")
def volume() -> Volume:
    return Volume(BytesSource(lzma.decompress((FIXTURES / "plain-4k.img.xz").read_bytes())))


@given(
    st.sampled_from([EXT4_EXT_MAGIC] * 9 + [0]),
    st.one_of(st.none(), st.integers(0, 6)),
    st.sampled_from([4] * 6 + [0, 3, 5]),
    st.sampled_from([0] * 6 + [1, 6]),
    st.lists(EXTENT, max_size=4),
    st.sampled_from([S_IFREG, S_IFDIR]),
)
def test_both_ways_agree(
    volume: Volume,
    magic: int,
    entries: int | None,
    most: int,
    depth: int,
    extents: list[tuple[int, int, int, int]],
    kind: int,
):
    count = len(extents) if entries is None else entries
    inode = volume.inode(12)._replace(
        mode=kind | 0o644, flags=EXT4_EXTENTS_FL, block_area=area(magic, count, most, depth, extents)
    )
    found = []
    for way in ("runs", "mapping"):
        problems = Problems("report")
        blocks = BlockReader(volume.source, volume.block_size, volume.superblock.block_count)
        mapper = Mapper(volume.superblock, blocks, volume.checksum_seed, problems)
        runs = mapper.runs(inode) if way == "runs" else mapper.mapping(inode).runs
        found.append((runs, list(problems)))
    assert found[0] == found[1]


def test_damage_is_raised_the_short_way_too(volume: Volume):
    inode = volume.inode(12)._replace(
        mode=S_IFREG | 0o644, flags=EXT4_EXTENTS_FL, block_area=area(EXT4_EXT_MAGIC, 1, 4, 0, [(0, 0, 0, 100)])
    )
    with pytest.raises(CorruptionError, match="does not fit"):
        volume.runs(inode)
