"""Damaged images: what can be read is in the copy, what can't is told, and the copy is sound."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

import ext4img
from ext4img import backup, rebuild
from ext4img.errors import CorruptionError, Ext4Error, SourceError
from ext4img.mkfs import Node
from ext4img.sources import BytesSource
from tests.conftest import UnpackedImage
from tests.faulty_source import FaultySource
from tests.mkfs.judges import assert_clean
from tests.mkfs.samples import FILE, ROOT, Repeated, build

Fixture = Callable[[str], UnpackedImage]
# e2fsck takes them for an old kernel's mistake; damage can make any time.
LATE = re.compile(r"Timestamp\(s\) on inode \d+ beyond 2310-04-04|^Fix\? no$", re.MULTILINE)


Contents = list[tuple[int, bytes]]


def contents(fs: ext4img.FileSystem) -> dict[bytes, Contents]:
    """Every path with what is data there."""
    found: dict[bytes, Contents] = {}
    for path, inode in fs.walk("/"):
        found[bytes(path)] = []
        if inode.is_file:
            with inode.open() as file:
                found[bytes(path)] = [(offset, file.pread(offset, length)) for offset, length in file.segments()]
    return found


def test_unreadable_contents_are_zeros_and_told(fixture_image: Fixture, tmp_path: Path):
    image = BytesSource(fixture_image("plain-4k").path.read_bytes())
    with ext4img.open(image) as fs:
        original = contents(fs)
        path, inode = next((p, i) for p, i in fs.walk("/") if i.is_file and i.size > 8192 and len(i.runs()) == 1)
        first = inode.runs()[0].pblk * fs.block_size
    bad = FaultySource(image, [(first + 4096, first + 4097)])
    with ext4img.open(bad) as fs, pytest.raises(SourceError):
        rebuild(fs, tmp_path / "o.img")
    assert not list(tmp_path.iterdir())
    with ext4img.open(bad, checks="report") as fs:
        report = rebuild(fs, tmp_path / "o.img")
        (problem,) = fs.problems
    assert report.incomplete == 1
    assert not report.complete
    assert not report.left_out
    assert problem.place.inode == inode.number
    assert_clean(tmp_path / "o.img")
    [(_, whole)] = original[bytes(path)]
    original[bytes(path)] = [(0, whole[:4096] + bytes(4096) + whole[8192:])]
    with ext4img.open(tmp_path / "o.img") as fs:
        assert contents(fs) == original


@pytest.mark.parametrize("form", ["tar", "dir"])
def test_lost_ciphertext_is_a_hole_that_reads_as_zeros(
    form: Literal["tar", "dir"], fixture_image: Fixture, tmp_path: Path
):
    """The backup says which parts it lacks. As blocks of zeros they would be noise under the key."""
    image = fixture_image("sample-encrypted")
    source = BytesSource(image.path.read_bytes())
    with ext4img.open(source) as fs:
        image.manifest.add_keys_to(fs)
        path, inode, whole = next(
            (str(path), inode, path.read_bytes())
            for path, inode in fs.walk("/")
            if inode.is_file and inode.is_encrypted and inode.size > 12288 and len(inode.runs()) == 1
        )
        first = inode.runs()[0].pblk * fs.block_size
    with ext4img.open(FaultySource(source, [(first + 4096, first + 4097)]), checks="report") as fs:
        shown = next(str(path) for path, found in fs.walk("/") if found.number == inode.number)
        backup(fs, tmp_path / "backup", format=form)
    report = rebuild(tmp_path / "backup", tmp_path / "o.img")
    assert (report.incomplete, report.left_out) == (1, 0)
    (problem,) = report.problems
    assert "4096 bytes at 4096" in str(problem)
    assert_clean(tmp_path / "o.img")
    with ext4img.open(tmp_path / "o.img") as fs:
        image.manifest.add_keys_to(fs)
        assert fs.path(path).read_bytes() == whole[:4096] + bytes(4096) + whole[8192:]
        assert problem.path == shown[1:]


def test_what_no_place_is_known_of_is_a_hole(tmp_path: Path):
    """Half of a file's extents are in a block that is damaged: what they mapped is not written as zeros."""
    size = 400 * 8192
    segments = [(start, 4096) for start in range(0, size, 8192)]
    build(tmp_path / "i.img", [ROOT, Node((b"f",), FILE, size=size, segments=segments)])
    data = bytearray((tmp_path / "i.img").read_bytes())
    with ext4img.open(bytes(data)) as fs:
        area = fs.path("/f").inode.block_area
    second = int.from_bytes(area[12 + 12 + 4 : 12 + 12 + 8], "little")  # ei_leaf_lo of the second index entry
    at = second * 4096
    assert data[at : at + 2] == b"\x0a\xf3"
    data[at] = 0
    with ext4img.open(bytes(data), checks="report") as fs:
        report = rebuild(fs, tmp_path / "o.img")
    assert report.incomplete == 1
    (problem,) = report.problems
    assert (problem.path, "could not be read in" in str(problem)) == ("f", True)
    assert_clean(tmp_path / "o.img")
    with ext4img.open(tmp_path / "o.img") as fs:
        file = fs.path("/f")
        kept = [(run.lblk * 4096, 4096) for run in file.inode.runs()]
        assert 0 < len(kept) < len(segments)
        assert kept == segments[: len(kept)]
        with file.open("rb") as opened:
            assert all(opened.pread(start, length) == Repeated().read_at(start, length) for start, length in kept)


