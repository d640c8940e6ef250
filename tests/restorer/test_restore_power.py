"""A name promises contents that are on the disk, whenever the power goes; and `resume` may believe it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ext4img import restore
from ext4img.errors import RestoreError
from ext4img.hostfs import safe_dir
from ext4img.hostfs.rename import rename_new
from ext4img.hostfs.sync import sync_file_system
from ext4img.restorer import commit_queue
from tests.archive.synthetic import Tree
from tests.archive.test_archive import as_file
from tests.restorer.test_restore import contents
from tools.loop_mount import loop_mounted


def many_files(count: int = 60, size: int = 5000) -> Tree:
    tree = Tree()
    for number in range(count):
        if number % 10 == 0:
            directory = b"d%03d" % number
            tree.add(directory, "dir", mode=0o555)
        body = (b"%d " % number * size)[:size]
        first = tree.add(directory + b"/f%03d" % number, "file", body, links=2 if number % 7 == 0 else 1)
        if number % 7 == 0:
            tree.add_link(directory + b"/z%03d" % number, first)
            tree.plain[directory + b"/z%03d" % number] = body
        tree.add(directory + b"/s%03d" % number, "symlink", link_target=b"x")
    return tree


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_queue, "BATCH_NAMES", 13)


@pytest.mark.usefixtures("small_batches")
def test_each_name_comes_after_a_sync_that_came_after_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "t"
    synchronised: set[int] = set()
    syncs = named = 0

    def sync(fd: int, path: str) -> None:
        nonlocal syncs
        syncs += 1
        complete = set()
        for where, _, names in os.walk(target):
            for name in names:
                status = os.lstat(os.path.join(where, name))
                if status.st_mtime_ns == tree.members[1][0].mtime_ns:  # the last thing that a file gets
                    complete.add(status.st_ino)
        synchronised.update(complete)

    def rename(name: bytes, here: int, new_name: bytes, there: int) -> None:
        nonlocal named
        named += 1
        assert os.stat(name, dir_fd=here, follow_symlinks=False).st_ino in synchronised
        rename_new(name, here, new_name, there)

    monkeypatch.setattr(commit_queue, "sync_file_system", sync)
    monkeypatch.setattr(safe_dir, "rename_new", rename)
    tree = many_files()
    assert restore(as_file(tree.archive()), target).complete
    assert named == 60 + 9 + 60
    assert syncs >= named // 13
    for path, body in tree.plain.items():
        assert contents(target, path) == body
    assert not [name for _, _, names in os.walk(target) for name in names if "partial" in name]
    assert os.stat(target / "d000").st_mtime_ns == tree.members[1][0].mtime_ns
    assert os.stat(target / "d000").st_mode & 0o777 == 0o555


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("allowed", [0, 1, 4])
def test_a_disk_that_does_not_take_it(allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What may not be on the disk never gets a name, and nothing is left of it."""
    calls = 0

    def sync(fd: int, path: str) -> None:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise RestoreError("it could not be written out: Input/output error", path)
        sync_file_system(fd, path)

    monkeypatch.setattr(commit_queue, "sync_file_system", sync)
    tree = many_files()
    with pytest.raises(RestoreError, match="Input/output error"):
        restore(as_file(tree.archive()), tmp_path / "t")
    found = [os.path.join(where, name) for where, _, names in os.walk(tmp_path / "t") for name in names]
    assert len(found) <= allowed * 13
    for path in found:
        relative = os.fsencode(os.path.relpath(path, tmp_path / "t"))
        assert contents(tmp_path / "t", relative) == tree.plain[relative]


@pytest.mark.usefixtures("small_batches")
def test_an_interrupt_loses_nothing_that_is_whole(tmp_path: Path):
    data = many_files().archive()
    seen = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal seen
        seen += 1
        if seen == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(as_file(data), tmp_path / "t", progress=progress)
    found = [name for _, _, names in os.walk(tmp_path / "t") for name in names]
    assert len(found) > 40
    assert not [name for name in found if "partial" in name]
    report = restore(as_file(data), tmp_path / "t", resume=True)
    assert report.complete
    assert report.kept == len(found)


@pytest.mark.kernel
@pytest.mark.usefixtures("small_batches")
def test_power_cuts(tmp_path: Path):
    """The target's disk is copied while the restore runs, as it would be after a power cut at that moment."""
    image = tmp_path / "disk.img"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", str(image), "64M"], check=True)
    tree = many_files(size=30_000)
    data = tree.archive()
    copies: list[Path] = []
    seen = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal seen
        seen += 1
        if seen % 12 == 0:
            copies.append(tmp_path / f"{len(copies)}.img")
            subprocess.run(["cp", "--sparse=always", str(image), str(copies[-1])], check=True)

    with loop_mounted(image, "rw,noatime") as mount:
        assert restore(as_file(data), os.path.join(mount, "t"), progress=progress).complete
        copies.append(tmp_path / "done.img")
        shutil.copyfile(image, copies[-1])
    counts = []
    for copy in copies:
        with loop_mounted(copy, "rw,noatime") as mount:
            target = Path(mount, "t")
            named = 0
            for where, _, names in os.walk(target) if target.exists() else ():
                for name in names:
                    path = os.fsencode(os.path.relpath(os.path.join(where, name), target))
                    if b".partial" in path:
                        continue
                    named += 1
                    assert contents(target, path) == tree.plain[path], (copy.name, path)
            counts.append(named)
            report: Any = restore(as_file(data), target, resume=True)
            assert report.complete
            assert report.kept == named
            for path, body in tree.plain.items():
                assert contents(target, path) == body
            found = [name for _, _, names in os.walk(target) for name in names]
            assert len(found) == len(tree.plain)
    assert counts[-1] == len(tree.plain)
    assert 0 < sorted(counts)[len(counts) // 2] < len(tree.plain)
