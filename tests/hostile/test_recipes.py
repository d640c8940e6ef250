"""What once felled a reader: the damage that the fuzzer found, kept as patches of the fixtures.

`python -m tools.fuzz --out DIR` writes such recipes. Each is read in all modes within bounds of
time and memory, and nothing but Ext4Error may come out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ext4img.sources import BytesSource
from tests.conftest import UnpackedImage
from tools.fuzz.exercise import exercise
from tools.fuzz.isolation import run_all
from tools.fuzz.recipe import Recipe

RECIPES = sorted((Path(__file__).parent / "recipes").glob("*.json"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path, fixture_image: Callable[[str], UnpackedImage]):
    recipe = Recipe.load(path)
    image = recipe.apply(bytearray(fixture_image(recipe.image).path.read_bytes()))

    def read(_: Any) -> int:
        return len(exercise(BytesSource(image), ()).listing)

    (outcome,) = run_all([0], read)
    assert outcome.ok, f"{recipe.story}\n{outcome.status} after {outcome.seconds:.1f} s\n{outcome.detail}"
