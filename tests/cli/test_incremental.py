"""A full backup and incremental ones by the commands, of file systems that the kernel changes in between."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ext4img.cli.main import main
from tests.conftest import UnpackedImage
from tests.images import FIXTURES
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted

ALICE = FIXTURES / "sample-encrypted.alice.key"
BOB = FIXTURES / "sample-encrypted.bob.key"
KEYS = ("--key-file", ALICE, "--key-file", BOB)


def run(*arguments: str | Path) -> int:
    return main([os.fspath(argument) for argument in arguments])


def facts(root: Path) -> dict[str, tuple[Any, ...]]:
    """What the kernel shows below a directory: type, mode, owner, time, links, attributes, contents."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            regular, link = stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
            data = Path(os.fsdecode(path)).read_bytes() if regular else os.readlink(path) if link else b""
            names = 1 if stat.S_ISDIR(status.st_mode) else status.st_nlink
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in _attributes_of(path)}
            shown = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            owner = (status.st_uid, status.st_gid)
            found[shown] = (status.st_mode, owner, status.st_mtime_ns, names, attributes, data)
    return found


def _attributes_of(path: bytes) -> list[str]:
    return [name for name in os.listxattr(path, follow_symlinks=False) if name != "security.selinux"]


def unlocked(mount: str) -> Path:
    """The home directory of the sample image, with the keys in the kernel."""
    kernel_ioctl.add_key(mount, bytes.fromhex(ALICE.read_text(encoding="ascii")), 2)
    kernel_ioctl.add_key(mount, bytes.fromhex(BOB.read_text(encoding="ascii")), 1)
    return Path(mount) / "home/alice"


def first_day(home: Path) -> None:
    (home / "notes.txt").write_bytes(b"Remember the milk, and the bread.\n")
    (home / "big").write_bytes(os.urandom(300_000))
    (home / "folder").mkdir()
    (home / "folder" / ("a rather long name of a file, " * 6)).write_bytes(b"long")


def second_day(home: Path) -> None:
    with open(home / "big", "ab") as file:
        file.write(b"appended")
    (home / "notes.txt").rename(home / "folder/renamed.txt")
    (home / "folder/renamed.txt").chmod(0o640)
    os.chown(home / "folder", 1234, 567)
    os.setxattr(home / "folder", "user.colour", b"blue")
    (home / "link").symlink_to("folder/renamed.txt")


def third_day(home: Path) -> None:
    (home / "big").unlink()
    (home / "folder").rename(home / "moved")
    os.link(home / "moved/renamed.txt", home / "second name")
    shutil.rmtree(home / "many")
    (home / "sparse").touch()
    os.truncate(home / "sparse", 1 << 20)


@pytest.mark.kernel
def test_each_day_comes_back(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path, capfd):
    image = tmp_path / "disk.img"
    shutil.copyfile(fixture_image("sample-encrypted").path, image)
    days: list[dict[str, tuple[Any, ...]]] = []
    for day, change in enumerate((None, first_day, second_day, third_day)):
        with loop_mounted(image, "rw,noatime") as mount:
            home = unlocked(mount)
            if change is not None:
                change(home)
        with loop_mounted(image, "ro,noatime") as mount:
            unlocked(mount)
            days.append(facts(Path(mount)))
        since = ["--since", str(tmp_path / f"{day - 1}.tar")] if day else []
        compress = ["--compress", "zstd"] if day == 2 else []
        assert run("backup", image, tmp_path / f"{day}.tar", *since, *compress, "--json") == 0
        report = json.loads(capfd.readouterr().out)
        assert bool(report["unchanged"]) == bool(day)
        assert report["stored_bytes"] == (tmp_path / f"{day}.tar").stat().st_size
        assert run("verify", tmp_path / f"{day}.tar", "--against", image, "--json") == 0
        assert [json.loads(line) for line in capfd.readouterr().out.splitlines()][1]["different"] == 0
    full = (tmp_path / "0.tar").stat().st_size
    assert all((tmp_path / f"{day}.tar").stat().st_size < full for day in (1, 2, 3))

    for day, expected in enumerate(days):
        target = tmp_path / f"day{day}"
        assert run("restore", tmp_path / f"{day}.tar", target, *KEYS, "--devices", "-q") == 0
        assert facts(target) == expected
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(target)], check=False, capture_output=True)
        assert run("restore", tmp_path / f"{day}.tar", "--image", tmp_path / f"{day}.img", "-q") == 0
        with loop_mounted(tmp_path / f"{day}.img", "ro,noatime") as mount:
            unlocked(mount)
            assert facts(Path(mount)) == expected
        (tmp_path / f"{day}.img").unlink()
    # What was on an earlier day is told when the image of today is compared.
    capfd.readouterr()
    assert run("verify", tmp_path / "2.tar", "--against", image) == 1
    told = capfd.readouterr().out
    assert "only on the image" in told
    assert "only in the backup" in told
    assert "DIFFERS from" in told


