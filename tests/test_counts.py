"""How often an image is read for a piece of work: what speed rests on, counted and not timed."""

from __future__ import annotations

import lzma
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import ext4img
from ext4img.sources import BytesSource, Source
from ext4img.volume.runs import WRITTEN
from tests.images import FIXTURES

NAMES = ("plain-4k", "sample-encrypted", "ext4-inline", "ext2-1k", "ext4-64k")
CHUNK = 1 << 20


class CountingSource(Source):
    """Bytes in memory, and the (offset, length) of every read."""

    def __init__(self, data: bytes) -> None:
        self._bytes = BytesSource(data)
        self.size = len(data)
        self.name = "counted"
        self.reads: list[tuple[int, int]] = []

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self._bytes.read_at(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append((offset, len(buffer)))
        self._bytes.read_into(offset, buffer)

    @contextmanager
    def at_most(self, reads: int) -> Iterator[None]:
        """Whether the block reads no more often than that."""
        before = len(self.reads)
        yield
        assert len(self.reads) - before <= reads


@pytest.fixture(scope="module", params=NAMES)
def data(request: pytest.FixtureRequest) -> bytes:
    return lzma.decompress((FIXTURES / f"{request.param}.img.xz").read_bytes())


@pytest.fixture
def source(data: bytes) -> CountingSource:
    return CountingSource(data)


def windows(fs: ext4img.FileSystem) -> int:
    """Windows of the inode table that hold inodes in use."""
    return len({inode.number // 256 for inode in fs.volume.inodes.scan()})


def directory_runs(fs: ext4img.FileSystem) -> int:
    return sum(max(len(inode.runs()), 1) for _, inode in fs.walk() if inode.is_dir)


def test_a_clean_volume_opens_with_a_handful_of_reads(source: CountingSource):
    with source.at_most(6):
        ext4img.open(source)


@pytest.mark.parametrize("way", ["paths", "walk"])
def test_a_listing_reads_each_directory_once(data: bytes, source: CountingSource, way: str):
    known = ext4img.open(BytesSource(data))
    # Each run of a directory, the inode table, its descriptors, and the blocks that hold attributes.
    blocks = {inode.xattr_block for _, inode in known.walk() if inode.is_dir and inode.is_encrypted}
    fs = ext4img.open(source)
    with source.at_most(directory_runs(known) + 2 * windows(known) + len(blocks) + 4):
        assert sum(1 for _ in getattr(fs, way)()) == sum(1 for _ in known.walk())


def test_a_second_walk_reads_directories_only(data: bytes, source: CountingSource):
    fs = ext4img.open(source)
    total = sum(1 for _ in fs.walk())
    with source.at_most(directory_runs(ext4img.open(BytesSource(data)))):
        assert sum(1 for _ in fs.walk()) == total


def test_a_scan_reads_each_window_once(data: bytes, source: CountingSource):
    known = ext4img.open(BytesSource(data))
    table_windows = known.superblock.group_count * -(-known.superblock.inodes_per_group // 256)
    for way in ("scan", "arrays"):
        fs = ext4img.open(source)
        with source.at_most(table_windows + known.superblock.group_count + 4):  # some inodes are read alone
            for _ in getattr(fs.volume.inodes, way)():
                pass


def test_look_ups_below_a_known_directory_read_no_directory(source: CountingSource):
    fs = ext4img.open(source)
    paths = [str(path) for path, inode in fs.walk() if not inode.is_symlink and len(path.parts) == 3]
    for path in paths:
        _ = fs.path(path).inode
    with source.at_most(len(paths) // 4 + 8):  # inodes that had to be dropped, if any
        for path in paths:
            _ = fs.path(path).inode


def test_contents_take_a_read_for_each_run(source: CountingSource):
    fs = ext4img.open(source)
    buffer = memoryview(bytearray(CHUNK))
    for _, inode in fs.walk():
        if not inode.is_file or inode.is_encrypted or inode.has_inline_data or inode.size > 64 * CHUNK:
            continue
        written = sum(-(-run.length * fs.block_size // CHUNK) + 1 for run in inode.runs() if run.state == WRITTEN)
        with inode.open() as file, source.at_most(written + 4):  # and blocks of the extent tree
            while file.readinto(buffer):
                pass
        if inode.size <= CHUNK and len(inode.runs()) == 1 and inode.runs()[0].state == WRITTEN:
            with source.at_most(1):
                inode.read_bytes()


def test_a_small_read_is_one_read(source: CountingSource):
    fs = ext4img.open(source)
    for _, inode in fs.walk():
        if inode.is_file and not inode.is_encrypted and not inode.has_inline_data:
            file = inode.open()
            for run in inode.runs()[:8]:
                with source.at_most(1):
                    file.pread(run.lblk * fs.block_size + 3, 100)


def test_a_clean_volume_needs_no_recovery():
    code = (
        "import sys, lzma, ext4img\nfs = ext4img.open(lzma.decompress(open(sys.argv[1], 'rb').read()))\n"
        "assert sum(1 for _ in fs.walk())\nprint(*sorted(sys.modules))"
    )
    image = str(FIXTURES / "plain-4k.img.xz")
    done = subprocess.run([sys.executable, "-c", code, image], capture_output=True, check=True, text=True)
    modules = set(done.stdout.split())
    parts = ("journal_replay", "revoke", "fast_commit", "orphans", "editor")
    recovery = {f"ext4img.volume.recovery.{name}" for name in parts}
    assert not modules & (recovery | {"numpy", "cryptography"})
