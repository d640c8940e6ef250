"""Files: extent trees of every depth, holes, unwritten ranges, inline data, verity, bodies that are wrong."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ext4img
from ext4img.errors import BuildError
from ext4img.mkfs import Node, Options, plan, write
from ext4img.mkfs.allocator import Allocator, BlockRange
from ext4img.mkfs.extents import DiskRun, build_root, one_extent_root, tree_blocks
from tests.mkfs.judges import assert_clean, debugfs
from tests.mkfs.samples import (
    CREATED_S,
    ENCRYPT_FL,
    FILE,
    INLINE_DATA_FL,
    ROOT,
    VERITY_FL,
    Repeated,
    build,
    encrypted_file,
)
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted


def striped(count: int, block: int) -> Node:
    """A file of `count` written blocks, each followed by an unwritten one."""
    written = [(2 * i * block, block) for i in range(count)]
    unwritten = [((2 * i + 1) * block, block) for i in range(count)]
    return Node((b"f",), FILE, size=2 * count * block, segments=written, unwritten=unwritten)


@pytest.mark.parametrize(
    ("stripes", "depth"),
    # A block of 1,024 bytes has 84 entries: 4 extents, 4 * 84 = 336, and 336 * 84 = 28,224 fit in depths 0, 1, 2.
    [(2, 0), (3, 1), (168, 1), (169, 2), (14_112, 2), (14_113, 3)],
)
def test_depths_of_extent_trees(stripes: int, depth: int, tmp_path: Path):
    build(tmp_path / "i", [ROOT, striped(stripes, 1024)], Options(block_size=1024, created_s=CREATED_S))
    assert_clean(tmp_path / "i")
    assert f"/ {depth}" in debugfs(tmp_path / "i", "dump_extents /f").splitlines()[2]
    with ext4img.open(tmp_path / "i") as fs:
        runs = fs.path("/f").inode.runs()
        assert len(runs) == 2 * stripes
        assert [run.state for run in runs[:4]] == [0, 1, 0, 1]


@pytest.mark.kernel
def test_the_kernel_reads_a_deep_tree(tmp_path: Path):
    node = striped(14_113, 1024)
    build(tmp_path / "i", [ROOT, node], Options(block_size=1024, created_s=CREATED_S))
    with loop_mounted(tmp_path / "i") as mount, open(os.path.join(mount, "f"), "rb") as file:
        data = file.read()
        extents = kernel_ioctl.fiemap(file.fileno())
    body = Repeated().read_at(0, 1024)
    assert data == (body + bytes(1024)) * 14_113
    assert [extent.is_written for extent in extents] == [True, False] * 14_113


@pytest.mark.parametrize("unwritten", [False, True])
def test_extents_have_a_longest_length(unwritten: bool, tmp_path: Path):
    """32,768 blocks if written, 32,767 if not: more are two, though they adjoin."""
    size = 40_000 * 1024
    node = Node((b"f",), FILE, size=size, segments=() if unwritten else None, unwritten=((0, size),))
    options = Options(block_size=1024, features=("^sparse_super", "^has_journal"), size=500 << 20, created_s=CREATED_S)
    build(tmp_path / "i", [ROOT, node], options)
    assert_clean(tmp_path / "i")
    text = debugfs(tmp_path / "i", "dump_extents /f")
    lengths = [int(line.split("Uninit")[0].split()[-1]) for line in text.splitlines()[3:] if "/" in line]
    assert sum(lengths) == 40_000
    assert max(lengths) <= (32767 if unwritten else 32768)


@given(st.integers(0, (1 << 48) - 1), st.integers(1, 32768))
def test_the_usual_root_is_that_of_one_run(pblk: int, length: int):
    assert one_extent_root(pblk, length) == build_root([DiskRun(0, pblk, length, False)], [], 4096)


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=80),
)
def test_blocks_are_given_out_once(pieces: list[int], wanted: list[tuple[int, bool]]):
    start = 0
    free = []
    for count in pieces:
        free.append(BlockRange(start, count))
        start += count + 1
    allocator = Allocator(free)
    there = {block for piece in free for block in range(piece.start, piece.start + piece.length)}
    given_out: set[int] = set()
    for count, whole in wanted:
        left = allocator.left()
        start_of_whole = allocator.take_whole(count) if whole else None
        if start_of_whole is not None:
            blocks = set(range(start_of_whole, start_of_whole + count))
            assert blocks <= there - given_out
            given_out |= blocks
            continue
        if count > len(there) - len(given_out):
            with pytest.raises(BuildError):
                allocator.take(count)
            continue
        got = allocator.take(count)
        # In one piece, unless no piece was long enough.
        assert len(got) == 1 or all(piece.length < count for piece in left)
        blocks = {block for piece in got for block in range(piece.start, piece.start + piece.length)}
        assert len(blocks) == count
        assert blocks <= there - given_out
        given_out |= blocks
    assert sum(piece.length for piece in allocator.left()) == allocator.free_blocks == len(there) - len(given_out)


def test_files_lie_in_one_piece_in_their_order(tmp_path: Path):
    nodes = [ROOT, *(Node((b"%04d" % n,), FILE, size=n * 5000) for n in range(300))]
    build(tmp_path / "i", nodes, Options(created_s=CREATED_S))
    with ext4img.open(tmp_path / "i") as fs:
        runs = [path.inode.runs() for path in sorted(fs.path("/").glob("0*"))]
    assert {len(found) for found in runs[1:]} == {1}
    places = [found[0].pblk for found in runs[1:]]
    assert places == sorted(places)


@pytest.mark.parametrize("inode_size", [256, 512, 1024])
def test_inline_data_up_to_its_limit(inode_size: int, tmp_path: Path):
    # i_block has 60 bytes; of what follows 128 + 32 bytes the magic, an entry with the name "data" and an end go off.
    most = 60 + inode_size - 160 - 4 - 20 - 4
    sizes = [0, 1, 59, 60, 61, most - 1, most, most + 1]
    nodes = [ROOT, *(Node((b"%d" % size,), FILE, size=size, crtime_ns=1) for size in sizes)]
    options = Options(inode_size=inode_size, features=("inline_data",), created_s=CREATED_S)
    build(tmp_path / "i", nodes, options)
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        inline = {size: bool(fs.path(f"/{size}").inode.flags & INLINE_DATA_FL) for size in sizes}
        assert inline == {size: 0 < size <= most for size in sizes}
        for size in sizes:
            assert fs.path(f"/{size}").read_bytes() == Repeated().read_at(0, size)


@pytest.mark.kernel
def test_the_kernel_reads_inline_data_and_goes_on_writing(tmp_path: Path):
    nodes = [ROOT, *(Node((b"f%d" % size,), FILE, size=size) for size in (1, 60, 61, 128))]
    nodes += [Node((b"d",), 0o040755), *(Node((b"d", b"%d" % n), 0o010644) for n in range(7))]
    build(tmp_path / "i", nodes, Options(size=64 << 20, features=("inline_data",), created_s=CREATED_S))
    with loop_mounted(tmp_path / "i", "rw") as mount:
        for size in (1, 60, 61, 128):
            with open(os.path.join(mount, f"f{size}"), "r+b") as file:
                assert file.read() == Repeated().read_at(0, size)
                file.write(b"more" * size)
        for number in range(100):
            Path(mount, "d", f"new {number}").write_bytes(b"x" * number)
    assert_clean(tmp_path / "i")


def test_verity_data_stands_beyond_the_end(tmp_path: Path):
    node = Node((b"f",), FILE, size=5000, flags=VERITY_FL, segments=((0, 5000), (65536, 12288)))
    made = build(tmp_path / "i", [ROOT, node], Options(created_s=CREATED_S))
    assert "verity" in made.features.names
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        assert [(run.lblk, run.length) for run in fs.path("/f").inode.runs() if run.state == 0] == [(0, 2), (16, 3)]


def test_encrypted_contents_fill_their_blocks(tmp_path: Path):
    """The ciphertext after i_size belongs to the last block, and is not replaced by zeros."""
    nodes = [ROOT, encrypted_file((b"f",), 5000), encrypted_file((b"g",), 5000, segments=((4096, 4096),))]
    build(tmp_path / "i", nodes, Options(created_s=CREATED_S))
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        for name, expected in (("f", Repeated().read_at(0, 8192)), ("g", bytes(4096) + Repeated().read_at(0, 4096))):
            with fs.path(f"/{name}").inode.open_ciphertext() as file:
                assert file.read() == expected
        assert fs.path("/f").inode.flags & ENCRYPT_FL


def test_zeros_become_holes_of_the_image_not_of_the_file(tmp_path: Path):
    node = Node((b"zeros",), FILE, size=64 << 20)
    made = plan([ROOT, node], Options(created_s=CREATED_S))

    class Zeros:
        def read_at(self, offset: int, length: int) -> bytes:
            return bytes(length)

    write(made, lambda _: Zeros(), tmp_path / "i")
    assert os.stat(tmp_path / "i").st_blocks * 512 < 4 << 20
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        assert [(run.state, run.length) for run in fs.path("/zeros").inode.runs()] == [(0, 16384)]


def test_a_body_that_ends_early_is_told_with_its_path(tmp_path: Path):
    class Short:
        def read_at(self, offset: int, length: int) -> bytes:
            return b"x" * min(length, max(0, 3000 - offset))

    made = plan([ROOT, Node((b"d",), 0o040755), Node((b"d", b"f"), FILE, size=5000)])
    with pytest.raises(BuildError, match=r"'/d/f': its contents end early: 3000 bytes instead of 5000 at 0"):
        write(made, lambda _: Short(), tmp_path / "i")
    assert list(tmp_path.iterdir()) == []


def test_bodies_are_asked_for_by_number_and_never_beyond_their_end(tmp_path: Path):
    asked: dict[int, list[tuple[int, int]]] = {}

    class Asked(Repeated):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def read_at(self, offset: int, length: int) -> bytes:
            asked.setdefault(self.number, []).append((offset, length))
            return super().read_at(offset, length)

    nodes = [ROOT, Node((b"a",), FILE, size=3 << 20, body=77, link_group=1), Node((b"b",), 0, link_group=1)]
    nodes += [Node((b"c",), FILE, size=10, body=5), Node((b"empty",), FILE, body=9)]
    nodes += [Node((b"e",), FILE, size=100_000, segments=((8192, 5),), body=6)]
    write(plan(nodes, Options(created_s=CREATED_S)), Asked, tmp_path / "i")
    assert asked == {77: [(0, 1 << 20), (1 << 20, 1 << 20), (2 << 20, 1 << 20)], 5: [(0, 10)], 6: [(8192, 5)]}


def test_tree_blocks():
    """Kernel: 340 entries in a block of 4 KiB, 84 of 1 KiB (ext4_ext_space_block)."""
    assert tree_blocks(4, 4096) == ()
    assert tree_blocks(5, 4096) == (1,)
    assert tree_blocks(341, 4096) == (2,)
    assert tree_blocks(1361, 4096) == (5, 1)
    assert tree_blocks(336, 1024) == (4,)
    assert tree_blocks(337, 1024) == (5, 1)


@pytest.mark.kernel
@pytest.mark.parametrize("features", [(), ("orphan_file", "fast_commit", "metadata_csum_seed"), ("^metadata_csum",)])
def test_the_kernel_writes_on(features: tuple[str, ...], tmp_path: Path):
    """Journal, bitmaps, descriptors and directories of a built image bear what a kernel does to them."""
    nodes = [ROOT]
    for directory in range(5):
        nodes.append(Node((b"d%d" % directory,), 0o040755))
        nodes += [Node((b"d%d" % directory, b"%d" % n), FILE, size=n * 100) for n in range(200 * directory)]
    options = Options(block_size=1024, size=100 << 20, features=features, created_s=CREATED_S)
    build(tmp_path / "i", nodes, options)
    with loop_mounted(tmp_path / "i", "rw") as mount:
        for directory in range(5):
            path = Path(mount, f"d{directory}")
            for name in sorted(os.listdir(path))[::2]:
                (path / name).unlink()
            for number in range(1000):
                (path / f"new {number}").write_bytes(bytes(number % 50) * 100)
        size = os.statvfs(mount).f_bavail
        assert size > 0
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        assert stat.S_ISREG(fs.path("/d4/new 999").stat().st_mode)
