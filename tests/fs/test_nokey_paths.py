"""The names that are shown without a key are accepted as paths: every one of every encrypted image."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

import ext4img
from ext4img.names.nokey import parse_nokey_name
from tests.conftest import UnpackedImage
from tests.manifest import Entry, disk_bytes
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted


def nokey_entries(image: UnpackedImage) -> list[Entry]:
    if not image.manifest.is_encrypted:
        pytest.skip("nothing is encrypted")
    return [entry for entry in image.manifest.entries if "nokey_path" in entry]


def test_every_nokey_path_leads_to_its_inode(image: UnpackedImage):
    entries = nokey_entries(image)
    with ext4img.open(image.path) as fs:
        for entry in entries:
            raw = disk_bytes(entry["nokey_path"])
            path = fs.path(raw)
            assert path.inode.number == entry["ino"], raw
            assert bytes(path) == raw
            stored = entry.get("name_ct")
            if stored is not None:
                assert path.entry is not None
                assert path.entry.name.hex() == stored
            assert path.exists(follow_symlinks=False)
        assert not fs.problems
    if image.name == "sample-encrypted":  # the shortened form of long names is among them
        assert any(len(entry.get("name_ct", "")) > 2 * 149 for entry in entries)


def test_nokey_targets_lead_nowhere(image: UnpackedImage):
    """A target's ciphertext is not a path that is there; the link itself is."""
    entries = [entry for entry in nokey_entries(image) if entry["type"] == "symlink" and entry["encrypted"]]
    with ext4img.open(image.path) as fs:
        for entry in entries:
            path = fs.path(disk_bytes(entry["nokey_path"]))
            assert path.is_symlink()
            assert path.readlink() == entry["nokey_target"]
            assert not path.exists()
            assert path.lstat().st_size == len(disk_bytes(entry["nokey_target"]))


def test_with_the_key_they_are_not_names(image: UnpackedImage):
    """As in the kernel, where a name is one thing or the other."""
    entries = nokey_entries(image)
    plain = {disk_bytes(entry["path"]) for entry in image.manifest.entries}
    with ext4img.open(image.path) as fs:
        image.manifest.add_keys_to(fs)
        for entry in entries:
            raw = disk_bytes(entry["nokey_path"])
            if raw not in plain:
                with pytest.raises(ext4img.NotFoundError):
                    fs.path(raw).inode  # noqa: B018


@pytest.mark.parametrize("name", ["sample-encrypted", "encrypted-old-layout"])
def test_names_that_are_nearly_right(name: str, fixture_image: Callable[[str], UnpackedImage]):
    """A changed letter, a missing one, padding, letters of other base64 alphabets: nothing is there."""
    image = fixture_image(name)
    entries = [entry for entry in nokey_entries(image) if "name_ct" in entry]
    with ext4img.open(image.path) as fs:
        for entry in entries[:: max(len(entries) // 50, 1)]:
            directory, _, shown = disk_bytes(entry["nokey_path"]).rpartition(b"/")
            words = parse_nokey_name(shown)
            assert words is not None
            middle = len(shown) // 2
            changed = b"A" if shown[middle : middle + 1] != b"A" else b"B"
            for wrong in (
                shown[:-1],
                shown + b"A",
                shown + b"=",
                shown[:middle] + changed + shown[middle + 1 :],
                shown[:middle] + b"+" + shown[middle + 1 :],
                shown[:middle] + b"\xff" + shown[middle + 1 :],
            ):
                assert not fs.path(directory + b"/" + wrong).exists(follow_symlinks=False), (shown, wrong)


def test_plain_names_want_the_key(fixture_image: Callable[[str], UnpackedImage]):
    """Who forgets the key is told; who has it, or asks elsewhere, is not."""
    image = fixture_image("sample-encrypted")
    with ext4img.open(image.path) as fs:
        with pytest.raises(ext4img.NotFoundError, match="without its key"):
            fs.path("/home/alice/notes.txt").stat()
        with pytest.raises(ext4img.NotFoundError, match="directory: '/home/nobody'"):
            fs.path("/home/nobody").stat()
        image.manifest.add_keys_to(fs)
        assert fs.path("/home/alice/notes.txt").is_file()
        with pytest.raises(ext4img.NotFoundError, match="directory: '/home/alice/no'"):
            fs.path("/home/alice/no").stat()


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["sample-encrypted", "encrypted-old-layout", "encrypted-variants", "unlock-tools"])
def test_the_kernel_does_the_same(name: str, fixture_image: Callable[[str], UnpackedImage]):
    image = fixture_image(name)
    entries = [entry for entry in nokey_entries(image) if len(disk_bytes(entry["nokey_path"])) < 4000]
    with loop_mounted(image.path, "ro,noatime") as mount:
        for entry in entries:
            assert os.lstat(mount.encode() + disk_bytes(entry["nokey_path"])).st_ino == entry["ino"]
        for raw, descriptor in image.manifest.keys:
            kernel_ioctl.add_key(mount, raw, 1 if descriptor else 2, descriptor)
        for entry in entries:
            with pytest.raises(OSError) as caught:
                os.lstat(mount.encode() + disk_bytes(entry["nokey_path"]))
            assert caught.value.errno == errno.ENOENT
