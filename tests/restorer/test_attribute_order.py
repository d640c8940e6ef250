"""Attributes are set while their files can still be written, and existing directories that keep theirs are reported."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import ext4img
from ext4img import extract, restore
from ext4img.restorer.report import RestoreReport
from tests.archive.synthetic import Tree
from tests.archive.test_archive import as_file, as_stream
from tests.restorer.users import NOBODY, as_nobody, of_nobody
from tools.loop_mount import run

__all__ = ["of_nobody"]
Opened = Callable[[bytes], BinaryIO]
both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def acl(*entries: tuple[int, int, int]) -> bytes:
    """struct posix_acl_xattr_*: tag, permissions, id (include/uapi/linux/posix_acl_xattr.h)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def closed_acl(owner: int) -> bytes:
    """What the owner may do, and that user 1234 may read."""
    no_id = 0xFFFFFFFF
    return acl((1, owner, no_id), (2, 4, 1234), (4, 0, no_id), (16, 4, no_id), (32, 0, no_id))


def read_only_tree() -> Tree:
    """Files and directories that their owner may not write."""
    tree = Tree()
    own: dict[str, Any] = {"uid": NOBODY, "gid": NOBODY}
    tree.members = [(tree.members[0][0]._replace(**own), b"")]
    value = {"user.note": b"kept"}
    for name, mode in ((b"0444", 0o444), (b"0000", 0), (b"0200", 0o200)):
        tree.add(b"d" + name, "dir", mode=mode | 0o100, xattrs=value, **own)
        tree.add(b"d%s/f" % name, "file", b"x", mode=mode, xattrs=value, **own)
    tree.add(b"acl", "dir", mode=0o500, xattrs={**value, DEFAULT: closed_acl(4)}, **own)
    tree.add(b"acl/f", "file", b"x", mode=0o440, xattrs={**value, ACCESS: closed_acl(4)}, **own)
    return tree


def as_it_should_be(target: Path) -> None:
    for entry, _ in read_only_tree().members[1:]:
        path = target / os.fsdecode(entry.path)
        assert os.stat(path).st_mode & 0o777 == entry.mode & 0o777, path
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == entry.xattrs, path


@both
@pytest.mark.parametrize("umask", [0o022, 0o777])
def test_an_ordinary_user_keeps_attributes(opened: Opened, umask: int, of_nobody: Path):
    """Also those of files that are there again: directories by --resume, files by --overwrite."""
    data = read_only_tree().archive()
    before = os.umask(umask)
    try:
        for options in ({}, {"resume": True}, {"overwrite": "always"}, {"overwrite": "if-newer"}):
            with as_nobody():
                report = restore(opened(data), of_nobody, **options)
            assert report.complete, report.problems
            assert not report.not_set
            as_it_should_be(of_nobody)
            for path in (of_nobody / "d0444", of_nobody / "acl"):
                os.removexattr(path, "user.note")
            os.unlink(of_nobody / "d0000/f")
    finally:
        os.umask(before)


def test_where_new_files_inherit_an_acl(of_nobody: Path):
    """One that lets their owner read only."""
    os.setxattr(of_nobody, DEFAULT, closed_acl(5))
    with as_nobody():
        report = restore(as_file(read_only_tree().archive()), of_nobody)
    assert report.complete, report.problems
    assert not report.not_set
    as_it_should_be(of_nobody)


def test_extracted(of_nobody: Path, tmp_path: Path):
    source = tmp_path / "source"
    restore(as_file(read_only_tree().archive()), source)
    image = of_nobody.parent / "a.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", source, image, "8M")
    os.chmod(image, 0o644)
    with as_nobody(), ext4img.open(image) as fs:
        tree = ((bytes(path).lstrip(b"/") or b".", inode) for path, inode in fs.walk("/"))
        report = extract(fs, tree, of_nobody)
        assert set(report.not_set) <= {"owner"}
    as_it_should_be(of_nobody)


CHANGES: dict[str, Callable[[Path], None]] = {
    "mode": lambda path: os.chmod(path, 0o770),
    "owner": lambda path: os.chown(path, 12, -1),
    "group": lambda path: os.chown(path, -1, 12),
    "attribute": lambda path: os.setxattr(path, "user.note", b"another"),
    "attribute that is missing": lambda path: os.removexattr(path, "user.note"),
    "ACL": lambda path: os.setxattr(path, DEFAULT, closed_acl(7)),
}


def existing_directory(target: Path) -> Tree:
    tree = Tree()
    tree.add(b"d", "dir", mode=0o750, uid=5, gid=6, xattrs={"user.note": b"of the backup"})
    tree.add(b"d/below", "dir")
    tree.add(b"d/f", "file", b"x")
    path = target / "d"
    path.mkdir(parents=True)
    os.chown(path, 5, 6)
    os.chmod(path, 0o750)
    os.setxattr(path, "user.note", b"of the backup")
    return tree


@both
@pytest.mark.parametrize("what", [None, *CHANGES])
def test_an_existing_directory_that_keeps_its_own(what: str | None, opened: Opened, tmp_path: Path):
    if os.geteuid():
        pytest.skip("changes owners")
    data = existing_directory(tmp_path / "t").archive()
    if what is not None:
        CHANGES[what](tmp_path / "t/d")

    def state() -> tuple[Any, ...]:
        status = os.stat(tmp_path / "t/d")
        xattrs = {name: os.getxattr(tmp_path / "t/d", name) for name in os.listxattr(tmp_path / "t/d")}
        return status.st_mode, status.st_uid, status.st_gid, xattrs

    before = state()
    for dry_run in (True, False):
        report = restore(opened(data), tmp_path / "t", dry_run=dry_run)
        assert (report.complete, report.kept_directories) == (True, what is not None)
    assert state() == before
    for options in ({"overwrite": "always"}, {"overwrite": "if-newer"}, {"overwrite": "if-changed"}, {"resume": True}):
        if what is not None and state() != before:
            CHANGES[what](tmp_path / "t/d")
        again: RestoreReport = restore(opened(data), tmp_path / "t", **options)
        assert not again.kept_directories
        assert state() == (0o40750, 5, 6, {"user.note": b"of the backup"})
