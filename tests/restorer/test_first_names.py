"""Whatever happens to the first name of a file, the next one takes its place."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ext4img import restore
from ext4img.hostfs.safe_dir import SafeDir
from ext4img.restorer import commit_queue
from ext4img.restorer.report import RestoreReport
from tests.archive.synthetic import TIMES, Tree
from tests.archive.test_archive import as_file, as_stream
from tests.restorer.users import NOBODY, as_nobody, of_nobody
from tools.loop_mount import run

__all__ = ["of_nobody"]

Opened = Callable[[bytes], BinaryIO]
both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])


def linked_tree(kind: str = "file", **facts: Any) -> Tree:
    """A file of four names in four directories."""
    tree = Tree()
    for name in (b"a", b"b", b"c", b"d"):
        tree.add(name, "dir")
    first = tree.add(b"a/1", kind, *([b"four names"] if kind == "file" else []), links=4, **facts)
    for name in (b"b/2", b"c/3", b"d/4"):
        tree.add_link(name, first)
    return tree


def names_in(target: Path) -> set[str]:
    """Those of the four that are there; all are one file."""
    found = {name for name in ("a/1", "b/2", "c/3", "d/4") if (target / name).is_file()}
    assert len({os.lstat(target / name).st_ino for name in found}) == 1
    assert {(target / name).read_bytes() for name in found} == {b"four names"}
    return found


def restored(opened: Opened, target: Path, **options: Any) -> RestoreReport:
    """What is reported, which a dry run says beforehand."""
    data = linked_tree().archive()
    said = restore(opened(data), target, dry_run=True, **options)
    report = restore(opened(data), target, **options)
    assert (said.restored, said.kept, said.left_out) == (report.restored, report.kept, report.left_out)
    assert sorted(map(str, said.problems)) == sorted(map(str, report.problems))  # names are refused batch by batch
    return report


@pytest.mark.parametrize(
    ("opened", "batch"),
    [(as_file, 1), (as_file, commit_queue.BATCH_NAMES), (as_stream, 0)],
    ids=["1", "8192", "stream"],
)
@pytest.mark.parametrize("taken", [("a",), ("a/1",), ("a", "b/2"), ("b/2", "d"), ("a/1", "b", "c/3")])
def test_something_in_the_way(
    taken: tuple[str, ...], opened: Opened, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of the directory, or of the name itself."""
    monkeypatch.setattr(commit_queue, "BATCH_NAMES", batch)
    target = tmp_path / "t"
    for name in taken:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "/" in name:
            path.mkdir()
        else:
            path.write_text("in the way")
    report = restored(opened, target)
    lost = {name for name in ("a/1", "b/2", "c/3", "d/4") if name in taken or name[0] in taken}
    assert names_in(target) == {"a/1", "b/2", "c/3", "d/4"} - lost
    links = {"link": 3 - len(lost)} if len(lost) < 3 else {}
    assert report.restored == {"dir": 4 - sum(len(name) == 1 for name in taken), "file": 1, **links}
    assert report.left_out == len(lost) + sum(len(name) == 1 for name in taken)


@both
def test_a_newer_file_is_kept(opened: Opened, tmp_path: Path):
    (tmp_path / "t/a").mkdir(parents=True)
    (tmp_path / "t/a/1").write_text("newer")
    report = restore(opened(linked_tree().archive()), tmp_path / "t", overwrite="if-newer")
    assert (report.kept, report.restored) == (1, {"dir": 4, "file": 1, "link": 2})
    assert (tmp_path / "t/a/1").read_text() == "newer"
    (tmp_path / "t/a/1").unlink()
    assert names_in(tmp_path / "t") == {"b/2", "c/3", "d/4"}


@both
@pytest.mark.parametrize("only", [["b/2", "d/4"], ["b", "c", "d"], ["d/4"], ["a/1"]])
def test_parts_of_an_archive(only: list[str], opened: Opened, tmp_path: Path):
    report = restored(opened, tmp_path / "t", only=only)
    wanted = {name for name in ("a/1", "b/2", "c/3", "d/4") if name in only or name[0] in only}
    assert names_in(tmp_path / "t") == wanted
    links = {"link": len(wanted) - 1} if len(wanted) > 1 else {}
    assert report.restored == {"dir": len(wanted), "file": 1, **links}
    assert report.complete
    assert sorted(os.listdir(tmp_path / "t")) == sorted({name[0] for name in wanted})


@pytest.mark.parametrize("kind", ["symlink", "fifo", "socket", "char"])
@both
def test_files_of_every_type(kind: str, opened: Opened, tmp_path: Path):
    facts_of: dict[str, dict[str, Any]] = {"symlink": {"link_target": b"nowhere"}, "char": {"rdev": (1, 3)}}
    facts = facts_of.get(kind, {})
    data = linked_tree(kind, **facts).archive()
    report = restore(opened(data), tmp_path / "t", only=["c", "d"], devices=True)
    assert report.restored == {"dir": 2, kind: 1, "link": 1}
    assert os.lstat(tmp_path / "t/c/3").st_ino == os.lstat(tmp_path / "t/d/4").st_ino


