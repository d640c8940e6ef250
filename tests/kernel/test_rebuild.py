"""Rebuilt images in the running kernel's hands: written to, in other blocks, from extracted trees, on a device."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ext4img
from ext4img import backup, rebuild
from ext4img.errors import BuildError
from tests.conftest import UnpackedImage
from tests.copies import expected_copy, kernel_differences, reader_differences
from tests.host_tree import ALL_FIELDS, tree_differences
from tests.manifest import Manifest, assert_none, disk_bytes
from tests.mkfs.judges import assert_clean, debugfs
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted, run

pytestmark = pytest.mark.kernel

Fixture = Callable[[str], UnpackedImage]


def rebuilt(image: UnpackedImage, tmp_path: Path, **choices: object) -> Path:
    with ext4img.open(image.path) as fs:
        backup(fs, tmp_path / "a.tar")
    rebuild(tmp_path / "a.tar", tmp_path / "o.img", **choices)  # type: ignore[arg-type]
    return tmp_path / "o.img"


def add_keys(mount: str, manifest: Manifest) -> None:
    for raw, descriptor in manifest.keys:
        kernel_ioctl.add_key(mount, raw, 1 if descriptor else 2, descriptor)


@pytest.mark.parametrize("name", ["sample-encrypted", "encrypted-variants"])
def test_the_kernel_writes_to_it(name: str, fixture_image: Fixture, tmp_path: Path):
    """New names, contents and links in encrypted directories; e2fsck and the reader find them sound."""
    image = fixture_image(name)
    path = rebuilt(image, tmp_path, size=64 << 20)
    tops = {disk_bytes(key["policy_root"]) for key in image.manifest.head["keys"]}
    with loop_mounted(path, "rw,noatime") as mount:
        add_keys(mount, image.manifest)
        for top in tops:
            directory = os.path.join(os.fsencode(mount), top[1:])
            for number in range(200):  # enough for an index
                Path(os.fsdecode(directory), f"a new name of some length {number}").write_bytes(b"new" * number)
            os.mkdir(os.path.join(directory, b"new directory"))
            os.rename(os.path.join(directory, b"a new name of some length 7"), os.path.join(directory, b"renamed"))
            os.link(os.path.join(directory, b"renamed"), os.path.join(directory, b"new directory", b"linked"))
            os.symlink("nowhere", os.path.join(directory, b"new symlink"))
    assert_clean(path)
    with ext4img.open(path) as fs:
        image.manifest.add_keys_to(fs)
        for top in tops:
            assert fs.path(top + b"/renamed").read_bytes() == b"new" * 7
            assert fs.path(top + b"/new directory/linked").inode == fs.path(top + b"/renamed").inode
            assert fs.path(top + b"/a new name of some length 199").read_bytes() == b"new" * 199


def test_data_units_smaller_than_the_new_blocks(fixture_image: Fixture, tmp_path: Path):
    image = fixture_image("encrypted-variants")
    with ext4img.open(image.path) as fs:
        image.manifest.add_keys_to(fs)
        rebuild(fs, tmp_path / "o.img", only=["/data-unit-512"], block_size=1024)
    files = [e for e in image.manifest.entries if e["path"].startswith("/data-unit-512/") and e["type"] == "file"]
    assert files
    with loop_mounted(tmp_path / "o.img", "ro,noatime") as mount:
        add_keys(mount, image.manifest)
        for entry in files:
            contents = Path(mount, entry["path"][1:]).read_bytes()
            assert hashlib.sha256(contents).hexdigest() == entry["sha256"]


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("ext2-1k", {"block_size": 4096}),
        ("ext4-dirty", {"block_size": 2048, "features": ["inline_data", "^64bit"]}),
        ("ext4-inline", {"block_size": 1024}),
        ("plain-4k", {"features": ["^metadata_csum", "^has_journal", "^flex_bg"]}),
        ("ext4-bigalloc", {"block_size": 4096, "keep_inodes": True}),
    ],
)
def test_other_blocks_and_features(
    name: str, choices: dict[str, object], fixture_image: Fixture, tmp_path: Path
) -> None:
    image = fixture_image(name)
    path = rebuilt(image, tmp_path, **choices)
    assert_clean(path)
    with ext4img.open(path) as fs:
        expected = expected_copy(image.packed.manifest, fs, same_numbers=bool(choices.get("keep_inodes")))
    assert_none(kernel_differences(path, expected))


def test_large_directories_have_an_index_that_leads_to_their_names(fixture_image: Fixture, tmp_path: Path):
    path = rebuilt(fixture_image("ext2-1k"), tmp_path, block_size=1024)
    with ext4img.open(path) as fs:
        indexed = [(bytes(found), inode) for found, inode in fs.walk("/") if inode.is_dir and inode.flags & 0x1000]
    assert indexed
    dumped = debugfs(path, *(f"htree_dump <{inode.number}>" for _, inode in indexed))
    assert "Root node dump" in dumped
    assert "corrupt" not in dumped.lower()
    with loop_mounted(path, "ro,noatime") as mount:
        for top, _ in indexed:
            directory = os.fsencode(mount) + top
            names = os.listdir(directory)
            assert all(os.path.lexists(os.path.join(directory, name)) for name in names)


def test_a_tree_that_tar_extracted(fixture_image: Fixture, tmp_path: Path, mounted: Callable[..., str]):
    """GNU tar on a kernel's ext4 keeps the records; all comes back but the times of access and change."""
    image = fixture_image("encrypted-variants")
    with ext4img.open(image.path) as fs:
        backup(fs, tmp_path / "a.tar")
    tree = os.path.join(mounted(size="64M"), "extracted")
    os.mkdir(tree)
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "-xpf", tmp_path / "a.tar", "-C", tree],
        capture_output=True,
        check=False,
    )
    report = rebuild(tree, tmp_path / "o.img")
    assert report.complete
    assert_clean(tmp_path / "o.img")
    with ext4img.open(tmp_path / "o.img") as fs:
        expected = expected_copy(image.packed.manifest, fs)
        for entry in expected.entries:
            entry["unstable"] = [*entry.get("unstable", ()), "ctime_ns", "atime_ns"]
        assert_none(reader_differences(fs, expected))
    assert_none(kernel_differences(tmp_path / "o.img", expected))


