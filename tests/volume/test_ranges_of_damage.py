"""Output that does not grow with damage: one problem for a range, however many blocks it has."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import ext4img
from ext4img.cli.few_of_each import few_of_each
from ext4img.cli.main import main
from ext4img.errors import CorruptionError, Place
from ext4img.sources import BytesSource
from ext4img.volume.problems import Problem, Problems
from tests.conftest import UnpackedImage
from tests.faulty_source import FaultySource
from tools.loop_mount import run

Fixture = Callable[[str], UnpackedImage]
FILE_BYTES, LOST_BYTES = 6 << 20, 4 << 20


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that is cut short within the only file, 4 MiB before its end."""
    path = tmp_path_factory.mktemp("cut") / "image"
    run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-O", "^has_journal,^resize_inode", "-F", path, "16M")
    (path.parent / "tail").write_bytes(b"tail" * (FILE_BYTES // 4))
    run("debugfs", "-w", "-R", f"write {path.parent / 'tail'} tail", path)
    block = int(run("debugfs", "-R", f"bmap tail {(FILE_BYTES - LOST_BYTES) // 1024}", path))
    with path.open("r+b") as file:
        file.truncate(block * 1024)
    return path


def test_a_file_of_a_cut_image(cut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    lost = f"contents from byte {FILE_BYTES - LOST_BYTES} to {FILE_BYTES} cannot be read"
    for words in (["backup", "ARCHIVE"], ["copy", "copy"], ["extract", "/", "out"], ["cat", "/tail"]):
        targets = [str(tmp_path / word) if word in ("ARCHIVE", "copy", "out") else word for word in words[1:]]
        assert main([words[0], "--checks", "report", str(cut), *targets]) == 1
        told = [line for line in capfd.readouterr().err.splitlines() if "contents" in line]
        assert [lost in line for line in told] == [True], words
    assert main(["check", "--contents", str(cut)]) == 4
    told = [line for line in capfd.readouterr().out.splitlines() if "contents from" in line]
    assert [lost in line for line in told] == [True]
    with closing(ext4img.open_backup(tmp_path / "ARCHIVE")) as backup:
        unreadable = {member.entry.path: member.unreadable for member in backup.members() if member.unreadable}
    assert unreadable == {b"tail": ((FILE_BYTES - LOST_BYTES, LOST_BYTES),)}


def test_bad_sectors_one_after_the_other(fixture_image: Fixture):
    """Each block is one read error; the file is read in small pieces, and twice."""
    data = fixture_image("plain-4k").path.read_bytes()
    with ext4img.open(data) as fs:
        path, inode, run_of_many = next(
            (path, inode, found)
            for path, inode in fs.walk()
            if inode.is_file
            for found in inode.runs()
            if found.length > 8 and not found.state and not found.lblk
        )
        first = run_of_many.pblk * 4096
    source = FaultySource(BytesSource(data), [(first + at * 4096, first + at * 4096 + 512) for at in range(1, 7)])
    with ext4img.open(source, checks="report") as fs:
        for _ in range(2):
            with fs.path(path).open("rb") as file:
                for offset in range(0, 8 * 4096, 4096):
                    file.pread(offset, 4096)
        (problem,) = fs.problems
    assert problem.reason.startswith("contents from byte 4096 to 28672 cannot be read: Input/output error")
    assert problem.place == Place(inode.number, run_of_many.pblk + 1, first + 4096)


def test_ranges_of_one_inode_are_joined_and_no_others():
    problems = Problems("report")
    for number, first, end in ((1, 0, 2), (2, 2, 4), (1, 2, 4), (1, 1, 3), (1, 6, 8), (2, 4, 5), (1, 8, 9)):
        problems.found_range("blocks", "are lost", first, end, Place(number))
    assert [str(problem) for problem in problems] == [
        "blocks 0 to 4 are lost (inode 1)",
        "blocks 2 to 5 are lost (inode 2)",
        "blocks 6 to 9 are lost (inode 1)",
    ]
    assert problems.damage == 7
    with pytest.raises(CorruptionError, match="blocks 3 to 4 are lost"):
        Problems("strict").found_range("blocks", "are lost", 3, 4, Place(1))


def test_few_of_each_kind():
    many = [Problem(f"name {f'n{at}'!r} has {at} bytes", Place(at)) for at in range(30)]
    other = Problem("something else", Place(1))
    told = list(few_of_each([*many[:20], other, *many[20:]], 10))
    assert told[:11] == [*many[:10], other]
    assert [str(more) for more in told[11:]] == [f"20 more like this: {many[0]}"]


def test_names_of_unused_inodes_are_few_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    image = tmp_path / "image"
    run("mke2fs", "-q", "-t", "ext2", "-b", "1024", "-F", image, "8M")
    commands = "".join(f"ln <100> ghost{at}\n" for at in range(12))
    run("debugfs", "-w", "-f", "-", image, stdin=commands.encode())
    assert main(["backup", "-q", "--checks", "report", str(image), str(tmp_path / "archive")]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len([line for line in lines if re.search("warning: 'ghost[0-9]+' names inode 100", line)]) == 10
    assert len([line for line in lines if "2 more like this: 'ghost" in line]) == 1
