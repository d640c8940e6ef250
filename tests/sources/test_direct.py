"""Reads past the page cache: the same bytes as the file has, and what the disk has when the cache is stale."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ext4img.errors import ShortReadError, SourceError
from ext4img.sources.direct import DirectSource
from tools.loop_mount import run

SIZE = (3 << 20) + 1536  # of a device: whole sectors, but no whole pages


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    data = random.Random(12).randbytes(SIZE)
    (tmp_path / "a.img").write_bytes(data)
    name = run("losetup", "--find", "--show", tmp_path / "a.img").decode().strip()
    yield name, data
    run("losetup", "--detach", name)


@pytest.mark.kernel
def test_any_range_of_a_device(device: tuple[str, bytes]):
    name, data = device
    rng = random.Random(34)
    ranges = [(0, 1), (1, 511), (511, 2), (SIZE - 1, 1), (0, SIZE), (SIZE, 0), ((1 << 20) - 1, (1 << 20) + 2)]
    ranges += [(at, rng.randrange(SIZE - at)) for at in (rng.randrange(SIZE) for _ in range(50))]
    with DirectSource(name) as source:
        assert source.size == SIZE
        for offset, length in ranges:
            assert source.read_at(offset, length) == data[offset : offset + length], (offset, length)
        with pytest.raises(ShortReadError):
            source.read_at(SIZE - 1, 2)
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda offset: source.read_at(offset, 4096), range(0, 1 << 20, 4096)))
        assert b"".join(read) == data[: 1 << 20]


@pytest.mark.kernel
def test_the_page_cache_is_passed_by(device: tuple[str, bytes], tmp_path: Path):
    """The device's cache has the old bytes when somebody changes the disk below it."""
    name, data = device
    cached = os.open(name, os.O_RDONLY)
    try:
        assert os.pread(cached, 4096, 8192) == data[8192 : 8192 + 4096]
        with open(tmp_path / "a.img", "r+b") as file:
            file.seek(8192)
            file.write(b"new" + bytes(4093))
        assert os.pread(cached, 4096, 8192) == data[8192 : 8192 + 4096]  # stale
        with DirectSource(name) as source:
            assert source.read_at(8192, 4096) == b"new" + bytes(4093)
    finally:
        os.close(cached)


def test_where_the_system_cannot(tmp_path: Path):
    with pytest.raises(SourceError):
        DirectSource(tmp_path)  # a directory
    with pytest.raises(SourceError):
        DirectSource(tmp_path / "nothing")
