"""Immutable and append-only files through restore and extract: chattr sets the flags, lsattr is the judge."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ext4img.cli.main import main
from tools.loop_mount import loop_mounted, run

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="only root may set the flags")]

NOBODY = 65534
FLAGS = {"fixed": "i", "log": "a", "closed": "i", "closed/below": "i"}


def cli(*arguments: str | Path) -> int:
    return main([os.fspath(argument) for argument in arguments])


def flags_of(path: Path) -> set[str]:
    """Those of the two flags that lsattr shows."""
    shown = run("lsattr", "-d", path).split()[0].decode()
    return set(shown) & {"i", "a"}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory whose file system takes the flags; without any in the end, so that it can be removed."""
    probe = tmp_path / "probe"
    probe.write_bytes(b"")
    if subprocess.run(["chattr", "+i", str(probe)], capture_output=True, check=False).returncode:
        pytest.skip("no immutable files here")
    yield tmp_path
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(tmp_path)], capture_output=True, check=False)


@pytest.fixture
def image(directory: Path) -> Path:
    """A file system in which the kernel made such files."""
    path = directory / "disk.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", path, "16M")
    with loop_mounted(path, "rw") as mount:
        for name in ("fixed", "log", "closed/below/file"):
            (Path(mount) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(mount) / name).write_text(name, encoding="ascii")
        os.link(Path(mount) / "fixed", Path(mount) / "second-name")
        for name in reversed(FLAGS):
            run("chattr", f"+{FLAGS[name]}", Path(mount) / name)
    return path


@pytest.mark.parametrize("command", ["extract", "restore", "restore a stream"])
def test_the_flags_are_set(command: str, image: Path, directory: Path):
    target, backup = directory / "out", directory / "backup.tar"
    assert cli("backup", image, backup) == 0
    if command == "extract":
        assert cli("extract", image, "/", target) == 0
    elif command == "restore":
        assert cli("restore", backup, target) == 0
    else:
        run("zstd", "-q", backup)
        assert cli("restore", f"{backup}.zst", target) == 0
    assert {name: flags_of(target / name) for name in FLAGS} == {name: {flag} for name, flag in FLAGS.items()}
    assert (target / "second-name").samefile(target / "fixed")
    assert not flags_of(target) | flags_of(target / "closed/below/file")


def test_of_the_root_too(image: Path, directory: Path):
    with loop_mounted(image, "rw") as mount:
        run("chattr", "+i", mount)
    assert cli("extract", image, "/", directory / "extracted") == 0
    assert cli("backup", image, directory / "backup.tar") == 0
    assert cli("restore", directory / "backup.tar", directory / "restored") == 0
    assert flags_of(directory / "extracted") == flags_of(directory / "restored") == {"i"}


def test_one_directory_of_an_image(image: Path, directory: Path):
    """The target itself is not part of what is extracted, and keeps its attributes."""
    assert cli("extract", image, "/closed", directory / "out") == 0
    assert flags_of(directory / "out/closed") == flags_of(directory / "out/closed/below") == {"i"}
    assert not flags_of(directory / "out")


@pytest.mark.parametrize("command", ["extract", "restore"])
def test_an_ordinary_user_is_told_and_it_is_no_failure(command: str, image: Path, directory: Path):
    """docs/cli.md, "What could not be set": inode flags are for root, and the exit code stays 0."""
    source = image
    if command == "restore":
        source = directory / "backup.tar"
        assert cli("backup", image, source) == 0
    (directory / "of-nobody").mkdir()
    os.chown(directory / "of-nobody", NOBODY, NOBODY)
    source.chmod(0o644)
    paths = ["/fixed", "/log"] if command == "extract" else []
    only = [] if command == "extract" else ["--only", "fixed", "--only", "log"]
    arguments = [command, "-q", source.name, *paths, "of-nobody/out", *only]
    assert cli(*arguments, *(["--overwrite"] if command == "extract" else ["--dry-run"])) == 0  # imports all modules
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", "of-nobody"], check=False)
    subprocess.run(["rm", "-rf", "of-nobody/out"], check=True)
    code, said = as_nobody(arguments)
    assert code == 0, said
    assert "only root may set" in said
    assert "flag i (immutable) (1)" in said
    assert "flag a (append only) (1)" in said
    assert sorted(os.listdir("of-nobody/out")) == ["fixed", "log"]
    assert not flags_of(directory / "of-nobody/out/fixed")


@pytest.fixture(autouse=True)
def in_the_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user can reach it as the working directory, though not by its path."""
    directory.chmod(0o755)
    monkeypatch.chdir(directory)


def as_nobody(arguments: list[str]) -> tuple[int, str]:
    """A command's exit code and standard error in a process of an ordinary user."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            os.close(read)
            sys.stderr = open(write, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            code = main(arguments)
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said
