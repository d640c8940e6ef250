"""Maps of sparse members: there and back, and maps that lie."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.archive.input import ArchiveInput
from ext4img.archive.sparse_map import REGION_LIMIT, encode_map, read_map
from ext4img.errors import AlteredArchiveError, Ext4Error, LimitError, TruncatedArchiveError


def read(raw: bytes, stored: int, size: int):
    cursor = ArchiveInput(io.BytesIO(raw)).cursor()
    found, seen = read_map(cursor, stored, size, "f")
    assert cursor.position == len(seen), "the map is read to its end, and not a byte more"
    return found, seen


@given(st.lists(st.tuples(st.integers(1, 1 << 30), st.integers(1, 1 << 20)), max_size=300), st.integers(0, 1 << 40))
def test_there_and_back(steps: list[tuple[int, int]], tail: int):
    at, segments = 0, []
    for gap, length in steps:
        at += gap * 512
        segments.append((at, length * 512))
        at += length * 512
    size = at + tail
    raw = encode_map(tuple(segments), size)
    assert len(raw) % 512 == 0
    assert read(raw + b"data that follows", len(raw) + sum(n for _, n in segments), size) == (tuple(segments), raw)


def padded(text: bytes) -> bytes:
    return text + bytes(-len(text) % 512)


@pytest.mark.parametrize(
    ("what", "text", "data", "size"),
    [
        ("regions that overlap", b"2\n0\n1024\n512\n512\n", 1536, 4096),
        ("regions out of order", b"2\n2048\n512\n0\n512\n", 1024, 4096),
        ("a region beyond the end", b"1\n4096\n512\n", 512, 4096),
        ("a region over the end", b"1\n3584\n1024\n", 1024, 4096),
        ("an empty region inside", b"2\n0\n0\n512\n512\n", 512, 4096),
        ("an end that is not the size", b"1\n8192\n0\n", 0, 4096),
        ("more data than regions", b"1\n0\n512\n", 1024, 4096),
        ("less data than regions", b"1\n0\n1024\n", 512, 4096),
        ("a region that is no block before another", b"2\n0\n100\n512\n512\n", 612, 4096),
        ("no regions at all", b"0\n", 0, 4096),
        ("a count that is none", b"x\n0\n512\n", 512, 4096),
        ("a negative number", b"1\n-512\n512\n", 512, 4096),
        ("numbers of many digits", b"1\n" + b"9" * 30 + b"\n512\n", 512, 4096),
        ("numbers beyond 64 bits", b"1\n9999999999999999999\n512\n", 512, 4096),
        ("fewer lines than counted", b"3\n0\n512\n", 512, 4096),
        ("something behind the lines", b"1\n0\n512\nrest", 512, 4096),
        ("no line at all", b"", 0, 4096),
        ("a space", b"1\n 0\n512\n", 512, 4096),
    ],
)
def test_lies(what: str, text: bytes, data: int, size: int):
    raw = padded(text)
    with pytest.raises(Ext4Error):
        read(raw + bytes(data + 4096), len(raw) + data, size)


@pytest.mark.parametrize("count", [REGION_LIMIT + 1, 10**18])
def test_count_is_bounded(count: int):
    raw = padded(b"%d\n0\n512\n" % count)
    with pytest.raises(LimitError, match="regions"):
        read(raw, 1 << 40, 1 << 50)


def test_a_count_within_the_limit_is_not_believed():
    """A short map that promises a million regions is refused by what is stored."""
    raw = padded(b"%d\n0\n512\n" % REGION_LIMIT)
    with pytest.raises(AlteredArchiveError):
        read(raw + bytes(1 << 20), len(raw) + 512, 1 << 50)


def test_cut_short():
    raw = encode_map(tuple((n * 1024, 512) for n in range(500)), 1 << 20)
    with pytest.raises(TruncatedArchiveError, match="sparse map of 'f'"):
        read(raw[:1024], len(raw) + 500 * 512, 1 << 20)


def test_too_many_pieces_are_not_written():
    with pytest.raises(LimitError):
        encode_map(((0, 512),) * (REGION_LIMIT + 1), 1 << 60)
