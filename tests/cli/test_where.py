"""A file system that is not at the start of its image: hints name commands that work; partitions say what they hold."""

from __future__ import annotations

import json
import lzma
import shlex
from pathlib import Path

import pytest

from ext4img.cli.main import main
from tests.fs.conftest import needs_e2fsprogs
from tools.loop_mount import run

pytestmark = needs_e2fsprogs
UUID = "01234567-89ab-4cde-8f01-23456789abcd"
DISKS = Path(__file__).parent.parent / "sources" / "partitions"


def hints(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[str]:
    assert main([str(argument) for argument in arguments]) == 3
    return [line.removeprefix("  hint: ") for line in capsys.readouterr().err.splitlines()[1:]]


@pytest.mark.parametrize("start", [128 << 10, 1 << 20], ids=["vendor header", "wiped table"])
@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "primary damaged"])
@pytest.mark.parametrize("checks", ["strict", "report"])
def test_the_hint_is_a_command_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], start: int, damaged: bool, checks: str
):
    image = tmp_path / "a blob.img"
    run(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "1024",
        "-U",
        UUID,
        "-L",
        "moto",
        "-E",
        f"offset={start}",
        image,
        "16M",
    )
    with image.open("r+b") as file:
        file.write(b"vendor")
        if damaged:
            file.seek(start + 1024)
            file.write(bytes(1024))
    line, command = hints(capsys, "info", "--checks", checks, image)
    assert line.startswith(f"a file system starts at byte {start}: ext4 moto, UUID {UUID}")
    assert ("is damaged" in line) == damaged
    program, *arguments = shlex.split(command)
    assert program == "ext4img"
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["uuid"] == UUID


def test_offsets_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = tmp_path / "disk.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-U", UUID, "-E", f"offset={3 << 20}", image, "8M")
    _, command = hints(capsys, "info", "--offset", "1MiB", image)
    assert f"--offset {3 << 20} " in command
    assert main(shlex.split(command)[1:]) == 0


def test_partitions_say_what_they_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    disk = tmp_path / "disk.img"
    with lzma.open(DISKS / "gpt.img.xz") as packed:
        disk.write_bytes(packed.read())
    run("mke2fs", "-q", "-F", "-t", "ext2", "-U", UUID, "-L", "a b", "-E", f"offset={8192 * 512}", disk, "4M")
    with disk.open("r+b") as file:
        file.seek(4096 * 512)
        file.write(b"LUKS\xba\xbe")
    first, *partitions = hints(capsys, "info", disk)
    assert first == "the image has a partition table; choose a partition"
    assert partitions[0].endswith("at offset 1048576")  # zeros
    assert partitions[1].endswith(f": ext2 'a b', UUID {UUID}")
    assert partitions[2].endswith(": a LUKS container")


def test_sectors_of_4096_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """sfdisk made the table; its second partition starts at sector 2048."""
    disk = tmp_path / "disk.img"
    with lzma.open(DISKS / "mbr-4k.img.xz") as packed:
        disk.write_bytes(packed.read())
    run("mke2fs", "-q", "-F", "-t", "ext4", "-U", UUID, "-E", f"offset={2048 * 4096}", disk, "2M")
    for options in ([], ["--sector-size", "4096"]):
        assert main(["info", "--json", "--partition", "2", *options, str(disk)]) == 0
        assert json.loads(capsys.readouterr().out)["uuid"] == UUID
    assert main(["info", "--partition", "2", "--sector-size", "512", str(disk)]) == 3
    assert main(["info", "--partition", "2", "--sector-size", "1024", str(disk)]) == 2
