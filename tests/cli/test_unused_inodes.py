"""Names that lead to inodes that are not in use: the kernel refuses them, and so does every reader."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import ext4img
from ext4img.cli.main import main
from ext4img.volume.problems import Checks
from tools.loop_mount import loop_mounted, run

NAMES = ("never-used", "deleted", "no-type", "journal")
READERS: dict[str, list[str]] = {
    "ls": ["ls", "-l", "IMAGE", "/"],
    "tree": ["tree", "IMAGE"],
    "find": ["find", "-l", "IMAGE", "/"],
    "stat": ["stat", "IMAGE", "/NAME"],
    "cat": ["cat", "IMAGE", "/NAME"],
    "extract": ["extract", "IMAGE", "/", "OUT"],
    "backup": ["backup", "IMAGE", "OUT"],
    "copy": ["copy", "IMAGE", "OUT"],
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 with names for inodes that no name may lead to, and one sound file."""
    path = tmp_path_factory.mktemp("unused") / "image"
    run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-F", path, "8M")
    (path.parent / "sound").write_bytes(b"sound")
    commands = [
        f"write {path.parent / 'sound'} sound",
        "ln <100> never-used",
        *("mknod deleted p", "set_inode_field deleted links_count 0"),
        *("mknod no-type p", "set_inode_field no-type mode 0644"),
        "ln <8> journal",
    ]
    for command in commands:
        run("debugfs", "-w", "-R", command, path)
    return path


@pytest.mark.kernel
def test_the_kernel_refuses_them(image: Path):
    with loop_mounted(image, "ro") as directory:
        assert sorted(os.listdir(directory)) == sorted((*NAMES, "sound", "lost+found"))
        for name in NAMES:
            with pytest.raises(OSError, match="Structure needs cleaning|Stale file handle|Bad message"):
                os.stat(os.path.join(directory, name))


@pytest.mark.parametrize("checks", ["strict", "report", "off"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_does_what_its_mode_says(
    reader: str, checks: Checks, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Strict refuses, report tells each name, off says that there is damage: nobody leaves it out in silence."""
    words = [{"IMAGE": str(image), "OUT": str(tmp_path / "out")}.get(word, word) for word in READERS[reader]]
    codes = {}
    for name in NAMES if "/NAME" in words else NAMES[:1]:
        command = [word.replace("NAME", name) for word in words]
        codes[name] = main([command[0], "--checks", checks, *command[1:]])
        told = capfd.readouterr().err
        if checks == "report":
            names = [name] if "/NAME" in words else NAMES
            assert [f"{name}' names inode" in told for name in names] == [True] * len(names)
        elif checks == "off":
            assert "damage was read around" in told or "or is not in use" in told
    expected = {"strict": {4}, "report": {1}, "off": {1}}[checks]
    if "/NAME" in words and checks != "strict":
        expected = {7}  # the single path that was asked for
    assert set(codes.values()) == expected


@pytest.mark.parametrize("checks", ["report", "off"])
def test_what_else_is_there_is_shown(checks: Checks, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["backup", "-q", "--checks", checks, str(image), str(tmp_path / "out")]) == 1
    capfd.readouterr()
    assert main(["list", "--json", str(tmp_path / "out")]) == 0
    assert [json.loads(line)["path"] for line in capfd.readouterr().out.splitlines()] == [".", "lost+found", "sound"]
    with ext4img.open(image, checks=checks) as fs:
        assert [str(path) for path, _ in fs.walk()] == ["/", "/lost+found", "/sound"]
        assert fs.problems.damage == len(NAMES)
        assert not fs.path("/deleted").exists()
        assert {name for _, _, names in fs.path("/").walk() for name in names} == {*NAMES, "sound"}
