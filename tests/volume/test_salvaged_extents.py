"""One wrong extent or index entry costs what it maps, and not all that follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from random import Random

import pytest

import ext4img
from ext4img.errors import CorruptionError
from ext4img.structs.extent import EXT4_EXTENT, EXT4_EXTENT_HEADER
from ext4img.volume.runs import LOST, WRITTEN
from ext4img.volume.salvage.ascending import longest_ascending
from tests.conftest import UnpackedImage
from tests.hostile.editing import EditedImage

PATH = "/extents/extents-360"
BAD = 7  # the extent that is changed


@pytest.fixture(scope="module")
def sound_image(fixture_image: Callable[[str], UnpackedImage]) -> EditedImage:
    return EditedImage(fixture_image("plain-4k").path.read_bytes())


@pytest.fixture
def leaf(sound_image: EditedImage) -> tuple[EditedImage, int, int]:
    """An image, a file's number, and where the extents of its first leaf begin."""
    number = sound_image.number(PATH)
    start = sound_image.site("extent block", number).offset + EXT4_EXTENT_HEADER.size
    return sound_image.copy(), number, start


def extents_at(image: EditedImage, at: int) -> list[tuple[int, ...]]:
    return [EXT4_EXTENT.unpack_tuple(image.data, at + 12 * position) for position in range(40)]


def put(image: EditedImage, number: int, at: int, extents: dict[int, tuple[int, ...]]) -> None:
    for position, extent in extents.items():
        image.write(at + 12 * position, EXT4_EXTENT.pack(extent), image.site("extent block", number))


def changed_extents(extents: list[tuple[int, ...]]) -> Iterator[tuple[str, dict[int, tuple[int, ...]]]]:
    lblk, *rest = extents[BAD]
    yield "far away", {BAD: (1 << 31, *rest)}
    yield "at the start", {BAD: (0, *rest)}
    yield "over the next ones", {BAD: (lblk, 20_000, *rest[1:])}
    yield "empty", {BAD: (lblk, 0, *rest[1:])}
    yield "swapped", {BAD: extents[BAD + 1], BAD + 1: extents[BAD]}
    yield "moved to the end", {**{at: extents[at + 1] for at in range(BAD, 30)}, 30: extents[BAD]}


@pytest.mark.parametrize(
    "kind", ["far away", "at the start", "over the next ones", "empty", "swapped", "moved to the end"]
)
def test_all_but_one_extent_stays(leaf: tuple[EditedImage, int, int], kind: str):
    image, number, at = leaf
    with ext4img.open(bytes(image)) as fs:
        sound = fs.inode(number).open().read()
        written = {lblk for run in fs.inode(number).runs() if run.state == WRITTEN for lblk in range(run.lblk, run.end)}
    extents = extents_at(image, at)
    put(image, number, at, dict(changed_extents(extents))[kind])
    with ext4img.open(bytes(image)) as fs, pytest.raises(CorruptionError, match="extent of logical blocks"):
        fs.inode(number).open().read()
    with ext4img.open(bytes(image), checks="report") as fs:
        got = fs.inode(number).open().read()
        lost = {
            lblk for run in fs.inode(number).runs() if run.state == LOST for lblk in range(run.lblk, min(run.end, 5000))
        }
    wrong = {lblk for lblk in written if got[lblk * 4096 : (lblk + 1) * 4096] != sound[lblk * 4096 : (lblk + 1) * 4096]}
    one_of = extents[BAD : BAD + 2] if kind == "swapped" else [extents[BAD]]
    assert wrong in [set(range(lblk, lblk + length)) for lblk, length, *_ in one_of]
    assert wrong <= lost  # it is told which
    assert not lost & (written - wrong)


@pytest.mark.parametrize("start", [0, 1 << 31])
def test_all_but_one_index_entry_stays(start: int, leaf: tuple[EditedImage, int, int]):
    image, number, _ = leaf
    with ext4img.open(bytes(image)) as fs:
        sound = fs.inode(number).runs()
    site = image.site("inode", number)
    first = int.from_bytes(image.data[site.field("ei_block", 1).offset :][:4], "little")
    image.set(site, "ei_block", start, 1)
    with ext4img.open(bytes(image), checks="report") as fs:
        runs = fs.inode(number).runs()
    kept = {run for run in runs if run.state == WRITTEN}
    assert {run for run in sound if run.state == WRITTEN and run.lblk < first} <= kept
    lost = [(run.lblk, run.end) for run in runs if run.state == LOST]
    assert all(any(start <= run.lblk < end for start, end in lost) for run in sound if run not in kept)


def test_the_longest_row_by_brute_force():
    """All subsets of random spans."""
    rng = Random(7)
    for _ in range(300):
        spans = [(start := rng.randrange(12), start + rng.randrange(4)) for _ in range(rng.randrange(8))]
        chosen = longest_ascending(spans, 1, 11)
        for positions in (
            chosen,
            *(list(subset) for size in range(9) for subset in combinations(range(len(spans)), size)),
        ):
            row = [(1, 1), *(spans[position] for position in positions), (11, 11)]
            fits = all(one[1] <= other[0] for one, other in pairwise(row))
            if positions is chosen:
                assert fits
                assert all(spans[position][0] < spans[position][1] for position in chosen)
            elif fits and all(spans[position][0] < spans[position][1] for position in positions):
                assert len(positions) <= len(chosen)
