"""Targets to which two names are the same, or that cannot have a name: it is reported, and nothing is lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from ext4img import restore
from ext4img.errors import RestoreError
from ext4img.hostfs.rename import _rename_in_two_steps
from ext4img.restorer.move_staged import MoveStaged
from tests.archive.synthetic import KEY, Tree, encrypted_tree
from tests.archive.test_archive import as_file, as_stream
from tests.restorer.folding import fold_names
from tests.restorer.test_restore import contents, listed

both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fold_names(monkeypatch)
    return tmp_path / "t"


def case_tree() -> Tree:
    tree = Tree()
    tree.add(b"Dir", "dir", mode=0o755)
    tree.add(b"Dir/inside", "file", b"of Dir")
    first = tree.add(b"README", "file", b"the first", links=2)
    tree.add_link(b"ReadMe", first)
    tree.add(b"dir", "dir", mode=0o700)
    tree.add(b"dir/inside", "file", b"of dir")
    tree.add(b"dir/other", "file", b"of dir, too")
    tree.add(b"link", "symlink", link_target=b"nowhere")
    tree.add(b"readme", "file", b"second")
    tree.add(b"zlast", "file", b"goes on")
    return tree


def assert_the_first_stays(target: Path) -> None:
    names = sorted(os.listdir(target))
    assert names == ["Dir", "README", "link", "zlast"]
    assert os.listdir(target / "Dir") == ["inside"]
    assert (target / "Dir/inside").read_bytes() == b"of Dir"
    assert stat.S_IMODE((target / "Dir").stat().st_mode) == 0o755
    assert (target / "README").read_bytes() == b"the first"
    assert (target / "README").stat().st_nlink == 1
    assert (target / "zlast").read_bytes() == b"goes on"


@both
@pytest.mark.parametrize("overwrite", ["never", True, "if-newer", "if-changed"])
def test_names_that_differ_in_case_only(opened: Callable[[bytes], BinaryIO], overwrite, target: Path):
    report = restore(opened(case_tree().archive()), target, overwrite=overwrite)
    assert not report.complete
    assert report.left_out == 5  # a directory and the two below it, a link, a file
    said = sorted(str(problem) for problem in report.problems)
    assert [message.split(":")[0] for message in said] == ["'ReadMe'", "'dir'", "'readme'"]
    assert all("same name" in message for message in said)
    assert all(isinstance(problem, RestoreError) for problem in report.problems)
    assert "'Dir', which" in said[1]
    assert report.restored == {"dir": 1, "file": 3, "symlink": 1}
    assert_the_first_stays(target)


def test_resumed_it_says_the_same(target: Path):
    data = case_tree().archive()
    restore(as_file(data), target)
    report = restore(as_file(data), target, resume=True)
    assert report.left_out == 5
    assert report.kept == 4
    assert_the_first_stays(target)


@both
def test_over_what_has_another_spelling(opened: Callable[[bytes], BinaryIO], target: Path):
    target.mkdir()
    (target / "Zlast").write_bytes(b"somebody's")
    (target / "LINK").mkdir()
    report = restore(opened(case_tree().archive()), target, overwrite=True)
    assert report.left_out == 7
    assert any("same name" in str(problem) for problem in report.problems)
    assert (target / "Zlast").read_bytes() == b"somebody's"
    assert (target / "LINK").is_dir()


@both
def test_merged_into_a_directory_that_folds(
    opened: Callable[[bytes], BinaryIO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the staging directory of a stream they may be two names still."""
    (tmp_path / "t/d").mkdir(parents=True)
    tree = Tree()
    tree.add(b"d", "dir")
    tree.add(b"d/A", "file", b"first")
    tree.add(b"d/a", "file", b"second")
    real = MoveStaged.run

    def fold_from_now(self: MoveStaged) -> None:
        fold_names(monkeypatch)
        real(self)

    monkeypatch.setattr(MoveStaged, "run", fold_from_now)
    if opened is as_file:
        fold_names(monkeypatch)
    report = restore(opened(tree.archive()), tmp_path / "t", overwrite=True)
    found = os.listdir(tmp_path / "t/d")
    assert len(found) == 1
    assert report.left_out == 1
    assert len(report.problems) == 1
    assert "same name" in str(report.problems[0])
    assert (tmp_path / "t/d" / found[0]).read_bytes() == {"A": b"first", "a": b"second"}[found[0]]


@both
def test_names_that_the_target_cannot_have(opened: Callable[[bytes], BinaryIO], target: Path):
    tree = Tree()
    tree.add(b"a:b", "file", b"a name that is none there")
    tree.add(b"b", "file", b"b")
    tree.add(b"d:", "dir")
    tree.add(b"d:/below", "file", b"c")
    tree.add(b"e" * 200, "file", b"too long")
    first = tree.add(b"f", "file", b"f", links=2)
    tree.add_link(b"g" * 200, first)
    tree.add(b"h" * 200, "symlink", link_target=b"x")
    report = restore(opened(tree.archive()), target)
    assert report.left_out == 6
    messages = [str(problem) for problem in report.problems]
    for name in ("'a:b'", "'d:'", "e" * 200, "g" * 200, "h" * 200):
        assert any(name in message for message in messages), name
    assert sorted(os.listdir(target)) == ["b", "f"]
    assert report.restored == {"file": 2}


def test_decrypted_names_too(target: Path):
    report = restore(as_file(encrypted_tree().archive()), target, keys=[KEY])
    assert report.left_out == 2  # one name of 255 bytes, and one of 200
    assert sorted(len(str(problem)) > 200 for problem in report.problems) == [True, True]
    assert contents(target, b"secret/small") == b"hi"
    assert not [path for path in listed(target) if b".ext4img" in path]


def test_renaming_where_the_kernel_cannot_say_no_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        for links in (True, False):
            if not links:

                def refuse(*_: object, **__: object) -> None:
                    raise PermissionError(1, "Operation not permitted")

                monkeypatch.setattr(os, "link", refuse)
            (tmp_path / "old").write_bytes(b"new")
            (tmp_path / "taken").write_bytes(b"taken")
            with pytest.raises(FileExistsError):
                _rename_in_two_steps(b"old", folder, b"taken", folder)
            _rename_in_two_steps(b"old", folder, b"free", folder)
            assert sorted(os.listdir(tmp_path)) == ["free", "taken"]
            assert (tmp_path / "taken").read_bytes() == b"taken"
            (tmp_path / "free").unlink()
    finally:
        os.close(folder)
