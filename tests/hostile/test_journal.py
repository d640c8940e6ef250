"""Traps: the journal."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import ext4img
from tests.hostile.editing import Edit
from tests.hostile.verdicts import MODES


def test_journal_device_is_no_file_system(tmp_path: Path):
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    image = tmp_path / "journal"
    subprocess.run(["mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "1024", image, "2048"], check=True)
    for checks in MODES:
        with pytest.raises(ext4img.UnsupportedFeatureError, match="journal_dev") as caught:
            ext4img.open(image, checks=checks)  # type: ignore[arg-type]
        assert caught.value.names == ("journal_dev",)


def test_root_that_is_only_in_the_journal(edit: Edit):
    """The inode table's first block as mke2fs left it: zeros; the log has the rest."""
    image = edit("ext4-dirty")
    with ext4img.open(bytes(image)) as fs:
        sound = {str(path) for path, _ in fs.walk()}
    place = image.volume.inodes.place(2)
    start = (place.block or 0) * image.volume.block_size
    image.write(start, bytes(image.volume.block_size))
    with ext4img.open(bytes(image)) as fs:
        assert {str(path) for path, _ in fs.walk()} == sound
        assert not fs.problems
    with ext4img.open(bytes(image), journal="ignore") as fs, pytest.raises(ext4img.CorruptionError, match="root"):
        list(fs.walk())