@both
def test_a_damaged_file_that_is_wanted_under_another_name(opened: Opened, tmp_path: Path):
    data = bytearray(linked_tree().archive())
    data[data.index(b"four names")] ^= 1
    for dry_run in (True, False):
        report = restore(opened(bytes(data)), tmp_path / "t", only=["c", "d"], dry_run=dry_run)
        assert (report.restored, report.left_out) == ({"dir": 2}, 2)
    assert os.listdir(tmp_path / "t/c") == os.listdir(tmp_path / "t/d") == []
    assert sorted(os.listdir(tmp_path / "t")) == ["c", "d"]


@pytest.mark.parametrize("torn", [("a/1",), ("b/2", "d/4"), ("a/1", "b/2", "c/3")])
def test_a_torn_group_is_mended(torn: tuple[str, ...], tmp_path: Path):
    """Each of these has become a file of its own."""
    target = tmp_path / "t"
    restore(as_file(linked_tree().archive()), target)
    for name in torn:
        (target / name).unlink()
        (target / name).write_bytes(b"four names")
        os.utime(target / name, ns=(TIMES["atime_ns"], TIMES["mtime_ns"]))
    report = restored(as_file, target, resume=True)
    assert report.complete
    assert names_in(target) == {"a/1", "b/2", "c/3", "d/4"}


def test_other_files_are_not_taken_for_torn_ones(tmp_path: Path):
    target = tmp_path / "t"
    restore(as_file(linked_tree().archive()), target)
    for name, data in (("b/2", b"longer contents"), ("c/3", b"four names")):
        (target / name).unlink()
        (target / name).write_bytes(data)
    report = restored(as_file, target, resume=True)
    assert [str(problem) for problem in report.problems] == [
        "'b/2': it is there already",
        "'c/3': it is there already",
    ]
    assert (target / "b/2").read_bytes() == b"longer contents"


@pytest.mark.parametrize("code", [errno.EMLINK, errno.EXDEV, errno.EPERM])
def test_where_no_link_can_be_made(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names become files of their own, and that is counted."""
    real = SafeDir.link

    def link(self: SafeDir, names: tuple[bytes, ...], identity: tuple[int, int], new_name: bytes) -> None:
        if self.names() == (b"c",):
            raise OSError(code, os.strerror(code))
        real(self, names, identity, new_name)

    monkeypatch.setattr(SafeDir, "link", link)
    report = restore(as_file(linked_tree().archive()), tmp_path / "t")
    assert report.restored == {"dir": 4, "file": 2, "link": 2}
    assert report.not_set == {"hard link": 1}
    assert (tmp_path / "t/c/3").read_bytes() == b"four names"
    assert os.path.samefile(tmp_path / "t/c/3", tmp_path / "t/d/4")


@pytest.mark.kernel
def test_another_file_system_below_the_target(tmp_path: Path):
    target = tmp_path / "t"
    (target / "c").mkdir(parents=True)
    run("mount", "-t", "tmpfs", "none", target / "c")
    try:
        report = restore(as_file(linked_tree().archive()), target)
        assert report.complete
        assert report.not_set["hard link"] >= 1
        assert {(target / name).read_bytes() for name in ("a/1", "b/2", "c/3", "d/4")} == {b"four names"}
    finally:
        run("umount", target / "c")


def test_resumed_by_a_user_who_may_not_enter_the_first_directory(of_nobody: Path):
    data = linked_tree().archive()
    with as_nobody():
        restore(as_file(data), of_nobody)
    (of_nobody / "d/4").unlink()
    os.chown(of_nobody / "a", 0, 0)
    os.chmod(of_nobody / "a", 0o700)
    with as_nobody():
        report = restore(as_file(data), of_nobody, resume=True)
    assert (report.kept, report.restored) == (2, {"dir": 3, "link": 1})
    assert report.left_out == 2
    assert names_in(of_nobody) == {"a/1", "b/2", "c/3", "d/4"}


@both
@pytest.mark.parametrize("mode", [0, 0o111, 0o555])
def test_directories_that_are_closed_to_their_owner(mode: int, opened: Opened, of_nobody: Path, monkeypatch):
    """The first name is in one of them, and they are entered again: by --resume, and to link further names."""
    monkeypatch.setattr(commit_queue, "BATCH_NAMES", 1)
    tree = linked_tree()
    members = []
    for entry, body in tree.members:
        closed = entry.type == "dir" and entry.path != b"."
        new_mode = entry.mode & ~0o777 | mode if closed else entry.mode
        members.append((entry._replace(mode=new_mode, uid=NOBODY, gid=NOBODY), body))
    tree.members = members
    data = tree.archive()
    with as_nobody():
        first = restore(opened(data), of_nobody)
    assert (first.restored, first.not_set) == ({"dir": 4, "file": 1, "link": 3}, {})
    assert names_in(of_nobody) == {"a/1", "b/2", "c/3", "d/4"}
    (of_nobody / "c/3").unlink()
    with as_nobody():
        again = restore(opened(data), of_nobody, resume=True)
    assert again.complete, again.problems
    assert names_in(of_nobody) == {"a/1", "b/2", "c/3", "d/4"}
    assert {os.stat(of_nobody / name).st_mode & 0o777 for name in "abcd"} == {mode}
