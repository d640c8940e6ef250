"""What is told of a block device before it is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ext4img.cli.file_magic import describe_device
from ext4img.cli.main import main
from tests.conftest import UnpackedImage
from tests.sources.test_partitions import disk, expected
from tools.loop_mount import run

Fixture = Callable[[str], UnpackedImage]


def test_a_file_system(fixture_image: Fixture):
    (line,) = describe_device(str(fixture_image("sample-encrypted").path))
    assert "12M: a file system sample of 12M, UUID f70270eb-3f7f-59bc-81c2-d415b49a01e6" in line


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"LUKS\xba\xbe", "a LUKS container"),
        (b"", "starts with zeros"),
        (b"what?", "unknown contents"),
    ],
)
def test_other_things(start: bytes, told: str, tmp_path: Path):
    (tmp_path / "device").write_bytes(start.ljust(1 << 20, b"\0"))
    (line,) = describe_device(str(tmp_path / "device"))
    assert line == f"a block device of 1.0M: {told}"


def test_a_file_system_that_is_damaged(fixture_image: Fixture, tmp_path: Path):
    data = bytearray(fixture_image("plain-4k").path.read_bytes())
    data[1024 + 0x18] = 200  # s_log_block_size
    (tmp_path / "device").write_bytes(data)
    (line,) = describe_device(str(tmp_path / "device"))
    assert "that cannot be read" in line


def test_partitions(tmp_path: Path):
    (tmp_path / "device").write_bytes(disk("gpt"))
    lines = describe_device(str(tmp_path / "device"))
    told = [line.partition(": ")[2].partition(":")[0] for line in lines]
    assert told == [f"partition {partition.number}" for partition in expected("gpt")]


@pytest.mark.kernel
def test_it_is_told_before_it_goes(fixture_image: Fixture, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    archive = str(tmp_path / "a.tar")
    assert main(["backup", str(fixture_image("plain-4k").path), archive, "-q"]) == 0
    run("truncate", "-s", "48M", tmp_path / "raw")
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "precious", tmp_path / "raw")
    before = (tmp_path / "raw").read_bytes()
    device = run("losetup", "--find", "--show", tmp_path / "raw").decode().strip()
    try:
        assert main(["restore", archive, "--image", device]) == 8
        assert "a file system precious of 48M" in capfd.readouterr().err
        assert (tmp_path / "raw").read_bytes() == before
        assert main(["restore", archive, "--image", device, "--device"]) == 0
        assert "a file system precious of 48M" in capfd.readouterr().err
    finally:
        run("losetup", "--detach", device)
    run("e2fsck", "-fn", tmp_path / "raw")