@pytest.fixture
def chain(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path) -> Path:
    """A directory with full.tar and, in one of its own, monday.tar and tuesday.tar, each on the one before it."""
    image = fixture_image("sample-encrypted").path
    (tmp_path / "days").mkdir()
    assert run("backup", image, tmp_path / "full.tar") == 0
    assert run("backup", image, tmp_path / "days/monday.tar", "--since", tmp_path / "full.tar") == 0
    # Another archive than Monday's: it lacks a directory.
    options = ("--since", tmp_path / "days/monday.tar", "--exclude", "etc")
    assert run("backup", image, tmp_path / "days/tuesday.tar", *options) == 0
    return tmp_path


def last_lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return capfd.readouterr().err.splitlines()


def test_a_missing_base_is_named(chain: Path, capfd):
    for command in (["verify"], ["list"], ["restore"]):
        target = [chain / "target"] if command == ["restore"] else []
        capfd.readouterr()
        assert run(*command, chain / "days/tuesday.tar", *target) == 6
        message, hint = last_lines(capfd)
        assert "it is based on an archive that is missing: number 1 of its chain, manifest " in message
        assert hint.strip().startswith("hint: --base PATH")
    assert not (chain / "target").exists()


@pytest.mark.parametrize("base", ["full.tar", "."])
def test_bases_are_files_or_directories_of_them(base: str, chain: Path, capfd):
    options = ("--base", chain / base)
    assert run("verify", chain / "days/tuesday.tar", *options) == 0
    assert run("restore", chain / "days/tuesday.tar", chain / "target", "--dry-run", *options) == 0
    assert not (chain / "target").exists()
    capfd.readouterr()
    assert run("list", chain / "days/tuesday.tar", *options) == 0
    listed = capfd.readouterr().out.splitlines()
    assert run("list", chain / "full.tar") == 0
    assert [line for line in capfd.readouterr().out.splitlines() if not line.startswith("etc")] == listed


def test_the_order_of_bases_means_nothing(chain: Path):
    shutil.move(chain / "days/tuesday.tar", chain / "alone")
    for bases in (["full.tar", "days/monday.tar"], ["days/monday.tar", "full.tar"]):
        options = [option for base in bases for option in ("--base", str(chain / base))]
        assert run("verify", chain / "alone", *options) == 0


def test_what_a_backup_does_not_build_on_is_told(chain: Path, fixture_image, capfd):
    other = chain / "other"
    assert run("backup", fixture_image("plain-4k").path, other) == 0
    capfd.readouterr()
    assert run("verify", chain / "days/tuesday.tar", "--base", other, "--base", chain / "full.tar") == 0
    assert last_lines(capfd)[0].endswith("days/tuesday.tar is not based on it")
    assert run("verify", chain / "days/tuesday.tar", "--base", other) == 6
    assert f"not of its chain: {other}" in last_lines(capfd)[0]


def test_a_directory_without_the_chain(chain: Path, capfd):
    (chain / "empty").mkdir()
    capfd.readouterr()
    assert run("verify", chain / "days/tuesday.tar", "--base", chain / "empty") == 6
    assert "missing: number 1" in last_lines(capfd)[0]
    assert run("verify", chain / "days/tuesday.tar", "--base", chain / "nowhere") == 8


def test_what_an_incremental_backup_may_build_on(chain: Path, fixture_image, capfd):
    image, other = fixture_image("sample-encrypted").path, fixture_image("plain-4k").path
    assert run("backup", image, chain / "store", "--format", "dir") == 0
    (chain / "noise").write_bytes(os.urandom(5000))
    cases: list[tuple[list[str | Path], int, str]] = [
        ([other, chain / "new", "--since", chain / "full.tar"], 6, "a backup of file system f70270eb-"),
        ([image, chain / "new", "--since", chain / "missing.tar"], 8, "missing.tar: No such file"),
        ([image, chain / "new", "--since", chain / "store"], 6, "a directory, not an archive"),
        ([image, chain / "new", "--since", chain / "noise"], 6, "noise: "),
        ([image, chain / "full.tar", "--since", chain / "full.tar", "--overwrite"], 8, "it is based on"),
        ([image, chain / "full.tar", "--since", chain / "days/monday.tar", "--overwrite"], 8, "it is based on"),
        ([image, chain / "new", "--since", chain / "full.tar", "--format", "dir"], 2, "--since cannot be used"),
        ([image, chain / "new", "--compress", "zstd", "--format", "dir"], 2, "--compress cannot be used"),
        ([image, "-", "--format", "dir"], 2, "a directory store cannot be written to standard output"),
    ]
    before = (chain / "full.tar").read_bytes()
    for arguments, code, text in cases:
        capfd.readouterr()
        assert run("backup", *arguments) == code, arguments
        assert text in last_lines(capfd)[0]
        assert not (chain / "new").exists()
    assert (chain / "full.tar").read_bytes() == before


def test_the_manifest_alone_will_do(chain: Path, fixture_image):
    """As tar takes it out of an archive on its way to elsewhere."""
    image = fixture_image("sample-encrypted").path
    command = ["tar", "-xOf", str(chain / "full.tar"), ".ext4img/manifest.jsonl"]
    (chain / "manifest").write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    assert run("backup", image, chain / "again.tar", "--since", chain / "manifest") == 0
    assert (chain / "again.tar").read_bytes() == (chain / "days/monday.tar").read_bytes()
