"""Every image that a kernel made → its keyless archive → a new image, judged by e2fsck, the kernel and the reader.

The expected values are those of the manifest, which came from a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ext4img
from ext4img import backup, rebuild
from tests import manifest
from tests.conftest import UnpackedImage
from tests.copies import expected_copy, kernel_differences, kernel_refuses, reader_differences
from tests.manifest import assert_none
from tests.mkfs.judges import assert_clean


@pytest.fixture(scope="module")
def rebuilt(image: UnpackedImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image, rebuilt from its archive; gone when its tests are done."""
    directory = tmp_path_factory.mktemp("rebuilt")
    archive, path = directory / "backup.tar", directory / f"{image.name}.img"
    with ext4img.open(image.path) as fs:
        backup(fs, archive)
    report = rebuild(archive, path)
    assert report.complete
    assert sum(report.made.values()) == len(image.manifest.entries)
    archive.unlink()
    yield path
    path.unlink()


def test_e2fsck_finds_nothing_to_say(rebuilt: Path):
    assert_clean(rebuilt)


def test_the_reader_sees_every_path_attribute_and_content(image: UnpackedImage, rebuilt: Path):
    """Without the keys the same names and ciphertext; with them the same contents."""
    with ext4img.open(rebuilt) as fs:
        expected = expected_copy(image.packed.manifest, fs)
        assert_none(reader_differences(fs, expected))
        expected.add_keys_to(fs)
        assert_none(manifest.content_differences(fs, expected))


@pytest.mark.kernel
def test_the_kernel_shows_the_same(image: UnpackedImage, rebuilt: Path):
    if reason := kernel_refuses(image.manifest):
        pytest.skip(reason)
    with ext4img.open(rebuilt) as fs:
        expected = expected_copy(image.packed.manifest, fs)
    assert_none(kernel_differences(rebuilt, expected))
