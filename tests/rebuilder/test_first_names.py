"""New images of files whose first name is left out: the next name takes its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copy

import pytest

import ext4img
from ext4img import backup, extract, rebuild
from tests.archive.synthetic import Tree
from tests.conftest import UnpackedImage
from tests.mkfs.judges import assert_clean
from tools.loop_mount import loop_mounted, run


@pytest.mark.parametrize("only", [["/c", "/d"], ["/c/3", "/d/4"], ["/d"]])
def test_parts_of_an_archive(only: list[str], tmp_path: Path):
    """The first name is in a directory that is not wanted, as a whole."""
    tree = Tree()
    for name in (b"a", b"c", b"d"):
        tree.add(name, "dir")
    first = tree.add(b"a/1", "file", b"three names", links=3)
    tree.add_link(b"c/3", first)
    tree.add_link(b"d/4", first)
    (tmp_path / "a.tar").write_bytes(tree.archive())
    report = rebuild(tmp_path / "a.tar", tmp_path / "b.img", only=only)
    assert (report.left_out, report.made["file"], report.made.get("link", 0)) == (0, 1, len(only) - 1)
    assert_clean(tmp_path / "b.img")
    with ext4img.open(tmp_path / "b.img") as fs:
        names = [fs.path(path) for path in ("/c/3", "/d/4") if path[:2] in [wanted[:2] for wanted in only]]
        assert {path.inode.number for path in names} == {names[0].inode.number}
        assert {path.inode.links for path in names} == {len(names)}
        assert {path.read_bytes() for path in names} == {b"three names"}


@pytest.fixture
def misplaced(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path) -> Path:
    """A plain file whose first name is in an encrypted directory, where the kernel would not take it."""
    image = tmp_path / "misplaced.img"
    copy(fixture_image("sample-encrypted").path, image)
    image.chmod(0o600)
    with loop_mounted(image, "rw") as mount:
        (Path(mount) / "zz").mkdir()
        (Path(mount) / "zz/plain").write_text("sound")
    commands = b"ln /zz/plain /home/alice/ABCDEFGHIJKLMNOP\nln /zz/plain /zz/second\nsif /zz/plain links_count 3\n"
    run("debugfs", "-w", "-f", "-", image, stdin=commands)
    return image


@pytest.mark.kernel
def test_a_name_that_is_refused(misplaced: Path, tmp_path: Path):
    with ext4img.open(misplaced, checks="report") as fs:
        backup(fs, tmp_path / "a.tar")
        rebuild(fs, tmp_path / "c.img", salvage=True)
        extract(fs, fs_tree(fs), tmp_path / "out")
    rebuild(tmp_path / "a.tar", tmp_path / "b.img", salvage=True)
    for made in ("b.img", "c.img"):
        assert_clean(tmp_path / made)
        with ext4img.open(tmp_path / made) as fs:
            assert fs.path("/zz/plain").inode.number == fs.path("/zz/second").inode.number
            assert fs.path("/zz/plain").inode.links == 2
            assert fs.path("/zz/plain").read_bytes() == b"sound"
    assert (tmp_path / "out/zz/plain").samefile(tmp_path / "out/zz/second")
    assert (tmp_path / "out/zz/plain").read_text() == "sound"


def fs_tree(fs: ext4img.FileSystem):
    """The whole tree as `extract` takes it; without a key the encrypted directory is skipped."""
    for path, inode in fs.walk("/"):
        yield bytes(path).lstrip(b"/") or b".", inode
