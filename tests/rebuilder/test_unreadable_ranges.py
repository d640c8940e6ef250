"""What a source did not give becomes holes: against the same, block by block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.archive.entry import Segments
from ext4img.rebuilder.unreadable_ranges import describe, subtract_unreadable

RANGE = st.tuples(st.integers(0, 60), st.integers(1, 25))


@st.composite
def segments(draw: st.DrawFn) -> Segments:
    found: list[tuple[int, int]] = []
    end = 0
    for gap, length in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), max_size=5)):
        found.append((end + gap, length))
        end += gap + length
    return tuple(found)


@given(segments(), st.lists(RANGE, max_size=6), st.sampled_from([1, 4, 8]))
def test_blocks_of_which_all_data_was_lost(data: Segments, lost: list[tuple[int, int]], block_size: int):
    gone = {byte for offset, length in lost for byte in range(offset, offset + length)}
    left = subtract_unreadable(data, tuple(lost), block_size)
    assert list(left) == sorted(left)
    assert all(length > 0 for _, length in left)
    kept = {byte for offset, length in left for byte in range(offset, offset + length)}
    there = {byte for offset, length in data for byte in range(offset, offset + length)}
    assert kept <= there
    assert there - kept <= gone
    for offset, length in data:
        end = offset + length
        for block in range(offset // block_size, -(-end // block_size)):
            within = set(range(max(block * block_size, offset), min((block + 1) * block_size, end)))
            whole = block * block_size >= offset  # a block that a segment begins in the middle of is as it is
            if whole:
                assert bool(within & kept) == (not within <= gone), (block, offset, length)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (((4096, 4096),), ()),
        (((0, 8192),), ()),
        (((4096, 512),), ((4096, 4096),)),
        (((6144, 4096),), ((4096, 4096),)),
        (((4096, 512), (4608, 3584)), ()),
    ],
)
def test_one_block(lost: Segments, expected: Segments):
    assert subtract_unreadable(((4096, 4096),), lost, 4096) == expected


def test_told():
    assert describe(((0, 512), (4096, 8192))) == "512 bytes at 0, 8192 bytes at 4096"
    assert describe(tuple((n * 4096, 1) for n in range(10))).endswith("1 bytes at 12288 and 6 more ranges")
