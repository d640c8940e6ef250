"""Inodes that must not be where they are: the kernel refuses them; here they are shown and reported."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from tests.conftest import UnpackedImage
from tests.fs.conftest import Altered
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted

# Put into the directory /raw, of another policy: what it is, and whether the kernel lets it be there.
FOREIGN = {
    "/custom/note.txt": "file",
    "/custom/below": "dir",
    "/custom/below/link": "symlink",
    "/.fscrypt/policies": "dir",
    "/.fscrypt/protectors/42b7ea7d2f504277": "file",
}


def stored_names(fs: ext4img.FileSystem, count: int) -> list[str]:
    """Printable ciphertexts that decrypt to something the kernel can show in /raw."""
    found: list[str] = []
    cipher = fs.encrypted.names_cipher(fs.path("/raw").inode)
    assert cipher is not None
    for number in range(10_000):
        text = f"{number:032d}"
        (name,) = cipher.decrypt([text.encode()])
        (padded,) = cipher.decrypt_raw([text.encode()])
        if padded == name and not {0, ord("/")} & set(name):
            found.append(text)
        if len(found) == count:
            return found
    raise AssertionError("no names")


@pytest.fixture
def mixed(altered: Altered, fixture_image: Callable[[str], UnpackedImage]) -> tuple[Path, dict[int, str]]:
    """The image, and what stands in /raw of others, by inode number."""
    image = fixture_image("unlock-tools")
    with ext4img.open(image.path) as fs:
        image.manifest.add_keys_to(fs)
        numbers = {fs.path(path).inode.number: kind for path, kind in FOREIGN.items()}
        names = stored_names(fs, len(numbers) + 1)
    links = [f"ln <{number}> /raw/{name}" for number, name in zip(numbers, names, strict=False)]
    # A fifo is never encrypted, only its name is.
    return altered("unlock-tools", *links, f"cd /raw\nmknod {names[-1]} p"), numbers


@pytest.mark.parametrize("with_keys", [True, False])
def test_foreign_inodes_are_told_and_shown(
    mixed: tuple[Path, dict[int, str]], fixture_image: Callable[[str], UnpackedImage], with_keys: bool
):
    image, numbers = mixed
    with ext4img.open(image) as fs:
        if with_keys:
            fixture_image("unlock-tools").manifest.add_keys_to(fs)
        children = {path.inode.number: path for path in fs.path("/raw").iterdir()}
        assert numbers.keys() < children.keys()
        for path in children.values():
            fs.path(bytes(path)).stat(follow_symlinks=False)
        assert {problem.place.inode for problem in fs.problems} == numbers.keys()
        told = {problem.place.inode: problem.reason for problem in fs.problems}
        for number, kind in numbers.items():
            assert told[number].startswith(kind)
            assert ("another policy" in told[number]) == fs.inode(number).is_encrypted
        note = next(number for number, kind in numbers.items() if kind == "file")
        if with_keys:
            assert children[note].read_bytes() == b"written in custom\n"


def test_walking_tells_too(mixed: tuple[Path, dict[int, str]], fixture_image: Callable[[str], UnpackedImage]):
    image, numbers = mixed
    with ext4img.open(image, checks="report") as fs:
        fixture_image("unlock-tools").manifest.add_keys_to(fs)
        for _ in fs.walk("/raw"):
            pass
        foreign = [problem for problem in fs.problems if "a kernel refuses it" in problem.reason]
        assert {problem.place.inode for problem in foreign} == numbers.keys()


@pytest.mark.kernel
def test_the_kernel_refuses_them(mixed: tuple[Path, dict[int, str]], fixture_image: Callable[[str], UnpackedImage]):
    """With the key: look-ups of directories and links, opening of files. Without: look-ups alike."""
    image, numbers = mixed
    with loop_mounted(image, "ro,noatime") as mount:
        for with_keys in (False, True):
            if with_keys:
                for raw, descriptor in fixture_image("unlock-tools").manifest.keys:
                    kernel_ioctl.add_key(mount, raw, 1 if descriptor else 2, descriptor)
            raw_directory = os.path.join(mount.encode(), b"raw")
            seen = {entry.inode(): entry.path for entry in os.scandir(raw_directory)}
            assert numbers.keys() < seen.keys()
            for number, kind in numbers.items():
                if kind == "file":
                    os.lstat(seen[number])
                    if with_keys:
                        with pytest.raises(PermissionError) as caught:
                            os.open(seen[number], os.O_RDONLY)
                        assert caught.value.errno == errno.EPERM
                else:
                    with pytest.raises(PermissionError) as caught:
                        os.lstat(seen[number])
                    assert caught.value.errno == errno.EPERM
            others = [path for number, path in seen.items() if number not in numbers]
            assert len(others) == 3
            for path in others:
                os.lstat(path)


def test_an_encrypted_inode_without_context(altered: Altered):
    image = altered("unlock-tools", "set_inode_field /.fscrypt/protectors flags 0x80800")
    with ext4img.open(image, checks="report") as fs:
        inode = fs.path("/.fscrypt/protectors").inode
        with pytest.raises(ext4img.CorruptionError, match="without an encryption context"):
            inode.encryption  # noqa: B018
        assert fs.policy_of(inode) is None
        for path in fs.path("/").iterdir():
            path.stat(follow_symlinks=False)
        assert str(fs.path("/.fscrypt/policies").inode)
        fs.policies()
        place = f"inode {inode.number}, fscrypt_context"
        assert [str(problem) for problem in fs.problems] == [f"encrypted, but without an encryption context ({place})"]
