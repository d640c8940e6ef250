"""What becomes of names that exist in the target, for each word of `overwrite`: directly, staged, and in a dry run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ext4img import restore
from tests.archive.synthetic import KEY, TIMES, Tree, encrypted_tree
from tests.archive.test_archive import as_file, as_stream

both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
Opened = Callable[[bytes], BinaryIO]
THEN = TIMES["mtime_ns"]


def some_files() -> Tree:
    tree = Tree()
    tree.add(b"file", "file", b"backup")
    tree.add(b"link", "symlink", link_target=b"to-this")
    return tree


def existing(target: Path, data: bytes, mtime_ns: int, link: str = "to-that") -> None:
    """The target before a restore."""
    target.mkdir(exist_ok=True)
    (target / "file").unlink(missing_ok=True)
    (target / "link").unlink(missing_ok=True)
    (target / "file").write_bytes(data)
    (target / "link").symlink_to(link)
    for name in ("file", "link"):
        os.utime(target / name, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


@both
@pytest.mark.parametrize(
    ("overwrite", "data", "mtime_ns", "link", "replaced", "kept"),
    [
        ("always", b"backup", THEN, "to-this", {"file", "link"}, 0),
        (True, b"backup", THEN + 1, "to-this", {"file", "link"}, 0),
        ("if-newer", b"other, larger", THEN, "to-that", set(), 2),
        ("if-newer", b"other, larger", THEN + 1, "to-that", set(), 2),
        ("if-newer", b"same.6", THEN - 1, "to-this", {"file", "link"}, 0),
        ("if-changed", b"same.6", THEN, "to-this", set(), 2),
        ("if-changed", b"other, larger", THEN, "to-that", {"file", "link"}, 0),
        ("if-changed", b"same.6", THEN + 1, "to-this", {"file", "link"}, 0),
        ("if-changed", b"same.6", THEN - 1, "to-this", {"file", "link"}, 0),
    ],
)
def test_each_word(
    opened: Opened,
    overwrite: Any,
    data: bytes,
    mtime_ns: int,
    link: str,
    replaced: set[str],
    kept: int,
    tmp_path: Path,
):
    target = tmp_path / "t"
    existing(target, data, mtime_ns, link)
    before = {name: os.lstat(target / name).st_ino for name in ("file", "link")}
    archive = some_files().archive()
    predicted = restore(opened(archive), target, overwrite=overwrite, dry_run=True)
    assert {name: os.lstat(target / name).st_ino for name in before} == before
    report = restore(opened(archive), target, overwrite=overwrite)
    assert report.complete
    assert report.kept == predicted.kept == kept
    if opened is as_file:  # what is staged is counted before it is compared
        assert report.restored == predicted.restored
    assert {name for name in before if os.lstat(target / name).st_ino != before[name]} == replaced
    assert (target / "file").read_bytes() == (b"backup" if replaced else data)
    assert os.readlink(target / "link") == ("to-this" if replaced else link)


@both
@pytest.mark.parametrize("overwrite", ["never", False])
def test_never(opened: Opened, overwrite: Any, tmp_path: Path):
    existing(tmp_path / "t", b"backup", THEN, "to-this")
    archive = some_files().archive()
    assert restore(opened(archive), tmp_path / "t", overwrite=overwrite, dry_run=True).left_out == 2
    assert restore(opened(archive), tmp_path / "t", overwrite=overwrite).left_out == 2
    assert (tmp_path / "t/file").read_bytes() == b"backup"


def test_another_word(tmp_path: Path):
    overwrite: Any = "newer"
    with pytest.raises(ValueError, match="if-newer, if-changed, not 'newer'"):
        restore(as_file(some_files().archive()), tmp_path / "t", overwrite=overwrite)
    missing: Any = "leave"
    with pytest.raises(ValueError, match="skip, ciphertext, not 'leave'"):
        restore(as_file(some_files().archive()), tmp_path / "t", missing=missing)
    assert not (tmp_path / "t").exists()


@both
@pytest.mark.parametrize("overwrite", ["if-newer", "if-changed"])
def test_kept_files_are_not_counted_as_restored(opened: Opened, overwrite: Any, tmp_path: Path):
    archive = some_files().archive()
    assert restore(opened(archive), tmp_path / "t").restored == {"file": 1, "symlink": 1}
    inode = (tmp_path / "t/file").stat().st_ino
    again = restore(opened(archive), tmp_path / "t", overwrite=overwrite)
    assert (again.restored, again.kept, again.left_out) == ({}, 2, 0)
    assert (tmp_path / "t/file").stat().st_ino == inode
    assert sorted(os.listdir(tmp_path / "t")) == ["file", "link"]


@both
def test_kept_hard_links_are_not_counted_as_restored(opened: Opened, tmp_path: Path):
    tree = encrypted_tree()
    archive = tree.archive()
    first = restore(opened(archive), tmp_path / "t", keys=[KEY])
    assert first.restored["link"] > 0
    again = restore(opened(archive), tmp_path / "t", keys=[KEY], overwrite="if-newer")
    assert again.complete
    assert set(again.restored) <= {"dir"}
    assert again.kept == sum(count for kind, count in first.restored.items() if kind != "dir")


@both
def test_a_directory_is_never_replaced_by_a_file(opened: Opened, tmp_path: Path):
    (tmp_path / "t/file").mkdir(parents=True)
    report = restore(opened(some_files().archive()), tmp_path / "t", overwrite="if-changed")
    assert report.left_out == 1
    assert (tmp_path / "t/file").is_dir()
    assert (tmp_path / "t/link").is_symlink()


@both
def test_unchanged_after_a_restore_with_the_key(opened: Opened, tmp_path: Path):
    """Sizes are the decrypted ones; all names of a file with several are of the same one afterwards."""
    tree = encrypted_tree()
    archive = tree.archive()
    assert restore(opened(archive), tmp_path / "t", keys=[KEY]).complete
    linked = tmp_path / "t/secret/linked"
    (tmp_path / "t/secret/small").write_bytes(b"HI")  # with a new mtime
    before = {path: path.lstat().st_ino for path in (tmp_path / "t").rglob("*") if path.is_file()}
    report = restore(opened(archive), tmp_path / "t", keys=[KEY], overwrite="if-changed")
    assert report.complete
    assert report.kept >= len(before) - 1 - linked.stat().st_nlink
    assert (tmp_path / "t/secret/small").read_bytes() == b"hi"
    assert linked.stat().st_nlink == 3
    changed = {path.name for path, inode in before.items() if path.lstat().st_ino != inode}
    if opened is as_file:
        assert changed == {"small"}


def test_a_keyring_is_taken_for_keys(tmp_path: Path):
    tree = encrypted_tree()
    assert restore(as_stream(tree.archive()), tmp_path / "t", keys=tree.keyring).complete
    assert (tmp_path / "t/secret/small").read_bytes() == b"hi"
