"""Inode flags that ext4 keeps, set by chattr on a mounted image and shown again by the kernel."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import ext4img
from ext4img import backup, extract, rebuild, restore
from tests.archive.synthetic import Tree
from tests.archive.test_archive import as_file, as_stream
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted, run

pytestmark = pytest.mark.kernel
LETTERS = "AacCdDeijPsStTuxFm"
# include/uapi/linux/fs.h: INDEX, EXTENT and INLINE_DATA are the file system's own.
LAYOUT = 0x1000 | 0x80000 | 0x10000000


def flags_below(top: Path) -> dict[str, int]:
    found = {}
    for name in sorted(os.listdir(top)):
        if name[:2] in ("f_", "d_"):
            fd = os.open(top / name, os.O_RDONLY)
            found[name] = kernel_ioctl.get_flags(fd) & ~LAYOUT
            os.close(fd)
    return found


def clear(top: Path) -> None:
    subprocess.run(["chattr", "-R", "-ia", str(top)], check=False, capture_output=True)


@pytest.fixture
def flagged(tmp_path: Path) -> tuple[Path, dict[str, int]]:
    """An image with a file and a directory for each letter that chattr knows, and the kernel's flags of each."""
    image = tmp_path / "flags.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", image, "8M")
    with loop_mounted(image, "rw") as mount:
        for letter in LETTERS:
            (Path(mount) / f"f_{letter}").write_text("x")
            (Path(mount) / f"d_{letter}").mkdir()
            for kind in "fd":  # some are for directories only, or not of this kernel
                subprocess.run(["chattr", f"+{letter}", f"{mount}/{kind}_{letter}"], check=False, capture_output=True)
        expected = flags_below(Path(mount))
    assert {0x4, 0x2000000, 0x10, 0x20, 0x20000000} <= set(expected.values())  # c, x, i, a, P
    return image, expected


def test_all_are_set_again(flagged: tuple[Path, dict[str, int]], tmp_path: Path):
    image, expected = flagged
    run("mke2fs", "-q", "-F", "-t", "ext4", tmp_path / "target.img", "16M")
    with ext4img.open(image) as fs:
        backup(fs, tmp_path / "a.tar")
        rebuild(fs, tmp_path / "copy.img")
        with loop_mounted(tmp_path / "target.img", "rw") as mount:
            data = (tmp_path / "a.tar").read_bytes()
            for name, opened in (("file", as_file), ("stream", as_stream)):
                assert not restore(opened(data), Path(mount) / name).not_set
            tree = ((bytes(path).lstrip(b"/") or b".", inode) for path, inode in fs.walk("/"))
            assert not extract(fs, tree, Path(mount) / "extracted").not_set
            found = {name: flags_below(Path(mount) / name) for name in ("file", "stream", "extracted")}
            clear(Path(mount))
    assert found == dict.fromkeys(("file", "stream", "extracted"), expected)
    with loop_mounted(tmp_path / "copy.img", "ro") as mount:
        assert flags_below(Path(mount)) == expected


@pytest.mark.parametrize(("flag", "name"), [(0x400, "m (dont compress)"), (0x800000, "C (no cow)")])
def test_what_ext4_does_not_take_is_counted(flag: int, name: str, tmp_path: Path):
    """It may be on a disk nevertheless. Nothing sets flags of symlinks and devices, though ext4 has them."""
    tree = Tree()
    tree.add(b"f", "file", b"x", flags=flag)
    tree.add(b"l", "symlink", link_target=b"f", flags=0x80)
    run("mke2fs", "-q", "-F", "-t", "ext4", tmp_path / "target.img", "8M")
    with loop_mounted(tmp_path / "target.img", "rw") as mount:
        report = restore(as_file(tree.archive()), Path(mount) / "t")
    assert report.not_set == {f"flag {name}": 1, "flag A (no atime)": 1}
