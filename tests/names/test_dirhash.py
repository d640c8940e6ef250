"""Directory hashes against debugfs: vectors/dirhash.json."""

from __future__ import annotations

import json
from pathlib import Path
from struct import unpack
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext4img.errors import UnsupportedFeatureError
from ext4img.names.dirhash import dirhash, dirhashes, siphash_dirhash
from ext4img.names.siphash import siphash24
from ext4img.structs.directory import DX_HASH_SIPHASH

TABLE: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "dirhash.json").read_text())
Seed = tuple[int, int, int, int]


def seed_of(text: str) -> Seed:
    return cast("Seed", unpack("<4I", bytes.fromhex(text)))


@pytest.mark.parametrize("version", range(6))
def test_one_by_one(version: int):
    rows = [row for row in TABLE["rows"] if row[1] == version]
    assert len(rows) == 80
    for name, _, seed, major, minor in rows:
        assert dirhash(bytes.fromhex(name), version, seed_of(seed)) == (major, minor)


@pytest.mark.parametrize("version", range(6))
def test_many_at_once(version: int):
    for seed in {row[2] for row in TABLE["rows"]}:
        rows = [row for row in TABLE["rows"] if row[1] == version and row[2] == seed]
        assert len(rows) > 24  # else they would go one by one
        names = [bytes.fromhex(row[0]) for row in rows]
        assert dirhashes(names, version, seed_of(seed)) == [(row[3], row[4]) for row in rows]


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=600), max_size=60),
    st.integers(0, 5),
    st.tuples(*[st.integers(0, 0xFFFFFFFF)] * 4) | st.just((0, 0, 0, 0)),
)
def test_many_are_as_one_by_one(names: list[bytes], version: int, seed: Seed):
    assert dirhashes(names, version, seed) == [dirhash(name, version, seed) for name in names]


@pytest.mark.parametrize("version", [-1, DX_HASH_SIPHASH, 7, 255])
def test_unknown_version(version: int):
    with pytest.raises(UnsupportedFeatureError, match="hash version"):
        dirhash(b"name", version, (0, 0, 0, 0))


def test_siphash():
    key = bytes(range(16))
    combined = siphash24(key, b"name")
    assert siphash_dirhash(key, b"name") == (combined >> 32 & ~1, combined & 0xFFFFFFFF)
