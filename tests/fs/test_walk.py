"""Walking trees that no kernel made: cycles, impossible names, entries that lead nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img.structs.directory import EXT4_DIR_ENTRY
from tests.conftest import UnpackedImage
from tests.fs.conftest import Altered

Fixture = Callable[[str], UnpackedImage]


def renamed(image: UnpackedImage, changes: dict[bytes, bytes]) -> bytes:
    """An image without checksums, with other bytes in the names of its directories' entries."""
    data = image.path.read_bytes()
    for old, new in changes.items():
        assert len(old) == len(new)
        entry = bytes((len(old),)) + b"\x01" + old  # name_len and file_type stand before the name
        assert data.count(entry) == 1, old
        data = data.replace(entry, entry[:2] + new)
    return data


IMPOSSIBLE = {
    b"setgid": b"set/id",
    b"setuid": b"set\0id",
    b"other": b"\0\0\0\0\0",
    b"inherits": b"../../..",
    b"single": b"/etc/x",
}


@pytest.mark.parametrize("old", IMPOSSIBLE, ids=lambda old: repr(IMPOSSIBLE[old]))
def test_impossible_names_are_never_shown(fixture_image: Fixture, old: bytes):
    image = fixture_image("ext2-1k")
    new = IMPOSSIBLE[old]
    data = renamed(image, {old: new})
    with ext4img.open(data) as fs, pytest.raises(ext4img.CorruptionError, match="impossible name"):
        list(fs.walk())
    with ext4img.open(data) as fs, pytest.raises(ext4img.CorruptionError, match="impossible name"):
        list(fs.paths())
    kept = {path for path in image.manifest.by_path if path.rpartition(b"/")[2] != old}
    for checks in ("report", "off"):
        with ext4img.open(data, checks=checks) as fs:
            shown = [bytes(path) for path, _ in fs.walk()]
            assert set(shown) == kept
            assert len(shown) == len(kept)
            assert {path.encode("utf-8", "surrogateescape") for path in fs.paths()} == kept
            problems = [problem for problem in fs.problems if "impossible name" in problem.reason]
            assert len(problems) == (checks == "report")
            for problem in problems:
                assert problem.place.record == EXT4_DIR_ENTRY.name


def test_dots_that_are_none(fixture_image: Fixture):
    """Entries "." and ".." beside the first two: nothing a path could mean."""
    data = renamed(fixture_image("ext2-1k"), {b"single": b".\0\0\0\0\0"})
    data = data.replace(b"\x06\x01.\0\0\0\0\0", b"\x01\x01.\0\0\0\0\0")
    with ext4img.open(data, checks="report") as fs:
        assert "." not in {path.name for path, _ in fs.walk()}


@pytest.mark.parametrize("target", ["<2>", "/kinds", "/kinds/elsewhere"])
def test_cycles_end(altered: Altered, fixture_image: Fixture, target: str):
    """A directory below itself, by a hard link that a kernel never makes: shown, not entered again."""
    image = altered("ext2-1k", f"ln {target} /kinds/elsewhere/again")
    with ext4img.open(image) as fs, pytest.raises(ext4img.CorruptionError, match="is reached twice"):
        list(fs.walk())
    expected = {*fixture_image("ext2-1k").manifest.by_path, b"/kinds/elsewhere/again"}
    with ext4img.open(image, checks="report") as fs:
        assert {bytes(path) for path, _ in fs.walk()} == expected
        assert {path.encode("utf-8", "surrogateescape") for path in fs.paths()} == expected
        met = [problem for problem in fs.problems if "is reached twice" in problem.reason]
        assert len(met) == 1
        deep = fs.path("/kinds/elsewhere" + "/again" * 3)
        assert deep.exists() == (target == "/kinds/elsewhere")
        names = {str(path) for path in fs.path("/kinds").rglob("other")}
        assert names == {"/kinds/elsewhere/other"} | ({str(deep.parents[1] / "other")} if deep.exists() else set())


def test_a_directory_of_two_parents(altered: Altered):
    image = altered("ext2-1k", "ln /kinds/elsewhere /attributes/elsewhere")
    with ext4img.open(image, checks="report") as fs:
        shown = [str(path) for path, _ in fs.walk()]
        assert "/attributes/elsewhere" in shown
        assert len([path for path in shown if path.endswith("/elsewhere/other")]) == 1


