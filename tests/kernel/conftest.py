"""What the tests against the running kernel share: file systems on loop mounts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tools.loop_mount import loop_mounted, run


def make_file_system(image: Path, size: str = "32M", *options: str) -> Path:
    """An empty ext4 with the encrypt feature, made by mke2fs."""
    extended = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    features = "encrypt,ea_inode"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, *options, "-E", extended, image, size)
    return image


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A function that makes an empty file system with mke2fs' options and mounts it until the test ends."""
    with ExitStack() as mounts:

        def mount(*options: str, size: str = "32M", name: str = "target.img") -> str:
            image = make_file_system(tmp_path / name, size, *options)
            directory = mounts.enter_context(loop_mounted(image, "rw,noatime"))
            os.rmdir(os.path.join(directory, "lost+found"))
            return directory

        yield mount