@contextmanager
def loop_device(path: Path, size: int) -> Iterator[str]:
    """A block device over a file full of 0xA5."""
    path.write_bytes(b"\xa5" * size)
    device = run("losetup", "-f", "--show", path).decode().strip()
    try:
        yield device
    finally:
        run("losetup", "-d", device)


def test_onto_a_block_device(fixture_image: Fixture, tmp_path: Path):
    """Only if that is asked for; then all of it is used, and nothing is left of what was there."""
    image = fixture_image("sample-encrypted")
    with ext4img.open(image.path) as fs:
        backup(fs, tmp_path / "a.tar")
    with loop_device(tmp_path / "device.raw", 48 << 20) as device:
        with pytest.raises(BuildError, match="block device"):
            rebuild(tmp_path / "a.tar", device)
        assert (tmp_path / "device.raw").read_bytes() == b"\xa5" * (48 << 20)
        report = rebuild(tmp_path / "a.tar", device, allow_device=True)
        assert report.size == 48 << 20
        with ext4img.open(device) as fs, pytest.raises(BuildError, match="is read"):
            rebuild(fs, device, allow_device=True)
        run("e2fsck", "-fn", device)
    with loop_mounted(tmp_path / "device.raw", "ro,noatime") as mount:
        add_keys(mount, image.manifest)
        assert_none(tree_differences(Path(mount), with_lost_and_found(image), fields=ALL_FIELDS - {"holes"}))


def with_lost_and_found(image: UnpackedImage) -> Manifest:
    """The manifest; the copy has a lost+found even where the original has none."""
    assert "/lost+found" in {entry["path"] for entry in image.manifest.entries}
    return image.manifest
