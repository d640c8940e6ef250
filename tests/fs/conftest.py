"""Fixtures for tests of fs/: images that e2fsprogs make of a tree on the host, or change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ext4img
from tests.conftest import UnpackedImage
from tools.loop_mount import SBIN, run

HAS_E2FSPROGS = all(shutil.which(tool, path=f"/bin:/usr/bin:{SBIN}") for tool in ("mke2fs", "debugfs"))
needs_e2fsprogs = pytest.mark.skipif(not HAS_E2FSPROGS, reason="mke2fs and debugfs are not installed")

Altered = Callable[..., Path]


@pytest.fixture
def altered(tmp_path: Path, fixture_image: Callable[[str], UnpackedImage]) -> Altered:
    """A function that gives a copy of a fixture, changed by debugfs' requests."""

    def alter(name: str, *requests: str) -> Path:
        if not HAS_E2FSPROGS:
            pytest.skip("debugfs is not installed")
        copy = tmp_path / f"{name}-altered.img"
        shutil.copyfile(fixture_image(name).path, copy)
        if requests:
            run("debugfs", "-w", "-f", "-", copy, stdin="\n".join([*requests, ""]).encode())
        return copy

    return alter


@pytest.fixture
def image_of(tmp_path: Path) -> Callable[..., Path]:
    """A function that gives an image of a host directory, by mke2fs -d."""

    def make(source: Path, *options: str, size: str = "16M") -> Path:
        if not HAS_E2FSPROGS:
            pytest.skip("mke2fs is not installed")
        image = tmp_path / "made.img"
        run("mke2fs", "-q", "-F", *(options or ("-t", "ext4", "-O", "^has_journal")), "-d", source, image, size)
        return image

    return make


@pytest.fixture
def sample(fixture_image: Callable[[str], UnpackedImage]) -> Iterator[ext4img.FileSystem]:
    """The sample image, with its keys."""
    image = fixture_image("sample-encrypted")
    with ext4img.open(image.path) as fs:
        image.manifest.add_keys_to(fs)
        yield fs
