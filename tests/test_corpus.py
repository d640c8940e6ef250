"""Every image against what the kernel shows of it: first with the keys, then without.

$EXT4IMG_CORPUS names a directory of further images, see tests/images.py.
"""

from __future__ import annotations

import os

import pytest

import ext4img
from tests import manifest
from tests.conftest import UnpackedImage
from tests.images import CORPUS_VARIABLE, corpus_images


def test_corpus_is_there():
    if CORPUS_VARIABLE not in os.environ:
        pytest.skip(f"{CORPUS_VARIABLE} is not set: only the images of tests/fixtures are judged")
    assert corpus_images(), f"no images below {CORPUS_VARIABLE}={os.environ[CORPUS_VARIABLE]}"


def test_superblock(image: UnpackedImage):
    with ext4img.open(image.path) as fs:
        manifest.assert_none(manifest.head_differences(fs, image.manifest))


def test_attributes(image: UnpackedImage):
    with ext4img.open(image.path) as fs:
        image.manifest.add_keys_to(fs)
        manifest.assert_none(manifest.attribute_differences(fs, image.manifest))


def test_contents(image: UnpackedImage):
    with ext4img.open(image.path) as fs:
        image.manifest.add_keys_to(fs)
        manifest.assert_none(manifest.content_differences(fs, image.manifest))


def test_nothing_is_wrong_with_it(image: UnpackedImage):
    """Sound images, strictly checked, leave nothing to report."""
    with ext4img.open(image.path, checks="strict") as fs:
        for _, inode in fs.walk("/"):
            inode.xattrs()
        assert not list(fs.problems)


def test_without_replay(image: UnpackedImage):
    """A dirty image with its journal ignored, against a mount with "noload"."""
    expected = image.manifest.head.get("without_replay")
    if not expected:
        pytest.skip("the journal is empty, or nobody looked")
    with ext4img.open(image.path, journal="ignore", checks="report") as fs:
        manifest.assert_none(manifest.unreplayed_differences(fs, image.manifest, expected))


def test_attributes_without_keys(image: UnpackedImage):
    if not image.manifest.is_encrypted:
        pytest.skip("nothing is encrypted")
    with ext4img.open(image.path) as fs:
        manifest.assert_none(manifest.attribute_differences(fs, image.manifest, with_keys=False))


def test_contents_without_keys(image: UnpackedImage):
    if not image.manifest.is_encrypted:
        pytest.skip("nothing is encrypted")
    with ext4img.open(image.path) as fs:
        manifest.assert_none(manifest.nokey_differences(fs, image.manifest))


def test_source_is_left_alone(image: UnpackedImage):
    """The digest of the whole image after all of the above is still the manifest's."""
    with image.path.open("rb") as raw:
        assert manifest.sha256_of(raw) == (image.manifest.head["raw_sha256"], image.manifest.head["raw_size"])
