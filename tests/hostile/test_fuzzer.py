"""The fuzzer itself: what it knows of structures is true, it undoes what it does, and it catches what it must."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from ext4img.sources import BytesSource
from tests.conftest import UnpackedImage
from tools.fuzz.__main__ import Target, crash_job, remake
from tools.fuzz.chooser import RandomChooser
from tools.fuzz.exercise import exercise
from tools.fuzz.isolation import run_all
from tools.fuzz.mutations import Image, mutate, mutate_covered
from tools.fuzz.recipe import Recipe
from tools.fuzz.sites import find_sites

Fixture = Callable[[str], UnpackedImage]
NAMES = (
    "plain-4k",
    "ext2-1k",
    "ext4-inline",
    "ext4-meta-bg",
    "ext4-orphans",
    "sample-encrypted",
    "ext4-dirty",
    "ext4-fast-commit",
)


@pytest.mark.parametrize("name", NAMES)
def test_checksums_of_sound_structures_fit_already(fixture_image: Fixture, name: str):
    """Sealing changes nothing where nothing is damaged: the recipes are right for every structure."""
    data = bytearray(fixture_image(name).path.read_bytes())
    sites = find_sites(data)
    sound = bytes(data)
    for site in sites:
        end = site.offset + site.size
        assert all(site.offset <= field.offset < end or "context" in field.name for field in site.fields)
        if site.seal is not None:
            site.seal(data)
            assert data == sound, site.kind


@pytest.mark.parametrize("name", NAMES)
def test_mutations_are_undone_and_kept_as_patches(fixture_image: Fixture, name: str):
    data = bytearray(fixture_image(name).path.read_bytes())
    image, sound = Image(data, find_sites(data)), bytes(data)
    changed = 0
    for index in range(60):
        chooser = RandomChooser("tests", name, index)
        told = mutate(image, chooser) if index % 2 or name == "ext2-1k" else mutate_covered(image, chooser)
        assert told
        damaged = bytes(data)
        recipe = Recipe(name, image.patches())
        assert recipe.apply(bytearray(sound)) == damaged
        changed += damaged != sound
        image.restore()
        assert data == sound
    assert changed > 30


def test_same_seed_same_damage(fixture_image: Fixture):
    data = bytearray(fixture_image("ext4-inline").path.read_bytes())
    target = Target("ext4-inline", Image(data, find_sites(data)), ())
    recipes = [remake(target, "crash", "seed", 7, []) for _ in range(2)]
    assert recipes[0] == recipes[1]
    assert recipes[0].patches
    assert crash_job(target, "seed", 7, [])["told"] == recipes[0].story


def test_recipes_survive_a_file(tmp_path):
    recipe = Recipe("plain-4k", [(1024, b"\0\xff"), (5000, b"abc")], 8192, "a problem", "why")
    recipe.save(tmp_path / "recipe.json")
    assert Recipe.load(tmp_path / "recipe.json") == recipe
    assert len(recipe.apply(bytearray(10_000))) == 8192


@pytest.mark.parametrize("name", NAMES)
def test_sound_images_draw_no_complaint(fixture_image: Fixture, name: str):
    seen = exercise(BytesSource(fixture_image(name).path.read_bytes()), ())
    unusual = [problem for problem in seen.problems if "(orphan" not in problem]  # what the next mount would finish
    assert (seen.errors, unusual) == ([], [])
    assert seen.complete
    assert len(seen.listing) > 3


def _work(job: Any) -> Any:
    if job == "error":
        raise KeyError("not an Ext4Error")
    if job == "memory":
        return len(bytearray(1 << 31))
    if job == "time":
        while True:
            time.process_time()
    if job == "died":
        os.abort()
    return job


def test_isolation_catches_everything():
    jobs = [1, "error", 2, "memory", 3, "time", 4, "died", 5]
    outcomes = list(run_all(jobs, _work, seconds=0.5, memory_bytes=1 << 30, batch=4))
    assert [outcome.job for outcome in outcomes] == jobs
    assert [outcome.status for outcome in outcomes] == ["ok", "error", "ok", "memory", "ok", "time", "ok", "died", "ok"]
    assert "KeyError" in outcomes[1].detail
    assert [outcome.result for outcome in outcomes if outcome.ok] == [1, 2, 3, 4, 5]
