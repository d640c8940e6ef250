"""Traps: the journal."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import ext4img
from ext4img.structs.superblock import EXT4_SUPER_BLOCK
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


def test_external_journal_of_other_blocks(edit: Edit):
    """Its blocks would be put in the place of the volume's."""
    image = edit("ext4-dirty")
    uuid = bytes(range(16))
    log = image.site("journal superblock")
    size = image.volume.block_size * 2
    image.set(log, "s_blocksize", size)
    image.set(log, "s_nr_users", 1)
    fields = {"s_magic": 0xEF53, "s_log_block_size": size.bit_length() - 11, "s_blocks_count_lo": 64}
    device = bytearray(64 * size)
    device[1024:2048] = EXT4_SUPER_BLOCK.build({**fields, "s_feature_incompat": 8, "s_uuid": uuid})
    device[size : size + 1024] = image.data[log.offset : log.offset + 1024]
    image.superblock(s_journal_inum=0, s_journal_uuid=uuid)
    with pytest.raises(ext4img.CorruptionError, match=f"has blocks of {size} bytes"):
        ext4img.open(bytes(image), journal_device=bytes(device))
    with ext4img.open(bytes(image), journal_device=bytes(device), checks="report") as fs:
        assert any(f"has blocks of {size} bytes" in str(problem) for problem in fs.problems)
        list(fs.walk())
