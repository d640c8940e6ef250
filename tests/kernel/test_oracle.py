"""The oracle itself: what tools/kernel_view says of a fixture now is what it said when it was made."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.conftest import UnpackedImage
from tests.images import fixture_images
from tools import kernel_view

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("name", [i.name for i in fixture_images() if i.name != "ext4-64k"])
def test_manifest_is_reproduced(name: str, fixture_image: Callable[[str], UnpackedImage]):
    image = fixture_image(name)
    manifest = image.manifest
    keys = {
        (raw, descriptor): kernel_view.Key(raw, 1 if descriptor else 2, descriptor) for raw, descriptor in manifest.keys
    }
    again = json.loads(kernel_view.dump(kernel_view.manifest(image.path, keys.values())))
    assert again["raw_sha256"] == manifest.head["raw_sha256"]
    for entry, expected in zip(again["entries"], manifest.entries, strict=True):
        assert entry == expected
