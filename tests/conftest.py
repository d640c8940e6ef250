"""Fixtures that all tests share: unpacked images, and the skip of tests that need the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import hypothesis
import pytest

from tests.images import PackedImage, all_images, fixture_images
from tests.manifest import Manifest
from tools.loop_mount import kernel_cannot

# An example that is slow on a busy machine is no failure.
hypothesis.settings.register_profile("without deadline", deadline=None)
hypothesis.settings.load_profile("without deadline")


@dataclass(frozen=True)
class UnpackedImage:
    """A raw image in a temporary directory, not to be changed, and what is true of it."""

    name: str
    path: Path
    packed: PackedImage

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, read when first wanted."""
        return Manifest(self.packed.manifest)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `kernel` where the kernel can't do it; asked only if such tests are there."""
    marked = [item for item in items if item.get_closest_marker("kernel")]
    reason = kernel_cannot() if marked else None
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def _unpack(packed: PackedImage, directory: Path) -> UnpackedImage:
    path = directory / f"{packed.name}.img"
    packed.unpack(path)
    path.chmod(0o444)
    return UnpackedImage(packed.name, path, packed)


@pytest.fixture(scope="module", params=all_images(), ids=lambda packed: packed.label)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnpackedImage]:
    """Each image of the fixtures and of $EXT4IMG_CORPUS; gone from the disk when its tests are done."""
    unpacked = _unpack(request.param, tmp_path_factory.mktemp("image"))
    yield unpacked
    unpacked.path.unlink()


@pytest.fixture(scope="session")
def fixture_image(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], UnpackedImage]:
    """One image of tests/fixtures by its name, unpacked once and read-only."""
    packed = {found.name: found for found in fixture_images()}
    unpacked: dict[str, UnpackedImage] = {}

    def get(name: str) -> UnpackedImage:
        if name not in unpacked:
            unpacked[name] = _unpack(packed[name], tmp_path_factory.mktemp("fixture"))
        return unpacked[name]

    return get
