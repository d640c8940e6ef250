"""A directory that cannot be read does not end a listing of the tree, if damage is only reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext4img.cli.main import main
from tools.loop_mount import run


@pytest.mark.parametrize("command", [["ls", "-R"], ["ls", "-lR"], ["tree"], ["find"]])
@pytest.mark.parametrize(("checks", "code"), [("strict", 4), ("report", 1), ("off", 1)])
def test_a_directory_that_lost_its_encryption_context(
    command: list[str], checks: str, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    image = tmp_path / "image"
    run("mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum", "-F", image, "2M")
    for line in ("mkdir a", "mkdir b", "mkdir b/seen", "sif a flags 0x80800"):  # EXT4_ENCRYPT_FL, EXT4_EXTENTS_FL
        run("debugfs", "-w", "-R", line, image)
    assert main([*command, "--checks", checks, str(image)]) == code
    output, errors = capfd.readouterr()
    assert ("seen" in output) == (code == 1)
    assert ("without an encryption context" in errors) == (checks != "off")
