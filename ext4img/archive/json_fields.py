"""Checked fields of JSON objects that come from a backup: integers in range, digests, bytes, ranges.

Each getter takes the object and the key. It raises one of `FIELD_ERRORS` where the field is missing
or malformed; the caller turns that into an error that names the member or the line. A getter makes no
object but its result: manifests have a line for every member.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from ext4img.archive.entry import Segments
from ext4img.names.paths import decode_path

FIELD_ERRORS: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What parsing a document and getting its fields may raise; binascii.Error and UnicodeError are ValueErrors."""

LIMIT_32: Final = 1 << 32
LIMIT_63: Final = 1 << 63
LIMIT_64: Final = 1 << 64
TIME_LIMIT_NS: Final = 10**21  # twelve digits of seconds, as in an archive's headers
SHA256_DIGITS: Final = 64
_MAX_SHOWN_CHARS: Final = 40


def get_unsigned(found: dict[str, Any], key: str, limit: int = LIMIT_64) -> int:
    """An integer from 0 to below `limit`."""
    value = found[key]
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{key} is {str(value)[:_MAX_SHOWN_CHARS]}")
    return value


def get_integer(found: dict[str, Any], key: str, minimum: int, limit: int) -> int:
    """An integer from `minimum` to below `limit`."""
    value = found[key]
    if type(value) is not int or not minimum <= value < limit:
        raise ValueError(f"{key} is {str(value)[:_MAX_SHOWN_CHARS]}")
    return value


def get_time_ns(found: dict[str, Any], key: str) -> int:
    """Nanoseconds since 1970, in the range of an archive's headers."""
    return get_integer(found, key, 1 - TIME_LIMIT_NS, TIME_LIMIT_NS)


def get_sha256(found: dict[str, Any], key: str) -> str:
    """A SHA-256 as 64 lower-case hex digits."""
    value = found[key]
    if type(value) is not str or len(value) != SHA256_DIGITS or bytes.fromhex(value).hex() != value:
        raise ValueError(f"{key} is not a SHA-256")
    return value


def get_base64(found: dict[str, Any], key: str) -> bytes:
    """Bytes that are always in base64."""
    return base64.b64decode(found[key], validate=True)


def get_bytes(found: dict[str, Any], key: str) -> bytes:
    """Bytes as `bytes_field` writes them: UTF-8 text under `key`, else base64 under `key_base64`."""
    text: str | None = found.get(key)
    return text.encode() if text is not None else base64.b64decode(found[f"{key}_base64"], validate=True)


def has_bytes(found: dict[str, Any], key: str) -> bool:
    """Whether `get_bytes` has something to read."""
    return key in found or f"{key}_base64" in found


def bytes_field(key: str, value: bytes) -> dict[str, str]:
    """Bytes that usually are text: as text under `key`, or if not UTF-8 as base64 under `key_base64`."""
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {f"{key}_base64": base64.b64encode(value).decode()}


def get_ranges(found: dict[str, Any], key: str) -> Segments:
    """(offset, length) pairs, none empty, each of which a file can have; () where the key is missing."""
    ranges = tuple((offset, length) for offset, length in found.get(key, ()))
    for offset, length in ranges:
        if type(offset) is not int or type(length) is not int:
            raise TypeError(f"{key} has a range that is not two integers")
        if offset < 0 or length <= 0 or offset + length >= LIMIT_63:
            raise ValueError(
                f"{key} has a range of {str(length)[:_MAX_SHOWN_CHARS]} bytes at {str(offset)[:_MAX_SHOWN_CHARS]}"
            )
    return ranges


def shown_line(raw: bytes) -> str:
    """The start of a line, for messages."""
    return decode_path(raw[:60])