def test_a_lost_directory_costs_what_is_in_it(fixture_image: Fixture, tmp_path: Path):
    data = bytearray(fixture_image("sample-encrypted").path.read_bytes())
    with ext4img.open(bytes(data)) as fs:
        paths = {bytes(path) for path, _ in fs.walk("/")}
        home = fs.path("/home/alice")
        offset = fs.volume.inodes.place(home.inode.number).offset
        below = {path for path in paths if path.startswith(b"/home/alice")}
    assert offset is not None
    data[offset + 0x28 : offset + 0x28 + 60] = b"\xa5" * 60  # i_block: no extent tree
    with ext4img.open(bytes(data)) as fs, pytest.raises(CorruptionError):
        rebuild(fs, tmp_path / "o.img")
    with ext4img.open(bytes(data), checks="report") as fs:
        rebuild(fs, tmp_path / "o.img")
        assert fs.problems
    assert_clean(tmp_path / "o.img")
    with ext4img.open(tmp_path / "o.img") as fs:
        got = {bytes(path) for path, _ in fs.walk("/")}
    found = {path for path in got if path.startswith(b"/lost+found/#")}
    assert paths - below <= got - found <= paths - below | {b"/home/alice"}
    # What was in it has lost its names, but not what is below: all names there are as they were.
    deeper = [path.split(b"/", 4)[4] for path in below if path.count(b"/") > 3]
    assert sorted(path.split(b"/", 3)[3] for path in found if path.count(b"/") > 2) == sorted(deeper)


@pytest.mark.parametrize("name", ["sample-encrypted", "encrypted-variants", "plain-4k", "ext2-1k", "ext4-inline"])
@pytest.mark.parametrize("seed", range(4))
def test_a_copy_of_ruins_is_sound(name: str, seed: int, fixture_image: Fixture, tmp_path: Path):
    """Bytes overwritten at random where there are any: a sound copy, or an error that says why not."""
    rng = random.Random(f"{name} {seed}")
    data = bytearray(fixture_image(name).path.read_bytes())
    used = [at for at in range(4096, len(data), 64) if data[at] or data[at + 3]]
    for at in rng.choices(used, k=(20, 200, 1000, 4000)[seed]):
        data[at + rng.randrange(64)] = rng.choice([0, 1, 0xFF, rng.randrange(256)])
    try:
        with ext4img.open(bytes(data), checks="report") as fs:
            rebuild(fs, tmp_path / "o.img", keep_inodes=bool(seed & 1))
    except Ext4Error:
        assert not list(tmp_path.iterdir())
        return
    try:
        assert_clean(tmp_path / "o.img")
    except AssertionError:
        said = subprocess.run(["e2fsck", "-fn", tmp_path / "o.img"], capture_output=True, check=False).stdout
        if not LATE.search(said.decode(errors="replace")):
            raise
