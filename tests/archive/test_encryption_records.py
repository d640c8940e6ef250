"""The records against vectors made by another program, and against malformed input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.archive.encryption_records import (
    FilenameRecord,
    MetadataRecord,
    build_filename,
    build_metadata,
    parse_filename,
    parse_metadata,
)
from ext4img.errors import AlteredArchiveError
from ext4img.structs.crc16 import crc16

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors" / "metadata-records.json").read_text(encoding="utf-8")
)["vectors"]
METADATA = [vector for vector in VECTORS if vector["record"] == "encryption metadata"]
NAMES = [vector for vector in VECTORS if vector["record"] == "encrypted filename"]

contexts = st.one_of(
    st.binary(min_size=27, max_size=27).map(lambda rest: b"\1" + rest),
    st.binary(min_size=39, max_size=39).map(lambda rest: b"\2" + rest),
)
names = st.binary(min_size=16, max_size=255)


def bitwise_crc16(data: bytes) -> int:
    """The definition: reflected polynomial 0x8005, initial value 0xFFFF."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def test_crc16_check_value():
    assert crc16(b"123456789") == 0x4B37  # CRC-16/MODBUS in the catalogue of parametrised CRCs


@given(st.binary(max_size=400))
def test_crc16_is_its_definition(data: bytes):
    assert crc16(data) == bitwise_crc16(data)


@pytest.mark.parametrize("vector", METADATA, ids=[vector["case"] for vector in METADATA])
def test_metadata_vectors(vector: dict[str, Any]):
    context, raw = bytes.fromhex(vector["context"]), bytes.fromhex(vector["hex"])
    assert build_metadata(vector["size"], context) == raw
    assert parse_metadata(raw) == MetadataRecord(vector["size"], context)


@pytest.mark.parametrize("vector", NAMES)
def test_filename_vectors(vector: dict[str, Any]):
    name, raw = bytes.fromhex(vector["name"]), bytes.fromhex(vector["hex"])
    context = bytes.fromhex(vector["context"]) if "context" in vector else None
    assert build_filename(name, vector.get("mode"), context) == raw
    assert parse_filename(raw) == FilenameRecord(name, vector.get("mode"), context)


@given(st.integers(0, (1 << 64) - 1), contexts)
def test_metadata_there_and_back(size: int, context: bytes):
    assert parse_metadata(build_metadata(size, context)) == (size, context)


@given(names, st.integers(0, (1 << 32) - 1), contexts)
def test_directory_name_there_and_back(name: bytes, mode: int, context: bytes):
    assert parse_filename(build_filename(name, mode, context)) == (name, mode, context)
    assert parse_filename(build_filename(name)) == (name, None, None)


@given(names, contexts, st.data())
def test_every_flipped_bit_is_refused(name: bytes, context: bytes, data: st.DataObject):
    for build, parse in (
        (build_metadata(5, context), parse_metadata),
        (build_filename(name), parse_filename),
        (build_filename(name, 0o40755, context), parse_filename),
    ):
        position = data.draw(st.integers(0, len(build) * 8 - 1))
        flipped = bytearray(build)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(AlteredArchiveError):
            parse(bytes(flipped))


@given(st.binary(max_size=600))
def test_anything_else_is_refused(raw: bytes):
    for parse in (parse_metadata, parse_filename):
        with pytest.raises(AlteredArchiveError):
            parse(raw)


@pytest.mark.parametrize(
    ("what", "context"),
    [("version 3", bytes((3,)) + bytes(39)), ("v1 too long", bytes((1,)) + bytes(39)), ("none", b"")],
)
def test_contexts_that_are_none(what: str, context: bytes):
    with pytest.raises(AlteredArchiveError, match="context"):
        build_metadata(0, context)


@pytest.mark.parametrize("name", [b"", b"short", bytes(15), bytes(256)])
def test_names_that_are_none(name: bytes):
    with pytest.raises(AlteredArchiveError, match="name of"):
        build_filename(name)
