"""The oracle itself: what tools/kernel_view says of a fixture now is what it said when it was made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import UnpackedImage
from tests.host_tree import ALL_FIELDS, tree_differences
from tests.images import fixture_images
from tools import kernel_ioctl, kernel_view
from tools.loop_mount import loop_mounted

pytestmark = pytest.mark.kernel
# Judged by other tools, or by kernels with features that most lack: tests/fixtures/README.md.
NOT_OF_THIS_ORACLE = {"ext4-64k", "casefold", "verity"}


@pytest.mark.parametrize("name", [i.name for i in fixture_images() if i.name not in NOT_OF_THIS_ORACLE])
def test_manifest_is_reproduced(name: str, fixture_image: Callable[[str], UnpackedImage]):
    image = fixture_image(name)
    manifest = image.manifest
    keys = {
        (raw, descriptor): kernel_view.Key(raw, 1 if descriptor else 2, descriptor) for raw, descriptor in manifest.keys
    }
    again = json.loads(kernel_view.dump(kernel_view.manifest(image.path, keys.values())))
    assert again["raw_sha256"] == manifest.head["raw_sha256"]
    for entry, expected in zip(again["entries"], manifest.entries, strict=True):
        unstable = {*expected.get("unstable", ()), "unstable"}  # set by the clock of each recovery
        assert {k: v for k, v in entry.items() if k not in unstable} == {
            k: v for k, v in expected.items() if k not in unstable
        }


@pytest.mark.parametrize("name", ["sample-encrypted", "plain-4k", "ext2-1k"])
def test_mounted_tree_is_the_manifests(name: str, fixture_image: Callable[[str], UnpackedImage]):
    """The judge of restored trees finds nothing wrong with the original, and finds what is missing."""
    image = fixture_image(name)
    fields = ALL_FIELDS - {"holes"}  # SEEK_DATA counts unwritten extents whose pages are cached as data
    with loop_mounted(image.path, "ro,noatime") as mount:
        encrypted = image.manifest.is_encrypted
        if encrypted:
            assert list(tree_differences(Path(mount), image.manifest, fields=fields))
        for raw, descriptor in image.manifest.keys:
            kernel_ioctl.add_key(mount, raw, 1 if descriptor else 2, descriptor)
        assert not list(tree_differences(Path(mount), image.manifest, fields=fields))
