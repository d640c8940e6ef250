"""The images that are measured, filled by the real kernel (needs root and loop mounts).

- `many`: 202,001 names: 2,000 directories of 100 small files, 966 MB in all, a tenth of the files
  with an extended attribute; on 4 KiB blocks with metadata_csum, as mkfs.ext4 makes it.
- `extents`: one file in 20,000 extents and one in a few, 80 MiB each.
- `secret`: a 512 MiB file and 20,000 names under AES-256-XTS and AES-256-CTS, policy version 2.
- `users`: what a file server holds, all of it under such a policy: 20,000 files in 200 directories,
  350 MB together, and four files of 256 MiB, in an image of 1.5 GiB.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tools import kernel_ioctl
from tools.loop_mount import loop_mounted, run

KEY = hashlib.sha512(b"ext4img benchmark key").digest()
MANY_DIRECTORIES = 2_000
FILES_PER_DIRECTORY = 100
EXTENTS = 20_000
BLOCK = 4096
LARGE_FILE_BYTES = 512 << 20
SECRET_NAMES = 20_000
USERS_DIRECTORIES = 200
USERS_LARGE_FILES = 4


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def many(mount: str) -> None:
    """Many names, and contents that no compression shrinks to nothing."""
    noise = hashlib.shake_256(b"ext4img bench").digest(1 << 20)
    number = 0
    for upper in range(MANY_DIRECTORIES // 100):
        os.mkdir(f"{mount}/d{upper:02}")
        for lower in range(100):
            directory = f"{mount}/d{upper:02}/sub{lower:02}"
            os.mkdir(directory)
            for file in range(FILES_PER_DIRECTORY):
                number += 1
                size = 1 + number * 7919 % 9660
                start = number * 613 % (len(noise) - size)
                path = f"{directory}/file-{file:04}-{number:x}.dat"
                _write(path, noise[start : start + size])
                if number % 10 == 0:
                    os.setxattr(path, b"user.origin", b"bench %d" % number)


def extents(mount: str) -> None:
    """Blocks of two files written in turn give one file many extents; the other has its own time."""
    data = hashlib.shake_256(b"extents").digest(BLOCK)
    _write(f"{mount}/few", b"")
    with open(f"{mount}/few", "r+b") as few:
        os.posix_fallocate(few.fileno(), 0, EXTENTS * BLOCK)
        for _ in range(EXTENTS):
            few.write(data)
    with open(f"{mount}/many", "wb", buffering=0) as file:
        # Every second logical block: an extent each, as neighbours cannot be merged.
        for number in range(EXTENTS):
            os.pwrite(file.fileno(), data, 2 * number * BLOCK)


def secret(mount: str) -> None:
    """An encrypted directory with a large file and many names."""
    os.mkdir(f"{mount}/secret")
    identifier = kernel_ioctl.add_key(mount, KEY, 2)
    kernel_ioctl.set_policy(f"{mount}/secret", identifier)
    noise = hashlib.shake_256(b"secret").digest(1 << 20)
    with open(f"{mount}/secret/large.bin", "wb") as large:
        for _ in range(LARGE_FILE_BYTES // len(noise)):
            large.write(noise)
    os.mkdir(f"{mount}/secret/names")
    for number in range(SECRET_NAMES):
        _write(f"{mount}/secret/names/some-file-name-{number:06}", b"")


def users(mount: str) -> None:
    """Small files and large ones, encrypted."""
    os.mkdir(f"{mount}/home")
    identifier = kernel_ioctl.add_key(mount, KEY, 2)
    kernel_ioctl.set_policy(f"{mount}/home", identifier)
    noise = hashlib.shake_256(b"users").digest(1 << 20)
    number = 0
    for directory in range(USERS_DIRECTORIES):
        os.mkdir(f"{mount}/home/user-{directory:03}")
        for _ in range(FILES_PER_DIRECTORY):
            number += 1
            size = 1 + number * 7919 % 35_000
            _write(f"{mount}/home/user-{directory:03}/document-{number:05}.odt", noise[number : number + size])
    for number in range(USERS_LARGE_FILES):
        with open(f"{mount}/home/mail-{number}.mbox", "wb") as large:
            for _ in range(256):
                large.write(noise)


MAKERS: dict[str, tuple[Callable[[str], None], str, tuple[str, ...]]] = {
    "many": (many, "1700M", ("-N", "220000")),
    "extents": (extents, "320M", ()),
    "secret": (secret, "800M", ("-O", "encrypt", "-N", "32768")),
    "users": (users, "1500M", ("-O", "encrypt", "-N", "32768", "-m", "0")),
}


def make(directory: Path, names: list[str]) -> dict[str, Path]:
    """The images of these names below `directory`, made where they are missing."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name in names:
        fill, size, options = MAKERS[name]
        paths[name] = path = directory / f"{name}.img"
        if path.exists():
            continue
        partial = path.with_suffix(".partial")
        run("truncate", "-s", size, partial)
        fixed = ("-U", "0bb1c4f7-94b5-4a0e-b0b0-52f35dd5a1e7", "-E", "lazy_itable_init=0,lazy_journal_init=0")
        run("mkfs.ext4", "-q", "-F", "-b", str(BLOCK), *options, *fixed, partial)
        with loop_mounted(partial, "rw") as mount:
            fill(mount)
        partial.rename(path)
    return paths


if __name__ == "__main__":
    for made in make(Path(sys.argv[1]), sys.argv[2:] or list(MAKERS)).values():
        print(made)
