"""Archives in zstd frames: stock zstd reads them, and so do we, at any place or as a stream."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pytest

import ext4img
from ext4img import Archive, backup, restore, verify
from ext4img.archive.zstd_frames import FRAME_BYTES, FrameWriter
from ext4img.errors import ArchiveError, Ext4Error
from tests.archive.synthetic import KEY, Tree, encrypted_tree
from tests.archive.test_archive import as_file, as_stream
from tests.conftest import UnpackedImage
from tests.restorer.test_restore import contents

pytest.importorskip("backports.zstd")

both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])


def big_tree() -> Tree:
    """Several frames of archive."""
    tree = encrypted_tree()
    tree.add(b"big", "file", bytes(range(256)) * 50_000)
    tree.add(b"zeros", "file", bytes(3_000_000))
    return tree


def compressed(tree: Tree) -> bytes:
    output = io.BytesIO()
    frames = FrameWriter(output)
    tree.write(frames)
    frames.finish()
    return output.getvalue()


@both
def test_there_and_back(opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    tree = big_tree()
    data = compressed(tree)
    assert len(data) < len(tree.archive()) / 10
    report = verify(opened(data))
    assert report.intact
    assert report.members == len(tree.members)
    assert restore(opened(data), tmp_path / "t", keys=[KEY]).complete
    for path, body in tree.plain.items():
        assert contents(tmp_path / "t", path) == body


def test_any_member_can_be_had_alone():
    tree = big_tree()
    with Archive(as_file(compressed(tree))) as archive:
        assert archive.seekable
        for entry, body in reversed(tree.sorted()):
            assert b"".join(bytes(part) for _, part in archive.member(entry.path).chunks()) == body


def test_stock_zstd_reads_it(tmp_path: Path):
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    tree = big_tree()
    (tmp_path / "a.tar.zst").write_bytes(compressed(tree))
    done = subprocess.run(["zstd", "-dc", str(tmp_path / "a.tar.zst")], capture_output=True, check=True)
    assert done.stdout == tree.archive()
    assert not done.stderr


def test_what_stock_zstd_writes_is_a_stream(tmp_path: Path):
    """Without our table members can't be had alone, but the archive can be read."""
    from backports import zstd

    data = zstd.compress(encrypted_tree().archive())
    with Archive(as_file(data)) as archive:
        assert not archive.seekable
        assert len(list(archive)) > 10
    assert verify(as_stream(data)).intact
    assert restore(as_file(data), tmp_path / "t", keys=[KEY]).complete


@both
def test_cut_and_flipped(opened: Callable[[bytes], BinaryIO]):
    data = compressed(big_tree())
    chance = random.Random(5)
    for _ in range(25):
        cut = chance.randrange(len(data) - 20)
        with pytest.raises(ArchiveError):
            verify(opened(data[:cut]))
    for _ in range(60):
        altered = bytearray(data)
        position = chance.randrange(len(data))
        altered[position] ^= 1 << chance.randrange(8)
        try:
            report = verify(opened(bytes(altered)))
        except Ext4Error:
            continue
        # A stream does not look at the seek table.
        assert not report.intact or (opened is as_stream and position > len(data) - 200)


def test_of_an_image(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path):
    image = fixture_image("plain-4k")
    with ext4img.open(image.path) as fs:
        plain = backup(fs, tmp_path / "a.tar")
        packed = backup(fs, tmp_path / "a.tar.zst", compress="zstd")
    assert packed.digest == plain.digest
    assert os.path.getsize(tmp_path / "a.tar.zst") < os.path.getsize(tmp_path / "a.tar")
    assert verify(tmp_path / "a.tar.zst").intact


def test_frames_are_bounded():
    output = io.BytesIO()
    frames = FrameWriter(output)
    cast("BinaryIO", frames).write(bytes(3 * FRAME_BYTES + 1))
    frames.finish()
    with pytest.raises(ArchiveError):
        Archive(io.BytesIO(output.getvalue()))
