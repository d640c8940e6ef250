"""Traps that felled readers of ext4: impossible values that stand where everybody believes them.

Each is set in a sound image, with checksums that fit, and met in all modes. Only Ext4Error may come
out, in little time; strict reading refuses what kernels refuse, and report mode reads around it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import UnpackedImage
from tests.hostile.editing import Edit, EditedImage


@pytest.fixture(scope="session")
def edit(fixture_image: Callable[[str], UnpackedImage]) -> Edit:
    """A copy of a fixture, to be changed."""
    sound: dict[str, EditedImage] = {}

    def copy(name: str) -> EditedImage:
        if name not in sound:
            sound[name] = EditedImage(fixture_image(name).path.read_bytes())
            assert sound[name].sites
            assert sound[name].volume
        return sound[name].copy()

    return copy