def test_a_walk_from_anywhere(fixture_image: Fixture):
    image = fixture_image("ext2-1k")
    with ext4img.open(image.path) as fs:
        below = {path for path in image.manifest.by_path if (path + b"/").startswith(b"/kinds/")}
        assert {bytes(path) for path, _ in fs.walk("/kinds")} == below
        assert {bytes(path) for path, _ in fs.walk(fs.path("kinds"))} == below
        assert [str(path) for path, _ in fs.walk("/kinds/fifo")] == ["/kinds/fifo"]
        with pytest.raises(ext4img.NotFoundError):
            list(fs.walk("/nothing"))
        for path, inode in fs.walk():
            assert path.inode is inode
            parent = fs.path(path.parent).inode.number
            assert path.directory == (parent if str(path) != "/" else 0)
            found, entry, directory = fs.resolve(str(path), follow=False)
            assert (found, directory) == (inode, path.directory)
            assert entry == path.entry


def test_a_directory_that_its_entry_calls_a_file(fixture_image: Fixture):
    """The kernel's getdents64 says so, too; what is below is there all the same."""
    image = fixture_image("ext2-1k")
    data = image.path.read_bytes()
    assert data.count(b"\x05\x02kinds") == 1
    data = data.replace(b"\x05\x02kinds", b"\x05\x01kinds")
    for checks in ("strict", "report", "off"):
        with ext4img.open(data, checks=checks) as fs:
            assert {bytes(path) for path, _ in fs.walk()} == image.manifest.by_path.keys()
            below = [path for path in fs.paths() if path.startswith("/kinds/")]
            assert bool(below) == (checks == "report")
            if checks == "report":
                assert {path.encode("utf-8", "surrogateescape") for path in fs.paths()} == image.manifest.by_path.keys()


@pytest.mark.parametrize(("number", "reason"), [(0xFFFF, "names inode 65535, there are"), (255, "not in use")])
def test_entries_that_lead_nowhere(fixture_image: Fixture, number: int, reason: str):
    """An inode outside the file system's, and one that is not in use."""
    image = fixture_image("ext2-1k")
    data = image.path.read_bytes()
    name = b"\x06\x01single"
    at = data.index(name) - 6
    data = data[:at] + number.to_bytes(4, "little") + data[at + 4 :]
    with ext4img.open(data, checks="report") as fs:
        shown = {str(path): inode for path, inode in fs.walk()}
        assert "/indirect/single" not in shown
        assert any(reason in problem.reason for problem in fs.problems)
        assert not fs.path("/indirect/single").exists()


def test_encrypted_names_too_short(altered: Altered, fixture_image: Fixture):
    """Stored names below 16 bytes can't have been encrypted: left out and told, with the key or without."""
    image = altered("encrypted-old-layout", "mkdir plain", "ln plain v2/short", "ln plain v1/short")
    packed = fixture_image("encrypted-old-layout")
    for with_keys in (False, True):
        with ext4img.open(image, checks="report") as fs:
            if with_keys:
                packed.manifest.add_keys_to(fs)
            shown = {bytes(path) for path, _ in fs.walk()}
            expected = packed.manifest.by_path if with_keys else packed.manifest.by_nokey_path
            assert shown == {*expected, b"/plain"}
            assert sum("5 bytes" in problem.reason for problem in fs.problems) == 2
        with ext4img.open(image) as fs:
            if with_keys:
                packed.manifest.add_keys_to(fs)
            with pytest.raises(ext4img.CorruptionError, match="5 bytes"):
                list(fs.walk())


def test_deep_trees_need_no_recursion(tmp_path: Path, image_of: Callable[..., Path]):
    source = deepest = tmp_path / "source"
    for _ in range(150):
        deepest = deepest / "d"
    deepest.mkdir(parents=True)
    with ext4img.open(image_of(source)) as fs:
        assert max(len(path.parts) for path, _ in fs.walk()) == 151
        assert fs.path("/d" * 150).is_dir()
