"""Keyless backup, restore with the keys onto a file system of the kernel: its view of both is the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img import backup, restore
from tests import manifest
from tests.conftest import UnpackedImage
from tests.host_tree import ALL_FIELDS, tree_differences
from tests.kernel.conftest import make_file_system
from tests.manifest import assert_none, disk_bytes, sha256_of
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted, run

pytestmark = pytest.mark.kernel

KEY = bytes(range(64))
TARGET_SIZE = "160M"  # the corpus' largest tree, with room; the image itself is sparse


def back_up_and_restore(image: UnpackedImage, archive: Path, destination: str) -> None:
    """The main job: no key for the backup, all keys for the restore, nothing left out."""
    with ext4img.open(image.path) as fs:
        backup(fs, archive)
    report = restore(archive, destination, keys=image.manifest.keys, devices=True)
    assert not report.problems


def test_restored_tree_is_the_original(image: UnpackedImage, tmp_path: Path, mounted: Callable[..., str]):
    destination = os.path.join(mounted("-N", "60000", size=TARGET_SIZE), "restored")
    back_up_and_restore(image, tmp_path / "backup.tar", destination)
    assert_none(tree_differences(Path(destination), image.manifest))


def test_restore_into_an_encrypted_directory(image: UnpackedImage, tmp_path: Path):
    """Plaintext that is written through the kernel is encrypted again, under another key."""
    if not image.manifest.is_encrypted:
        pytest.skip("nothing is encrypted")
    target = make_file_system(tmp_path / "target.img", TARGET_SIZE)
    with loop_mounted(target, "rw,noatime") as mount:
        destination = os.path.join(mount, "restored")
        os.mkdir(destination)
        kernel_ioctl.set_policy(destination, kernel_ioctl.add_key(mount, KEY, 2))
        back_up_and_restore(image, tmp_path / "backup.tar", destination)

    # Not from the page cache, where it would be plaintext still.
    with loop_mounted(target, "ro,noatime") as mount:
        destination = os.path.join(mount, "restored")
        shown = {os.fsencode(name) for name in os.listdir(destination)}
        assert not shown & {path[1:] for path in image.manifest.by_path}
        kernel_ioctl.add_key(mount, KEY, 2)
        fields = ALL_FIELDS - {"holes"}  # the kernel counts cached pages of holes as data
        assert_none(tree_differences(Path(destination), image.manifest, but_the_root=True, fields=fields))

    # And what the kernel encrypted is read by ext4img.
    with ext4img.open(target) as fs:
        fs.add_key(KEY)
        for entry in image.manifest.entries:
            path = fs.path(b"/restored" + disk_bytes(entry["path"]))
            if entry["type"] == "file" and entry["sha256"]:
                with path.open("rb") as file:
                    assert sha256_of(file) == (entry["sha256"], entry["size"]), path
            elif entry["type"] == "symlink":
                assert path.inode.readlink() == disk_bytes(entry["target"]), path
    run("e2fsck", "-fn", target)


def test_ciphertext_tree_carries_the_records(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path, mounted):
    """Without keys: the tree as it stands in the archive, ciphertext digests as the kernel's blocks."""
    image = fixture_image("sample-encrypted")
    destination = os.path.join(mounted(), "restored")
    with ext4img.open(image.path) as fs:
        backup(fs, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", destination, devices=True)
    for raw, entry in image.manifest.by_nokey_path.items():
        path = os.fsencode(destination) + raw
        assert os.path.lexists(path)
        if entry["encrypted"] and entry["type"] == "file":
            with open(path, "rb") as file:
                assert manifest.sha256_of(file) == (entry["ciphertext_sha256"], entry["ciphertext_size"])
            assert os.getxattr(path, "trusted.ext4img.metadata")[12:].hex() == entry["context"]
