"""Images whose inodes count fewer links than names lead to them: debugfs makes them, the kernel shows one inode."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import ext4img
from ext4img import Archive, backup, rebuild, restore
from ext4img.archiver.collect import TreeScanner
from ext4img.cli.main import main
from tests.archive.test_archive import as_stream
from tools.loop_mount import SBIN, run

SEARCH_PATH = f"{os.environ.get('PATH', '')}:{SBIN}"
needs_e2fsprogs = pytest.mark.skipif(not shutil.which("debugfs", path=SEARCH_PATH), reason="no debugfs")
pytestmark = needs_e2fsprogs
# In two directories, so that no listing of one directory shows more than two of them.
NAMES = ("a/first", "a/second", "z/third", "z/fourth")


def torn_image(directory: Path, links: int, **others: int) -> Path:
    """An image with one file of four names whose inode counts `links` of them; `others` are files of one name."""
    source, image = directory / "source", directory / "torn.img"
    for name in ("a", "z"):
        (source / name).mkdir(parents=True)
    (source / NAMES[0]).write_text("one file")
    for name in others:
        (source / name).write_text(name)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(source), str(image), "8M")
    commands = [f"ln {NAMES[0]} {name}" for name in NAMES[1:]]
    commands += [f"sif {NAMES[0]} links_count {links}", *(f"sif {name} links_count {n}" for name, n in others.items())]
    run("debugfs", "-w", "-f", "-", str(image), stdin="\n".join(commands).encode())
    return image


def one_inode(directory: Path) -> bool:
    found = {os.lstat(directory / name).st_ino for name in NAMES}
    return len(found) == 1


@pytest.mark.parametrize("links", [1, 2, 3])
def test_all_names_stay_one_file(links: int, tmp_path: Path):
    image = torn_image(tmp_path, links)
    with ext4img.open(image) as fs:
        report = backup(fs, tmp_path / "a.tar")
        number = fs.path(f"/{NAMES[0]}").inode.number
        assert [str(problem) for problem in fs.problems] == [
            f"a link count of {links}, but 4 names lead to the inode (inode {number}, ext4_inode.i_links_count)"
        ]
    assert report.members == 8
    with Archive(tmp_path / "a.tar") as archive:
        entries = {os.fsdecode(member.entry.path): member.entry for member in archive}
    assert [name for name in NAMES if not entries[name].is_link] == [NAMES[0]]
    stream = as_stream((tmp_path / "a.tar").read_bytes())
    assert restore(stream, tmp_path / "stream").restored == {"dir": 3, "file": 1, "link": 3}
    assert restore(tmp_path / "a.tar", tmp_path / "file").restored == {"dir": 3, "file": 1, "link": 3}
    assert main(["extract", "-q", str(image), "/", str(tmp_path / "all")]) == 0
    assert main(["extract", "-q", str(image), *(f"/{name}" for name in ("a", "z")), str(tmp_path / "parts")]) == 0
    for target in ("stream", "file", "all", "parts"):
        assert one_inode(tmp_path / target), target


def test_a_count_of_zero_is_an_inode_that_is_not_in_use(tmp_path: Path):
    """The kernel refuses it with EUCLEAN, and e2fsck clears its names: each is reported, none is kept."""
    image = torn_image(tmp_path, 0)
    with ext4img.open(image, checks="report") as fs:
        report = backup(fs, tmp_path / "a.tar")
        told = [str(problem) for problem in fs.problems]
    assert report.members == 4
    assert [name for name in NAMES if any(name in line for line in told)] == list(NAMES)


@pytest.mark.parametrize("links", [1, 3])
def test_new_images(links: int, tmp_path: Path):
    """Their link counts are right."""
    image = torn_image(tmp_path, links)
    with ext4img.open(image, checks="report") as fs:
        backup(fs, tmp_path / "a.tar")
    rebuild(tmp_path / "a.tar", tmp_path / "b.img")
    with ext4img.open(image, checks="report") as fs:
        rebuild(fs, tmp_path / "c.img")
    for made in ("b.img", "c.img"):
        run("e2fsck", "-fn", str(tmp_path / made))
        with ext4img.open(tmp_path / made) as fs:
            assert len({fs.path(f"/{name}").inode.number for name in NAMES}) == 1
            assert fs.path(f"/{NAMES[0]}").inode.links == len(NAMES)


def test_parts_of_a_tree(tmp_path: Path):
    """Only the names that are selected count."""
    image = torn_image(tmp_path, 1)
    with ext4img.open(image) as fs:
        for only, names in ((NAMES[1:2], 1), (NAMES[:1] + NAMES[3:], 2), (("z",), 2), (("z", *NAMES), 4)):
            entries = [entry for entry, _ in TreeScanner(fs, only).entries() if entry.type == "file"]
            assert [entry.is_link for entry in entries] == [False] + [True] * (names - 1)
            assert entries[0].links == max(names, 1)


def test_a_higher_count_changes_nothing(tmp_path: Path):
    image = torn_image(tmp_path, 9)
    with ext4img.open(image) as fs:
        entries = [entry for entry, _ in TreeScanner(fs).entries() if entry.type == "file"]
        assert {entry.links for entry in entries} == {9}
        assert not fs.problems
