"""A new image has birth times only where the source has them: the kernel shows "-", as in the source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ext4img
from ext4img import rebuild
from ext4img.mkfs import Node
from tests.mkfs.judges import assert_clean, head
from tests.mkfs.samples import CREATED_S, DIRECTORY, FILE, ROOT, build
from tools.loop_mount import loop_mounted, run


def births(image: Path, names: list[str]) -> list[str]:
    """What stat(1) shows of a mounted image."""
    with loop_mounted(image, "ro") as mount:
        return [run("stat", "-c", "%w", f"{mount}/{name}").decode().strip() for name in names]


@pytest.mark.kernel
@pytest.mark.parametrize("features", [[], ["inline_data"]])
def test_a_source_of_small_inodes(features: list[str], tmp_path: Path):
    """Their attributes begin where the birth time would be."""
    source = tmp_path / "a.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-I", "128", source, "8M")
    xattrs = {"user.a": b"a" * 60, "user.b": b"b" * 20, "user.large": b"c" * 700}
    with loop_mounted(source, "rw") as mount:
        for name in ("f", "small"):
            (Path(mount) / name).write_text(name)
        (Path(mount) / "d").mkdir()
        for name, value in xattrs.items():
            os.setxattr(f"{mount}/f", name, value)
    names = [".", "f", "d", "small", "lost+found"]
    assert births(source, names) == ["-"] * 5
    with ext4img.open(source) as fs:
        rebuild(fs, tmp_path / "b.img", features=features)
    assert_clean(tmp_path / "b.img")
    assert births(tmp_path / "b.img", names) == ["-"] * 5
    with loop_mounted(tmp_path / "b.img", "rw") as mount:
        path = f"{mount}/f"
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == xattrs
        assert Path(path).read_text() == "f"
        os.setxattr(path, "user.another", b"d" * 90)  # the kernel makes room for the rest of the inode
        Path(path).write_text("longer than before" * 9)
    assert_clean(tmp_path / "b.img")
    with ext4img.open(source) as fs, ext4img.open(tmp_path / "b.img") as rebuilt:
        assert {path.inode.crtime_ns for path, _ in fs.walk("/")} == {None}
        assert rebuilt.path("/d").inode.crtime_ns is None


def test_each_inode_by_itself(tmp_path: Path):
    born = CREATED_S * 1_000_000_000 + 7
    xattrs = {(1, b"x"): b"y" * 70}
    nodes = [
        ROOT._replace(crtime_ns=born),
        Node((b"born",), FILE, crtime_ns=born, xattrs=xattrs),
        Node((b"not born",), FILE, xattrs=xattrs),
        Node((b"version",), FILE, version=1 << 40),  # i_version_hi is behind the birth time
        Node((b"directory",), DIRECTORY),
    ]
    build(tmp_path / "a.img", nodes)
    assert_clean(tmp_path / "a.img")
    with ext4img.open(tmp_path / "a.img") as fs:
        found = {str(path): inode.crtime_ns for path, inode in fs.walk("/")}
        assert fs.path("/not born").xattrs() == fs.path("/born").xattrs() == {"user.x": b"y" * 70}
        assert fs.path("/version").inode.version == 1 << 40
    assert head(tmp_path / "a.img")["Required extra isize"] == "16"  # what every inode has at least
    assert found["/"] == found["/born"] == born
    assert found["/not born"] is None
    assert found["/directory"] is None
    assert found["/version"] == 0
