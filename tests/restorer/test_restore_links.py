"""Hard links of a backup that lie about the file they are a name of."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from ext4img import restore
from ext4img.archive.entry import MODE_OF_TYPE, Entry
from ext4img.errors import ArchiveError, UnsafeArchiveError
from ext4img.hostfs.safe_dir import SafeDir
from ext4img.restorer import commit_queue
from ext4img.restorer.member_writer import MemberWriter
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.restorer import Restorer
from ext4img.restorer.target_dir import TargetDir
from tests.archive.enemy import EnemyArchive
from tests.archive.synthetic import Tree
from tests.archive.test_archive import as_file, as_stream

both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])


@both
@pytest.mark.parametrize("kind", ["symlink", "fifo", "socket", "char"])
def test_of_another_type(kind: str, opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    archive = EnemyArchive().root()
    archive.add(b"first", data=b"x", inode=51, links=2)
    archive.link(b"second", b"first", inode=51, links=2, kind=kind)
    with pytest.raises(ArchiveError) as caught:
        restore(opened(archive.bytes()), tmp_path / "t", devices=True)
    assert caught.value.member == "second"
    assert not os.path.lexists(tmp_path / "t/second")


@dataclass
class MadeUp:
    """A member that has seen no reader."""

    entry: Entry
    position: int = 0
    data_size: int = 0

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        return iter(())


@pytest.mark.parametrize(("inode", "kind"), [(13, "file"), (12, "symlink")])
def test_the_restorer_looks_for_itself(inode: int, kind: str, tmp_path: Path):
    """It need not have been an archive that is read in order."""
    root = Entry(b".", "dir", MODE_OF_TYPE["dir"] | 0o755, inode=2)
    first = Entry(b"first", "file", MODE_OF_TYPE["file"] | 0o644, inode=12, links=2)
    link = Entry(b"second", kind, MODE_OF_TYPE[kind], inode=inode, links=2, is_link=True, link_target=b"first")
    with TargetDir(tmp_path / "t") as target:
        options, report = RestoreOptions(), RestoreReport()
        restorer = Restorer(MemberWriter(target, options, report), None, options, report)
        with pytest.raises(UnsafeArchiveError, match=f"'second': a hard link of a {kind}, inode {inode}"):
            restorer.run(map(MadeUp, (root, first, link)), None)
    assert os.listdir(tmp_path / "t") == ["first"]


def test_sound_ones_of_every_type(tmp_path: Path):
    tree = Tree()
    for kind, facts in (("fifo", {}), ("symlink", {"link_target": b"nowhere"}), ("socket", {}), ("file", {})):
        first = tree.add(kind.encode(), kind, links=2, **facts)
        tree.add_link(b"z" + kind.encode(), first)
    report = restore(io.BytesIO(tree.archive()), tmp_path / "t")
    assert report.complete, report.problems
    assert report.restored["link"] == 4
    for kind in ("fifo", "symlink", "socket", "file"):
        assert os.lstat(tmp_path / "t" / kind).st_ino == os.lstat(tmp_path / "t" / f"z{kind}").st_ino


def linked_tree() -> Tree:
    tree = Tree()
    first = tree.add(b"a", "file", b"of three names", links=3)
    tree.add_link(b"y", first)
    tree.add_link(b"z", first)
    return tree


@both
@pytest.mark.parametrize("dry_run", [False, True])
def test_no_name_of_a_damaged_file_is_counted(opened: Callable[[bytes], BinaryIO], dry_run: bool, tmp_path: Path):
    """Of a stream they were made, and are removed again."""
    data = bytearray(linked_tree().archive())
    data[data.index(b"of three names")] ^= 1
    report = restore(opened(bytes(data)), tmp_path / "t", dry_run=dry_run)
    assert report.restored == {}
    assert report.left_out == 3
    assert not dry_run or not (tmp_path / "t").exists()
    assert dry_run or os.listdir(tmp_path / "t") == []


def test_a_further_name_is_not_linked_to_one_that_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first name turns out to be impossible when the disk has the file, and further names come later."""
    monkeypatch.setattr(commit_queue, "BATCH_NAMES", 1)
    real = SafeDir.rename

    def refuse(self: SafeDir, temporary: bytes, name: bytes, overwrite: bool) -> None:
        if name == b"a":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        real(self, temporary, name, overwrite)

    monkeypatch.setattr(SafeDir, "rename", refuse)
    tree = Tree()
    first = tree.add(b"a", "file", b"of three names", links=3)
    for number in range(4):
        tree.add(b"between%d" % number, "file", b"x")
    tree.add_link(b"y", first)
    tree.add_link(b"z", first)
    report = restore(as_file(tree.archive()), tmp_path / "t")
    assert sorted(os.listdir(tmp_path / "t")) == [*(f"between{number}" for number in range(4)), "y", "z"]
    assert os.path.samefile(tmp_path / "t/y", tmp_path / "t/z")
    assert report.restored == {"file": 5, "link": 1}
    assert [str(problem) for problem in report.problems] == [
        "'a': it cannot be restored: Operation not permitted",
    ]
