"""Every Record: its fields where independent sources say, and its fast forms equal to Construct's."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import construct
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext4img import structs
from ext4img.errors import CorruptionError
from ext4img.structs import declaration, journal
from ext4img.structs.record import Record

LAYOUTS = Path(__file__).with_name("layouts.txt")


def all_records() -> dict[str, Record]:
    """Every Record that a module of ext4img.structs declares, by its kernel name."""
    found: dict[str, Record] = {}
    for module in pkgutil.iter_modules(structs.__path__):
        for value in vars(importlib.import_module(f"{structs.__name__}.{module.name}")).values():
            if isinstance(value, Record):
                assert found.setdefault(value.name, value) is value, f"two records are called {value.name}"
    return found


def expected_layouts() -> dict[str, tuple[int, list[tuple[int, int, str]]]]:
    """layouts.txt: size and (offset, size, field) by record."""
    layouts: dict[str, tuple[int, list[tuple[int, int, str]]]] = {}
    fields: list[tuple[int, int, str]] = []
    for line in LAYOUTS.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if not words or words[0] == "#":
            continue
        if line.startswith("  "):
            fields.append((int(words[0]), int(words[1]), words[2]))
        else:
            fields = []
            layouts[words[0]] = (int(words[1]), fields)
    return layouts


def plain(value: Any) -> int | bytes:
    """A NumPy scalar as what struct gives."""
    return bytes(value) if value.dtype.kind == "V" else int(value)


RECORDS = all_records()
EXPECTED = expected_layouts()
by_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)


def test_every_record_has_a_layout():
    assert sorted(RECORDS) == sorted(EXPECTED)


@by_record
def test_fields_stand_where_they_should(record: Record):
    size, fields = EXPECTED[record.name]
    assert record.size == size
    assert [(field.offset, field.size, field.name) for field in record.fields] == fields


def test_byte_order():
    """jbd2 alone is big-endian; a record of single bytes has no order, and counts as little."""
    big = {record.name for record in RECORDS.values() if record.byte_order == ">"}
    assert big == {value.name for value in vars(journal).values() if isinstance(value, Record)}


@by_record
def test_declarations_are_constructs(record: Record):
    """Each word of the declaration is Construct's of that name, in size, byte order and code."""
    assert record.construct.sizeof() == record.size
    assert len(record.construct.subcons) == len(record.declaration.members)
    for member, (name, kind) in zip(record.construct.subcons, record.declaration.members, strict=True):
        assert member.name == name
        if kind.word == "Bytes":
            assert isinstance(member.subcon, construct.Bytes)
            assert (kind.size, kind.code, kind.byte_order) == (member.subcon.length, f"{kind.size}s", "")
        else:
            assert member.subcon.fmtstr[1] == kind.code
            assert member.subcon.length == kind.size
            assert kind.byte_order == (member.subcon.fmtstr[0] if kind.size > 1 else "")


def test_two_byte_orders_in_one_record_are_refused():
    with pytest.raises(TypeError):
        Record("odd", declaration.Struct("a" / declaration.Int16ul, "b" / declaration.Int16ub))


@by_record
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fast_forms_equal_construct(record: Record, data: st.DataObject):
    """unpack, unpack_many, iter_unpack and the NumPy dtype see what Construct's parse sees."""
    raw = data.draw(st.binary(min_size=2 * record.size, max_size=2 * record.size))
    first, second = raw[: record.size], raw[record.size :]
    parsed = [record.construct.parse(half) for half in (first, second)]
    names = [field.name for field in record.fields]
    expected = [tuple(container[name] for name in names) for container in parsed]

    assert record.unpack(raw) == expected[0]
    assert record.unpack(raw, record.size) == expected[1]
    assert record.unpack_tuple(raw, record.size) == expected[1]
    assert record.unpack(raw)._fields == tuple(names)
    assert record.unpack_many(raw, 2) == expected
    assert list(record.iter_unpack(raw)) == expected
    assert list(record.iter_tuples(raw)) == expected
    table = numpy.frombuffer(raw, record.dtype())
    assert [tuple(plain(row[name]) for name in names) for row in table] == expected


@by_record
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_building_gives_the_bytes_back(record: Record, data: st.DataObject):
    raw = data.draw(st.binary(min_size=record.size, max_size=record.size))
    values = record.unpack(raw)
    assert record.pack(values) == raw
    assert record.build(values._asdict()) == raw
    assert record.construct.build(record.construct.parse(raw)) == raw


@by_record
def test_stride(record: Record):
    """Records may stand further apart than their size, as inodes in their table do."""
    step = record.size + 7
    raw = bytes(index % 251 for index in range(3 * step))
    assert record.unpack_many(raw, 3, stride=step) == [record.unpack(raw, index * step) for index in range(3)]


@by_record
def test_short_input_is_corruption(record: Record):
    raw = bytes(record.size)
    with pytest.raises(CorruptionError):
        record.unpack(raw[:-1])
    with pytest.raises(CorruptionError):
        record.unpack(raw, 1)
    with pytest.raises(CorruptionError):
        record.unpack(raw, -1)
    with pytest.raises(CorruptionError):
        record.unpack_many(raw, 2)
    assert record.unpack_many(raw, 0) == []


@by_record
def test_build_fills_with_zeros_and_refuses_strangers(record: Record):
    assert record.build({}) == bytes(record.size)
    with pytest.raises(KeyError):
        record.build({"no such field": 1})
    with pytest.raises(KeyError):
        record.span("no such field")
