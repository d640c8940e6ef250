"""Restore into directories that the kernel encrypts again, each under its own old policy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img import backup, restore
from ext4img.errors import RestoreError
from tests.archive.synthetic import KEY, encrypted_tree
from tests.conftest import UnpackedImage
from tests.host_tree import ALL_FIELDS, tree_differences
from tests.manifest import assert_none
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted

pytestmark = pytest.mark.kernel


@pytest.fixture
def target(tmp_path: Path) -> Callable[..., Path]:
    def make(*options: str) -> Path:
        image = tmp_path / "target.img"
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", *options, str(image), "96M"]
        subprocess.run(command, check=True)
        return image

    return make


@pytest.mark.parametrize("name", ["sample-encrypted", "encrypted-old-layout"])
def test_the_same_policies_again(
    name: str, fixture_image: Callable[[str], UnpackedImage], target: Callable[..., Path], tmp_path: Path
):
    image = fixture_image(name)
    with ext4img.open(image.path) as fs:
        backup(fs, tmp_path / "a.tar")
        policies = set(fs.policies())
    made = target("-O", "encrypt,ea_inode", "-N", "20000")
    fields = ALL_FIELDS - {"holes"}
    with loop_mounted(made, "rw,noatime") as mount:
        destination = os.path.join(mount, "t")
        report = restore(tmp_path / "a.tar", destination, keys=image.manifest.keys, encrypt=True, devices=True)
        assert report.complete, report.problems
    with loop_mounted(made, "ro,noatime") as mount:
        destination = os.path.join(mount, "t")
        assert list(tree_differences(Path(destination), image.manifest, fields=fields)), "the keys were taken away"
        for raw, descriptor in image.manifest.keys:
            kernel_ioctl.add_key(mount, raw, 1 if descriptor else 2, descriptor)
        assert_none(tree_differences(Path(destination), image.manifest, fields=fields))
    with ext4img.open(made) as fs:
        assert set(fs.policies()) == policies


def test_again_where_it_is_already(target: Callable[..., Path], tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(encrypted_tree().archive())
    with loop_mounted(target("-O", "encrypt"), "rw,noatime") as mount:
        destination = os.path.join(mount, "t")
        for _ in range(2):
            assert restore(tmp_path / "a.tar", destination, keys=[KEY], encrypt=True, overwrite=True).complete
        assert len(os.listdir(os.path.join(destination, "secret"))) == 11


def test_a_file_system_that_cannot(target: Callable[..., Path], tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(encrypted_tree().archive())
    with loop_mounted(target("-O", "^encrypt"), "rw,noatime") as mount:
        report = restore(tmp_path / "a.tar", os.path.join(mount, "t"), keys=[KEY], encrypt=True)
        assert not report.complete
        assert isinstance(report.problems[0], RestoreError)
        # Never plaintext where encryption was asked for.
        assert not os.path.exists(os.path.join(mount, "t/secret/small"))
