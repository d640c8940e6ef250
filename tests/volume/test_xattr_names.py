"""Attributes of name indexes that Linux has no prefix for, or only on Hurd's file systems.

What is true of them: the kernel shows index 10 as "gnu.", and none of the others; e2fsck takes all of
them for sound.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

import ext4img
from ext4img import backup, rebuild, restore
from ext4img.archive.entry_codec import header_of
from ext4img.cli.main import main
from ext4img.errors import BuildError
from ext4img.mkfs.nodes import stored_xattr
from ext4img.structs.xattr import EXT4_XATTR_ENTRY
from ext4img.volume.problems import Problems
from ext4img.volume.xattr import RawXattrs, XattrKey, visible, xattr_key
from tests.archive.synthetic import Tree
from tests.archive.test_archive import as_file, as_stream
from tests.mkfs.judges import assert_clean, debugfs
from tools.loop_mount import SBIN, loop_mounted, run

pytestmark = pytest.mark.skipif(
    not shutil.which("debugfs", path=f"{os.environ.get('PATH', '')}:{SBIN}"), reason="no debugfs"
)
INDEXES = (0, 2, 5, 7, 8, 9, 10, 11, 200, 255)


def named(index: int) -> str:
    return "gnu.name010" if index == 10 else f"ext4.index{index}.name{index:03}"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file for each index, with an attribute "nameNNN" of it, which debugfs stored as "user.nameNNN"."""
    (tmp_path / "s").mkdir()
    for index in INDEXES:
        (tmp_path / "s" / f"f{index}").touch()
    path = tmp_path / "a.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum", "-d", tmp_path / "s", path, "8M")
    debugfs_write(path, *(f"ea_set /f{index} user.name{index:03} value" for index in INDEXES))
    data = bytearray(path.read_bytes())
    for index in INDEXES:
        at = data.index(b"name%03d" % index) - EXT4_XATTR_ENTRY.size + EXT4_XATTR_ENTRY.offset_of("e_name_index")
        assert data[at] == 1
        # "system.data" and the inline ACLs have no such names; the kernel has no prefix for index 7.
        data[at] = index
    path.write_bytes(data)
    return path


def debugfs_write(image: Path, *commands: str) -> None:
    run("debugfs", "-w", "-f", "-", image, stdin="\n".join(commands).encode())


def shown(image: Path) -> dict[int, dict[str, bytes]]:
    with ext4img.open(image) as fs:
        found = {index: dict(fs.path(f"/f{index}").xattrs()) for index in INDEXES}
        assert not fs.problems
    return found


EXPECTED = {index: {named(index) if index != 7 else "system.name007": b"value"} for index in INDEXES}


def test_they_are_kept_in_backups_and_new_images(image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert_clean(image)
    assert main(["check", str(image)]) == 0
    assert shown(image) == EXPECTED
    with ext4img.open(image) as fs:
        backup(fs, tmp_path / "a.tar")
        backup(fs, tmp_path / "store", format="dir")
        rebuild(fs, tmp_path / "copy.img")
    rebuild(tmp_path / "a.tar", tmp_path / "tar.img")
    rebuild(tmp_path / "store", tmp_path / "store.img")
    (tmp_path / "tree").mkdir()
    run("tar", "--xattrs", "--xattrs-include=*", "-xpf", tmp_path / "a.tar", "-C", tmp_path / "tree")
    rebuild(tmp_path / "tree", tmp_path / "tree.img")
    for made in ("copy.img", "tar.img", "store.img", "tree.img"):
        assert_clean(tmp_path / made)
        assert shown(tmp_path / made) == EXPECTED
    # An independent reader: the only attribute of the file, by its number and bytes.
    assert "gnu.name010 (5)" in debugfs(tmp_path / "copy.img", "ea_list /f10")
    capfd.readouterr()
    assert main(["xattr", str(tmp_path / "copy.img"), "/f200"]) == 0
    assert 'ext4.index200.name200="value"' in capfd.readouterr().out


@pytest.mark.kernel
@pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
def test_restored_to_a_directory_they_are_set_or_counted(
    opened: Callable[[bytes], BinaryIO], image: Path, tmp_path: Path
):
    with ext4img.open(image) as fs:
        backup(fs, tmp_path / "a.tar")
    with loop_mounted(image, "ro") as mount:
        assert [os.listxattr(f"{mount}/f{index}") for index in INDEXES if index not in (2, 10)] == [[]] * 8
        with pytest.raises(OSError):  # it is in the list, but can't be read
            os.getxattr(f"{mount}/f2", "system.posix_acl_accessname002")
        assert os.getxattr(f"{mount}/f10", "gnu.name010") == b"value"
    run("mke2fs", "-q", "-F", "-t", "ext4", tmp_path / "target.img", "8M")
    with loop_mounted(tmp_path / "target.img", "rw") as mount:
        report = restore(opened((tmp_path / "a.tar").read_bytes()), Path(mount) / "t")
        assert os.getxattr(f"{mount}/t/f10", "gnu.name010") == b"value"
    expected = {f"attribute {name}" for index, names in EXPECTED.items() for name in names if index != 10}
    assert set(report.not_set) == expected


NAMES = [
    (1, b"x", "user.x"),
    (2, b"", "system.posix_acl_access"),
    (2, b"x", "ext4.index2.x"),
    (7, b"posix_acl_access", "ext4.index7.posix_acl_access"),
    (7, b"richacl", "ext4.index7.richacl"),
    (7, b"other", "system.other"),
    (8, b"", "system.richacl"),
    (8, b"x", "ext4.index8.x"),
    (9, b"d", "ext4.index9.d"),
    (10, b"translator", "gnu.translator"),
    (11, b"", "ext4.index11."),
    (77, b"a.b\n\xff", "ext4.index77.a.b\n\udcff"),
]


@pytest.mark.parametrize(("index", "name", "text"), NAMES)
def test_each_name_stands_for_one_attribute(index: int, name: bytes, text: str):
    acl = b"\1\0\0\0"  # ext4_acl_header alone
    raw: RawXattrs = {XattrKey(index, name): acl}
    assert list(visible(raw, 12, Problems())) == [text]
    assert xattr_key(text) == (index, name)


@pytest.mark.parametrize(
    "text", ["ext4.index256.x", "ext4.index0.", "ext4.index1x", "nothing.x", "system.richaclx", "gnu"]
)
def test_other_names_are_none(text: str):
    assert xattr_key(text) is None
    with pytest.raises(BuildError):
        stored_xattr(text, b"")


def test_stock_tools_do_not_meet_them():
    """In an archive they are in the member of attributes, which tar does not set."""
    entry = Tree().add(b"f", "file", b"x", xattrs={"ext4.index11.x": b"raw", "user.x": b"y", "gnu.x": b"z"})
    header, overflow = header_of(entry, 1, sparse=False)
    assert {b"user.x", b"gnu.x"} <= header.xattrs.keys()
    assert b"ext4.index11.x" not in header.xattrs
    assert b"ext4.index11.x=raw" in overflow
