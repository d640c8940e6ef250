"""Traps: directory blocks and their entries."""

from __future__ import annotations

import pytest

import ext4img
from tests.hostile.editing import Edit
from tests.hostile.verdicts import assert_strict_refuses, assert_told, paths_of, problems_of


@pytest.mark.parametrize("rec_len", [0, 1, 8, 11, 13, 4092, 65535])
@pytest.mark.parametrize("name", ["plain-4k", "ext2-1k", "ext4-64k"])
def test_rec_len(edit: Edit, name: str, rec_len: int):
    image = edit(name)
    directory = {"plain-4k": "/kinds", "ext2-1k": "/indirect", "ext4-64k": "/"}[name]
    entries = image.volume.directory(image.volume.inode(image.number(directory)))
    image.entry(directory, entries[1].name, rec_len=rec_len)
    if not (name == "ext4-64k" and rec_len in (0, 65535)):  # there they mean 64 KiB
        assert_strict_refuses(image, lambda fs: list(fs.walk()))
    assert problems_of(image)


@pytest.mark.parametrize("target", ["/", "/kinds", "/kinds/elsewhere"])
def test_entries_that_lead_back(edit: Edit, target: str):
    """A name for the root, for the directory itself, and for one that has a parent already."""
    image = edit("plain-4k")
    back = image.number(target)
    image.entry("/kinds", b"fifo", inode=back, file_type=2)
    assert_strict_refuses(image, lambda fs: list(fs.walk()))
    shown = paths_of(image)
    assert len(shown) < 1000
    assert_told(image, f"inode {back}")


def test_two_parents_are_walked_once(edit: Edit):
    image = edit("plain-4k")
    twin = image.number("/kinds/elsewhere")
    image.entry("/attributes", b"many", inode=twin, file_type=2)
    with ext4img.open(bytes(image), checks="report") as fs:
        below = [str(path) for path, _ in fs.walk() if path.name == "third-name"]
    assert len(below) == 1
    assert_told(image, "two parents", f"inode {twin}")


@pytest.mark.parametrize("name", [b"a/bc", b"\0abc", b"abc\0", b"/../"])
def test_impossible_names(edit: Edit, name: bytes):
    image = edit("plain-4k")
    image.entry("/kinds", b"fifo", name=name)
    assert_strict_refuses(image, lambda fs: list(fs.walk()))
    with ext4img.open(bytes(image), checks="report") as fs:
        names = [path.name for path in fs.path("/kinds").iterdir()]
    assert "elsewhere" in names
    assert not any("/" in shown or "\0" in shown for shown in names)
    assert_told(image, "impossible name", repr(name))


@pytest.mark.parametrize("name", [b".", b".."])
def test_dots_that_are_not_the_first_entries(edit: Edit, name: bytes):
    image = edit("ext2-1k")
    entries = image.volume.directory(image.volume.inode(image.number("/kinds")))
    victim = next(entry for entry in entries if len(entry.name) == 4)
    image.entry("/kinds", victim.name, name=name.ljust(4, b"\0"), name_len=len(name))
    assert paths_of(image) - {f"/lost+found/#{victim.inode}"} < paths_of(edit("ext2-1k"))
    assert problems_of(image)


@pytest.mark.parametrize("file_type", [8, 0x7F, 0x80, 0xDE, 0xFF])
def test_file_types_above_7(edit: Edit, file_type: int):
    """Kernel: DT_UNKNOWN, and what the file is, its inode says (fs/ext4/dir.c, get_dtype)."""
    image = edit("plain-4k")
    image.entry("/kinds", b"fifo", file_type=file_type)
    with ext4img.open(bytes(image)) as fs:
        path = fs.path("/kinds/fifo")
        assert path.inode.type == "fifo"
        assert {p.name: p.entry.file_type for p in fs.path("/kinds").iterdir() if p.entry}["fifo"] == 0
    assert_told(image, f"unknown type {file_type}")


def test_inode_number_equal_to_the_count_is_valid(edit: Edit):
    image = edit("ext2-1k")
    last = image.volume.superblock.inode_count
    source = image.number("/indirect/single")
    places = [image.volume.inodes.place(number).offset or 0 for number in (source, last)]
    image.write(places[1], bytes(image.data[places[0] : places[0] + 128]))
    image.entry("/indirect", b"single", inode=last)
    with ext4img.open(bytes(image)) as fs, ext4img.open(edit("ext2-1k").data) as sound:
        assert fs.path("/indirect/single").inode.number == last
        assert fs.path("/indirect/single").read_bytes() == sound.path("/indirect/single").read_bytes()


@pytest.mark.parametrize("beyond", [1, 0x80000000])
def test_inode_numbers_beyond_the_count(edit: Edit, beyond: int):
    image = edit("plain-4k")
    number = min(image.volume.superblock.inode_count + beyond, 0xFFFFFFFF)
    left = f"/lost+found/#{image.number('/kinds/fifo')}"
    image.entry("/kinds", b"fifo", inode=number)
    assert_strict_refuses(image, lambda fs: list(fs.walk()))
    assert paths_of(image) == paths_of(edit("plain-4k")) - {"/kinds/fifo"} | {left}
    assert_told(image, f"inode {number}")


@pytest.mark.parametrize("number", [1, 4, 300])
def test_entries_for_inodes_not_in_use(edit: Edit, number: int):
    image = edit("plain-4k")
    left = f"/lost+found/#{image.number('/kinds/fifo')}"
    image.entry("/kinds", b"fifo", inode=number)
    assert paths_of(image) == paths_of(edit("plain-4k")) - {"/kinds/fifo"} | {left}
    assert_told(image, f"inode {number}", "not in use")
    with ext4img.open(bytes(image), checks="report") as fs:
        assert not fs.path("/kinds/fifo").exists()
