"""Contents in the inode: what i_size claims beyond them is a hole, and without their attribute they are damaged.

What is true of them: the kernel reads zeros past inline data, whatever i_size is; and to it an inode with
the flag but without system.data has a map of blocks (ext4_has_inline_data), whose numbers here lie outside
the volume, so that it refuses the inode.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import pytest

import ext4img
from ext4img import Archive, CorruptionError, backup, extract, rebuild
from tests.mkfs.judges import assert_clean
from tools.loop_mount import SBIN, run

pytestmark = pytest.mark.skipif(
    not shutil.which("debugfs", path=f"{os.environ.get('PATH', '')}:{SBIN}"), reason="no debugfs"
)
SIZE = 10 << 30
Checks = Literal["strict", "report", "off"]
CONTENTS = b"inline contents " * 5


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(CONTENTS)
    path = tmp_path / "image"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "inline_data", "-d", tmp_path / "source", path, "8M")
    return path


def change(image: Path, command: str) -> None:
    run("debugfs", "-w", "-R", command, image)


@pytest.mark.parametrize("checks", ["strict", "report", "off"])
def test_the_size_does_not_decide_how_much_is_stored(image: Path, tmp_path: Path, checks: Checks) -> None:
    change(image, f"sif file size {SIZE}")
    archive, copy, target = tmp_path / "archive", tmp_path / "copy", tmp_path / "target"
    with ext4img.open(image, checks=checks) as fs:
        inode = fs.path("/file").inode
        with inode.open() as file:
            (segment,) = file.segments()
            assert segment[0] == 0
            assert len(CONTENTS) <= segment[1] <= 60 + 128
            assert file.pread(0, 100) == CONTENTS + bytes(100 - len(CONTENTS))
            assert file.pread(SIZE - 9, 99) == bytes(9)
        backup(fs, archive)
        rebuild(fs, copy)
        report = extract(fs, [(b"file", inode)], target)
        assert report.complete
    assert archive.stat().st_size < 1 << 20
    extracted = (target / "file").stat()
    assert extracted.st_size == SIZE
    assert extracted.st_blocks * 512 < 1 << 20
    assert_clean(copy)
    with ext4img.open(copy) as fs, fs.path("/file").inode.open() as file:
        assert file.size == SIZE
        assert file.pread(0, 100) == CONTENTS + bytes(100 - len(CONTENTS))


def test_without_its_attribute_strict_reading_refuses_it(image: Path) -> None:
    change(image, "sif file extra_isize 28")  # the attributes would begin elsewhere
    with (
        ext4img.open(image) as fs,
        pytest.raises(CorruptionError, match="inline data without the attribute system"),
    ):
        fs.path("/file").read_bytes()


def test_without_its_attribute_the_rest_is_a_recorded_loss(image: Path, tmp_path: Path) -> None:
    change(image, "sif file extra_isize 28")
    with ext4img.open(image, checks="report") as fs:
        assert fs.path("/file").read_bytes() == CONTENTS[:60] + bytes(len(CONTENTS) - 60)
        report = backup(fs, tmp_path / "archive")
        assert report.incomplete == 1
    with Archive(tmp_path / "archive") as archive:
        assert [(loss.path, loss.what) for loss in archive.losses] == [(b"file", "contents")]
