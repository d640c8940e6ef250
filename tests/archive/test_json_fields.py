"""Fields of JSON objects from a backup: each value in its range is returned, every other one refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.archive.json_fields import (
    FIELD_ERRORS,
    LIMIT_32,
    LIMIT_63,
    LIMIT_64,
    TIME_LIMIT_NS,
    bytes_field,
    get_base64,
    get_bytes,
    get_integer,
    get_ranges,
    get_sha256,
    get_time_ns,
    get_unsigned,
    has_bytes,
)

DIGEST = "0123456789abcdef" * 4
Getter = Callable[[dict[str, Any], str], Any]


@pytest.mark.parametrize(
    ("get", "value"),
    [
        (get_unsigned, 0),
        (get_unsigned, LIMIT_64 - 1),
        (lambda found, key: get_unsigned(found, key, LIMIT_32), LIMIT_32 - 1),
        (lambda found, key: get_integer(found, key, -5, 5), -5),
        (get_time_ns, 1 - TIME_LIMIT_NS),
        (get_time_ns, TIME_LIMIT_NS - 1),
        (get_sha256, DIGEST),
        (get_bytes, ""),
    ],
)
def test_the_ends_of_each_range(get: Getter, value: Any):
    found = get({"k": value}, "k")
    assert found == (value.encode() if get is get_bytes else value)


@pytest.mark.parametrize(
    ("get", "value"),
    [
        (get_unsigned, -1),
        (get_unsigned, LIMIT_64),
        (get_unsigned, True),
        (get_unsigned, 1.0),
        (get_unsigned, "1"),
        (get_unsigned, None),
        (lambda found, key: get_unsigned(found, key, LIMIT_32), LIMIT_32),
        (lambda found, key: get_integer(found, key, -5, 5), 5),
        (lambda found, key: get_integer(found, key, -5, 5), -6),
        (get_time_ns, TIME_LIMIT_NS),
        (get_time_ns, -TIME_LIMIT_NS),
        (get_sha256, DIGEST.upper()),
        (get_sha256, DIGEST[:-1]),
        (get_sha256, DIGEST[:-1] + " "),
        (get_sha256, 64),
        (get_base64, "a*=="),
        (get_base64, 7),
        (get_bytes, 7),
        (get_bytes, "\ud800"),
        (get_ranges, [[0]]),
        (get_ranges, [[0, 0]]),
        (get_ranges, [[-1, 1]]),
        (get_ranges, [[0, True]]),
        (get_ranges, [[1, LIMIT_63 - 1]]),
        (get_ranges, 5),
    ],
)
def test_other_values_are_refused(get: Getter, value: Any):
    with pytest.raises(FIELD_ERRORS):
        get({"k": value}, "k")


@pytest.mark.parametrize("get", [get_unsigned, get_time_ns, get_sha256, get_base64, get_bytes])
def test_a_missing_field_is_refused(get: Getter):
    with pytest.raises(FIELD_ERRORS):
        get({}, "k")
    assert get_ranges({}, "k") == ()


@given(st.binary(max_size=40))
def test_bytes_survive_json(value: bytes):
    found = json.loads(json.dumps(bytes_field("k", value)))
    assert has_bytes(found, "k")
    assert get_bytes(found, "k") == value
    assert get_base64({"k": base64.b64encode(value).decode()}, "k") == value
