"""Damage under a checksum is never shown as something else in silence.

Fields and bytes that a checksum covers are changed, one structure at a time, and the checksum left
as it is. Where anything is then shown differently (a path, an attribute, contents, what a look-up
finds), a problem must have been noted or an error raised. `python -m tools.fuzz --mode silent` does
the same at length. Not covered by design: contents of files and symlinks' blocks, block maps (ext3's
way of mapping, also with metadata_csum), and what follows the used entries of an index block.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ext4img.sources import BytesSource
from tests.conftest import UnpackedImage
from tools.fuzz.__main__ import Target, silent_job
from tools.fuzz.exercise import exercise
from tools.fuzz.mutations import Image
from tools.fuzz.recipe import Recipe
from tools.fuzz.sites import find_sites

Fixture = Callable[[str], UnpackedImage]
MUTATIONS = int(os.environ.get("EXT4IMG_MUTATIONS", "60"))
NAMES = ("plain-4k", "ext4-inline", "ext4-bigalloc", "ext4-dirty", "ext4-fast-commit", "ext4-orphans", "ext4-meta-bg",
         "ext4-64k")  # fmt: skip
SILENT_ONCE = sorted((Path(__file__).parent / "recipes").glob("*-silent-*.json"))


def target_of(image: UnpackedImage) -> Target:
    data = bytearray(image.path.read_bytes())
    return Target(image.name, Image(data, find_sites(data)), (), exercise(BytesSource(data), (), ("report",)))


@pytest.mark.parametrize("name", NAMES)
def test_no_other_thing_is_shown_in_silence(fixture_image: Fixture, name: str):
    target = target_of(fixture_image(name))
    differing = 0
    for index in range(MUTATIONS):
        result = silent_job(target, "tests", index, [])
        assert not result["silent"], (index, result["told"])
        differing += result["differs"]
    assert differing, "no mutation changed what is shown: this tests nothing"


def test_every_structure_with_a_checksum_is_hit(fixture_image: Fixture):
    covered = set()
    for name in (*NAMES, "sample-encrypted"):
        sites = find_sites(bytearray(fixture_image(name).path.read_bytes()))
        covered |= {site.kind for site in sites if site.covered}
    assert covered >= {
        "superblock", "descriptor", "file inode", "dir inode", "symlink inode", "journal inode", "extent block",
        "directory block", "directory index block", "xattr block", "attribute value", "orphan block",
        "journal superblock", "journal descriptor", "journal commit", "journal revoke",
    }  # fmt: skip


@pytest.mark.parametrize("path", SILENT_ONCE, ids=lambda path: path.stem)
def test_what_was_silent_once(path: Path, fixture_image: Fixture):
    recipe = Recipe.load(path)
    image = fixture_image(recipe.image)
    sound = exercise(BytesSource(image.path.read_bytes()), (), ("report",))
    seen = exercise(BytesSource(recipe.apply(bytearray(image.path.read_bytes()))), (), ("report",))
    assert {*seen.errors, *seen.problems} - {*sound.errors, *sound.problems} or seen.listing == sound.listing
