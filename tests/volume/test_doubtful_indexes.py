"""Look-ups where an index cannot be trusted: a name that it does not lead to is searched without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ext4img
from ext4img.errors import NotFoundError
from ext4img.structs.superblock import EXT2_FLAGS_SIGNED_HASH, EXT2_FLAGS_UNSIGNED_HASH
from tests.hostile.editing import EditedImage
from tools.loop_mount import loop_mounted, run

NAMES = [f"näme {number} ÿ".encode() for number in range(300)]


def found(image: Path | bytes, checks: ext4img.Checks = "strict") -> set[bytes]:
    """Those of the names that a look-up finds, each in a file system that has looked up nothing before."""
    names = set()
    for name in NAMES[::30]:
        with ext4img.open(image, checks=checks) as fs:
            try:
                assert fs.path(b"/d/" + name).inode.is_file
                names.add(name)
            except NotFoundError:
                pass
    return names


def kernel_finds(image: Path) -> set[bytes]:
    with loop_mounted(image, "ro") as directory:
        return {name for name in NAMES[::30] if os.path.lexists(os.path.join(os.fsencode(directory), b"d", name))}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An indexed directory that the kernel made with the hash of unsigned chars."""
    path = tmp_path_factory.mktemp("index") / "image"
    run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-O", "^has_journal", "-F", path, "8M")
    set_flags(path, EXT2_FLAGS_UNSIGNED_HASH)
    with loop_mounted(path, "rw") as directory:
        os.mkdir(os.path.join(directory, "d"))
        for name in NAMES:
            os.close(os.open(os.path.join(os.fsencode(directory), b"d", name), os.O_CREAT | os.O_WRONLY))
    return path


def set_flags(path: Path, flags: int) -> None:
    run("debugfs", "-w", "-R", f"set_super_value flags {flags}", path)


@pytest.mark.kernel
def test_the_flags_say_how_names_are_hashed(image: Path):
    wanted = set(NAMES[::30])
    assert kernel_finds(image) == found(image) == wanted


@pytest.mark.kernel
def test_without_flags_all_names_are_found(image: Path, tmp_path: Path):
    """The kernel then goes by the sign of its own char, which differs between machines and between versions."""
    copy = tmp_path / "image"
    copy.write_bytes(image.read_bytes())
    set_flags(copy, 0)
    wanted = set(NAMES[::30])
    for checks in ("strict", "report", "off"):
        assert found(copy, checks) == wanted
    # With the wrong flag there is no doubt: strict reading finds what the kernel finds, the others find all.
    set_flags(copy, EXT2_FLAGS_SIGNED_HASH)
    assert found(copy) == kernel_finds(copy)
    assert found(copy) < wanted
    assert found(copy, "report") == wanted


@pytest.mark.kernel
def test_without_the_seed_all_names_are_found(image: Path):
    edited = EditedImage(image.read_bytes())
    for number in range(4):
        edited.superblock(**{f"s_hash_seed_{number}": 0})
    assert found(bytes(edited)) == set(NAMES[::30])


@pytest.mark.kernel
def test_an_index_that_leads_astray(image: Path, tmp_path: Path):
    """Its hashes are wrong, its checksum is right."""
    edited = EditedImage(image.read_bytes())
    site = edited.site("directory index block")
    count = len([field for field in site.fields if field.name == "dx_entry.block"])
    for index in range(1, count):
        edited.set(site, "hash", 0xFFFFFF00 + 2 * index, index)
    (tmp_path / "image").write_bytes(bytes(edited))
    assert found(bytes(edited)) == kernel_finds(tmp_path / "image") < set(NAMES[::30])
    assert found(bytes(edited), "report") == set(NAMES[::30])
