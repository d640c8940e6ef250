"""Restore into directories that the kernel encrypts again, each under its own old policy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

import ext4img
from ext4img import backup, restore
from ext4img.archive.entry import MODE_OF_TYPE, Entry
from ext4img.errors import RestoreError
from ext4img.names.nokey import nokey_name
from tests.archive.synthetic import KEY, Tree, context_of, encrypted_tree
from tests.archive.test_archive import as_file, as_stream
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


def plain_directories(first: str, kind: str) -> bytes:
    """Encrypted files, or symlinks, with names in plain directories; `first` says where the first name is."""
    tree = Tree()
    tree.keyring.add(KEY)
    data = b"secret target" if kind == "symlink" else b"secret contents"
    vault = tree.add_encrypted(tree.members[0][0], b"m", "dir", context_of(number=1))
    for name in (b"a", b"z"):
        tree.add(name, "dir")
    inside, outside = context_of(number=2), context_of(number=3)
    if first == "vault":
        entry = tree.add_encrypted(vault, b"linked", kind, inside, data, links=2)
        tree.add_link(b"z/linked", entry)
    else:
        plain = Entry(b"a", "dir", MODE_OF_TYPE["dir"] | 0o755)
        entry = tree.add_encrypted(plain, b"linked", kind, inside, data, links=2)
        stored = tree._names(vault).encrypt([b"linked"])[0]
        tree.add_link(b"m/" + nokey_name(stored, 0, 0), entry, stored_name=stored)
    tree.add_encrypted(Entry(b"z", "dir", 0), b"alone", kind, outside, data)
    tree.add(b"z/plain", "file", b"plain contents")
    return tree.archive()


@pytest.mark.parametrize("kind", ["file", "symlink"])
@pytest.mark.parametrize("first", ["vault", "plain"])
@pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
def test_encrypted_in_plain_directories(
    opened: Callable[[bytes], BinaryIO], first: str, kind: str, target: Callable[..., Path], tmp_path: Path
):
    """The kernel allows it by link(2) and rename(2); nothing of it is ever written in plain text."""
    data = plain_directories(first, kind)
    other = "z/linked" if first == "vault" else "a/linked"
    image = target("-O", "encrypt")
    with loop_mounted(image, "rw,noatime") as mount:
        destination = Path(mount) / "t"
        report = restore(opened(data), destination, keys=[KEY], encrypt=True)
        assert report.complete, report.problems
        assert report.restored == {
            "dir": 3,
            "link": 1,
            **({"file": 3} if kind == "file" else {"file": 1, "symlink": 2}),
        }
        assert not report.not_set
        assert sorted(os.listdir(destination)) == ["a", "m", "z"]
        # A second run takes what is there for what it is.
        again = restore(as_file(data), destination, keys=[KEY], encrypt=True, resume=True)
        assert (again.kept, again.left_out) == (4, 0)
    secret = b"secret target" if kind == "symlink" else b"secret contents"
    assert secret not in image.read_bytes()
    assert b"plain contents" in image.read_bytes()
    with loop_mounted(image, "ro,noatime") as mount:
        destination = Path(mount) / "t"
        kernel_ioctl.add_key(mount, KEY, 2, None)
        found = (destination / "m/linked", destination / other)
        assert os.lstat(found[0]).st_ino == os.lstat(found[1]).st_ino
        for path in (*found, destination / "z/alone"):
            assert (os.readlink(path).encode() if kind == "symlink" else path.read_bytes()) == secret
    with ext4img.open(image) as fs:
        assert fs.path(f"/t/{other}").inode.is_encrypted
        assert fs.path("/t/z/alone").inode.is_encrypted
        assert not fs.path("/t/z/plain").inode.is_encrypted


@pytest.mark.parametrize("options", [("-O", "^encrypt"), ("-O", "encrypt")])
def test_a_dry_run_reports_the_same(options: tuple[str, ...], target: Callable[..., Path], tmp_path: Path):
    """Of a file system that can't encrypt, and of directories that are there in plain text."""
    data = encrypted_tree().archive()
    with loop_mounted(target(*options), "rw,noatime") as mount:
        destination = Path(mount) / "t"
        (destination / "secret").mkdir(parents=True)
        (destination / "secret/plain").touch()
        said = restore(as_file(data), destination, keys=[KEY], encrypt=True, dry_run=True)
        report = restore(as_file(data), destination, keys=[KEY], encrypt=True)
        assert report.left_out
        assert (said.restored, said.left_out) == (report.restored, report.left_out)
        assert [str(problem) for problem in said.problems] == [str(problem) for problem in report.problems]
        assert os.listdir(destination / "secret") == ["plain"]


def test_a_plain_copy_is_not_kept(target: Callable[..., Path], tmp_path: Path):
    """What an earlier restore wrote in plain text."""
    data = plain_directories("plain", "file")
    with loop_mounted(target("-O", "encrypt"), "rw,noatime") as mount:
        destination = Path(mount) / "t"
        restore(as_file(data), destination, keys=[KEY], only=["z"])
        report = restore(as_file(data), destination, keys=[KEY], only=["z"], encrypt=True, resume=True)
        assert [str(problem) for problem in report.problems] == ["'z/alone': it is there already"]
        assert report.kept == 1
