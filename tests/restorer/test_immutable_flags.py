"""Immutable and append-only files: their further names, their move into place, and a second restore."""

from __future__ import annotations

import array
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from ext4img import restore
from ext4img.hostfs.ioctl import FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
from ext4img.structs.inode import EXT4_APPEND_FL, EXT4_IMMUTABLE_FL
from tests.archive.synthetic import Tree
from tests.archive.test_archive import as_file, as_stream

both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
LOCKS = EXT4_IMMUTABLE_FL | EXT4_APPEND_FL


def flags_of(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        value = array.array("i", [0])
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, value)
        return value[0]
    finally:
        os.close(fd)


def set_flags(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, array.array("i", [flags]))
    finally:
        os.close(fd)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that takes the flags, of which none is left afterwards."""
    probe = tmp_path / "probe"
    probe.write_bytes(b"")
    try:
        before = flags_of(probe)
        set_flags(probe, before | EXT4_IMMUTABLE_FL)
        set_flags(probe, before)
    except OSError as error:
        pytest.skip(f"no immutable files here: {error.strerror}")
    yield tmp_path / "target"
    for folder, _, files in os.walk(tmp_path):
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            flags = flags_of(path)
            if flags & LOCKS:
                set_flags(path, flags & ~LOCKS)


def locked_tree() -> Tree:
    tree = Tree()
    first = tree.add(b"appended", "file", b"log", flags=EXT4_APPEND_FL, links=2)
    tree.add_link(b"later", first)
    tree.add(b"locked", "dir", flags=EXT4_IMMUTABLE_FL)
    tree.add(b"locked/below", "dir", flags=EXT4_IMMUTABLE_FL)
    first = tree.add(b"locked/first", "file", b"fixed", flags=EXT4_IMMUTABLE_FL, links=2)
    tree.add_link(b"locked/second", first)
    return tree


def assert_as_it_was(target: Path) -> None:
    assert sorted(os.listdir(target)) == ["appended", "later", "locked"]
    assert sorted(os.listdir(target / "locked")) == ["below", "first", "second"]
    assert (target / "appended").stat().st_ino == (target / "later").stat().st_ino
    assert (target / "locked/first").stat().st_ino == (target / "locked/second").stat().st_ino
    assert (target / "locked/second").read_bytes() == b"fixed"
    assert flags_of(target / "later") & LOCKS == EXT4_APPEND_FL
    for path in ("locked", "locked/below", "locked/first"):
        assert flags_of(target / path) & LOCKS == EXT4_IMMUTABLE_FL


@both
def test_further_names_of_locked_files(opened: Callable[[bytes], BinaryIO], target: Path):
    report = restore(opened(locked_tree().archive()), target)
    assert report.complete, report.problems
    assert_as_it_was(target)


@both
def test_into_directories_that_are_there(opened: Callable[[bytes], BinaryIO], target: Path):
    (target / "locked").mkdir(parents=True)
    report = restore(opened(locked_tree().archive()), target, overwrite=True)
    assert report.complete, report.problems
    if opened is as_file:
        assert_as_it_was(target)


def test_resumed(target: Path):
    tree = locked_tree()
    restore(as_file(tree.archive()), target)
    for path in ("appended", "locked", "locked/below", "locked/first"):  # as if it was killed before the end
        set_flags(target / path, flags_of(target / path) & ~LOCKS)
    (target / "later").unlink()
    report = restore(as_file(tree.archive()), target, resume=True)
    assert report.complete, report.problems
    assert_as_it_was(target)


@both
def test_resumed_before_the_locks(opened: Callable[[bytes], BinaryIO], target: Path):
    """Killed when all had its name, and before anything was locked."""
    tree = Tree()
    tree.add(b"fixed", "file", b"fixed", flags=EXT4_IMMUTABLE_FL)
    archive = tree.archive()
    assert restore(opened(archive), target).complete
    set_flags(target / "fixed", flags_of(target / "fixed") & ~LOCKS)
    report = restore(opened(archive), target, resume=True)
    assert report.complete, report.problems
    assert report.kept == 1
    assert flags_of(target / "fixed") & LOCKS == EXT4_IMMUTABLE_FL


@both
def test_resumed_when_all_was_done(opened: Callable[[bytes], BinaryIO], target: Path):
    """Killed behind the last lock: a directory that takes nothing more has all that it needs."""
    tree = Tree()
    tree.add(b"locked", "dir", flags=EXT4_IMMUTABLE_FL)
    tree.add(b"locked/below", "dir", flags=EXT4_IMMUTABLE_FL)
    tree.add(b"locked/first", "file", b"fixed", flags=EXT4_IMMUTABLE_FL)
    archive = tree.archive()
    assert restore(opened(archive), target).complete
    report = restore(opened(archive), target, resume=True)
    assert report.complete, report.problems
    if os.geteuid() == 0:
        assert not report.not_set
    assert report.kept == 1
    assert flags_of(target / "locked") & LOCKS == EXT4_IMMUTABLE_FL


@both
def test_what_is_locked_and_in_the_way_is_left_out(opened: Callable[[bytes], BinaryIO], target: Path):
    """It does not keep the rest away, whatever way the archive comes."""
    tree = Tree()
    for name in (b"a", b"b", b"c"):
        tree.add(name, "file", b"new")
    tree.add(b"closed", "dir")
    tree.add(b"closed/f", "file", b"new")
    (target / "closed").mkdir(parents=True)
    (target / "b").write_bytes(b"old")
    set_flags(target / "b", flags_of(target / "b") | EXT4_IMMUTABLE_FL)
    set_flags(target / "closed", flags_of(target / "closed") | EXT4_IMMUTABLE_FL)
    report = restore(opened(tree.archive()), target, overwrite=True)
    assert report.left_out == 2
    assert {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()} == {
        "a": b"new",
        "b": b"old",
        "c": b"new",
    }
    assert sorted(os.listdir(target)) == ["a", "b", "c", "closed"]


def test_a_directory_named_like_a_temporary_file_does_not_hinder_resuming(tmp_path: Path):
    tree = Tree()
    tree.add(b".ext4img-00000000-1.partial", "dir")
    tree.add(b".ext4img-00000000-1.partial/file", "file", b"x")
    restore(as_file(tree.archive()), tmp_path / "t")
    assert restore(as_file(tree.archive()), tmp_path / "t", resume=True).complete
    assert (tmp_path / "t/.ext4img-00000000-1.partial/file").read_bytes() == b"x"
