"""A backup held against an image: nothing differs where nothing changed, and what changed is named."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img import backup
from ext4img.comparison.compare import compare
from tests.conftest import UnpackedImage


def archive_of(path: Path, **options) -> io.BytesIO:
    output = io.BytesIO()
    with ext4img.open(path) as fs:
        backup(fs, output, **options)
    output.seek(0)
    return output


def test_nothing_differs(image: UnpackedImage):
    with ext4img.open(image.path) as fs:
        report = compare(archive_of(image.path), fs)
    assert report.same, report.differences[:5]
    assert report.members >= len(image.manifest.entries)


@pytest.fixture
def sample(fixture_image: Callable[[str], UnpackedImage]) -> UnpackedImage:
    return fixture_image("sample-encrypted")


def test_parts_of_a_tree(sample: UnpackedImage):
    top = next(entry["path"] for entry in sample.manifest.entries if entry["type"] == "dir" and entry["encrypted"])
    with ext4img.open(sample.path) as fs:
        assert compare(archive_of(sample.path, only=[top]), fs).same
        assert compare(archive_of(sample.path, encrypted_only=True), fs).same


def test_a_changed_image(sample: UnpackedImage, tmp_path: Path):
    """One block of ciphertext overwritten: metadata checksums do not cover it, the comparison does."""
    entry = next(e for e in sample.manifest.entries if e["type"] == "file" and e["encrypted"] and e["size"] > 4096)
    changed = tmp_path / "changed.img"
    data = bytearray(sample.path.read_bytes())
    with ext4img.open(sample.path) as fs:
        run = fs.path(entry["nokey_path"]).inode.runs()[0]
        data[run.pblk * fs.block_size] ^= 1
    changed.write_bytes(data)
    with ext4img.open(changed) as fs:
        report = compare(archive_of(sample.path), fs)
    assert [(difference.path, difference.what) for difference in report.differences] == [
        (entry["nokey_path"][1:], "contents")
    ]


def test_another_image(sample: UnpackedImage, fixture_image: Callable[[str], UnpackedImage]):
    other = fixture_image("plain-4k")
    with ext4img.open(other.path) as fs:
        report = compare(archive_of(sample.path), fs)
    what = {difference.what for difference in report.differences}
    assert {"only in the backup", "only on the image"} <= what
